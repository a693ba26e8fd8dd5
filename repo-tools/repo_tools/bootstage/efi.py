"""The boot stage as one EFI binary, and the EFI system partition that firmware starts it from.

Rules:

* the binary is a unified kernel image (UAPI.5): systemd's stub with kernel, initial RAM file system, command
  line and os-release as sections, one behind the other in memory;
* it is where firmware looks by default: ``EFI/BOOT/BOOTX64.EFI``;
* the same input gives the same bytes: no clock, no random numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.bootstage.image import MOMENT
from repo_tools.errors import BootStageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from repo_tools.bootstage.image import BootStage

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
"""Where Debian's package systemd-boot-efi installs the stub."""

DEFAULT_OPTIONS = "console=tty0 console=ttyS0 quiet panic=10 gpt"
"""The boot stage's own kernel command line: messages go to the screen and the serial line; a failure of the
stage itself restarts the machine; the kernel reads the backup table if the primary one is damaged."""

FALLBACK_PATH = "EFI/BOOT/BOOTX64.EFI"
"""The path that firmware looks for on a disk without boot variables (UEFI 2.10, 3.5.1.1)."""

# PE format: where the offset of the header is; TimeDateStamp and CheckSum within the header.
_PE_POINTER, _PE_TIME, _PE_CHECKSUM = 0x3C, 8, 88

_PAGE = 4096
_FOLDERS = ("EFI", "EFI/BOOT")
_SECTION = re.compile(r"^\s*\d+\s+\S+\s+(?P<size>[0-9a-f]{8,16})\s+(?P<place>[0-9a-f]{8,16})\s", re.MULTILINE)
_PACKAGES = {
    "objcopy": "binutils",
    "objdump": "binutils",
    "mkfs.vfat": "dosfstools",
    "mmd": "mtools",
    "mcopy": "mtools",
}
_ADMIN_FOLDERS = "/usr/sbin:/sbin"  # not in the PATH of an ordinary user


def make_efi(stage: BootStage, *, options: str = DEFAULT_OPTIONS, stub: Path = STUB) -> bytes:
    """Return the boot stage as an EFI binary for x86-64.

    Args:
        stage: kernel and initial RAM file system.
        options: the boot stage's own command line.
        stub: systemd's stub.

    Raises:
        BootStageError: the stub or binutils is not installed, or objcopy failed.
    """
    if not stub.exists():
        raise BootStageError(
            f"{stub} does not exist", next_step="Install the Debian package systemd-boot-efi."
        )
    release = f'NAME="Boot stage"\nID=signpost\nVERSION_ID="{stage.version}"\nPRETTY_NAME="Boot stage"\n'
    sections = {
        ".osrel": release.encode(),
        ".uname": stage.version.encode(),
        ".cmdline": options.encode() + b"\0",
        ".linux": stage.kernel,
        ".initrd": stage.initramfs,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["objcopy", *_additions(folder, sections, _end(stub)), str(stub), str(folder / "efi")]
        _run(command)
        return _timeless((folder / "efi").read_bytes())


def make_partition(size: int, files: Mapping[str, bytes], *, sector_size: int = 512) -> bytes:
    """Return an EFI system partition: a FAT file system of ``size`` bytes that holds the files.

    Args:
        size: bytes.
        files: path → content; see :data:`FALLBACK_PATH`. Only the folders ``EFI/BOOT`` are made.
        sector_size: of the disk, bytes.

    Raises:
        BootStageError: the files do not fit, or dosfstools or mtools is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        image, source = Path(name) / "image", Path(name) / "file"
        with image.open("wb") as file:
            file.truncate(size)
        _run(["mkfs.vfat", "--invariant", "-S", str(sector_size), "-n", "EFI-SYSTEM", str(image)])
        _run(["mmd", "-i", str(image), *(f"::{folder}" for folder in _FOLDERS)])
        for path, content in files.items():
            source.write_bytes(content)
            _run(["mcopy", "-i", str(image), str(source), f"::{path}"])
        return image.read_bytes()


def _additions(folder: Path, sections: Mapping[str, bytes], place: int) -> list[str]:
    """Return objcopy's options that add sections one behind the other, from the address ``place`` on."""
    words = []
    for section, content in sections.items():
        (folder / section).write_bytes(content)
        words += ["--add-section", f"{section}={folder / section}"]
        words += ["--change-section-vma", f"{section}={place:#x}"]
        place = _aligned(place + len(content))
    return words


def _timeless(binary: bytes) -> bytes:
    """Return a PE binary without objcopy's time stamp and checksum, neither of which EFI reads."""
    header = int.from_bytes(binary[_PE_POINTER : _PE_POINTER + 4], "little")
    timeless = bytearray(binary)
    for offset in (_PE_TIME, _PE_CHECKSUM):
        timeless[header + offset : header + offset + 4] = bytes(4)
    return bytes(timeless)


def _end(stub: Path) -> int:
    """Return the address of the first page behind a stub's own sections."""
    found = [
        (int(m["place"], 16), int(m["size"], 16))
        for m in _SECTION.finditer(_run(["objdump", "-h", str(stub)]))
    ]
    if not found:
        raise BootStageError(
            f"{stub} is not an EFI binary", next_step="Give the path of systemd's stub, linuxx64.efi.stub."
        )
    return _aligned(max(place + size for place, size in found))


def _aligned(address: int) -> int:
    return -(-address // _PAGE) * _PAGE


def _run(command: Sequence[str]) -> str:
    """Run a tool and return what it printed. Raises BootStageError."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_ADMIN_FOLDERS}"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(MOMENT)}
    environment = {**os.environ, **fixed, "MTOOLS_SKIP_CHECK": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        package = _PACKAGES[command[0]]
        raise BootStageError(
            f"{command[0]} is not installed", next_step=f"Install the Debian package {package}."
        ) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip() or "it gave no reason"
        raise BootStageError(
            f"{command[0]} failed: {reason}", next_step="Fix the cause that it reports, then try again."
        ) from error
    return done.stdout
