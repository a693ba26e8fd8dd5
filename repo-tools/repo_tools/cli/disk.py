"""``disk``: disk images for a node's first boot."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import (
    PATH,
    SIZE,
    VERSION,
    channel_option,
    family_options,
    require_repository,
    which_release,
)
from signpost.console import QuickGroup, emit_last, example, json_option, quiet_option
from signpost.text import size_text, table

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.releases.first_disk import CreatedDisk
    from updog.update_metadata.version import Version


@click.group(cls=QuickGroup)
@example("repo-tools disk create node.img --version 1.0.0")
def disk() -> None:
    """Create disk images for a node's first boot."""


@disk.command("create")
@click.argument("file", metavar="DISK", type=PATH)
@click.option("--version", required=True, type=VERSION, help="The release to put in slot A.")
@family_options
@click.option("--size", type=SIZE, help="Size of the whole disk.  [default: as needed]")
@click.option(
    "--sector-size",
    type=click.Choice(["512", "4096"]),
    default="512",
    show_default=True,
    help="Sector size of the disk, in bytes.",
)
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Sizes of a slot's partitions.  [default: twice the image]",
)
@click.option(
    "--boot-stage",
    "boot_stage",
    metavar="FILE",
    type=PATH,
    help="EFI binary for the firmware: DIR/BOOTX64.EFI of `boot-stage build`.  [default: none]",
)
@click.option(
    "--cloud",
    type=click.Choice(["qcow2", "vmdk"]),
    help="Write DISK in this format; needs qemu-img.  [default: raw]",
)
@channel_option
@quiet_option
@json_option
@click.pass_obj
@example(
    "repo-tools disk create node.img --version 1.0.0 --slot-size root=2GiB",
    "repo-tools disk create node.img --version 1.0.0 \\",
    "  --boot-stage stage/BOOTX64.EFI   # boots by itself",
    "repo-tools disk create node.qcow2 --version 1.0.0 --cloud qcow2",
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
    cloud: str | None,
    channel: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Create a disk image with two slots and a release in slot A.

    The release is verified. Needs no privileges. With --json: one JSON object per line; the last one lists
    partitions and digests.

    Exit status: 0 done, 1 failed, 2 wrong usage, DISK exists, or the sizes do not fit.
    """
    from repo_tools.bootstage.files import read_efi
    from repo_tools.releases import cloud_disk, first_disk
    from repo_tools.releases.release import telling_channels
    from updog.progress import reporting

    plan = first_disk.DiskPlan(
        size=size,
        sector_size=int(sector_size),
        slot_sizes=first_disk.parse_slot_sizes(slot_size),
        boot_stage=read_efi(boot_stage) if boot_stage else None,
        channel=channel,
    )
    which = which_release(version, variant, arch)
    folder = require_repository(repo)
    with (
        reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress,
        telling_channels(folder),
    ):
        if cloud is None:
            created = first_disk.create(folder, file, which, plan=plan, progress=progress)
        else:
            form = cloud_disk.CloudFormat(cloud)
            created = cloud_disk.create(folder, file, which, form=form, plan=plan, progress=progress)
    emit_last(created.to_json(), disk_text(created), as_json=as_json)


def disk_text(disk: CreatedDisk) -> str:
    """Return the partitions of a new disk."""
    cells = [
        (
            str(partition.number),
            partition.label,
            size_text(partition.extent.offset),
            size_text(partition.extent.size),
            str(partition.slot or ""),
        )
        for partition in disk.partitions
    ]
    form = "" if disk.format == "raw" else f"{disk.format}, "
    size = f"{form}{size_text(disk.size)}, sectors of {disk.sector_size} bytes"
    head = f"created {disk.path}: {size}, {disk.update} in slot A"
    return f"{head}\n{table([('number', 'label', 'at', 'size', 'slot'), *cells])}"
