"""Compressed images cut at every kind of place, by id: what no decoder of this project may accept.

    zst-cut-in-frame-1-block-2-raw    zst-cut-before-frame-2-checksum    lz4-one-byte-more    …

The places come from reading the formats' own structure (RFC 8878 §3.1; LZ4 frame format 1.6), so that a
library that lays blocks out in another way moves the cuts along.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import lz4.frame
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator

SKIPPABLE = b"\x5e\x2a\x4d\x18" + (9).to_bytes(4, "little") + b"seektable"  # as the seekable format ends

_BLOCK = 1 << 17  # bytes of the largest block of Zstandard
_NOISE = random.Random(1).randbytes(_BLOCK)
FIRST = _NOISE + bytes(_BLOCK) + b"".join(f"line {number}\n".encode() for number in range(4000))
SECOND = b"second" * 5000
RAW = FIRST + SECOND
"""The image: bytes that do not pack, zeros and text, so that there are blocks of every type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a stream, from byte ``start`` up to ``end``."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CutImage:
    """A stream that is not the whole one.

    Attributes:
        name: what was done to it. ending: of its target's name. data: the stream.
        is_well_formed: whether it is a shorter stream by its format; only digest or content tell then.
    """

    name: str
    ending: str
    data: bytes
    is_well_formed: bool = False

    def __str__(self) -> str:
        return f"{self.ending[1:]}-{self.name}"


def zst_frame(data: bytes, *, checksum: bool = True) -> bytes:
    """Return one frame that carries its content size."""
    return zstandard.ZstdCompressor(level=3, write_checksum=checksum).compress(data)


def pack(raw: bytes, ending: str) -> bytes:
    """Return an image as one frame of this format."""
    if ending == ".zst":
        return zst_frame(raw)
    packed: bytes = lz4.frame.compress(
        raw, block_size=lz4.frame.BLOCKSIZE_MAX256KB, content_checksum=True, block_checksum=True
    )
    return packed


@cache
def whole(ending: str) -> bytes:
    """Return the whole stream: two ``.zst`` frames, a skippable one behind each; or one ``.lz4`` frame."""
    if ending == ".zst":
        return zst_frame(FIRST) + SKIPPABLE + zst_frame(SECOND) + SKIPPABLE
    return pack(RAW, ending)


def parts(ending: str) -> list[Part]:
    """Return the parts of the whole stream, one after the other."""
    data = whole(ending)
    found = list(_zst_parts(data) if ending == ".zst" else _lz4_parts(data))
    assert all(before.end == after.start for before, after in pairwise(found))
    assert (found[0].start, found[-1].end) == (0, len(data))
    return found


def without_seek_table() -> bytes:
    """Return the whole ``.zst`` stream without the skippable frame at its end: the same image."""
    return whole(".zst").removesuffix(SKIPPABLE)


def cut_images(ending: str) -> list[CutImage]:
    """Return the whole stream of a format cut inside and before each of its parts, and continued."""
    data = whole(ending)
    cuts = {"empty": 0, "one-byte-short": len(data) - 1}
    between_frames = {0}
    for part in parts(ending):
        cuts[f"cut-before-{part.name}"] = part.start
        cuts[f"cut-in-{part.name}"] = (part.start + part.end) // 2
        cuts[f"cut-before-the-last-byte-of-{part.name}"] = part.end - 1
        if part.name.endswith("-magic"):
            between_frames.add(part.start)
    streams = {name: data[:length] for name, length in cuts.items()}
    streams |= {
        "one-byte-more": data + b"\0",
        "first-byte-of-a-frame-more": data + data[:1],
        "magic-of-a-frame-more": data + data[:4],
        "garbage-more": data + b"garbage after the end of the image",
        "zeros-more": data + bytes(70_000),
        "no-frame-but-a-skippable-one": SKIPPABLE,
    }
    if ending == ".zst":
        streams["frame-of-nothing"] = zst_frame(b"")
        streams["one-byte-short-without-checksum"] = zst_frame(RAW, checksum=False)[:-1]
    else:
        streams["second-frame-more"] = data + data
        streams["skippable-frame-more"] = data + SKIPPABLE
    different = {stream: name for name, stream in reversed(streams.items())}
    return [
        CutImage(
            name=name,
            ending=ending,
            data=stream,
            is_well_formed=bool(stream) and data.startswith(stream) and len(stream) in between_frames,
        )
        for stream, name in reversed(different.items())
        if stream != without_seek_table()
    ]


def _zst_parts(data: bytes) -> Iterator[Part]:
    at = frames = skipped = 0
    while at < len(data):
        if data[at + 1 : at + 4] == b"\x2a\x4d\x18":
            skipped += 1
            name = f"skippable-{skipped}"
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            sizes = {"magic": 4, "header": 4, "content": size}
        else:
            frames += 1
            name = f"frame-{frames}"
            sizes = dict(_zst_frame_parts(data[at:]))
        for part, size in sizes.items():
            yield Part(name=f"{name}-{part}", start=at, end=at + size)
            at += size


def _zst_frame_parts(data: bytes) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of a frame's parts (RFC 8878 §3.1.1)."""
    descriptor = data[4]
    single = descriptor >> 5 & 1
    content_size = (single, 2, 4, 8)[descriptor >> 6]
    header = 1 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content_size
    yield "magic", 4
    yield "header", header
    at, number, is_last = 4 + header, 0, False
    while not is_last:
        number += 1
        head = int.from_bytes(data[at : at + 3], "little")
        is_last, kind = bool(head & 1), ("raw", "rle", "compressed")[head >> 1 & 3]
        size = 1 if kind == "rle" else head >> 3
        yield f"block-{number}-header", 3
        yield f"block-{number}-{kind}", size
        at += 3 + size
    if descriptor >> 2 & 1:
        yield "checksum", 4


def _lz4_parts(data: bytes) -> Iterator[Part]:
    flags = data[4]
    header = 3 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
    yield Part(name="magic", start=0, end=4)
    yield Part(name="header", start=4, end=4 + header)
    at, number = 4 + header, 0
    while size := int.from_bytes(data[at : at + 4], "little") & 0x7FFF_FFFF:
        number += 1
        yield Part(name=f"block-{number}-size", start=at, end=at + 4)
        yield Part(name=f"block-{number}", start=at + 4, end=at + 4 + size)
        at += 4 + size
        if flags >> 4 & 1:
            yield Part(name=f"block-{number}-checksum", start=at, end=at + 4)
            at += 4
    yield Part(name="end-mark", start=at, end=at + 4)
    if flags >> 2 & 1:
        yield Part(name="checksum", start=at + 4, end=at + 8)
