"""Deltas on the node: each false statement is refused by name, memory is bounded, any order works."""

from __future__ import annotations

import hashlib
import lzma
import random
import struct
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.images import blocks, delta_of, program
from updog.errors import DigestError, ImageError, IndexFormatError
from updog.image.delta import (
    ADD,
    COPY,
    LITERAL,
    MAX_PARTS,
    MAX_STREAM_BYTES,
    STREAM_FILTER,
    CopiedSpan,
    Delta,
    DeltaStream,
    Part,
    Seal,
    added,
    head_bytes,
    max_head_bytes,
    number,
    rebuilt,
    signed_number,
    subtracted,
)
from updog.image.index import MAX_IMAGE_BYTES, Index, Piece, Span

BASE = blocks(program(1, 300, 0), random.Random(2).randbytes(50_000), b"c" * 9000) + bytes(1 << 16)
IMAGE = blocks(b"first", program(1, 300, 72), random.Random(2).randbytes(50_000), b"new" * 5000)
FILE, PACKED, DELTA = delta_of(IMAGE, BASE)
INDEX = PACKED.index
HEAD = DELTA.head()
HEAD_BYTES, COPY_BYTES, PART_BYTES = 88, 16, 60


def _read(offset: int, length: int) -> bytes:
    return BASE[offset : offset + length]


def _body(part: Part) -> bytes:
    return FILE[part.place.offset : part.place.end]


def test_parts_copies_and_zeros_are_the_image() -> None:
    made = bytearray(len(IMAGE))
    for part in reversed(DELTA.parts):
        for chunk, data in rebuilt(part, _body(part), INDEX, _read):
            place = INDEX.chunks[chunk].place
            made[place.offset : place.end] = data
    for chunk, span in DELTA.copied(INDEX):
        place = INDEX.chunks[chunk].place
        made[place.offset : place.end] = BASE[span.offset : span.end]
    assert bytes(made) == IMAGE
    assert DELTA.copies
    assert DELTA.parts


def test_only_wanted_chunks_are_made() -> None:
    part = DELTA.parts[0]
    last = part.chunks[-1]
    whole = dict(rebuilt(part, _body(part), INDEX, _read))
    assert dict(rebuilt(part, _body(part), INDEX, _read, wanted=frozenset({last}))) == {last: whole[last]}


def test_the_head_is_read_as_it_was_written() -> None:
    assert FILE[: len(HEAD)] == HEAD
    assert Delta.from_bytes(HEAD, INDEX) == DELTA
    assert DELTA.size == len(FILE)
    assert len(HEAD) == head_bytes(copies=len(DELTA.copies), parts=len(DELTA.parts))
    assert len(HEAD) <= max_head_bytes(INDEX)


