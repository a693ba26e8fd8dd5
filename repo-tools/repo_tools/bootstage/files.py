"""The boot stage in a folder: what ``repo-tools boot-stage build`` leaves there.

Rules:

* there is a file for every way to start it: kernel and initial RAM file system for PXE and QEMU, one EFI
  binary for firmware;
* everything is built before the first file is written, and each file is replaced durably in one step, so a
  failure leaves the earlier files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.bootstage.efi import DEFAULT_OPTIONS, make_efi
from repo_tools.bootstage.image import build
from repo_tools.errors import BootStageError
from signpost.medium import OsMedium
from updog.durable import write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KERNEL, INITRAMFS, EFI = "vmlinuz", "initramfs.zst", "BOOTX64.EFI"
"""Names of the files."""

_MZ = b"MZ"  # UEFI 2.10, 2.1.1: a PE/COFF image, which starts with a DOS header
_HOW = "Make one: `repo-tools boot-stage build DIR --system SYSTEM`, then give DIR/BOOTX64.EFI."


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One file that was made: its path, its size in bytes, its SHA-256 in hexadecimal."""

    path: Path
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the file as ``--json`` prints it."""
        return {"file": str(self.path), "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A boot stage in a folder: its kernel's version, its own kernel command line, its files."""

    kernel: str
    options: str
    files: tuple[Made, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        files = [made.to_json() for made in self.files]
        return {"kernel": self.kernel, "options": self.options, "files": files}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRequest:
    """What the boot stage should be like.

    Attributes:
        system: folder of the Debian system it is made from; ``/`` is the running one.
        kernel: version of the kernel, if the system has several.
        modules: kernel modules besides the usual ones.
        options: the boot stage's own kernel command line, in the EFI binary.
    """

    system: Path
    kernel: str | None = None
    modules: Sequence[str] = ()
    options: str = DEFAULT_OPTIONS


def build_into(folder: Path, wanted: StageRequest) -> Built:
    """Build the boot stage and write its files into ``folder``, which is made if it does not exist.

    Raises:
        BootStageError: something it needs is missing, or the folder cannot be made; nothing was written.
        MediumError: a file cannot be written.
    """
    stage = build(wanted.system, modules=wanted.modules, version=wanted.kernel)
    contents = {
        KERNEL: stage.kernel,
        INITRAMFS: stage.initramfs,
        EFI: make_efi(stage, options=wanted.options),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BootStageError(
            f"cannot make {folder}: {error.strerror}", next_step="Give another folder."
        ) from error
    medium = OsMedium()
    for name, content in contents.items():
        write_bytes(medium, folder / name, content)
    files = tuple(
        Made(path=folder / name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    )
    return Built(kernel=stage.version, options=wanted.options, files=files)


def read_efi(path: Path) -> bytes:
    """Return a boot stage's EFI binary. Raises BootStageError if the file is not one."""
    try:
        binary = path.read_bytes()
    except OSError as error:
        raise BootStageError(f"cannot read {path}: {error.strerror}", next_step=_HOW) from error
    if binary[:2] != _MZ:
        raise BootStageError(f"{path} is not an EFI binary", next_step=_HOW)
    return binary
