"""Make a cpio archive (the ``newc`` format that the kernel unpacks): the same entries give the same bytes.

Rules: entries are sorted by name and owned by root; the caller gives one time for all; inode numbers count
from 1.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CpioEntry:
    """A file, folder, symbolic link or device.

    Attributes:
        mode: with its type bits.
        data: the bytes of a file, the target of a link.
        device: major and minor number of a device.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(data: bytes, *, executable: bool = False) -> CpioEntry:
    """Return a regular file."""
    return CpioEntry(mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def folder() -> CpioEntry:
    """Return an empty folder."""
    return CpioEntry(mode=stat.S_IFDIR | 0o755)


def link(target: str) -> CpioEntry:
    """Return a symbolic link to ``target``."""
    return CpioEntry(mode=stat.S_IFLNK | 0o777, data=target.encode())


def character_device(major: int, minor: int) -> CpioEntry:
    """Return a character device that only root may use."""
    return CpioEntry(mode=stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Mapping[str, CpioEntry], *, moment: int) -> bytes:
    """Return the archive of entries by relative path; their parent folders are added.

    Args:
        entries: path → entry.
        moment: the time of every entry, in seconds since 1970.
    """
    paths = [name.split("/") for name in entries]
    parents = {"/".join(path[:depth]): folder() for path in paths for depth in range(1, len(path))}
    whole = parents | dict(entries)  # a parent sorts before its children, as unpacking needs
    records = [
        _record(number, name, whole[name], moment) for number, name in enumerate(sorted(whole), start=1)
    ]
    return b"".join(records) + _record(0, _TRAILER, CpioEntry(mode=0), moment)


def _record(inode: int, name: str, entry: CpioEntry, moment: int) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, moment, len(entry.data), 0, 0, *entry.device, len(encoded), 0)
    header = _MAGIC + "".join(f"{number:08X}" for number in numbers)
    return _padded(header.encode("ascii") + encoded) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