CUTS = {
    "nothing": 0,
    "inside the magic": 5,
    "inside the first record": HEAD_BYTES - 1,
    "before the copies": HEAD_BYTES,
    "inside a copy": HEAD_BYTES + 3,
    "before the parts": len(HEAD) - PART_BYTES * len(DELTA.parts),
    "before the last byte": len(HEAD) - 1,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_head_is_refused(cut: int) -> None:
    with pytest.raises(IndexFormatError):
        Delta.from_bytes(HEAD[:cut], INDEX)


def _with(offset: int, layout: str, *values: int | bytes) -> bytes:
    changed = struct.pack(f"<{layout}", *values)
    return HEAD[:offset] + changed + HEAD[offset + len(changed) :]


def _in_part(offset: int, value: int) -> bytes:
    return _with(len(HEAD) - PART_BYTES + offset, "I", value)


FAULTS: dict[str, tuple[bytes, str]] = {
    "other magic": (_with(0, "8s", b"abdelta\x02"), "newer format"),
    "empty base": (_with(8, "Q", 0), "starts from an image of 0 bytes"),
    "base beyond all partitions": (_with(8, "Q", MAX_IMAGE_BYTES + 1), "starts from an image"),
    "base that ends early": (_with(8, "Q", 4096), "past the end of the base"),
    "another image": (_with(48, "32s", bytes(32)), "another image"),
    "more copies than chunks": (_with(80, "I", len(INDEX.chunks) + 1), "not possible"),
    "more parts than any": (_with(84, "I", MAX_PARTS + 1), "not possible"),
    "one copy fewer": (_with(80, "I", len(DELTA.copies) - 1), "its records need"),
    "trailing data": (HEAD + b"\0", "its records need"),
    "copy past the last chunk": (_with(HEAD_BYTES, "II", 0, len(INDEX.chunks) + 1), "the delta copies"),
    "copy of nothing": (_with(HEAD_BYTES + 4, "I", 0), "the delta copies 0 chunks"),
    "copy from beyond the base": (_with(HEAD_BYTES + 8, "Q", 1 << 63), "past the end of the base"),
    "part of nothing": (_in_part(0, 0), "a part of the delta has 0 chunks"),
    "part of one chunk more": (_in_part(0, DELTA.parts[-1].seal.chunks + 1), "do not rebuild exactly"),
    "part of one chunk fewer": (_in_part(0, DELTA.parts[-1].seal.chunks - 1), "do not rebuild exactly"),
    "program too long to hold": (_in_part(4, MAX_STREAM_BYTES + 1), "a stream of"),
    "literals too long to fetch": (_in_part(24, MAX_STREAM_BYTES + 1), "a stream of"),
}


@pytest.mark.parametrize(("head", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_head_is_named(head: bytes, problem: str) -> None:
    with pytest.raises(IndexFormatError, match=problem):
        Delta.from_bytes(head, INDEX)


def _small_index(*lengths: int, zeros: bool = False) -> Index:
    made = (bytes(length) for length in lengths)
    pieces = [
        Piece(length=len(raw), packed=9, sha256=hashlib.sha256(raw).digest(), zeros=zeros) for raw in made
    ]
    return Index.of(pieces, image_sha256=bytes(32))


@pytest.mark.parametrize(
    ("copies", "zeros", "problem"),
    [
        ([(0, 1, 0), (0, 1, 0)], False, "copies 1 chunks from chunk 0 on, after 1"),
        ([(1, 1, 0), (0, 1, 0)], False, "copies 1 chunks from chunk 0 on, after 2"),
        ([(0, 2, 0), (1, 1, 0)], False, "copies 1 chunks from chunk 1 on, after 2"),
        ([(0, 1, 0)], True, "copies zeros"),
    ],
    ids=["repeated", "out of order", "overlapping", "of zeros"],
)
def test_copies_that_do_not_rise_are_refused(
    copies: list[tuple[int, int, int]], *, zeros: bool, problem: str
) -> None:
    index = _small_index(4096, 4096, zeros=zeros)
    rows = tuple(CopiedSpan(first=first, count=count, offset=offset) for first, count, offset in copies)
    head = Delta.of(index, base=(1 << 20, bytes(32)), copies=rows, seals=[]).head()
    with pytest.raises(IndexFormatError, match=problem):
        Delta.from_bytes(head, index)


@given(data=st.data())
def test_a_changed_head_is_refused_or_says_exactly_what_it_is(data: st.DataObject) -> None:
    head = bytearray(HEAD)
    for _ in range(data.draw(st.integers(1, 3))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = Delta.from_bytes(bytes(head), INDEX)
    except IndexFormatError:
        return
    assert read.head() == bytes(head)


def test_a_changed_body_is_refused_before_it_is_unpacked() -> None:
    part = DELTA.parts[0]
    body = bytearray(_body(part))
    body[len(body) // 2] ^= 1
    with pytest.raises(DigestError, match="a part of the delta is not what was signed"):
        list(rebuilt(part, bytes(body), INDEX, _read))
    with pytest.raises(DigestError, match="a part of the delta"):
        list(rebuilt(part, _body(part)[:-1], INDEX, _read))


def test_a_base_that_was_changed_is_found() -> None:
    part = DELTA.parts[0]
    with pytest.raises(DigestError, match="from the delta is not the one that was signed"):
        list(rebuilt(part, _body(part), INDEX, lambda _, length: bytes(length)))


def _packed(data: bytes) -> bytes:
    filters: list[dict[str, int]] = [dict(STREAM_FILTER)]
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


def _part(streams: tuple[bytes, bytes, bytes], *, chunks: int = 1) -> tuple[Part, bytes]:
    """Seal three streams correctly, whatever they contain."""
    packed = [_packed(stream) for stream in streams]
    first, second, third = (
        DeltaStream(length=len(raw), packed=len(data)) for raw, data in zip(streams, packed, strict=True)
    )
    body = b"".join(packed)
    seal = Seal(chunks=chunks, streams=(first, second, third), sha256=hashlib.sha256(body).digest())
    return Part(chunks=tuple(range(chunks)), place=Span(offset=0, length=len(body)), seal=seal), body


def _op(kind: int, length: int, shift: int = 0) -> bytes:
    return number(length * 4 + kind) + (b"" if kind == LITERAL else signed_number(shift))


FULL = bytes(4096)
PROGRAMS: dict[str, tuple[tuple[bytes, bytes, bytes], str]] = {
    "nothing": ((b"", b"", b""), "ends inside a chunk"),
    "half a number": ((b"\x80", b"", b""), "ends inside a chunk"),
    "no shift": ((number(4096 * 4 + COPY), b"", b""), "ends inside a chunk"),
    "a number without end": ((b"\xff" * 12, b"", b""), "has no end"),
    "an unknown kind": ((_op(3, 4096), b"", b""), "not possible at byte 0"),
    "no length": ((_op(COPY, 0), b"", b""), "not possible at byte 0"),
    "past the chunk": ((_op(COPY, 4097), b"", b""), "not possible at byte 0"),
    "past the chunk, later": ((_op(COPY, 4000) + _op(COPY, 97), b"", b""), "not possible at byte 4000"),
    "before the base": ((_op(COPY, 4096, -1), b"", b""), "before the base"),
    "past the base": ((_op(COPY, 4096, len(BASE)), b"", b""), "past the base"),
    "too few differences": ((_op(ADD, 4096), FULL[1:], b""), "ends inside a chunk"),
    "too few literals": ((_op(LITERAL, 4096), b"", FULL[1:]), "ends inside a chunk"),
    "literals left over": ((_op(LITERAL, 4096), b"", FULL + b"x"), "after its last chunk"),
    "differences left over": ((_op(LITERAL, 4096), b"x", FULL), "after its last chunk"),
    "program left over": ((_op(LITERAL, 4096) + b"\0", b"", FULL), "after its last chunk"),
}


@pytest.mark.parametrize(("streams", "problem"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_wrong_program_is_refused(streams: tuple[bytes, bytes, bytes], problem: str) -> None:
    part, body = _part(streams)
    with pytest.raises(ImageError, match=problem):
        list(rebuilt(part, body, _small_index(4096), _read))


def test_a_right_program_of_every_kind() -> None:
    source = BASE[100:1124]
    lacking = bytes(-byte & 0xFF for byte in source)
    part, body = _part(
        (
            _op(LITERAL, 1024) + _op(ADD, 1024, 100 - 1024) + _op(COPY, 2048, len(BASE) - 4096 - 100 + 1024),
            lacking,
            bytes(1024),
        )
    )
    assert list(rebuilt(part, body, _small_index(4096), _read)) == [(0, FULL)]


def _resealed(part: Part, body: bytes, lengths: tuple[int, int, int]) -> Part:
    """State other lengths for the unpacked streams."""
    streams = tuple(
        replace(stream, length=length) for stream, length in zip(part.seal.streams, lengths, strict=True)
    )
    first, second, third = streams
    seal = replace(part.seal, streams=(first, second, third), sha256=hashlib.sha256(body).digest())
    return replace(part, seal=seal)


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_a_stream_of_another_length_is_refused(change: int) -> None:
    part, body = _part((_op(LITERAL, 4096), b"", FULL))
    with pytest.raises(ImageError, match="shorter or longer"):
        list(rebuilt(_resealed(part, body, (3, 0, 4096 + change)), body, _small_index(4096), _read))


def test_a_stream_that_is_none_is_refused() -> None:
    part, body = _part((_op(LITERAL, 4096), b"", FULL))
    garbage = b"\xff" * len(body)
    with pytest.raises(ImageError, match="not well formed"):
        list(rebuilt(_resealed(part, garbage, (3, 0, 4096)), garbage, _small_index(4096), _read))


def test_a_bomb_gets_no_more_than_its_head_says() -> None:
    part, body = _part((b"", b"", bytes(1 << 27)))
    part = _resealed(part, body, (0, 0, 1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="shorter or longer"):
            list(rebuilt(part, body, _small_index(4096), _read))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24, "the dictionary, and what was signed"
    finally:
        tracemalloc.stop()


@given(data=st.binary(max_size=300), base=st.binary(min_size=300, max_size=300))
def test_adding_undoes_subtracting(data: bytes, base: bytes) -> None:
    base = base[: len(data)]
    assert added(subtracted(data, base), base) == data
    assert added(data, base) == bytes((one + other) % 256 for one, other in zip(data, base, strict=True))


@given(program_=st.binary(max_size=60), differences=st.binary(max_size=20), literals=st.binary(max_size=20))
def test_any_program_is_refused_or_makes_its_chunk(
    program_: bytes, differences: bytes, literals: bytes
) -> None:
    part, body = _part((program_, differences, literals))
    try:
        made = list(rebuilt(part, body, _small_index(16), _read))
    except (ImageError, DigestError):
        return
    assert made == [(0, bytes(16))]
