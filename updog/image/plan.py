"""The plan of an installation: which bytes come from where, to the byte, before the first is moved. Pure.

Rules it enforces:

* every chunk has exactly one source, the cheapest of: in place, zeros, active slot, spool (these move nothing
  over the network), then part of the delta or frame of the pack, whichever brings fewer bytes;
* a part of a delta is fetched whole or not at all: it is taken if it is smaller than the frames of all those
  of its chunks that are needed;
* the first piece is fetched alone, so that it can be looked at before the slot is given up;
* neighbours in a file are fetched by one request. A gap is fetched through when it is worth less than a
  round trip: when it has at most ``gap`` bytes, which is the line's rate (bytes per second) times its round
  trip (seconds). Bytes of a gap are counted, and thrown away;
* what the requests bring is what the plan says, to the byte: there is no other way for a byte to come in;
* a chunk of the active slot is only promised: it is hashed before it is written. Whoever finds it wrong
  makes a new plan without it, rather than fetching it in silence.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from updog.image.index import BLOCK_BYTES, FINGERPRINT_BYTES, Fingerprints, Index, Span, each_mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from updog.image.delta import Delta

DEFAULT_GAP_BYTES = 16 * 1024  # 20 ms at 800 kB/s: a slow line, because there bytes cost most
_BEGINNING = struct.Struct(f"<I{FINGERPRINT_BYTES - 4}x")
_BEGINNING_BITS = 24  # of a fingerprint: 2 MiB of bits, of which a million blocks set one in sixteen
_BEGINNING_MASK = (1 << (_BEGINNING_BITS - 3)) - 1

Recipe = tuple[Span, ...]
"""Stretches of the active slot's image that make a chunk, one behind the other."""


