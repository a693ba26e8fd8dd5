"""The plan: each chunk from the cheapest source, and not a byte over the network that it does not state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.image.delta import CopiedSpan, Delta, DeltaStream, Seal
from updog.image.index import BLOCK_BYTES, Fingerprints, Index, Piece, Span, fingerprint, zeros_sha256
from updog.image.plan import (
    ChunkSource,
    Request,
    SlotScan,
    plan_chunks,
    recipes_by_delta,
    recipes_by_fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IN_PLACE, ZEROS, ACTIVE, SPOOL, DELTA, PACK = ChunkSource
HERE = (Span(offset=0, length=BLOCK_BYTES),)


def _piece(packed: int, *, zeros: bool = False) -> Piece:
    sha256 = zeros_sha256(BLOCK_BYTES) if zeros else bytes(32)
    return Piece(length=BLOCK_BYTES, packed=packed, sha256=sha256, zeros=zeros)


def _index(*packed: int, zeros: Iterable[int] = ()) -> Index:
    pieces = [_piece(size, zeros=number in set(zeros)) for number, size in enumerate(packed)]
    return Index.of(pieces, image_sha256=bytes(32))


def _delta(index: Index, *parts: tuple[int, int], copies: tuple[CopiedSpan, ...] = ()) -> Delta:
    """Make a delta of parts (chunks, bytes)."""
    empty = DeltaStream(length=0, packed=0)
    seals = [
        Seal(chunks=chunks, streams=(DeltaStream(length=1, packed=size), empty, empty), sha256=bytes(32))
        for chunks, size in parts
    ]
    return Delta.of(index, base=(1 << 20, bytes(32)), copies=copies, seals=seals)


def test_without_anything_the_whole_pack_is_fetched_after_a_look_at_its_first_piece() -> None:
    made = plan_chunks(_index(100, 200, 300), SlotScan())
    assert made.sources == (PACK, PACK, PACK)
    assert made.requests == (
        Request(source=PACK, span=Span(offset=0, length=100), items=(0,)),
        Request(source=PACK, span=Span(offset=100, length=500), items=(1, 2)),
    )
    assert made.wire == made.wire_of(PACK) == 600
    assert made.wire_of(DELTA) == 0


def test_every_source_in_the_order_of_its_cost() -> None:
    index = _index(20, 20, 5000, 5000, 5000, zeros=[0, 1])
    delta = _delta(index, (1, 4000), (2, 12000))
    scan = SlotScan(in_place=frozenset({0, 2}), active={2: HERE, 3: HERE})
    made = plan_chunks(index, scan, delta=delta)
    assert made.sources == (IN_PLACE, ZEROS, IN_PLACE, ACTIVE, PACK)
    assert made.recipes == {3: HERE}
    assert made.raw == {IN_PLACE: 8192, ZEROS: 4096, ACTIVE: 4096, SPOOL: 0, DELTA: 0, PACK: 4096}


def test_a_part_counts_by_what_it_spares_of_what_is_needed() -> None:
    index = _index(1000, 1000, 1000, 1000)
    delta = _delta(index, (2, 1500), (2, 1500))
    made = plan_chunks(index, SlotScan(in_place=frozenset({3})), delta=delta, gap=0)
    assert made.sources == (DELTA, DELTA, PACK, IN_PLACE)
    assert [(request.source, request.span.length, request.items) for request in made.requests] == [
        (DELTA, 1500, (0,)),
        (PACK, 1000, (2,)),
    ]
    assert made.wire == 2500


def test_a_part_that_spares_nothing_is_not_fetched() -> None:
    index = _index(1000, 1000)
    assert plan_chunks(index, SlotScan(), delta=_delta(index, (2, 2000))).sources == (PACK, PACK)
    assert plan_chunks(index, SlotScan(), delta=_delta(index, (2, 1999))).sources == (DELTA, DELTA)


def test_parts_lie_behind_the_head_of_the_delta() -> None:
    index = _index(1000, 1000)
    delta = _delta(index, (1, 10), (1, 20))
    made = plan_chunks(index, SlotScan(), delta=delta)
    head = len(delta.head())
    assert made.requests == (
        Request(source=DELTA, span=Span(offset=head, length=10), items=(0,)),
        Request(source=DELTA, span=Span(offset=head + 10, length=20), items=(1,)),
    )
    assert made.requests[-1].span.end == delta.size


@pytest.mark.parametrize(
    ("gap", "requests", "wire"),
    [(499, 2, 200), (500, 1, 700), (501, 1, 700)],
    ids=["above", "equal", "below"],
)
def test_a_gap_worth_less_than_a_round_trip_is_fetched_through(gap: int, requests: int, wire: int) -> None:
    made = plan_chunks(_index(7, 100, 500, 100), SlotScan(in_place=frozenset({2})), gap=gap)
    first, *others = made.requests
    assert (first.span.length, first.items) == (7, (0,))
    assert (len(others), made.wire - 7) == (requests, wire)
    assert [item for request in others for item in request.items] == [1, 3]
    assert made.sources[2] is IN_PLACE


def test_nothing_to_fetch_makes_no_request() -> None:
    made = plan_chunks(_index(100), SlotScan(in_place=frozenset({0})))
    assert made.requests == ()
    assert made.wire == 0


def test_copies_of_a_delta_come_from_the_active_slot() -> None:
    index = _index(100, 100, 100)
    delta = _delta(index, (1, 50), copies=(CopiedSpan(first=0, count=2, offset=8192),))
    scan = SlotScan(active=recipes_by_delta(index, delta))
    assert scan.active == {0: (Span(offset=8192, length=4096),), 1: (Span(offset=12288, length=4096),)}
    assert plan_chunks(index, scan, delta=delta).sources == (ACTIVE, ACTIVE, DELTA)


def _described(chunks: list[bytes]) -> tuple[Index, Fingerprints]:
    image = b"".join(chunks)
    sha256 = hashlib.sha256(image).digest()
    pieces = [
        Piece(length=len(chunk), packed=10, sha256=hashlib.sha256(chunk).digest(), zeros=not any(chunk))
        for chunk in chunks
    ]
    marks = b"".join(
        fingerprint(chunk[start : start + BLOCK_BYTES])
        for chunk in chunks
        if any(chunk)
        for start in range(0, len(chunk), BLOCK_BYTES)
    )
    return Index.of(pieces, image_sha256=sha256), Fingerprints(image_sha256=sha256, blocks=marks)


A, B, C, D = (bytes([letter]) * BLOCK_BYTES for letter in b"abcd")
ZERO = bytes(BLOCK_BYTES)
OLD = [A + B + C, ZERO + ZERO, D + b"end"]


@pytest.mark.parametrize(
    ("chunk", "recipe"),
    {
        "where it was": (A + B + C, [(0, 12288)]),
        "moved": (B + C, [(4096, 8192)]),
        "of two stretches": (B + A, [(4096, 4096), (0, 4096)]),
        "over the border of two chunks": (D + b"end", [(20480, 4099)]),
        "with zeros inside": (A + ZERO + B, [(0, 4096), (12288, 4096), (4096, 4096)]),
        "with a block nobody has": (A + b"x" * BLOCK_BYTES, None),
        "with a short end nobody has": (A + b"en", None),
    }.values(),
)
def test_blocks_are_found_wherever_they_are(chunk: bytes, recipe: list[tuple[int, int]] | None) -> None:
    index, marks = _described([chunk])
    wanted = {0: tuple(Span(offset=at, length=length) for at, length in recipe)} if recipe else {}
    assert recipes_by_fingerprint(index, marks, _blocks(OLD)) == wanted


def test_zeros_are_not_looked_for() -> None:
    assert recipes_by_fingerprint(*_described([ZERO]), _blocks(OLD)) == {}


def _blocks(chunks: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield what a survey of the running slot yields."""
    raw = b"".join(chunks)
    return ((fingerprint(raw[at : at + BLOCK_BYTES]), at) for at in range(0, len(raw), BLOCK_BYTES))


