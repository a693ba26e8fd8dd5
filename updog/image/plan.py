"""The plan of an installation: which bytes come from where, to the byte, before the first is moved. Pure.

Rules it enforces:

* every chunk has exactly one source, the cheapest of: in place, zeros, active slot, spool (these move nothing
  over the network), then part of the delta or frame of the pack, whichever needs fewer bytes;
* a part of a delta is fetched whole or not at all: it is taken if it is smaller than the frames of all those
  of its chunks that are needed;
* the first piece is fetched alone, so that it can be verified before the slot is given up;
* neighbours in a file are fetched by one request. A gap is fetched through when it costs less than a
  round trip: when it has at most ``gap`` bytes, which is the network's rate (bytes per second) times its
  round trip (seconds). Bytes of a gap are counted, and dropped;
* the requests fetch what the plan says, to the byte: nothing else is fetched;
* a chunk of the active slot is only expected there: it is hashed before it is written. If it is wrong, the
  caller makes a new plan without it, rather than fetching it silently.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from updog.image.index import (
    BLOCK_BYTES,
    FINGERPRINT_BYTES,
    Fingerprints,
    Index,
    Span,
    each_fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from updog.image.delta import Delta

__all__ = [
    "ChunkPlan",
    "ChunkSource",
    "Recipe",
    "Request",
    "SlotScan",
    "plan_chunks",
    "recipes_by_delta",
    "recipes_by_fingerprint",
]

DEFAULT_GAP_BYTES = 16 * 1024  # 20 ms at 800 kB/s: a slow network, because there bytes cost most
_PREFIX = struct.Struct(f"<I{FINGERPRINT_BYTES - 4}x")  # of a fingerprint: its first 32 bits
_PREFIX_BITS = 24  # of those used: 2 MiB of bits, of which a million blocks set one in sixteen
_PREFIX_BYTE_MASK = (1 << (_PREFIX_BITS - 3)) - 1

Recipe = tuple[Span, ...]
"""Stretches of the active slot's image that make a chunk, one behind the other."""


