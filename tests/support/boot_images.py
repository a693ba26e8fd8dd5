"""Boot images that the boot stage can start, as far as their files say: ext4, an entry, a kernel's header."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from fixtures.os.images import write_ext4

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE = 1 << 20
"""Bytes of an image."""


def bz_image(*, is_64_bit: bool = True) -> bytes:
    """Return the head of a kernel for x86, with the boot protocol's version and flags."""
    head = bytearray(4096)
    head[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<H", head, 0x206, 0x020F)
    struct.pack_into("<H", head, 0x236, 0x7F if is_64_bit else 0)
    return bytes(head)


def arm64_image() -> bytes:
    """Return the head of a kernel for 64-bit ARM."""
    return bytes(0x38) + b"ARM\x64" + bytes(4096 - 0x3C)


def boot_files(options: str, **changes: bytes | None) -> dict[str, bytes]:
    """Return the files of BOOT by path: an entry with these options, its kernel and initrd.

    ``changes`` replace the files ``vmlinuz``, ``initrd`` and ``entry``; None leaves one out.
    """
    entry = f"title Test\nlinux /vmlinuz\ninitrd /initrd\noptions {options}\n".encode()
    files: Mapping[str, bytes | None] = {
        "vmlinuz": bz_image(),
        "initrd": b"070701",
        "entry": entry,
        **changes,
    }
    names = {"entry": "loader/entries/test.conf"}
    return {names.get(name, name): data for name, data in files.items() if data is not None}


def write_boot(image: Path, options: str, **changes: bytes | None) -> Path:
    """Write such a boot image and return its path."""
    write_ext4(boot_files(options, **changes), image, size=SIZE)
    return image
