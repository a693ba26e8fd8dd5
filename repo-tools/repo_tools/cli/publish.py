"""``publish``: offer images as a release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.words import (
    PATH,
    REASON,
    TIME,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    emit_last,
)
from signpost.console import example, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option("--variant", required=True, help="Flavour of the operating system.")
@click.option("--arch", required=True, help="Machine architecture, such as x86_64.")
@click.option("--version", required=True, type=VERSION, help="Semantic version of the release.")
@click.option("--boot", required=True, type=PATH, help="Raw boot image.")
@click.option("--root", required=True, type=PATH, help="Raw root image.")
@click.option("--hash", "hash_image", type=PATH, help="Raw dm-verity hash image.")
@click.option("--verity", is_flag=True, help="Make the hash image from the root image with veritysetup.")
@click.option(
    "--waves", default="", metavar="POLICY", help="default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@click.option("--max-version", type=VERSION, help="Withdraw every version above this one.")
@click.option("--floor", type=VERSION, help="Nodes below this version must pass through it first.")
@click.option(
    "--compression", type=click.Choice(["zstd", "lz4"]), help="Format of the images.  [default: repo.toml]"
)
@click.option("--level", type=int, help="Level of the compression.  [default: repo.toml]")
@click.option(
    "--deltas",
    type=click.IntRange(0, 256),
    help="From how many of the last releases deltas are made.  [default: repo.toml]",
)
@click.option(
    "--delta-from",
    multiple=True,
    type=VERSION,
    help="Make a delta from this release too; several are allowed.",
)
@channel_option
@click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes.")
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
    as_json: bool,
    **facts: Any,
) -> None:
    """Compress images, sign them, and offer them as a release in waves.

    A reader sees the old release or the new one at any moment, also if this command is killed.
    With --json: one JSON object a line, the last one is the result.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the version is there already, 75 busy.
    """
    from repo_tools.bar import reporting
    from repo_tools.release import NewRelease, publish
    from repo_tools.render.releases import published_text

    if (hash_image is None) is not verity:
        raise click.UsageError("pass either --hash FILE or --verity")
    release = NewRelease(
        boot=boot, root=root, hash=hash_image, packing=_packing(repo, compression, level), **facts
    )
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        outcome = publish(repo, release, now=current_time(), secrets=ask_secrets(), progress=progress)
    emit_last(outcome.to_json(), published_text(outcome), as_json=as_json)


def _packing(repo: Path, compression: str | None, level: int | None) -> Any:
    """Return the packing asked for, the repository's own in what was not. Raises UsageError."""
    from repo_tools import config
    from repo_tools.images import Packing
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
