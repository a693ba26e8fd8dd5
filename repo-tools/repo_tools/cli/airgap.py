"""``mirror`` and ``bundle``: a verified copy of a repository, whole or for given nodes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import PATH, TIME, VERSION, current_time, emit_last
from signpost.console import example, json_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any

    from updog.update_metadata.version import Version


def _copy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both kinds of copying take."""
    for option in (
        click.option(
            "--trusted-root",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="A root.json you trust; needed the first time.",
        ),
        click.option(
            "--accept-expired-until",
            type=TIME,
            help="Take expired metadata until then; recorded in overrides.jsonl.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("source", metavar="URL_OR_DIR")
@click.argument("folder", type=PATH)
@_copy_options
@click.option("--delete", is_flag=True, help="Remove targets that neither old nor new metadata lead to.")
@json_option
@example(
    "repo-tools mirror https://updates.example.com /srv/mirror --trusted-root root.json",
    "repo-tools mirror https://updates.example.com /srv/mirror",
)
def mirror(
    source: str,
    folder: Path,
    *,
    trusted_root: Path | None,
    accept_expired_until: datetime | None,
    delete: bool,
    as_json: bool,
) -> None:
    """Copy a repository, verified as a client would; again, to bring the copy up to date.

    Only what is missing is fetched, and what was broken off is continued. Readers of the copy see the old
    repository or the new one. With --json: one JSON object a line, the last one is the result.

    Exit status: 0 done, 1 not to be believed, 2 wrong usage, 5 unreachable, 75 another one is at work.
    """
    from repo_tools.listing import listed_targets
    from repo_tools.source import source_of

    _take_over(
        source_of(source),
        folder,
        listed_targets_of=lambda believed: listed_targets(believed.chain),
        trusted_root=trusted_root,
        until=accept_expired_until,
        delete=delete,
        as_json=as_json,
    )


@click.group()
@example("repo-tools --repo demo bundle export bundle.tar --from 1.0.0")
def bundle() -> None:
    """Carry updates to where no network is."""


@bundle.command("export")
@click.argument("place", type=PATH)
@click.option(
    "--from", "starts", type=VERSION, multiple=True, help="A version nodes run.  [default: all published]"
)
@click.option("--variant", help="Only for nodes of this flavour.")
@click.option("--arch", help="Only for nodes of this architecture.")
@click.option("--channel", help="That the nodes follow.  [default: the top-level releases]")
@json_option
@click.pass_obj
@example("repo-tools --repo demo bundle export /media/usb/bundle.tar --from 1.0.0 --from 1.1.0")
def export(repo: Path, /, place: Path, *, starts: tuple[Version, ...], as_json: bool, **nodes: Any) -> None:
    """Put together what nodes at given versions need to reach the newest release.

    PLACE is one file if its name ends in .tar, else a folder that nodes can use by file:// URLs. All roots
    and the current metadata are in it, and the targets that these nodes fetch on their way through floors.

    Exit status: 0 done, 1 the repository is not whole, has expired, or a version cannot reach the newest.
    """
    from repo_tools.bar import reporting
    from repo_tools.bundle import Nodes, export
    from repo_tools.render.airgap import bundle_text

    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        done = export(repo, place, Nodes(starts=starts, **nodes), now=current_time(), progress=progress)
    emit_last(done.to_json(), bundle_text(done), as_json=as_json)


@bundle.command("import")
@click.argument("place", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=PATH)
@_copy_options
@json_option
@example("repo-tools bundle import /media/usb/bundle.tar /srv/updates --trusted-root root.json")
def import_(
    place: Path,
    folder: Path,
    *,
    trusted_root: Path | None,
    accept_expired_until: datetime | None,
    as_json: bool,
) -> None:
    """Take a bundle over into a folder that nodes read, verified as a client would.

    Exit status: 0 done, 1 not to be believed, 2 wrong usage, 75 another one is at work.
    """
    from repo_tools.bundle import BundleSource, held_by
    from repo_tools.source import FolderSource

    _take_over(
        FolderSource(place) if place.is_dir() else BundleSource(place),
        folder,
        listed_targets_of=held_by,
        trusted_root=trusted_root,
        until=accept_expired_until,
        delete=False,
        as_json=as_json,
    )


def _take_over(
    source: Any,
    folder: Path,
    *,
    listed_targets_of: Callable[[Any], Any],
    trusted_root: Path | None,
    until: datetime | None,
    delete: bool,
    as_json: bool,
) -> None:
    from repo_tools.bar import reporting
    from repo_tools.render.airgap import copied_text
    from repo_tools.replica import believe, copy

    now = current_time()
    root = trusted_root.read_bytes() if trusted_root else None
    believed = believe(source, folder, trusted_root=root, now=now, accept_expired_until=until)
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        done = copy(believed, folder, listed_targets_of(believed), delete=delete, progress=progress)
    emit_last(done.to_json(), copied_text(done), as_json=as_json)
