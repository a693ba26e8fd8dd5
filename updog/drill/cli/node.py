"""`updog drill new` and `boot`: create a node in a folder, and switch it on and off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from signpost.console import QuickCommand, emit, example, json_option
from signpost.errors import ExitStatus
from updog.drill import Stage
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from updog.agent import Agent
    from updog.drill.node import DrillNode

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


def _node(folder: Path) -> DrillNode:
    from signpost.medium import OsMedium
    from updog.cli import clock
    from updog.drill.node import DrillNode

    return DrillNode(folder, medium=OsMedium(), clock=clock)


def _agent(node: DrillNode) -> Agent:
    """Return the agent that runs on the node."""
    from signpost.progress import SilentReporter
    from updog.agent import Agent
    from updog.cli import clock
    from updog.config import load
    from updog.host import Host

    config = load(node.config_path)
    return Agent(config, Host(config), clock=clock, reporter=SilentReporter())


@click.command("new", cls=QuickCommand)
@_folder
@click.option("--metadata-url", required=True, help="Base URL of the TUF metadata.")
@click.option("--targets-url", required=True, help="Base URL of the targets.")
@click.option(
    "--trusted-root", type=click.Path(path_type=Path, exists=True), required=True, help="root.json."
)
@click.option("--variant", required=True, help="VARIANT_ID of the system in slot A.")
@click.option("--version", "version", required=True, help="VERSION_ID of the system in slot A.")
@click.option("--seed", type=int, default=0, show_default=True, help="Position in the waves, 0 to 2047.")
@click.option("--channel", help="Channel to follow.  [default: none]")
@json_option
@example(
    "repo-tools --repo repo disk create node/disk.img --version 1.0.0",
    "updog drill new node --metadata-url http://127.0.0.1:8080/metadata/ \\",
    "    --targets-url http://127.0.0.1:8080/targets/ \\",
    "    --trusted-root repo/metadata/1.root.json --variant demo --version 1.0.0",
)
def new(
    folder: Path,
    metadata_url: str,
    targets_url: str,
    trusted_root: Path,
    variant: str,
    version: str,
    seed: int,
    channel: str | None,
    as_json: bool,
) -> None:
    """Create a node from FOLDER/disk.img, running slot A.

    The content of the slot is checked against the repository.
    """
    node = _node(folder)
    settings: dict[str, str | int] = {
        "metadata_base_url": metadata_url,
        "targets_base_url": targets_url,
        "seed": seed,
    }
    if channel:
        settings["channel"] = channel
    node.create(
        variant=variant,
        version=Version.parse_friendly(version),
        root=trusted_root.read_bytes(),
        settings=settings,
    )
    agent = _agent(node)
    agent.verify(agent.status().running.slot)
    said = f"{folder} runs {variant} {version} from slot A. Try: updog --config {node.config_path} status"
    emit({"folder": str(folder), "config": str(node.config_path)}, said, as_json=as_json)


@click.command("boot", cls=QuickCommand)
@_folder
@click.option(
    "--fail", type=click.Choice([stage.value for stage in Stage]), help="Let the start fail at this stage."
)
@json_option
@example("updog drill boot node --fail kernel")
def boot(folder: Path, fail: str | None, as_json: bool) -> int:
    """Switch the node off and on: choose a slot, and start it.

    The slot is chosen by the bootloader's rule, and the try is counted.

    Exit status: 0 it is up, 1 the start failed (boot again: the bootloader chooses anew), 4 none can start.
    """
    node = _node(folder)
    result = node.boot(Stage(fail) if fail else None)
    document = {"slot": result.slot, "version": str(result.version), "down_at": result.down_at}
    if result.down_at is not None:
        emit(
            document,
            f"slot {result.slot} ({result.version}) failed at stage {result.down_at}",
            as_json=as_json,
        )
        return int(ExitStatus.FAILED)
    standing = _agent(node).record_boot().standing
    said = f"slot {result.slot} ({result.version}) is up; standing: {standing.value}"
    emit({**document, "standing": standing.value}, said, as_json=as_json)
    return int(ExitStatus.DONE)
