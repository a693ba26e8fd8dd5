"""Images for tests of packs and deltas: programs built twice, files that moved, and their indexes."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.images.delta import make_delta
from repo_tools.images.frames import known_blocks, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.images.frames import Packed
    from updog.image.delta import Delta

BLOCK = 4096


def program(seed: int, functions: int, shift: int) -> bytes:
    """Return bytes like machine code: functions that call one another; ``shift`` moves all addresses."""
    source = random.Random(seed)
    made = []
    for _ in range(functions):
        body = [source.randbytes(source.randrange(8, 24)) for _ in range(source.randrange(4, 20))]
        calls = [struct.pack("<i", source.randrange(1 << 20) + shift) for _ in body]
        made.append(b"".join(part + b"\xe8" + call for part, call in zip(body, calls, strict=True)))
    return b"".join(made)


def blocks(*files: bytes) -> bytes:
    """Return files one after the other, each at the start of a block."""
    return b"".join(data + bytes(-len(data) % BLOCK) for data in files)


def pieces(data: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield the data in pieces."""
    return (data[start : start + size] for start in range(0, len(data), size))


def packed(image: bytes, base: bytes | None = None) -> tuple[bytes, Packed]:
    """Return the pack of an image, cut along the blocks of an earlier image."""
    known = (known_blocks(packed(base)[1].fingerprints),) if base is not None else ()
    out = bytearray()
    made = pack(pieces(image), out.extend, level=3, known=known, workers=2)
    return bytes(out), made


class File:
    """A file in memory that can be written at any offset."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, offset: int) -> None:
        """Write at an offset, also after the end."""
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data


def delta_of(image: bytes, base: bytes) -> tuple[bytes, Packed, Delta]:
    """Return the delta file, the packed image's index and fingerprints, and the delta's head."""
    made = packed(image, base)[1]
    file = File()
    delta = make_delta(made.index, image, base, file.write, workers=2)
    return bytes(file.data), made, delta


def peak_rss() -> int:
    """Return the most memory this process has used, in MiB (``ru_maxrss`` would count the parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM:"))