class Source(Enum):
    """Where a chunk comes from, cheapest first; the value is how reports call it."""

    IN_PLACE = "in-place"
    ZEROS = "zeros"
    ACTIVE = "active"
    SPOOL = "spool"
    DELTA = "delta"
    PACK = "pack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the node has already.

    Attributes:
        in_place: numbers of the chunks that the inactive slot was seen to hold, by their SHA-256.
        active: chunk number → how the running slot's image makes it.
        delta: head of a delta from the running slot's image, if there is one.
        spooled_parts: numbers of the delta's parts that were fetched before, and verified.
        spooled: numbers of the chunks whose frames of the pack were.
    """

    in_place: frozenset[int] = frozenset()
    active: Mapping[int, Recipe] = field(default_factory=dict)
    delta: Delta | None = None
    spooled_parts: frozenset[int] = frozenset()
    spooled: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One range of one file, to be fetched, or to be read from the spool.

    Attributes:
        source: DELTA or PACK: which file.
        span: what to ask for.
        items: rising: numbers of the delta's parts, or of the chunks whose frames are wanted.
    """

    source: Source
    span: Span
    items: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where each chunk comes from.

    Attributes:
        sources: of each chunk, by number.
        recipes: chunk number → where in the active slot it is, of those that come from there.
        requests: all that goes over the network, in the order of delta, pack and offset.
        kept: all that is read from the spool instead, in the same order.
        raw: source → bytes of the image that come from it.
    """

    sources: tuple[Source, ...]
    recipes: Mapping[int, Recipe]
    requests: tuple[Request, ...]
    kept: tuple[Request, ...]
    raw: Mapping[Source, int]

    @property
    def wire(self) -> int:
        """Bytes of bodies that the requests bring, gaps included."""
        return sum(request.span.length for request in self.requests)

    def asked(self, source: Source) -> frozenset[int]:
        """Numbers of the parts (DELTA) or chunks (PACK) that the requests bring."""
        return frozenset(n for request in self.requests if request.source is source for n in request.items)

    def wire_of(self, source: Source) -> int:
        """Bytes that come over the network from one source."""
        return sum(request.span.length for request in self.requests if request.source is source)


def plan(index: Index, facts: Facts, *, gap: int = DEFAULT_GAP_BYTES) -> Plan:
    """Return the cheapest plan for an image.

    Args:
        index: of the image.
        facts: what the node has.
        gap: bytes that are worth less than a round trip.
    """
    sources = [_local(number, zeros=chunk.zeros, facts=facts) for number, chunk in enumerate(index.chunks)]
    here = _used(facts.delta, facts.spooled_parts, sources, Source.SPOOL)
    frames_here = [number for number in sorted(facts.spooled) if sources[number] is None]
    for number in frames_here:
        sources[number] = Source.SPOOL
    parts = _used(facts.delta, _worthwhile(index, facts.delta, sources), sources, Source.DELTA)
    settled = tuple(source or Source.PACK for source in sources)
    frames = _from(settled, Source.PACK)
    return Plan(
        sources=settled,
        recipes={number: facts.active[number] for number in _from(settled, Source.ACTIVE)},
        requests=tuple(_wanted(parts, list(_frames(index, frames)), gap)),
        kept=(*_coalesced(Source.DELTA, here, 0), *_coalesced(Source.PACK, _frames(index, frames_here), 0)),
        raw=_raw(index, settled),
    )


def found(index: Index, marks: Fingerprints, active: Iterable[tuple[bytes, int]]) -> dict[int, Recipe]:
    """Return how the running slot's image makes the chunks of another, as far as fingerprints tell.

    Args:
        index: of the wanted image.
        marks: its fingerprints.
        active: fingerprint and offset of each block of the image in the running slot.
    """
    places = _places(marks, active)
    recipes = {}
    for number, blocks in marks.by_chunk(index):
        recipe = _recipe(index.chunks[number].place, map(places.get, each_mark(blocks)))
        if recipe:
            recipes[number] = tuple(recipe)
    return recipes


def copied(index: Index, delta: Delta) -> dict[int, Recipe]:
    """Return how the base of a delta makes the chunks that the delta says it has."""
    return {number: (span,) for number, span in delta.copied(index)}


def _local(number: int, *, zeros: bool, facts: Facts) -> Source | None:
    """Return the source of a chunk that needs no network, None if there is none."""
    if number in facts.in_place:
        return Source.IN_PLACE
    if zeros:
        return Source.ZEROS
    return Source.ACTIVE if number in facts.active else None


def _worthwhile(index: Index, delta: Delta | None, sources: list[Source | None]) -> Iterator[int]:
    """Yield the numbers of the parts that are smaller than the frames they spare."""
    for number, part in enumerate(delta.parts if delta else ()):
        spared = sum(index.chunks[chunk].frame.length for chunk in part.chunks if sources[chunk] is None)
        if part.place.length < spared:
            yield number


def _used(
    delta: Delta | None, numbers: Iterable[int], sources: list[Source | None], source: Source
) -> list[tuple[int, Span]]:
    """Take these parts for the chunks that have no source yet; return those of use, with their places."""
    used = []
    parts = delta.parts if delta else ()
    for number in sorted(numbers):
        part = parts[number]
        needed = [chunk for chunk in part.chunks if sources[chunk] is None]
        for chunk in needed:
            sources[chunk] = source
        if needed:
            used.append((number, part.place))
    return used


def _frames(index: Index, numbers: Iterable[int]) -> Iterator[tuple[int, Span]]:
    """Yield the numbers of chunks and the places of their frames."""
    return ((number, index.chunks[number].frame) for number in numbers)


def _from(sources: Iterable[Source], wanted: Source) -> Iterator[int]:
    """Yield the numbers of the chunks from one source."""
    return (number for number, source in enumerate(sources) if source is wanted)


def _wanted(parts: list[tuple[int, Span]], frames: list[tuple[int, Span]], gap: int) -> Iterator[Request]:
    """Yield the requests for parts and frames, the first of all alone."""
    alone = 1
    for source, items in ((Source.DELTA, parts), (Source.PACK, frames)):
        yield from _coalesced(source, items[:alone], gap)
        yield from _coalesced(source, items[alone:], gap)
        alone = 0 if items else alone


def _coalesced(source: Source, items: Iterable[tuple[int, Span]], gap: int) -> Iterator[Request]:
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


def _raw(index: Index, sources: tuple[Source, ...]) -> dict[Source, int]:
    """Return the bytes of the image from each source, all of them named."""
    total: Counter[Source] = Counter()
    for chunk, source in zip(index.chunks, sources, strict=True):
        total[source] += chunk.place.length
    return {source: total[source] for source in Source}


def _places(marks: Fingerprints, active: Iterable[tuple[bytes, int]]) -> dict[bytes, int]:
    """Return the first place of each block of the running slot's image that may be wanted.

    Which ones those are is remembered by a bit for each beginning of a fingerprint: a set of all of them
    takes 128 MiB for an image of 4 GiB.
    """
    beginnings = bytearray(1 << (_BEGINNING_BITS - 3))
    for (bit,) in _BEGINNING.iter_unpack(marks.blocks):
        beginnings[bit >> 3 & _BEGINNING_MASK] |= 1 << (bit & 7)
    places: dict[bytes, int] = {}
    for mark, offset in active:
        (bit,) = _BEGINNING.unpack(mark)
        if beginnings[bit >> 3 & _BEGINNING_MASK] >> (bit & 7) & 1:
            places.setdefault(mark, offset)
    return places


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
