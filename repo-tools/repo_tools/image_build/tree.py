"""A root file system as a value: every name with its owner, rights and attributes; contents stay in place.

Rules:

* a path is relative, without a leading slash, without ``.`` and ``..``; the root folder itself is ``""``;
* names that are not UTF-8 are kept byte for byte (``surrogateescape``);
* nothing follows a link out of the tree: an absolute link begins at the tree's root, as it will on the node;
* times are not kept: every file of an image has the same, so that the same source gives the same image;
* hard links share one ``Inode``.
"""

from __future__ import annotations

import enum
import io
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, Self, cast

from repo_tools.errors import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOST_LINKS = 40
"""Links that are followed on the way to one file, as the kernel does (path_resolution(7))."""

MOST_READ = 1 << 20
"""Bytes of the largest file that is read whole, such as os-release or a unit."""


class Kind(enum.Enum):
    """What an inode is; the value is its type in a tar archive (POSIX.1-2001, pax)."""

    FILE = tarfile.REGTYPE
    FOLDER = tarfile.DIRTYPE
    LINK = tarfile.SYMTYPE
    CHARACTER = tarfile.CHRTYPE
    BLOCK = tarfile.BLKTYPE
    FIFO = tarfile.FIFOTYPE


class Content(Protocol):
    """The bytes of a file, wherever they are."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    def open(self) -> BinaryIO:
        """Return a stream of exactly these bytes. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class BytesContent:
    """A content that is known."""

    data: bytes

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.data)

    def open(self) -> BinaryIO:
        """Return a stream of them."""
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class Inode:
    """A file, folder, link or device; hard links are names of the same object.

    Attributes:
        mode: permission bits with setuid, setgid and sticky, without the type.
        xattrs: extended attributes, file capabilities (``security.capability``) among them.
        target: of a symbolic link.
        device: major and minor number of a device.
        content: of a file.
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    target: str = ""
    device: tuple[int, int] = (0, 0)
    content: Content = BytesContent(b"")


FOLDER = Inode(kind=Kind.FOLDER, mode=0o755)


def file(data: bytes, *, mode: int = 0o644) -> Inode:
    """Return a file of root."""
    return Inode(kind=Kind.FILE, mode=mode, content=BytesContent(data))


def link(target: str) -> Inode:
    """Return a symbolic link of root."""
    return Inode(kind=Kind.LINK, mode=0o777, target=target)


class Tree:
    """A root file system that is put together name by name."""

    def __init__(self) -> None:
        self._inodes: dict[str, Inode] = {"": FOLDER}
        self._names: dict[str, set[str]] = {"": set()}

    def copy(self) -> Tree:
        """Return a tree with the same inodes that can be changed without changing this one."""
        twin = Tree()
        twin._inodes = dict(self._inodes)
        twin._names = {path: set(names) for path, names in self._names.items()}
        return twin

    def put(self, path: str, inode: Inode) -> None:
        """Give a name to an inode; what had that name goes, but a folder over a folder keeps what is in it.

        Folders on the way are made. A link on the way to it is **not** followed but replaced by a folder;
        :meth:`place` says where a name belongs if it is to be followed.
        """
        if path:
            parent, _, name = path.rpartition("/")
            held = self._inodes.get(parent)
            if held is None or held.kind is not Kind.FOLDER:
                self.put(parent, FOLDER)
            self._names[parent].add(name)
        if inode.kind is Kind.FOLDER:
            self._names.setdefault(path, set())
        elif path in self._names:
            self.empty(path)
            del self._names[path]
        self._inodes[path] = inode

    def remove(self, path: str) -> None:
        """Take a name away, with all below it; nothing happens if it is not there."""
        if path not in self._inodes or not path:
            return
        if path in self._names:
            self.empty(path)
            del self._names[path]
        del self._inodes[path]
        parent, _, name = path.rpartition("/")
        self._names[parent].discard(name)

    def empty(self, path: str) -> None:
        """Take away all that is below a folder."""
        for name in sorted(self._names.get(path, ())):
            self.remove(join(path, name))

    def get(self, path: str) -> Inode | None:
        """Return what has a name; no link is followed."""
        return self._inodes.get(path)

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; links to folders are followed."""
        found = self.resolve(path)
        return sorted(self._names.get(found, ())) if found is not None else []

    def children(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; no link is followed."""
        return sorted(self._names.get(path, ()))

    def resolve(self, path: str) -> str | None:
        """Return the path behind every link on the way; None if there is nothing, or they go in a circle."""
        return self._walk(path, may_be_missing=False)

    def place(self, path: str) -> str | None:
        """Return where a name belongs: links on the way to it are followed, the name itself is not.

        What is not there yet stays as it is written; None if links go in a circle.
        """
        parent, _, name = path.rpartition("/")
        folder = self._walk(parent, may_be_missing=True)
        return None if folder is None else join(folder, name)

    def _walk(self, path: str, *, may_be_missing: bool) -> str | None:
        done: list[str] = []
        waiting = _words(path)
        followed = 0
        while waiting:
            word = waiting.pop(0)
            if word == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, word])
            inode = self._inodes.get(here)
            if inode is None and not may_be_missing:
                return None
            if inode is None or inode.kind is not Kind.LINK:
                done.append(word)
                continue
            followed += 1
            if followed > MOST_LINKS:
                return None
            if inode.target.startswith("/"):
                done = []
            waiting = [*_words(inode.target), *waiting]
        return "/".join(done)

    def find(self, path: str) -> Inode | None:
        """Return what a path leads to on the node, links followed; None if it leads nowhere."""
        found = self.resolve(path)
        return self._inodes[found] if found is not None else None

    def read(self, path: str, *, most: int = MOST_READ) -> bytes | None:
        """Return the bytes of a file, links followed; None if there is no file.

        Raises:
            ImageSourceError: it has more than ``most`` bytes, or cannot be read.
        """
        inode = self.find(path)
        if inode is None or inode.kind is not Kind.FILE:
            return None
        if inode.content.size > most:
            raise ImageSourceError(f"/{path} has {inode.content.size} bytes, more than are expected of it")
        try:
            with inode.content.open() as stream:
                return stream.read()
        except OSError as error:
            raise ImageSourceError(f"cannot read /{path}: {error.strerror}") from error

    def items(self) -> Iterator[tuple[str, Inode]]:
        """Yield every path with its inode, sorted by path; a folder comes before what is in it."""
        for path in sorted(self._inodes, key=_words):
            yield path, self._inodes[path]


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder."""
    return f"{folder}/{name}" if folder else name


def _words(path: str) -> list[str]:
    return [word for word in path.split("/") if word not in {"", "."}]


def write_tar(tree: Tree, target: Path, *, moment: int) -> None:
    """Write a tree as a pax archive: the same tree gives the same bytes.

    Args:
        tree: its first name of a hard-linked inode has the content, the others are links to it.
        target: is created.
        moment: the time of every entry, in seconds since 1970.

    Raises:
        ImageSourceError: a content cannot be read, or is shorter than its size.
        OSError: the archive cannot be written.
    """
    first: dict[int, str] = {}
    with tarfile.open(
        target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for path, inode in tree.items():
            info = tarfile.TarInfo(f"./{path}" if path else ".")
            info.mtime, info.mode, info.uid, info.gid = moment, inode.mode, inode.uid, inode.gid
            info.type, info.linkname = inode.kind.value, inode.target
            info.devmajor, info.devminor = inode.device
            info.pax_headers = {
                _xattr_key(name): value.decode("utf-8", "surrogateescape")
                for name, value in sorted(inode.xattrs.items())
            }
            if id(inode) in first and inode.kind is not Kind.FOLDER:
                info.type, info.linkname, info.pax_headers = tarfile.LNKTYPE, first[id(inode)], {}
                archive.addfile(info)
            elif inode.kind is Kind.FILE:
                first[id(inode)] = info.name
                info.size = inode.content.size
                with _Source(path, inode.content) as source:
                    archive.addfile(info, cast("IO[bytes]", source))
            else:
                first[id(inode)] = info.name
                archive.addfile(info)
            archive.getmembers().clear()  # it would keep them all, and needs none


class _Source:
    """A content as the writer reads it. Its errors are the source's, and not taken for the target's."""

    def __init__(self, path: str, content: Content) -> None:
        self._path = path
        self._left = content.size
        with self._reading():
            self._stream = content.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes, or all that are left."""
        wanted = min(size, self._left)
        data = b""
        while len(data) < wanted:
            with self._reading():
                more = self._stream.read(wanted - len(data))
            if not more:
                raise ImageSourceError(f"/{self._path} of the source became shorter while it was read")
            data = data + more if data else more
        self._left -= wanted
        return data

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            cause = error.strerror or str(error)
            raise ImageSourceError(f"cannot read /{self._path} of the source: {cause}") from error


def _xattr_key(name: str) -> str:
    """Return the key of an attribute: ``=`` would end it, so it is written as GNU tar does."""
    return "SCHILY.xattr." + name.replace("%", "%25").replace("=", "%3D")