def test_what_is_in_the_spool_is_not_fetched_again() -> None:
    index = _index(1000, 1000, 1000, 1000)
    delta = _delta(index, (2, 1500), (2, 1500))
    scan = SlotScan(spooled_parts=frozenset({0}), spooled_frames=frozenset({3}))
    made = plan_chunks(index, scan, delta=delta, gap=0)
    assert made.sources == (SPOOL, SPOOL, PACK, SPOOL)
    assert [(request.source, request.items) for request in made.spooled] == [(DELTA, (0,)), (PACK, (3,))]
    assert [(request.source, request.items) for request in made.requests] == [(PACK, (2,))]
    assert made.wire == 1000


def test_a_chunk_whose_frame_lies_in_the_spool_is_not_made_by_the_delta_as_well() -> None:
    index = _index(1000, 1000, 1000)
    delta = _delta(index, (3, 1500))
    made = plan_chunks(index, SlotScan(spooled_frames=frozenset({1})), delta=delta)
    assert made.sources == (DELTA, SPOOL, DELTA)
    assert made.parts == {0: (0, 2)}


@given(
    frames=st.lists(st.integers(1, 9000), min_size=1, max_size=12),
    in_place=st.sets(st.integers(0, 11)),
    active=st.sets(st.integers(0, 11)),
    cost=st.integers(1, 20000),
    gap=st.integers(0, 9000),
)
def test_a_plan_is_whole_and_never_dearer_than_the_pack(
    frames: list[int], in_place: set[int], active: set[int], cost: int, gap: int
) -> None:
    index = _index(*frames)
    delta = _delta(index, (len(frames), cost))
    scan = SlotScan(in_place=frozenset(in_place), active=dict.fromkeys(active, HERE))
    made = plan_chunks(index, scan, delta=delta, gap=gap)
    assert len(made.sources) == len(frames)
    assert sum(made.raw.values()) == index.image_size
    wanted = {number for number, source in enumerate(made.sources) if source is PACK}
    asked = [item for request in made.requests if request.source is PACK for item in request.items]
    assert asked == sorted(wanted)
    for request in made.requests:
        ends = delta.size if request.source is DELTA else index.pack_size
        assert 0 <= request.span.offset < request.span.end <= ends
    exact = plan_chunks(index, scan, delta=delta, gap=0)
    alone = plan_chunks(index, scan, gap=0)
    assert exact.wire <= alone.wire
    assert exact.wire <= made.wire <= exact.wire + gap * max(0, len(exact.requests) - len(made.requests))
