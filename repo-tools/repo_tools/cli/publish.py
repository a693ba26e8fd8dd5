"""``publish``: offer images as a release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import (
    DRY_RUN,
    PATH,
    REASON,
    TIME,
    URGENT,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    leave_if_pending,
)
from signpost.console import QuickCommand, emit, emit_last, example, json_option, quiet_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_RELEASE_OPTIONS = (
    click.option(
        "--waves",
        default="",
        metavar="POLICY",
        help="default, accelerated, slow-roll, ohno, FILE.toml or none.",
    ),
    click.option(
        "--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]"
    ),
    click.option("--max-version", type=VERSION, help="Withdraw every version above this one."),
    click.option(
        "--floor",
        type=VERSION,
        help="Nodes below it must first update to a release at or above it."
        "  [default: that of the last release]",
    ),
    click.option("--no-floor", is_flag=True, help="Nodes may come from any version."),
    click.option(
        "--deltas",
        type=click.IntRange(0, 256),
        help="Number of earlier releases to make deltas from.  [default: repo.toml]",
    ),
    click.option(
        "--delta-from",
        multiple=True,
        type=VERSION,
        help="Also make a delta from this release; can be repeated.",
    ),
    click.option(
        "--urgent",
        type=URGENT,
        metavar="WHY",
        help="Nodes pass the gates that their auto.urgent names, and say WHY: one sentence.",
    ),
    channel_option,
    click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes."),
)


OFFER = (
    "waves",
    "start_at",
    "max_version",
    "floor",
    "no_floor",
    "deltas",
    "delta_from",
    "urgent",
    "channel",
    "reason",
)
"""Names of what :func:`release_options` chose."""


def release_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how a release is offered; :func:`offered` takes it."""
    for option in reversed(_RELEASE_OPTIONS):
        command = option(command)
    return command


@click.command(cls=QuickCommand)
@click.option("--variant", required=True, help="Flavour of the operating system.")
@click.option("--arch", required=True, help="Machine architecture, such as x86_64.")
@click.option("--version", required=True, type=VERSION, help="Semantic version of the release.")
@click.option("--boot", required=True, type=PATH, help="Raw boot image.")
@click.option("--root", required=True, type=PATH, help="Raw root image.")
@click.option("--hash", "hash_image", type=PATH, help="Raw dm-verity hash image.")
@click.option("--verity", is_flag=True, help="Create the hash image from the root image with veritysetup.")
@click.option(
    "--compression", type=click.Choice(["zstd", "lz4"]), help="Compression format.  [default: repo.toml]"
)
@click.option("--level", type=int, help="Compression level.  [default: repo.toml]")
@click.option(
    "--no-inspect",
    is_flag=True,
    help="Publish images of foreign formats: do not check that the boot stage can start them.",
)
@release_options
@DRY_RUN
@quiet_option
@json_option
@click.pass_obj
@example(
    "repo-tools publish --variant vm --arch x86_64 --version 1.1.0 \\",
    "  --boot boot.ext4 --root root.erofs --hash root.verity --waves accelerated",
)
def publish(
    repo: Path,
    /,
    *,
    boot: Path,
    root: Path,
    hash_image: Path | None,
    verity: bool,
    compression: str | None,
    level: int | None,
    dry_run: bool,
    no_inspect: bool,
    quiet: bool,
    as_json: bool,
    **facts: Any,
) -> None:
    """Compress and sign images, and offer them in waves.

    Readers see the old release or the new one at any moment, even if this command is killed.
    Images that do not fit together, or that the boot stage could not start, are refused (see `inspect`).
    With --json: one JSON object per line; the last one is the result.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the version already exists, 3 NOT in force yet: other
    holders must sign, 75 busy.
    """
    from repo_tools.releases.publish import plan, publish
    from repo_tools.releases.release import NewRelease
    from repo_tools.render.releases import planned_text, published_text
    from updog.progress import reporting

    if (hash_image is None) is not verity:
        raise click.UsageError("pass either --hash FILE or --verity")
    release = NewRelease(
        boot=boot,
        root=root,
        hash=hash_image,
        packing=_packing(repo, compression, level),
        inspect=not no_inspect,
        **offered(facts),
    )
    if dry_run:
        now = current_time()
        planned = plan(repo, release, now=now, secrets=ask_secrets())
        emit(planned.to_json(now), planned_text(planned, now), as_json=as_json)
        return
    with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
        outcome = publish(repo, release, secrets=ask_secrets(), progress=progress)
    emit_last(outcome.to_json(), published_text(outcome), as_json=as_json)
    leave_if_pending(outcome.committed)


def offered(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`release_options` chose as a release takes it. Raises UsageError."""
    if facts["no_floor"] and facts["floor"]:
        raise click.UsageError("pass either --floor or --no-floor")
    return {**facts, "urgent": facts["urgent"] or ""}


def _packing(repo: Path, compression: str | None, level: int | None) -> Any:
    """Return the requested compression, completed by ``repo.toml``; None without one. Raises UsageError."""
    from repo_tools import config
    from repo_tools.images.packing import Packing
    from updog.update_metadata.errors import FaultsError

    if compression is None and level is None:
        return None
    settings = config.load(repo)
    chosen = compression or settings.compression
    default = settings.level if chosen == settings.compression else config.DEFAULT_LEVELS[chosen]
    packing = Packing(compression=chosen, level=default if level is None else level)
    try:
        config.check_level(packing.compression, packing.level)
    except FaultsError as error:
        raise click.UsageError(str(error.faults[0])) from error
    return packing