class ChunkSource(Enum):
    """Where a chunk comes from, cheapest first; the value is the word that reports use."""

    IN_PLACE = "in-place"
    ZEROS = "zeros"
    ACTIVE = "active"
    SPOOL = "spool"
    DELTA = "delta"
    PACK = "pack"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotScan:
    """What the node has already: a look at both slots, and at what lies in the spool.

    Attributes:
        in_place: numbers of the chunks that the inactive slot was seen to hold, by their SHA-256.
        active: chunk number → how the running slot's image is expected to make it.
        spooled_parts: numbers of the delta's parts that were fetched before, and verified.
        spooled_frames: numbers of the chunks whose frames of the pack were.
    """

    in_place: frozenset[int] = frozenset()
    active: Mapping[int, Recipe] = field(default_factory=dict)
    spooled_parts: frozenset[int] = frozenset()
    spooled_frames: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One range of one file, to be fetched, or to be read from the spool.

    Attributes:
        source: DELTA or PACK: which file.
        span: what to ask for.
        items: rising: numbers of the delta's parts, or of the chunks whose frames are needed.
    """

    source: ChunkSource
    span: Span
    items: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPlan:
    """Where each chunk comes from.

    Attributes:
        sources: of each chunk, by number.
        recipes: chunk number → where in the active slot it is, of those that come from there.
        parts: number of a part of the delta → numbers of the chunks that come from it.
        requests: all that goes over the network, in the order of delta, pack and offset.
        spooled: all that is read from the spool instead, in the same order.
        raw: source → bytes of the image that come from it.
    """

    sources: tuple[ChunkSource, ...]
    recipes: Mapping[int, Recipe]
    parts: Mapping[int, tuple[int, ...]]
    requests: tuple[Request, ...]
    spooled: tuple[Request, ...]
    raw: Mapping[ChunkSource, int]

    @property
    def wire(self) -> int:
        """Bytes of bodies that the requests fetch, gaps included."""
        return sum(request.span.length for request in self.requests)

    def wire_of(self, source: ChunkSource) -> int:
        """Bytes that are fetched from one file (DELTA or PACK)."""
        return sum(request.span.length for request in self.requests if request.source is source)

    def fetched(self, source: ChunkSource) -> frozenset[int]:
        """Numbers of the parts (DELTA) or chunks (PACK) that the requests fetch."""
        return frozenset(n for request in self.requests if request.source is source for n in request.items)


def plan_chunks(
    index: Index, scan: SlotScan, *, delta: Delta | None = None, gap: int = DEFAULT_GAP_BYTES
) -> ChunkPlan:
    """Return the cheapest plan for an image.

    Args:
        index: of the image.
        scan: what the node has.
        delta: head of a delta from the running slot's image, if there is one.
        gap: bytes that cost less than a round trip.
    """
    sources = [_local_source(number, scan, zeros=chunk.zeros) for number, chunk in enumerate(index.chunks)]
    spooled_parts = _assign_parts(delta, scan.spooled_parts, sources, ChunkSource.SPOOL)
    spooled_frames = [number for number in sorted(scan.spooled_frames) if sources[number] is None]
    for number in spooled_frames:
        sources[number] = ChunkSource.SPOOL
    parts = _assign_parts(delta, _worthwhile(index, delta, sources), sources, ChunkSource.DELTA)
    final = tuple(source or ChunkSource.PACK for source in sources)
    frames = [number for number, source in enumerate(final) if source is ChunkSource.PACK]
    raw: Counter[ChunkSource] = Counter()
    for chunk, source in zip(index.chunks, final, strict=True):
        raw[source] += chunk.place.length
    return ChunkPlan(
        sources=final,
        recipes={n: scan.active[n] for n, source in enumerate(final) if source is ChunkSource.ACTIVE},
        parts=spooled_parts | parts,
        requests=tuple(_requests(_part_places(delta, parts), _frame_places(index, frames), gap)),
        spooled=(
            *_coalesced(ChunkSource.DELTA, _part_places(delta, spooled_parts), 0),
            *_coalesced(ChunkSource.PACK, _frame_places(index, spooled_frames), 0),
        ),
        raw={source: raw[source] for source in ChunkSource},
    )


def recipes_by_fingerprint(
    index: Index, fingerprints: Fingerprints, active: Iterable[tuple[bytes, int]]
) -> dict[int, Recipe]:
    """Return how the running slot's image makes the chunks of another, as far as fingerprints tell.

    Args:
        index: of the wanted image.
        fingerprints: of the wanted image.
        active: fingerprint and offset of each block of the image in the running slot.
    """
    offsets = _offsets(fingerprints, active)
    recipes = {}
    for number, blocks in fingerprints.by_chunk(index):
        recipe = _recipe(index.chunks[number].place, map(offsets.get, each_fingerprint(blocks)))
        if recipe:
            recipes[number] = tuple(recipe)
    return recipes


def recipes_by_delta(index: Index, delta: Delta) -> dict[int, Recipe]:
    """Return how the base of a delta makes the chunks that the delta says it has."""
    return {number: (span,) for number, span in delta.copied(index)}


def _local_source(number: int, scan: SlotScan, *, zeros: bool) -> ChunkSource | None:
    """Return the source of a chunk in one of the slots, None if there is none."""
    if number in scan.in_place:
        return ChunkSource.IN_PLACE
    if zeros:
        return ChunkSource.ZEROS
    return ChunkSource.ACTIVE if number in scan.active else None


def _worthwhile(index: Index, delta: Delta | None, sources: list[ChunkSource | None]) -> Iterator[int]:
    """Yield the numbers of the parts that are smaller than the frames they save."""
    for number, part in enumerate(delta.parts if delta else ()):
        saved = sum(index.chunks[chunk].frame.length for chunk in part.chunks if sources[chunk] is None)
        if part.place.length < saved:
            yield number


def _assign_parts(
    delta: Delta | None, numbers: Iterable[int], sources: list[ChunkSource | None], source: ChunkSource
) -> dict[int, tuple[int, ...]]:
    """Give chunks that have no source yet this one, if one of these parts makes them.

    Returns:
        Part number → chunks that come from it, of the parts that are of use.
    """
    used = {}
    parts = delta.parts if delta else ()
    for number in sorted(numbers):
        needed = tuple(chunk for chunk in parts[number].chunks if sources[chunk] is None)
        for chunk in needed:
            sources[chunk] = source
        if needed:
            used[number] = needed
    return used


def _part_places(delta: Delta | None, numbers: Iterable[int]) -> list[tuple[int, Span]]:
    return [(number, delta.parts[number].place) for number in numbers] if delta else []


def _frame_places(index: Index, numbers: Iterable[int]) -> list[tuple[int, Span]]:
    return [(number, index.chunks[number].frame) for number in numbers]


def _requests(parts: list[tuple[int, Span]], frames: list[tuple[int, Span]], gap: int) -> Iterator[Request]:
    """Yield the requests for parts and frames, the first of all alone."""
    alone = 1
    for source, items in ((ChunkSource.DELTA, parts), (ChunkSource.PACK, frames)):
        yield from _coalesced(source, items[:alone], gap)
        yield from _coalesced(source, items[alone:], gap)
        alone = 0 if items else alone


def _coalesced(source: ChunkSource, items: Iterable[tuple[int, Span]], gap: int) -> Iterator[Request]:
    """Yield requests for (number, place) in rising order, small gaps fetched through."""
    numbers: list[int] = []
    start = end = 0
    for number, place in items:
        if numbers and place.offset - end > gap:
            yield Request(source=source, span=Span(offset=start, length=end - start), items=tuple(numbers))
            numbers = []
        if not numbers:
            start = place.offset
        numbers.append(number)
        end = place.end
    if numbers:
        yield Request(source=source, span=Span(offset=start, length=end - start), items=tuple(numbers))


def _offsets(fingerprints: Fingerprints, active: Iterable[tuple[bytes, int]]) -> dict[bytes, int]:
    """Return fingerprint → first offset of each block of the running slot's image that may be wanted.

    Which ones those are is remembered by a bit for each prefix of a fingerprint: a set of all of them
    takes 128 MiB for an image of 4 GiB.
    """
    prefixes = bytearray(1 << (_PREFIX_BITS - 3))
    for (bits,) in _PREFIX.iter_unpack(fingerprints.blocks):
        prefixes[bits >> 3 & _PREFIX_BYTE_MASK] |= 1 << (bits & 7)
    offsets: dict[bytes, int] = {}
    for mark, offset in active:
        (bits,) = _PREFIX.unpack(mark)
        if prefixes[bits >> 3 & _PREFIX_BYTE_MASK] >> (bits & 7) & 1:
            offsets.setdefault(mark, offset)
    return offsets


def _recipe(place: Span, offsets: Iterable[int | None]) -> list[Span]:
    """Return the stretches that blocks at these offsets are, neighbours together; none if one is missing."""
    recipe: list[Span] = []
    for at, offset in zip(range(place.offset, place.end, BLOCK_BYTES), offsets, strict=True):
        if offset is None:
            return []
        length = min(BLOCK_BYTES, place.end - at)
        if recipe and recipe[-1].end == offset:
            recipe[-1] = Span(offset=recipe[-1].offset, length=recipe[-1].length + length)
        else:
            recipe.append(Span(offset=offset, length=length))
    return recipe
