"""``inspect``: what the images of a release contain, and whether they fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.check import slot_sizes
from repo_tools.cli.options import PATH
from signpost.console import QuickCommand, emit, example, json_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=QuickCommand)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option("--arch", default="", help="Architecture of the release, such as x86_64.")
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Sizes of the nodes' partitions.  [default: [slots] of repo.toml]",
)
@json_option
@click.pass_obj
@example(
    "repo-tools inspect boot.ext4 root.erofs root.verity --arch x86_64",
    "repo-tools inspect out   # all images in a folder",
)
def inspect(repo: Path, /, *, images: tuple[Path, ...], arch: str, slot_size: str, as_json: bool) -> int:
    """Show what raw images would boot, and what does not fit.

    An IMAGE is a raw boot, root or hash image, or a folder that has them. Their formats tell which is which.
    The boot entry is read as the boot stage reads it: the kernel and the initrd that it names have to be
    there, and its options have to have panic= and the root hash of the hash image, which has to be the tree
    of the root image. `publish` refuses what does not fit, and `validate` finds it in what is published;
    the codes are the same. Nothing is mounted, and no privileges are needed.

    Exit status: 0 they fit, 1 they do not, 2 wrong usage.
    """
    from repo_tools.images.inspection import inspect_release
    from repo_tools.render.inspection import inspected_text

    report = inspect_release(images, arch=arch, slots=slot_sizes(slot_size, repo))
    emit(report.to_json(), inspected_text(report), as_json=as_json)
    return int(ExitStatus.DONE if report.fits else ExitStatus.FAILED)
