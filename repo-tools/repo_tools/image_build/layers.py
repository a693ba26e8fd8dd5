"""Put the members of a tar archive, or of a layer over other layers, into a tree.

Rules:

* a name never leaves the tree: a leading slash goes, ``..`` is refused, and a link to a folder on the way to
  a name leads to where it would on the node, the tree being its root (as containerd and umoci do it);
* the last name of a path is never followed: what had it is replaced;
* in a layer, ``.wh.NAME`` takes NAME of the layers below away, ``.wh..wh..opq`` all that they have in its
  folder; what this layer itself brings stays, wherever in the archive it is (OCI image specification,
  "Whiteouts" in layer.md);
* a hard link is to what has its target's name at that moment, also if a layer below brought it;
* what a kernel, a file system or a person could not have made is refused: a name of more than 255 bytes, a
  path without end, more entries than any root has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.stored import StoredContent
from repo_tools.image_build.tree import Inode, Kind, join
from signpost.text import foreign

if TYPE_CHECKING:
    from collections.abc import Iterable

    from repo_tools.image_build.tar_reader import TarEntry
    from repo_tools.image_build.tree import Tree

MOST_ENTRIES = 1_000_000
"""Names in a tree: a desktop with all its documentation has half of that."""

MOST_DETAILS = 256 << 20
"""Bytes of paths, targets and attributes, which are held in memory: some 250 for each of these names."""

MOST_DEPTH = 256
MOST_NAME = 255
MOST_PATH = 4095
"""Folders on the way to a file; bytes of a name, and of a path or target (NAME_MAX, PATH_MAX)."""

MOST_XATTR = 65_536
"""Bytes of one attribute (XATTR_SIZE_MAX)."""

_MOST_ID = (1 << 32) - 2
_MOST_MAJOR, _MOST_MINOR = (1 << 12) - 1, (1 << 20) - 1
_PIECE_BYTES = 100
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_OF_AUFS = ".wh..wh."  # its own book-keeping


class ImpossibleError(Exception):
    """Why a name or an inode cannot be in a tree."""


class Budget:
    """How many names, and how many bytes about them, may still be read."""

    def __init__(self) -> None:
        self._entries = MOST_ENTRIES
        self._details = MOST_DETAILS

    def charge(self, path: str, inode: Inode | None = None) -> None:
        """Count a name, and the inode that it is for if that is new.

        Raises:
            ImpossibleError: there are too many.
        """
        size = len(path)
        if inode is not None:
            size += len(inode.target) + sum(map(len, inode.xattrs)) + sum(map(len, inode.xattrs.values()))
            if isinstance(inode.content, StoredContent):
                size += _PIECE_BYTES * len(inode.content.pieces)
        self._entries -= 1
        self._details -= size
        if self._entries < 0:
            raise ImpossibleError(f"it has more than {MOST_ENTRIES} files")
        if self._details < 0:
            raise ImpossibleError("the names and attributes of its files are too large")


def add_entries(
    tree: Tree, entries: Iterable[TarEntry], budget: Budget, *, name: str, is_layer: bool
) -> list[str]:
    """Put entries into a tree, in their order.

    Args:
        tree: is changed, also if an entry is refused.
        entries: of one archive.
        budget: of the whole tree.
        name: of what they are from, for messages.
        is_layer: the tree has the layers below; names that begin with ``.wh.`` hide what is in them.

    Returns:
        The paths whose access control lists are not kept.

    Raises:
        ImageSourceError: an entry is not possible.
    """
    layer = _Layer(tree, budget)
    without_lists = []
    for entry in entries:
        try:
            path = checked_path(entry.name)
            if is_layer and path.rpartition("/")[2].startswith(_WHITEOUT):
                layer.hide(path)
                continue
            layer.put(path, entry)
        except ImpossibleError as error:
            raise ImageSourceError(f"{name}: {error}") from error
        if entry.has_lists:
            without_lists.append(path)
    return without_lists


class _Layer:
    def __init__(self, tree: Tree, budget: Budget) -> None:
        self._tree = tree
        self._budget = budget
        self._own: set[str] = set()
        self._hidden: set[tuple[str, bool]] = (
            set()
        )  # what was hidden has nothing of the layers below any more

    def put(self, path: str, entry: TarEntry) -> None:
        place = self._place(path)
        if entry.kind is None:
            inode = self._tree.get(self._place(checked_path(entry.target)))
            if inode is None or inode.kind is Kind.FOLDER:
                raise ImpossibleError(
                    f"{foreign(path)} is a hard link to {foreign(entry.target)}, which is "
                    + ("a folder" if inode else "not there")
                )
            self._budget.charge(place)
        else:
            inode = checked_inode(path, inode_of(entry))
            self._budget.charge(place, inode)
        parent = place
        while parent and self._tree.get(parent := parent.rpartition("/")[0]) is None:
            self._budget.charge(parent)
        if not place and inode.kind is not Kind.FOLDER:
            raise ImpossibleError("its root is not a folder")
        self._tree.put(place, inode)
        self._own.add(place)

    def hide(self, path: str) -> None:
        place, _, name = self._place(path).rpartition("/")
        if name == _OPAQUE:
            self._hide(place, everything_in=True)
        elif not name.startswith(_OF_AUFS):
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in {"", ".", ".."}:
                raise ImpossibleError(f"{foreign(path)} hides nothing that can be")
            self._hide(join(place, hidden), everything_in=False)

    def _hide(self, path: str, *, everything_in: bool) -> None:
        if (path, everything_in) in self._hidden:
            return
        self._hidden.add((path, everything_in))
        if everything_in:
            for name in self._tree.children(path):
                self._is_kept(join(path, name))
        else:
            self._is_kept(path)

    def _is_kept(self, path: str) -> bool:
        """Take away what the layers below have at a path and below it; return whether anything is left."""
        kept = [self._is_kept(join(path, name)) for name in self._tree.children(path)]
        if path in self._own or any(kept):
            return True
        self._tree.remove(path)
        return False

    def _place(self, path: str) -> str:
        place = self._tree.place(path)
        if place is None:
            raise ImpossibleError(f"the links on the way to {foreign(path)} are a circle")
        if place.count("/") >= MOST_DEPTH or len(place) > MOST_PATH:
            raise ImpossibleError(f"{foreign(path)} is too deep")
        return place


def checked_path(name: str) -> str:
    """Return a name as a path of the tree.

    Raises:
        ImpossibleError: it climbs (``..``), is too long or too deep, or has a NUL.
    """
    words = [word for word in name.split("/") if word not in {"", "."}]
    fault = ""
    if ".." in words:
        fault = "climbs out of its folder"
    elif len(words) > MOST_DEPTH:
        fault = "is too deep"
    elif _bytes(name) > MOST_PATH or any(_bytes(word) > MOST_NAME for word in words):
        fault = "is too long"
    elif "\0" in name:
        fault = "has a NUL"
    if fault:
        raise ImpossibleError(f"the name {foreign(name)} {fault}")
    return "/".join(words)


def inode_of(entry: TarEntry) -> Inode:
    """Return the inode that a member which is not a hard link is."""
    assert entry.kind is not None  # noqa: S101 - says it to the type checker
    inode = Inode(
        kind=entry.kind,
        mode=0o777 if entry.kind is Kind.LINK else entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        xattrs=entry.xattrs,
        target=entry.target if entry.kind is Kind.LINK else "",
        device=entry.device,
    )
    return inode if entry.content is None else replace(inode, content=entry.content)


def checked_inode(path: str, inode: Inode) -> Inode:
    """Return the inode.

    Raises:
        ImpossibleError: no file system can have it.
    """
    fault = ""
    if inode.kind is Kind.LINK and (not inode.target or "\0" in inode.target):
        fault = "is a link to nothing"
    elif _bytes(inode.target) > MOST_PATH:
        fault = "is a link to a path that is too long"
    elif max(inode.uid, inode.gid) > _MOST_ID:
        fault = "has an owner that is not possible"
    elif inode.device[0] > _MOST_MAJOR or inode.device[1] > _MOST_MINOR:
        fault = "is a device that is not possible"
    else:
        for name, value in inode.xattrs.items():
            if not 0 < _bytes(name) <= MOST_NAME or "\0" in name or len(value) > MOST_XATTR:
                fault = f"has an attribute that is not possible: {foreign(name)}"
    if fault:
        raise ImpossibleError(f"{foreign(path)} {fault}")
    return inode


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
