"""ELF programs and libraries: for which machine they are, and which loader and libraries they name. PURE.

Rules: 64-bit and little-endian, as all machines are that updog runs on; what is not such a file is None, and
so is one whose tables lead out of it (System V ABI, chapters 4 and 5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MACHINES = {62: "x86_64", 183: "aarch64"}
"""Architectures by ELF's number (e_machine)."""

_IDENT = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16x2xH4x8xQ8x4x2xHH")  # e_machine, e_phoff, e_phentsize, e_phnum
_SEGMENT = struct.Struct("<I4xQQ8xQ16x")  # type, offset, address, size in the file
_DYNAMIC = struct.Struct("<qQ")  # tag, value
_LOAD, _DYNAMIC_SEGMENT, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRINGS = 0, 1, 5


@dataclass(frozen=True, slots=True)
class Elf:
    """What a program or a library names.

    Attributes:
        machine: its architecture, as publishers name it; "" for another one.
        loader: absolute path of its dynamic loader; "" if it is linked statically, or is a library.
        needed: names of libraries.
    """

    machine: str
    loader: str
    needed: tuple[str, ...]


def read_elf(data: bytes) -> Elf | None:
    """Return what a file names, None if it is not an ELF file that can be read."""
    if not data.startswith(_IDENT):
        return None
    try:
        machine, start, size, count = _HEADER.unpack_from(data)
        segments = [_SEGMENT.unpack_from(data, start + number * size) for number in range(count)]
        loader = ""
        needed: tuple[str, ...] = ()
        for kind, offset, _, length in segments:
            if kind == _INTERPRETER:
                loader = data[offset : offset + length].split(b"\0")[0].decode()
            elif kind == _DYNAMIC_SEGMENT:
                needed = _libraries(data, data[offset : offset + length], segments)
    except (struct.error, StopIteration, UnicodeDecodeError, ValueError):
        return None
    return Elf(machine=MACHINES.get(machine, ""), loader=loader, needed=needed)


def _libraries(data: bytes, dynamic: bytes, segments: list[tuple[int, int, int, int]]) -> tuple[str, ...]:
    """Return the names in a dynamic section. Raises StopIteration, ValueError or UnicodeDecodeError."""
    whole = len(dynamic) // _DYNAMIC.size * _DYNAMIC.size
    entries = []
    for tag, value in _DYNAMIC.iter_unpack(dynamic[:whole]):
        if tag == _END:
            break
        entries.append((tag, value))
    offsets = [value for tag, value in entries if tag == _NEEDED]
    if not offsets:
        return ()
    address = next(value for tag, value in entries if tag == _STRINGS)
    strings = next(
        offset + address - start
        for kind, offset, start, length in segments
        if kind == _LOAD and start <= address < start + length
    )
    return tuple(data[strings + offset : data.index(b"\0", strings + offset)].decode() for offset in offsets)
