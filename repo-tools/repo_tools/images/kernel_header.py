"""For which machine a kernel image is, told from its first bytes. PURE.

Sources: in Linux' Documentation/arch, x86/boot.rst, arm64/booting.rst and riscv/boot-image-header.rst; the
formats PE and ELF.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_BYTES = 4096
"""Bytes of a kernel that :func:`machine_of` needs; the PE header of one is in them."""

EFI_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "x86_64": "x64",
        "amd64": "x64",
        "aarch64": "aa64",
        "arm64": "aa64",
        "i386": "ia32",
        "i686": "ia32",
        "riscv64": "riscv64",
    }
)
"""Architecture of a release → how EFI, and so a boot entry, names it. Other words are not judged."""

_LOADS_64_BIT = 1  # of xloadflags
_FIRST_WITH_FLAGS = 0x020C  # version of the boot protocol that has xloadflags
_PE_MACHINES = {0x8664: "x64", 0xAA64: "aa64", 0x014C: "ia32", 0x5064: "riscv64"}
_ELF_MACHINES = {62: "x64", 183: "aa64", 3: "ia32", 243: "riscv64"}


def machine_of(head: bytes) -> str:
    """Return for which machine a kernel is, as EFI names it; "" if these are not a kernel's first bytes."""
    if head[0x202:0x206] == b"HdrS":
        is_64_bit = _number(head, 0x206, 2) >= _FIRST_WITH_FLAGS and _number(head, 0x236, 2) & _LOADS_64_BIT
        return "x64" if is_64_bit else "ia32"
    if head[0x38:0x3C] == b"ARM\x64":
        return "aa64"
    if head[0x38:0x3C] == b"RSC\x05":
        return "riscv64"
    if head.startswith(b"\x7fELF"):
        return _ELF_MACHINES.get(_number(head, 18, 2), "")
    at = _number(head, 0x3C, 4)
    if head.startswith(b"MZ") and head[at : at + 4] == b"PE\0\0":
        return _PE_MACHINES.get(_number(head, at + 4, 2), "")
    return ""


def _number(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "little")
