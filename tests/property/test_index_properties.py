"""Properties of all indexes: reading is the inverse of writing, and any bytes are an index or refused."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.errors import IndexFormatError
from updog.image.index import (
    BLOCK_BYTES,
    FINGERPRINT_BYTES,
    MAX_CHUNK_BYTES,
    Fingerprints,
    Index,
    Piece,
    max_frame_bytes,
    zeros_sha256,
)


@st.composite
def pieces(draw: st.DrawFn, *, last: bool = False) -> Piece:
    """Draw a piece; only the last one of an image may end inside a block."""
    blocks = draw(st.integers(1, MAX_CHUNK_BYTES // BLOCK_BYTES))
    length = blocks * BLOCK_BYTES - (draw(st.integers(0, BLOCK_BYTES - 1)) if last else 0)
    zeros = draw(st.booleans())
    sha256 = zeros_sha256(length) if zeros else draw(st.binary(min_size=32, max_size=32))
    packed = draw(st.integers(1, max_frame_bytes(length)))
    return Piece(length=length, packed=packed, sha256=sha256, zeros=zeros)


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Draw an index that a publisher could write."""
    parts = [*draw(st.lists(pieces(), max_size=6)), draw(pieces(last=True))]
    return Index.of(parts, image_sha256=draw(st.binary(min_size=32, max_size=32)))


@given(index=indexes())
def test_reading_is_the_inverse_of_writing(index: Index) -> None:
    assert Index.from_bytes(index.to_bytes()) == index


@given(index=indexes(), data=st.data())
def test_fingerprints_survive_a_round_trip(index: Index, data: st.DataObject) -> None:
    count = sum(chunk.blocks for chunk in index.chunks if not chunk.zeros)
    seed = data.draw(st.binary(min_size=4, max_size=4))
    marks = Fingerprints(
        image_sha256=index.image_sha256, blocks=hashlib.shake_128(seed).digest(count * FINGERPRINT_BYTES)
    )
    assert Fingerprints.from_bytes(marks.to_bytes(), index) == marks
    assert len(list(marks.by_block(index))) == count


@given(index=indexes(), data=st.data())
def test_every_truncation_is_refused(index: Index, data: st.DataObject) -> None:
    whole = index.to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(IndexFormatError):
        Index.from_bytes(whole[:cut])


@given(index=indexes(), data=st.data())
def test_a_changed_index_is_refused_or_consistent(index: Index, data: st.DataObject) -> None:
    whole = bytearray(index.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IndexFormatError):
        _check(bytes(whole))


@given(data=st.binary(max_size=400))
def test_any_bytes_are_an_index_or_one_error(data: bytes) -> None:
    with contextlib.suppress(IndexFormatError):
        _check(data)
    with contextlib.suppress(IndexFormatError):
        _check(b"abindex\x01" + data)


def _check(data: bytes) -> None:
    """Read an index and assert what its readers rely on."""
    read = Index.from_bytes(data)
    assert read.to_bytes() == data
    place = frame = 0
    for chunk in read.chunks:
        assert (chunk.place.offset, chunk.frame.offset) == (place, frame)
        assert chunk.place.offset % BLOCK_BYTES == 0
        place, frame = chunk.place.end, chunk.frame.end
    assert (place, frame) == (read.image_size, read.pack_size)
