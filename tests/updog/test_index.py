"""The chunk index: there is one way to write it, and every other way is refused."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus
from updog.errors import IndexFormatError
from updog.image.index import (
    BLOCK_BYTES,
    FINGERPRINT_BYTES,
    MAX_CHUNK_BYTES,
    MAX_IMAGE_BYTES,
    MAX_ZEROS_BYTES,
    Fingerprints,
    Index,
    Piece,
    Span,
    blocks_in,
    fingerprint,
    max_chunks,
    max_frame_bytes,
    max_index_bytes,
    zeros_sha256,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_BYTES = 60
RECORD_BYTES = 41
IMAGE = bytes(range(256)) * 48 + bytes(2 * BLOCK_BYTES) + b"the end"
SHA256 = hashlib.sha256(IMAGE).digest()


def _piece(start: int, end: int, packed: int, *, zeros: bool = False) -> Piece:
    raw = IMAGE[start:end]
    return Piece(length=len(raw), packed=packed, sha256=hashlib.sha256(raw).digest(), zeros=zeros)


INDEX = Index.of(
    [
        _piece(0, 8192, 300),
        _piece(8192, 12288, 200),
        _piece(12288, 20480, 20, zeros=True),
        _piece(20480, len(IMAGE), 16),
    ],
    image_sha256=SHA256,
)
BLOCKS = [IMAGE[start : start + BLOCK_BYTES] for start in (0, 4096, 8192, 20480)]
FINGERPRINTS = Fingerprints(image_sha256=SHA256, blocks=b"".join(map(fingerprint, BLOCKS)))
GOOD = INDEX.to_bytes()


def _with(offset: int, layout: str, value: int | bytes) -> bytes:
    packed = struct.pack(f"<{layout}", value)
    return GOOD[:offset] + packed + GOOD[offset + len(packed) :]


def _in_record(number: int, offset: int, layout: str, value: int | bytes) -> bytes:
    return _with(HEADER_BYTES + number * RECORD_BYTES + offset, layout, value)


def test_chunks_lie_one_behind_the_other_in_image_and_pack() -> None:
    assert [chunk.place for chunk in INDEX.chunks] == [
        Span(offset=0, length=8192),
        Span(offset=8192, length=4096),
        Span(offset=12288, length=8192),
        Span(offset=20480, length=7),
    ]
    assert [(chunk.frame.offset, chunk.frame.end) for chunk in INDEX.chunks] == [
        (0, 300),
        (300, 500),
        (500, 520),
        (520, 536),
    ]
    assert [chunk.blocks for chunk in INDEX.chunks] == [2, 1, 2, 1]
    assert (INDEX.image_size, INDEX.pack_size) == (len(IMAGE), 536)


def test_what_was_written_is_read() -> None:
    assert Index.from_bytes(GOOD) == INDEX
    assert len(GOOD) == HEADER_BYTES + 4 * RECORD_BYTES <= max_index_bytes(len(IMAGE))


def test_no_pieces_make_an_empty_index_which_no_reader_takes() -> None:
    empty = Index.of([], image_sha256=SHA256)
    assert (empty.image_size, empty.pack_size) == (0, 0)
    with pytest.raises(IndexFormatError, match="an image of 0 bytes"):
        Index.from_bytes(empty.to_bytes())


CUTS = {
    "nothing": 0,
    "inside the magic": 4,
    "inside the header": HEADER_BYTES - 1,
    "before the first record": HEADER_BYTES,
    "inside the first record": HEADER_BYTES + 1,
    "between two records": HEADER_BYTES + RECORD_BYTES,
    "before the last byte": len(GOOD) - 1,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_index_is_refused(cut: int) -> None:
    with pytest.raises(IndexFormatError, match="end") as caught:
        Index.from_bytes(GOOD[:cut])
    assert caught.value.status is ExitStatus.REFUSED


FAULTS: dict[str, tuple[bytes, str]] = {
    "other magic": (_with(0, "8s", b"abindex\x02"), "newer format"),
    "empty image": (_with(8, "Q", 0), "an image of 0 bytes"),
    "image beyond all partitions": (_with(8, "Q", MAX_IMAGE_BYTES + 1), "are possible"),
    "chunks leave a gap at the end": (_with(8, "Q", len(IMAGE) + 1), "chunks end early"),
    "chunks go past the end": (_with(8, "Q", len(IMAGE) - 1), "chunks go too far"),
    "frames leave a gap at the end": (_with(48, "Q", 537), "frames end early"),
    "frames go past the end": (_with(48, "Q", 535), "frames go too far"),
    "no chunk": (_with(56, "I", 0)[:HEADER_BYTES], "0 chunks"),
    "more chunks than the average allows": (_with(56, "I", max_chunks(len(IMAGE)) + 1), "are possible"),
    "one record fewer than said": (_with(56, "I", 5), "records end early"),
    "one record more than said": (_with(56, "I", 3), "records go too far"),
    "a record twice": (_with(56, "I", 5) + GOOD[-RECORD_BYTES:], "inside a block"),
    "a block twice": (
        _with(56, "I", 5)[: HEADER_BYTES + RECORD_BYTES] + GOOD[HEADER_BYTES:],
        "chunks go too far",
    ),
    "trailing data": (GOOD + b"\0", "records go too far"),
    "unknown kind": (_in_record(1, 0, "B", 2), "chunk 1 is of the unknown kind 2"),
    "empty chunk": (_in_record(1, 1, "I", 0), "chunk 1 has 0 bytes"),
    "chunk too long to hold": (_in_record(1, 1, "I", MAX_CHUNK_BYTES + 1), "are possible"),
    "zeros beyond the limit": (_in_record(2, 1, "I", MAX_ZEROS_BYTES + 1), "are possible"),
    "empty frame": (_in_record(1, 5, "I", 0), "a frame of 0 bytes"),
    "frame longer than zstd makes any": (_in_record(1, 5, "I", max_frame_bytes(4096) + 1), "a frame of"),
    "chunk that ends inside a block": (_in_record(0, 1, "I", 8191), "the chunk at 8191 begins inside"),
    "zeros that are something else": (_in_record(2, 9, "32s", SHA256), "does not have the SHA-256 of zeros"),
    "data called zeros": (_in_record(0, 0, "B", 1), "does not have the SHA-256 of zeros"),
}


@pytest.mark.parametrize(("data", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(data: bytes, problem: str) -> None:
    with pytest.raises(IndexFormatError, match=problem):
        Index.from_bytes(data)


def test_fingerprints_belong_to_the_blocks_that_are_not_zeros() -> None:
    assert Fingerprints.from_bytes(FINGERPRINTS.to_bytes(), INDEX) == FINGERPRINTS
    found = list(FINGERPRINTS.by_block(INDEX))
    assert found == [
        (0, fingerprint(BLOCKS[0])),
        (4096, fingerprint(BLOCKS[1])),
        (8192, fingerprint(BLOCKS[2])),
        (20480, fingerprint(b"the end")),
    ]


MARKS = FINGERPRINTS.to_bytes()
FINGERPRINT_FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "inside their header"),
    "cut in the header": (lambda: MARKS[:43], "inside their header"),
    "other magic": (lambda: GOOD, "not fingerprints"),
    "of another image": (lambda: MARKS[:8] + bytes(32) + MARKS[40:], "another image"),
    "one fewer than blocks": (
        lambda: Fingerprints(image_sha256=SHA256, blocks=bytes(3 * FINGERPRINT_BYTES)).to_bytes(),
        "end early",
    ),
    "cut": (lambda: MARKS[:-1], "end early"),
    "trailing data": (lambda: MARKS + b"\0", "go too far"),
}


@pytest.mark.parametrize(("make", "problem"), FINGERPRINT_FAULTS.values(), ids=FINGERPRINT_FAULTS)
def test_wrong_fingerprints_are_refused(make: Callable[[], bytes], problem: str) -> None:
    with pytest.raises(IndexFormatError, match=problem):
        Fingerprints.from_bytes(make(), INDEX)


@pytest.mark.parametrize("size", [4096, 1 << 20, 1 << 26, 1 << 32, 100_000_001])
def test_the_largest_index_stays_below_the_bar(size: int) -> None:
    spare = max_index_bytes(0)
    total = max_index_bytes(size) - spare + blocks_in(size) * FINGERPRINT_BYTES
    assert total <= 0.008 * (size + BLOCK_BYTES)


@pytest.mark.parametrize("length", [1, 4096, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1, 3 * MAX_CHUNK_BYTES])
def test_the_hash_of_zeros_is_that_of_zeros(length: int) -> None:
    assert zeros_sha256(length) == hashlib.sha256(bytes(length)).digest()
