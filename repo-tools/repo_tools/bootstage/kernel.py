"""A kernel and its modules in an unpacked Debian system, and the order in which modules must be loaded.

Rules:

* a module's dependencies are read from the module itself: a Debian kernel package has no ``modules.dep`` (its
  post-install script makes it), and each module's ``.modinfo`` has ``depends=`` as plain text;
* what ``modules.builtin`` lists is built into the kernel and not looked for as a module;
* compressed modules are unpacked: the archive they go into is compressed as a whole.
"""

from __future__ import annotations

import gzip
import lzma
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import zstandard

from repo_tools.errors import BootStageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

_LARGEST_MODULE = 64 << 20
"""Bytes of the largest module to unpack; the largest in use, GPU drivers, take a third of it."""

_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
_SEVERAL = "Choose one of them with --kernel VERSION."
_NO_KERNEL = "Unpack one linux-image package into the folder: dpkg-deb --extract FILE FOLDER."


_SUFFIXES: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".ko.gz": gzip.decompress,
    ".ko.xz": lzma.decompress,
    ".ko.zst": lambda data: zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST_MODULE),
}


class ModuleFile(Protocol):
    """A module's file: a path, or an entry of a tree that is not unpacked."""

    @property
    def name(self) -> str:
        """Its file name, with the suffix that says how it is compressed."""
        ...

    def read_bytes(self) -> bytes:
        """Return its content."""
        ...


_F = TypeVar("_F", bound=ModuleFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel: its version, its image, its modules by name, and the names of those built into it."""

    version: str
    image: Path
    modules: Mapping[str, Path]
    builtin: frozenset[str]


def find_kernel(system: Path, wanted: str | None = None) -> Kernel:
    """Return the kernel of a system that has this version, or its only one. Raises BootStageError."""
    there = sorted((system / "boot").glob("vmlinuz-*"))
    images = [image for image in there if wanted in {None, _version_of(image)}]
    if len(images) != 1:
        names = ", ".join(map(_version_of, there)) or "none"
        what = f"the kernel {wanted}" if wanted else "one kernel"
        next_step = _SEVERAL if there else _NO_KERNEL
        raise BootStageError(f"{what} is needed in {system / 'boot'}; found: {names}", next_step=next_step)
    version = _version_of(images[0])
    folders = [system / lib / "modules" / version for lib in ("usr/lib", "lib")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise BootStageError(f"{system} has no modules of the kernel {version}", next_step=_NO_KERNEL)
    builtin = folder / "modules.builtin"
    listed = builtin.read_text(encoding="ascii").splitlines() if builtin.exists() else []
    return Kernel(
        version=version,
        image=images[0],
        modules=modules_in(folder),
        builtin=frozenset(module_name(line.rpartition("/")[2]) for line in listed),
    )


def _version_of(image: Path) -> str:
    return image.name.removeprefix("vmlinuz-")


def modules_in(folder: Path) -> dict[str, Path]:
    """Return every module below a folder by name, in order of path."""
    return {module_name(path.name): path for path in sorted(folder.rglob("*.ko*")) if _suffix(path.name)}


def module_name(file: str) -> str:
    """Return a module's name as the kernel spells it: ``dm-verity.ko`` is ``dm_verity``."""
    return file.removesuffix(_suffix(file)).replace("-", "_")


def is_module(file: str) -> bool:
    """Return whether this is the name of a module's file."""
    return bool(_suffix(file))


def read_module(file: ModuleFile) -> bytes:
    """Return a module as the kernel loads it."""
    return _SUFFIXES[_suffix(file.name)](file.read_bytes())


def depends(module: bytes) -> list[str]:
    """Return the names of the modules that must be loaded before this one."""
    found = _DEPENDS.search(module)
    listed = found[1].decode("ascii") if found else ""
    return [name.replace("-", "_") for name in listed.split(",") if name]


def load_order(
    wanted: Iterable[str], modules: Mapping[str, _F], builtin: Collection[str] = ()
) -> dict[str, _F]:
    """Return the wanted modules and their dependencies by name, dependencies first. Raises BootStageError.

    Args:
        wanted: names.
        modules: every module of the kernel, by name.
        builtin: names of the modules that are built into the kernel.
    """
    order: dict[str, _F] = {}
    for name in wanted:
        _visit(name, modules, builtin, order)
    return order


def _visit(name: str, modules: Mapping[str, _F], builtin: Collection[str], order: dict[str, _F]) -> None:
    if name in order or name in builtin:
        return
    if name not in modules:
        raise BootStageError(f"the kernel has no module {name}", next_step=_NO_KERNEL)
    for needed in depends(read_module(modules[name])):
        _visit(needed, modules, builtin, order)
    order[name] = modules[name]


def _suffix(name: str) -> str:
    """Return which of the endings of modules a file name has, empty if none."""
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
