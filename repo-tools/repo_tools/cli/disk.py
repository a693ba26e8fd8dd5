"""``disk``: disk images for a node's first boot."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import (
    PATH,
    SIZE,
    VERSION,
    channel_option,
    emit_last,
    existing,
    family_options,
    which_release,
)
from signpost.console import example, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from updog.update_metadata.version import Version


@click.group()
@example("repo-tools disk create node.img --version 1.0.0")
def disk() -> None:
    """Make disk images for a node's first boot."""


@disk.command("create")
@click.argument("file", metavar="DISK", type=PATH)
@click.option("--version", required=True, type=VERSION, help="The release to put in slot A.")
@family_options
@click.option("--size", type=SIZE, help="Of the whole disk.  [default: what it takes]")
@click.option(
    "--sector-size",
    type=click.Choice(["512", "4096"]),
    default="512",
    show_default=True,
    help="Of the disk, in bytes.",
)
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Of one slot's partitions.  [default: twice the image]",
)
@click.option(
    "--boot-stage",
    "boot_stage",
    metavar="FILE",
    type=PATH,
    help="EFI binary that firmware starts: DIR/BOOTX64.EFI of `boot-stage build`.  [default: none]",
)
@channel_option
@json_option
@click.pass_obj
@example(
    "repo-tools disk create node.img --version 1.0.0 --slot-size root=2GiB",
    "repo-tools disk create node.img --version 1.0.0 --boot-stage stage/BOOTX64.EFI   # boots by itself",
)
def disk_create(
    repo: Path,
    /,
    *,
    file: Path,
    version: Version,
    variant: str | None,
    arch: str | None,
    size: int | None,
    sector_size: str,
    slot_size: str,
    boot_stage: Path | None,
    channel: str | None,
    as_json: bool,
) -> None:
    """Make a disk image with two slots and a verified release in slot A. Needs no privilege.

    With --json: one JSON object a line, the last one lists partitions and digests.

    Exit status: 0 done, 1 failed, 2 wrong usage, DISK exists, or the sizes do not fit.
    """
    from repo_tools import disk as making
    from repo_tools.bar import reporting
    from repo_tools.bootstage.files import read_efi
    from repo_tools.render.disk import disk_text

    slot_sizes = making.parse_slot_sizes(slot_size)
    binary = read_efi(boot_stage) if boot_stage else None
    plan = making.Plan(
        size=size,
        sector_size=int(sector_size),
        slot_sizes=slot_sizes,
        boot_stage=binary,
        channel=channel,
    )
    which = which_release(version, variant, arch)
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        made = making.create(existing(repo), file, which, plan=plan, progress=progress)
    emit_last(made.to_json(), disk_text(made), as_json=as_json)
