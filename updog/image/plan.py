"""The plan of an installation: which bytes come from where, to the byte, before the first is moved. Pure.

Rules it enforces:

* every chunk has exactly one source, the cheapest of: in place, zeros, active slot (these move nothing over
  the network), then part of the delta or frame of the pack, whichever brings fewer bytes;
* a part of a delta is fetched whole or not at all: it is taken if it is smaller than the frames of all those
  of its chunks that are needed;
* neighbours in a file are fetched by one request. A gap is fetched through when it is worth less than a
  round trip: when it has at most ``gap`` bytes, which is the line's rate (bytes per second) times its round
  trip (seconds). Bytes of a gap are counted, and thrown away;
* what the requests bring is what the plan says, to the byte: there is no other way for a byte to come in;
* a chunk of the active slot is only promised: it is hashed before it is written. Whoever finds it wrong
  makes a new plan without it, rather than fetching it in silence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from updog.image.index import BLOCK_BYTES, Fingerprints, Index, Span, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from updog.image.delta import Delta, Part

DEFAULT_GAP_BYTES = 16 * 1024  # 20 ms at 800 kB/s: a slow line, because there bytes cost most

Recipe = tuple[Span, ...]
"""Stretches of the active slot's image that make a chunk, one behind the other."""


class Source(Enum):
    """Where a chunk comes from, cheapest first; the value is how reports call it."""

    IN_PLACE = "in-place"
    ZEROS = "zeros"
    ACTIVE = "active"
    DELTA = "delta"
    PACK = "pack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the node has already.

    Attributes:
        in_place: numbers of the chunks that the inactive slot was seen to hold, by their SHA-256.
        active: chunk number → how the running slot's image makes it.
        delta: head of a delta from the running slot's image, if there is one.
    """

    in_place: frozenset[int] = frozenset()
    active: Mapping[int, Recipe] = field(default_factory=dict)
    delta: Delta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One range of one file.

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
        raw: source → bytes of the image that come from it.
    """

    sources: tuple[Source, ...]
    recipes: Mapping[int, Recipe]
    requests: tuple[Request, ...]
    raw: Mapping[Source, int]

    @property
    def wire(self) -> int:
        """Bytes of bodies that the requests bring, gaps included."""
        return sum(request.span.length for request in self.requests)

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
    parts = list(_worthwhile(index, facts.delta, sources)) if facts.delta else []
    for _, part in parts:
        for number in part.chunks:
            sources[number] = sources[number] or Source.DELTA
    settled = tuple(source or Source.PACK for source in sources)
    frames = (
        (number, index.chunks[number].frame) for number, source in enumerate(settled) if source is Source.PACK
    )
    bodies = ((number, part.place) for number, part in parts)
    return Plan(
        sources=settled,
        recipes={number: facts.active[number] for number in _from(settled, Source.ACTIVE)},
        requests=(*_coalesced(Source.DELTA, bodies, gap), *_coalesced(Source.PACK, frames, gap)),
        raw=_raw(index, settled),
    )


def found(
    index: Index, marks: Fingerprints, active_index: Index, active_marks: Fingerprints
) -> dict[int, Recipe]:
    """Return how the running slot's image makes the chunks of another, as far as fingerprints tell.

    Args:
        index: of the wanted image.
        marks: its fingerprints.
        active_index: of the image in the running slot.
        active_marks: its fingerprints.
    """
    places = _places(active_index, active_marks)
    wanted = dict(marks.by_block(index))
    recipes = {}
    for number, chunk in enumerate(index.chunks):
        if chunk.zeros:
            continue
        offsets = range(chunk.place.offset, chunk.place.end, BLOCK_BYTES)
        recipe = tuple(_recipe(chunk.place, [places.get(wanted[offset]) for offset in offsets]))
        if recipe:
            recipes[number] = recipe
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


def _worthwhile(index: Index, delta: Delta, sources: list[Source | None]) -> Iterator[tuple[int, Part]]:
    """Yield the parts, with their numbers, that are smaller than the frames they spare."""
    for number, part in enumerate(delta.parts):
        spared = sum(index.chunks[chunk].frame.length for chunk in part.chunks if sources[chunk] is None)
        if part.place.length < spared:
            yield number, part


def _from(sources: Iterable[Source], wanted: Source) -> Iterator[int]:
    """Yield the numbers of the chunks from one source."""
    return (number for number, source in enumerate(sources) if source is wanted)


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


def _places(index: Index, marks: Fingerprints) -> dict[bytes, Span]:
    """Return the first place of each different block of an image, a block of zeros included."""
    places: dict[bytes, Span] = {}
    for offset, mark in marks.by_block(index):
        length = min(BLOCK_BYTES, index.image_size - offset)
        places.setdefault(mark, Span(offset=offset, length=length))
    for chunk in index.chunks:
        if chunk.zeros and chunk.place.length >= BLOCK_BYTES:
            places.setdefault(_ZERO_MARK, Span(offset=chunk.place.offset, length=BLOCK_BYTES))
    return places


def _recipe(place: Span, blocks: list[Span | None]) -> list[Span]:
    """Return the stretches that the blocks are, neighbours together; none unless they make the chunk."""
    recipe: list[Span] = []
    for block in blocks:
        if block is None:
            return []
        if recipe and recipe[-1].end == block.offset:
            block = Span(offset=recipe[-1].offset, length=recipe.pop().length + block.length)  # noqa: PLW2901
        recipe.append(block)
    return recipe if sum(span.length for span in recipe) == place.length else []


_ZERO_MARK = fingerprint(bytes(BLOCK_BYTES))
