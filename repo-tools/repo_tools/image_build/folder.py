"""Read a folder into a tree.

Rules:

* no link is followed, and no other file system is entered: what is mounted in a root (/proc, /dev of a
  chroot) is not part of it; its folder is;
* names are bytes, whatever the locale is;
* sockets are left out: the programs that listen make them;
* contents stay in their files, and are read later.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.layers import Budget, ImpossibleError, checked_inode, checked_path
from repo_tools.image_build.stored import whole_file
from repo_tools.image_build.tree import BytesContent, Inode, Kind, Tree, join
from signpost.mountinfo import mounts
from signpost.text import foreign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from repo_tools.image_build.tree import Content

_MOUNTINFO = Path("/proc/self/mountinfo")
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
_NO_XATTRS = {errno.ENOTSUP, errno.EPERM}  # EPERM: of the links and devices on some file systems
_NOTHING = BytesContent(b"")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderContents:
    """What a folder has.

    Attributes:
        sockets: paths that were left out.
        mounted: paths of folders whose content was left out, because it is mounted there.
    """

    tree: Tree
    sockets: list[str] = field(default_factory=list)
    mounted: list[str] = field(default_factory=list)


def read_folder(folder: Path) -> FolderContents:
    """Return the tree of a folder, which may be a link to one.

    Raises:
        ImageSourceError: it, or something in it, cannot be read.
    """
    try:
        root = os.fsencode(folder.resolve(strict=True))
        points = {os.path.normpath(point) for _, point in mounts(_MOUNTINFO.read_bytes())}
    except OSError as error:
        raise cannot_read(folder, error) from error
    except RuntimeError as error:
        raise ImageSourceError(f"cannot read {folder}: the links on the way to it are a circle") from error
    walk = _Walk(points)
    waiting = [("", root)]
    while waiting:
        path, place = waiting.pop()
        try:
            for name in walk.take(path, place):
                below = checked_path(join(path, _text(name)))
                waiting.append((below, os.path.join(place, name)))  # noqa: PTH118 - bytes
        except OSError as error:
            raise cannot_read(Path(os.fsdecode(place)), error) from error
        except ImpossibleError as error:
            raise ImageSourceError(f"{folder}: {error}") from error
    return walk.found


class _Walk:
    def __init__(self, points: set[bytes]) -> None:
        self.found = FolderContents(tree=Tree())
        self._points = points
        self._budget = Budget()
        self._linked: dict[tuple[int, int], Inode] = {}

    def take(self, path: str, place: bytes) -> list[bytes]:
        """Put what is at a place into the tree, and return the names in it."""
        status = os.lstat(place)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self.found.sockets.append(path)
            return []
        key = (status.st_dev, status.st_ino)
        inode = self._linked.get(key)
        if inode is None:
            inode = checked_inode(path, _inode(place, kind, status))
            self._budget.charge(path, inode)
        else:
            self._budget.charge(path)
        if kind is not Kind.FOLDER and status.st_nlink > 1:
            self._linked[key] = inode
        self.found.tree.put(path, inode)
        if kind is Kind.FOLDER and path and place in self._points:
            self.found.mounted.append(path)
            return []
        return os.listdir(place) if kind is Kind.FOLDER else []  # noqa: PTH208 - bytes


def _inode(place: bytes, kind: Kind, status: os.stat_result) -> Inode:
    content: Content = _NOTHING
    if kind is Kind.FILE:
        content = whole_file(place, status.st_size)
    is_device = kind in {Kind.CHARACTER, Kind.BLOCK}
    return Inode(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        xattrs=_xattrs(place),
        target=_text(os.readlink(place)) if kind is Kind.LINK else "",  # noqa: PTH115 - bytes
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        content=content,
    )


def _xattrs(place: bytes) -> Mapping[str, bytes]:
    try:
        return {
            _text(os.fsencode(name)): os.getxattr(place, name, follow_symlinks=False)
            for name in sorted(os.listxattr(place, follow_symlinks=False))
        }
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def cannot_read(place: Path, error: OSError) -> ImageSourceError:
    """Return the error for something of a source that the system does not let be read."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ImageSourceError(
            f"cannot read {foreign(str(place))}: {error.strerror}",
            next_step="Run the command as root, or name a tar archive that root made of it.",
        )
    return ImageSourceError(f"cannot read {foreign(str(place))}: {error.strerror}")
