"""ROOT: a tree as an erofs.

Rules:

* owners, modes, devices, hard links and extended attributes are kept; every time is the same; the UUID is
  derived from the release's name. The same tree, options and mkfs.erofs give the same bytes;
* extended attributes are not shared between inodes: which ones are depends on the order of a folder;
* the end of a file is not packed into its inode: it would move the start of what follows it, and with it make
  deltas larger;
* a mkfs.erofs that reads archives (1.7 and newer) makes it without privileges; an older one needs a folder
  with the owners and devices that it copies, which only root can make.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from repo_tools.bootstage.image import MOMENT
from repo_tools.errors import ImageBuildError
from repo_tools.image_build import tools
from repo_tools.image_build.unpacked import AS_IN_TREE, pack, unpack

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.image_build.tree import Tree

NAMESPACE = uuid.UUID("0f5b1f0c-6a3e-5b0e-8d4e-7c1d9a2f4e10")
"""Of the UUIDs of file systems, which are derived from a release's name; made once, at random."""

_NOT_SHARED = "-x2147483647"
_AS_ROOT = (
    "Run it as root, or with mkfs.erofs 1.7 or newer, which needs no privileges: this one copies a folder, "
    "and only root can make one with other owners, devices and file capabilities."
)
_SPACE = "Free some disk space in the folder of --out."


def write_root(tree: Tree, image: Path, scratch: Path, *, name: str, compression: str) -> Path | None:
    """Write ROOT; return the folder that the tree was unpacked into, None if it was not.

    Args:
        tree: of the system.
        image: is created.
        scratch: folder for what is needed on the way; it has twice the size of the tree free.
        name: of the release.
        compression: as mkfs.erofs takes it, or ``none``.

    Raises:
        ImageSourceError: a file of the tree cannot be read.
        ImageBuildError: a tool is missing or fails, or privileges are missing.
        MediumError: the archive cannot be written.
    """
    is_root = os.geteuid() == 0
    if not is_root and not reads_archives():
        raise ImageBuildError("building ROOT needs root here", next_step=_AS_ROOT)
    archive = scratch / "root.tar"
    pack(tree, archive)
    identity = uuid.uuid5(NAMESPACE, f"{name} root")
    packed = [] if compression == "none" else [f"-z{compression}"]
    options = [f"-T{MOMENT}", f"-U{identity}", *packed, _NOT_SHARED, "-Enoinline_data", "--quiet"]
    if not is_root:
        tools.run(["mkfs.erofs", *options, "--tar=f", image, archive], next_step=_SPACE)
        archive.unlink()
        return None
    folder = scratch / "root"
    unpack(archive, folder, AS_IN_TREE)
    tools.run(["mkfs.erofs", *options, image, folder], next_step=_SPACE)
    return folder


def reads_archives() -> bool:
    """Return whether mkfs.erofs can make an image from an archive. Raises ImageBuildError."""
    return "--tar" in tools.run(["mkfs.erofs", "--help"])
