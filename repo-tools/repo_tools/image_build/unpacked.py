"""A tree as an archive, and as a folder that is made from that archive and not from the source.

Rule: the folder is new and the archive is ours, so nothing in it leads out of the folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.bootstage.image import MOMENT
from repo_tools.image_build import tools
from repo_tools.image_build.tree import write_tar
from signpost.errors import MediumError

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.image_build.tree import Tree

AS_IN_TREE = (
    "--same-permissions",
    "--same-owner",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--delay-directory-restore",
)
"""Owners, modes and attributes are those of the tree; only root can do that."""

OF_THIS_USER = ("--no-same-owner",)

_SPACE = "Free some disk space in the folder of --out."


def pack(tree: Tree, archive: Path) -> None:
    """Write a tree as an archive.

    Raises:
        ImageSourceError: a file of the tree cannot be read. MediumError: the archive cannot be written.
    """
    try:
        write_tar(tree, archive, moment=MOMENT)
    except OSError as error:
        raise MediumError.of(f"cannot write {archive}: {error.strerror}", error) from error


def unpack(archive: Path, folder: Path, kept: tuple[str, ...]) -> None:
    """Unpack an archive into a new folder, and remove the archive.

    Args:
        archive: of :func:`pack`.
        folder: is made.
        kept: :data:`AS_IN_TREE` or :data:`OF_THIS_USER`.

    Raises:
        ImageBuildError: tar is missing, or fails. OSError: the folder cannot be made.
    """
    folder.mkdir()
    tools.run(["tar", "--extract", "--file", archive, "--directory", folder, *kept], next_step=_SPACE)
    archive.unlink()
