"""The boot stage as an initial RAM file system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from repo_tools.bootstage import cpio
from repo_tools.bootstage.kernel import find_kernel, load_order, read_module
from repo_tools.bootstage.python import ENTRY, find_python, gather
from signpost.initramfs import MODULES as MODULE_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from repo_tools.bootstage.kernel import Kernel

USUAL_MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "ahci",
    "sd_mod",
    "xhci_pci",
    "uas",
    "usb_storage",
    "mmc_block",
    "sdhci_pci",
    "sdhci_acpi",
    "hv_storvsc",
    "xen_blkfront",
    "vmw_pvscsi",
    "efivarfs",
)
"""Disks of virtual and real machines, and EFI variables; what the kernel has no module for is left out."""

NEEDED_MODULES = ("ext4",)
"""The file system of BOOT: nothing can be started without it."""

MOMENT = 1_735_689_600
"""2025-01-01T00:00:00Z, the time of every file: nothing reads it, so it is fixed for reproducible builds."""

_COMPRESSION = 12
"""Level of zstd: built once, loaded at every start; Debian's kernels since 5.10 unpack it."""

_INIT = """#!/{python} -ISB
from {entry} import main
main()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BootStage:
    """A boot stage: the kernel's version, its image, and the initial RAM file system that goes with it."""

    version: str
    kernel: bytes
    initramfs: bytes


def build(system: Path, *, modules: Sequence[str] = (), version: str | None = None) -> BootStage:
    """Build the boot stage from an unpacked Debian system of this machine's architecture.

    Args:
        system: folder with a kernel in ``boot``, its modules, and Python; ``/`` is one, too.
        modules: names of kernel modules wanted besides :data:`USUAL_MODULES`.
        version: of the kernel to use; None for the only one.

    Raises:
        BootStageError: something that is needed is not in the folder.
    """
    kernel, python = find_kernel(system, version), find_python(system)
    init = _INIT.format(python=python.program, entry=ENTRY).encode("ascii")
    entries = {
        "init": cpio.file(init, executable=True),
        **{name: cpio.folder() for name in ("boot", "proc", "sys")},
        # Python needs random bytes before /dev is mounted, and the kernel needs a console.
        "dev/console": cpio.character_device(5, 1),
        "dev/urandom": cpio.character_device(1, 9),
        **_modules(kernel, modules),
        **gather(python),
    }
    archive = cpio.archive(entries, moment=MOMENT)
    packed = zstandard.ZstdCompressor(level=_COMPRESSION, write_checksum=True).compress(archive)
    return BootStage(version=kernel.version, kernel=kernel.image.read_bytes(), initramfs=packed)


def _modules(kernel: Kernel, wanted: Sequence[str]) -> dict[str, cpio.CpioEntry]:
    """Return the modules, numbered in the order in which they are loaded."""
    usual = [name for name in USUAL_MODULES if name in kernel.modules]
    order = load_order([*NEEDED_MODULES, *wanted, *usual], kernel.modules, kernel.builtin)
    return {
        f"{MODULE_FOLDER[1:]}/{number:03}-{name}.ko": cpio.file(read_module(path))
        for number, (name, path) in enumerate(order.items())
    }
