"""The initrd of BOOT: ours, made from the tree's own kernel modules and programs; or the source's, by dracut.

Rules for ours:

* its first program is ``init.sh`` beside this module: it opens ROOT by what the boot stage names;
* nothing comes from the machine that builds it: busybox, veritysetup, findfs and their libraries are the
  tree's, each library in the folder in which the tree's own loader finds it;
* drivers of common disks are in it as far as the kernel has them as modules; what init.sh cannot do without
  is needed;
* the same tree gives the same bytes.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import zstandard

from repo_tools.bootstage import cpio
from repo_tools.bootstage.image import MOMENT, USUAL_MODULES
from repo_tools.bootstage.kernel import load_order, read_module
from repo_tools.errors import ImageSourceError
from repo_tools.image_build import layout
from repo_tools.image_build.elf import read_elf
from repo_tools.image_build.kernels import TreeFile
from repo_tools.image_build.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.image_build.elf import Elf
    from repo_tools.image_build.kernels import TreeKernel
    from repo_tools.image_build.request import BuildRequest
    from repo_tools.image_build.tree import Tree

WATCHDOGS = ("iTCO_wdt", "i6300esb", "sp5100_tco", "wdat_wdt")
"""Hardware; each needs its device, and its module loads without it."""

_SOFTDOG = "softdog"  # only where there is no other: it dies with the kernel
_OPTIONAL = ("crc32c_intel", "crc32c_generic", "sha256_ssse3", "sha256_generic", "i2c_i801", "lpc_ich")
"""What other modules ask the kernel for by name without saying so, and what the watchdogs stand on."""

_LIBRARY_FOLDERS = (
    *(f"{lib}/{machine}-linux-gnu" for machine in ("x86_64", "aarch64") for lib in ("lib", "usr/lib")),
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
)
"""Where the loaders of glibc and musl look; Debian's multiarch folders first."""

_COMPRESSION = 12  # of zstd, as for the boot stage
_MKE2FS_SETTINGS = "etc/mke2fs.conf"
_READY = (
    "usr/lib/modules/{version}/initramfs.img",
    "usr/lib/modules/{version}/initrd",
    "boot/initramfs-{version}.img",
    "boot/initrd.img-{version}",
)
"""Where dracut, kernel-install and Debian put an initrd."""


def ready_initrd(tree: Tree, kernel: TreeKernel) -> bytes | None:
    """Return the initrd that the source has for a kernel, None if it has none. Raises ImageSourceError."""
    for pattern in _READY:
        path = pattern.format(version=kernel.version)
        inode = tree.find(path)
        if inode is not None and inode.kind is Kind.FILE:
            return TreeFile(tree, path).read_bytes()
    return None


def build_initrd(tree: Tree, kernel: TreeKernel, request: BuildRequest) -> bytes:
    """Return our initrd, compressed.

    Raises:
        ImageSourceError: a program or library that it needs is missing or cannot be read.
        BootStageError: a module is missing.
    """
    settings = f"ETC={request.etc}\nINIT={layout.systemd(tree)}\n"
    entries = {
        "init": cpio.file(_init(), executable=True),
        "settings": cpio.file(settings.encode()),
        **{name: cpio.folder() for name in ("dev", "proc", "run", "sys", "sysroot", "tmp")},
        "dev/console": cpio.character_device(5, 1),  # the kernel opens it before devtmpfs is mounted
        "bin/sh": cpio.link("busybox"),
        **_modules(kernel, request),
    }
    for name in layout.programs(request.etc):
        place = "bin/busybox" if name == "busybox" else f"programs/{name}"
        entries |= _program(tree, layout.program(tree, name), place)
    mke2fs_settings = tree.read(_MKE2FS_SETTINGS)
    if "mke2fs" in layout.programs(request.etc) and mke2fs_settings is not None:
        entries[_MKE2FS_SETTINGS] = cpio.file(mke2fs_settings)
    archive = cpio.archive(entries, moment=MOMENT)
    return zstandard.ZstdCompressor(level=_COMPRESSION, write_checksum=True).compress(archive)


def _init() -> bytes:
    return (resources.files(__package__) / "init.sh").read_bytes()


def _modules(kernel: TreeKernel, request: BuildRequest) -> dict[str, cpio.CpioEntry]:
    """Return the modules, numbered in the order in which init.sh loads them."""
    usual = [name for name in (*_OPTIONAL, *USUAL_MODULES, *WATCHDOGS) if name in kernel.modules]
    wanted = [name.replace("-", "_") for name in (*layout.needed_modules(request.etc), *request.modules)]
    order = load_order([*usual, *wanted], kernel.modules, kernel.builtin)
    entries = _numbered("modules", order)
    if _SOFTDOG in kernel.modules:
        last = load_order([_SOFTDOG], kernel.modules, kernel.builtin)
        entries |= _numbered("softdog", {name: file for name, file in last.items() if name not in order})
    return entries


def _numbered(folder: str, order: dict[str, TreeFile]) -> dict[str, cpio.CpioEntry]:
    return {
        f"{folder}/{number:03}-{name}.ko": cpio.file(read_module(file))
        for number, (name, file) in enumerate(order.items())
    }


def _program(tree: Tree, path: str, place: str) -> dict[str, cpio.CpioEntry]:
    """Return a program with its loader and all libraries that it needs."""
    data = TreeFile(tree, path).read_bytes()
    entries = {place: cpio.file(data, executable=True)}
    elf = _elf(path, data)
    if elf.loader:
        loader = elf.loader.lstrip("/")
        entries[loader] = cpio.file(TreeFile(tree, loader).read_bytes(), executable=True)
    waiting = list(elf.needed)
    known: set[str] = set()
    while waiting:
        name = waiting.pop(0)
        if name in known:
            continue
        known.add(name)
        found = _library(tree, name, path)
        data = TreeFile(tree, found).read_bytes()
        entries[found] = cpio.file(data, executable=True)
        waiting += _elf(found, data).needed
    return entries


def _library(tree: Tree, name: str, program: str) -> str:
    for found in _candidates(name):
        inode = tree.find(found)
        if inode is not None and inode.kind is Kind.FILE:
            return found
    raise ImageSourceError(
        f"/{program} needs the library {name}, which is not there",
        next_step="Install the package that has it, or pass --initrd dracut.",
    )


def _candidates(name: str) -> Iterator[str]:
    return (f"{folder}/{name}" for folder in _LIBRARY_FOLDERS)


def _elf(path: str, data: bytes) -> Elf:
    elf = read_elf(data)
    if elf is None:
        raise ImageSourceError(f"/{path} is not a program or library that can be read")
    return elf
