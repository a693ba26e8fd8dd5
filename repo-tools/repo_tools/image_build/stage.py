"""The boot stage from the same source as the images: its kernel and its Python.

The parts of the tree that the boot stage is made of are put into a folder without owners or devices, so it
needs no privileges.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from repo_tools.bootstage.efi import make_efi
from repo_tools.bootstage.image import build
from repo_tools.errors import BootStageError
from repo_tools.image_build.kernels import kernels_in
from repo_tools.image_build.tree import Inode, Kind, Tree
from repo_tools.image_build.unpacked import OF_THIS_USER, pack, unpack

if TYPE_CHECKING:
    from pathlib import Path

_PARTS = re.compile(
    r"usr/bin/python3[^/]*|(?:usr/)?lib(?:64)?/(?:[^/]*-linux-gnu/)?[^/]*\.so[^/]*|usr/lib/python3[^/]*/.*"
)
"""Python, its library, and shared libraries."""

_HOW = "Install python3 in the source, or build the boot stage elsewhere: `repo-tools boot-stage build`."


def build_stage(tree: Tree, scratch: Path, *, kernel: str | None) -> bytes:
    """Return the boot stage as an EFI binary.

    Args:
        tree: of this machine's architecture.
        scratch: folder for what is needed on the way.
        kernel: its version, if the tree has several.

    Raises:
        BootStageError: Python or a driver that it needs is not in the tree, or a tool is missing.
        ImageSourceError: a file of the tree cannot be read.
        ImageBuildError: a tool is missing or fails. MediumError: the scratch folder cannot be written.
    """
    chosen = [each for each in kernels_in(tree) if kernel in {None, each.version}]
    if len(chosen) != 1:
        raise BootStageError("the source has not one kernel for the boot stage", next_step=_HOW)
    (found,) = chosen
    modules, _, _ = next(iter(found.modules.values())).path.partition(f"/{found.version}/")
    parts = Tree()
    for path, inode in tree.items():
        is_module = inode.kind is Kind.FILE and path.startswith(f"{modules}/{found.version}/")
        if is_module or (inode.kind in {Kind.FILE, Kind.LINK} and _PARTS.fullmatch(path)):
            parts.put(path, _plain(inode))
    image = tree.find(found.image)
    if image is not None:
        parts.put(f"boot/vmlinuz-{found.version}", _plain(image))
    archive, folder = scratch / "stage.tar", scratch / "stage"
    pack(parts, archive)
    unpack(archive, folder, OF_THIS_USER)
    return make_efi(build(folder, version=found.version))


def _plain(inode: Inode) -> Inode:
    """Return a file or link as it is for root, without attributes."""
    return Inode(kind=inode.kind, mode=inode.mode & 0o777 | 0o400, target=inode.target, content=inode.content)
