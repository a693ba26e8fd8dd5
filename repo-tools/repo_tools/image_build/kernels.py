"""The kernels of a tree and their modules.

Rules: a kernel is a folder of ``/usr/lib/modules`` with modules in it; its image is beside them, as bootc and
Fedora have it, or in ``/boot`` with the version in its name; the only image of a tree with one kernel needs
no version in its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.bootstage.kernel import is_module, module_name
from repo_tools.errors import ImageSourceError
from repo_tools.image_build.tree import Kind, join

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from repo_tools.image_build.tree import Tree

MODULES = "usr/lib/modules"
MOST_KERNEL = 256 << 20
"""Bytes of the largest kernel, initrd or program that is read; those in use have a fifth of it."""

_IMAGES = ("vmlinuz", "vmlinux", "Image")
_OLDER = "lib/modules"  # where /lib is not merged into /usr


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a tree that can be read like a path."""

    tree: Tree
    path: str

    @property
    def name(self) -> str:
        """Its name, without the folder."""
        return self.path.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """Return its content. Raises ImageSourceError."""
        data = self.tree.read(self.path, most=MOST_KERNEL)
        if data is None:
            raise ImageSourceError(f"/{self.path} is not a file")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeKernel:
    """A kernel in a tree.

    Attributes:
        version: as ``uname -r`` says it.
        image: path of its image, "" if there is none.
        modules: by name. builtin: names of those that are built into it.
    """

    version: str
    image: str
    modules: Mapping[str, TreeFile]
    builtin: frozenset[str]

    def has(self, module: str) -> bool:
        """Return whether a module is there or built in."""
        return module in self.modules or module in self.builtin


def kernels_in(tree: Tree) -> list[TreeKernel]:
    """Return the kernels of a tree, sorted by version. Raises ImageSourceError."""
    folder = MODULES if tree.names(MODULES) else _OLDER
    found = {}
    for version in tree.names(folder):
        files = [file for file in _files(tree, join(folder, version)) if is_module(file.name)]
        if files:
            found[version] = {module_name(file.name): file for file in files}
    alone = len(found) == 1
    return [
        TreeKernel(
            version=version,
            image=_image(tree, join(folder, version), version, alone=alone),
            modules=modules,
            builtin=_builtin(tree, join(folder, version)),
        )
        for version, modules in found.items()
    ]


def _files(tree: Tree, folder: str) -> Iterator[TreeFile]:
    """Yield the files below a folder, sorted; links are left out: ``build`` leads to a kernel's sources."""
    real = tree.resolve(folder) or folder
    for name in tree.names(real):
        path = join(real, name)
        inode = tree.get(path)
        if inode and inode.kind is Kind.FOLDER:
            yield from _files(tree, path)
        elif inode and inode.kind is Kind.FILE:
            yield TreeFile(tree, path)


def _image(tree: Tree, folder: str, version: str, *, alone: bool) -> str:
    beside = [join(folder, name) for name in _IMAGES]
    named = [f"boot/{name}-{version}" for name in _IMAGES]
    for path in (*beside, *named):
        if _is_file(tree, path):
            return path
    others = [
        f"boot/{name}"
        for name in tree.names("boot")
        if name.startswith(_IMAGES) and _is_file(tree, f"boot/{name}")
    ]
    real = {tree.resolve(path) for path in others}
    return others[0] if alone and len(real) == 1 else ""


def _is_file(tree: Tree, path: str) -> bool:
    inode = tree.find(path)
    return inode is not None and inode.kind is Kind.FILE


def _builtin(tree: Tree, folder: str) -> frozenset[str]:
    listed = (tree.read(join(folder, "modules.builtin")) or b"").decode(errors="replace").split()
    return frozenset(module_name(line.rpartition("/")[2]) for line in listed)
