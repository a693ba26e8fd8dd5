"""An image of which only the missing chunks are fetched, each verified before it is written.

What the running slot turns out not to have is fetched by a new plan, which says so and keeps to the limit.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from updog.errors import DigestError, ImageError
from updog.image.frames import unpacked_chunk
from updog.image.pipeline import Work, carry_out, pieces
from updog.image.plan import Facts, Plan, Request, Source, copied, found, plan
from updog.image.survey import blocks_of, copied_firsts, in_place, published_firsts
from updog.installing.description import Describer, Description
from updog.installing.needs import Needs, check_total
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from updog.image.delta import Delta
    from updog.image.index import Fingerprints, Index, Span
    from updog.image.install import Region
    from updog.image.plan import Recipe
    from updog.installing.description import Running
    from updog.installing.means import Means
    from updog.preflight import Placement
    from updog.trust import Target
    from updog.update_metadata.packs import Pack


class SeekableImage:
    """One image with an index.

    Args:
        means: what it is installed with.
        placement: what it is and where it goes. region: its partition. pack: what belongs to it.
        running: what can be taken from the running slot.
    """

    def __init__(
        self, means: Means, placement: Placement, region: Region, *, pack: Pack, running: Running
    ) -> None:
        self._means, self._placement, self._region = means, placement, region
        self._pack, self._running = pack, running
        self._seen: tuple[Facts, Plan] | None = None
        self._held: tuple[Request, bytes] | None = None

    @property
    def spooled(self) -> frozenset[str]:
        """The files that pieces of pack and delta are kept in."""
        head = self._described.head
        targets = [self._placement.target, *([head.target] if head else [])]
        return self._described.files | {self._means.spool.pieces_name(target) for target in targets}

    def needs(self) -> Needs:
        """Say what it takes. Raises UnreachableError, DigestError, IndexFormatError or MediumError."""
        made = self._plan
        return Needs(
            placement=self._placement,
            size=self._index.image_size,
            raw=made.raw,
            wire={source: made.wire_of(source) for source in (Source.DELTA, Source.PACK)},
            index=self._described.fetched,
            requests=len(made.requests),
        )

    def keep(self) -> None:
        """Fetch and verify every piece into the spool. Raises DigestError, ImageError, UnreachableError."""
        made = self._plan
        with self._means.teller.phase(f"fetch {self._placement.role}", made.wire) as advance:
            for request in made.requests:
                target = self._target(request.source)
                for place, piece in self._verified(request):
                    self._means.spool.keep(target, place.offset, piece)
                advance(request.span.length)
        self._means.spool.settle({self._target(request.source) for request in made.requests})
        self._know(
            replace(
                self._facts,
                spooled_parts=self._facts.spooled_parts | made.asked(Source.DELTA),
                spooled=self._facts.spooled | made.asked(Source.PACK),
            )
        )

    def prime(self) -> None:
        """Fetch and verify the first piece that is needed, and hold it."""
        made = self._plan
        if made.requests:
            ((_, piece),) = self._verified(made.requests[0])
            self._held = (made.requests[0], piece)

    def write(self) -> Content:
        """Carry the plan out; make another without what the running slot does not have, until it is done.

        Raises:
            DigestError, ImageError: what was fetched is not what was signed. ReadBackError: the disk lies.
            TooManyBytesError: the new plan takes more than may be fetched.
            UnreachableError, MediumError: a piece could not be had, or written.
        """
        while failed := self._write_once(self._plan):
            # the delta is given up as well: its base is not what it should be
            self._know(Facts(in_place=frozenset(range(len(self._index.chunks))) - failed))
            self._means.teller.say(
                f"The running slot does not have {len(failed)} chunks of the {self._placement.role} image as "
                f"it should: fetching {self._plan.wire} bytes instead."
            )
            check_total([self.needs()], self._means.most)
        return Content(size=self._index.image_size, sha256=self._index.image_sha256.hex())

    def _write_once(self, made: Plan) -> frozenset[int]:
        """Carry out one plan; return what the running slot did not have."""
        role, teller = self._placement.role, self._means.teller
        total = self._index.image_size - made.raw[Source.IN_PLACE]
        with teller.phase(f"write {role}", total) as advance:  # a byte counts once it was read back
            work = Work(
                index=self._index,
                delta=self._delta,
                plan=made,
                region=self._region,
                base=self._running.region,
                fetch=self._fetch,
                kept=self._read_kept,
            )
            with self._blaming(made):
                failed = carry_out(work, proof=advance)
        self._held = None
        return failed

    @contextmanager
    def _blaming(self, made: Plan) -> Iterator[None]:
        """Put the mirrors that served a plan's files behind the others if it turns out that one lied."""
        try:
            yield
        except (DigestError, ImageError):
            for source in {request.source for request in made.requests}:
                self._means.repository.blame(self._target(source))
            raise

    # -- what is known -----------------------------------------------------------------------------

    @cached_property
    def _described(self) -> Description:
        return Describer(self._means).describe(self._placement, self._pack, self._running)

    @property
    def _index(self) -> Index:
        return self._described.index

    @property
    def _delta(self) -> Delta | None:
        return self._described.head.delta if self._described.head else None

    @property
    def _facts(self) -> Facts:
        return self._known()[0]

    @property
    def _plan(self) -> Plan:
        return self._known()[1]

    def _known(self) -> tuple[Facts, Plan]:
        """Return what the node has, and the plan from it; looked at once."""
        return self._seen or self._know(self._with_spool(self._look()))

    def _know(self, facts: Facts) -> tuple[Facts, Plan]:
        """Go by these facts from now on."""
        self._seen = (facts, plan(self._index, facts))
        return self._seen

    def _look(self) -> Facts:
        """Look at both slots."""
        index, marks, delta = self._index, self._described.marks, self._delta
        copies = copied(index, delta) if delta else {}
        firsts = published_firsts(index, marks) if marks else copied_firsts(copies, self._running.region)
        with self._means.teller.phase(f"look at {self._placement.role}", index.image_size) as advance:
            there = in_place(index, firsts, self._region, advance=advance)
        if marks and len(there) < len(index.chunks):
            copies = self._found(marks)
        return Facts(in_place=there, active=copies, delta=delta)

    def _found(self, marks: Fingerprints) -> dict[int, Recipe]:
        """Find the chunks that blocks of the running slot make."""
        running, role = self._running, self._placement.role
        size = running.content.size if running.content else running.region.size
        with self._means.teller.phase(f"compare running {role}", size) as advance:
            return found(self._index, marks, blocks_of(running.region, size, advance=advance))

    def _with_spool(self, facts: Facts) -> Facts:
        """Return the facts with the parts and frames that lie in the spool and are what they should be."""
        local = facts.in_place | facts.active.keys()
        return replace(facts, spooled_parts=self._kept_parts(local), spooled=self._kept_frames(local))

    def _kept_parts(self, local: frozenset[int]) -> frozenset[int]:
        parts = self._delta.parts if self._delta else ()
        return self._kept(
            Source.DELTA, (n for n, part in enumerate(parts) if not local.issuperset(part.chunks))
        )

    def _kept_frames(self, local: frozenset[int]) -> frozenset[int]:
        chunks = self._index.chunks
        return self._kept(
            Source.PACK, (n for n, chunk in enumerate(chunks) if n not in local and not chunk.zeros)
        )

    def _kept(self, source: Source, numbers: Iterable[int]) -> frozenset[int]:
        """Return which of some parts or frames lie in the spool and are good."""
        target = self._target(source)
        if not self._means.spool.has_pieces(target):
            return frozenset()
        read = self._means.spool.reader(target)
        return frozenset(n for n in numbers if self._is_good(source, n, read(self._place(source, n))))

    # -- bytes -------------------------------------------------------------------------------------

    def _target(self, source: Source) -> Target:
        """Return the file that requests of a source are about."""
        head = self._described.head
        return head.target if head and source is Source.DELTA else self._placement.target

    def _place(self, source: Source, number: int) -> Span:
        """Return where in its file a part or a frame is."""
        if self._delta and source is Source.DELTA:
            return self._delta.parts[number].place
        return self._index.chunks[number].frame

    def _fetch(self, source: Source, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the bytes of spans; what is held already is not fetched again."""
        first = 0
        if self._held and (self._held[0].source, self._held[0].span) == (source, spans[0]):
            yield 0, iter([self._held[1]])
            first = 1
        if len(spans) > first:
            with self._means.repository.ranges(self._target(source), spans[first:]) as ranges:
                for number, blocks in ranges:
                    yield first + number, blocks

    def _read_kept(self, source: Source, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the bytes of spans out of the spool."""
        read = self._means.spool.reader(self._target(source))
        return ((number, iter([read(span)])) for number, span in enumerate(spans))

    def _verified(self, request: Request) -> Iterator[tuple[Span, bytes]]:
        """Fetch a request and yield the places and bytes of its parts or frames, each verified."""
        target = self._target(request.source)
        places = [self._place(request.source, number) for number in request.items]
        for _, blocks in self._means.repository.ranges(target, [request.span]):
            cut = pieces(blocks, request.span, places)
            for number, place, piece in zip(request.items, places, cut, strict=True):
                try:
                    self._verify(request.source, number, piece)
                except (DigestError, ImageError):
                    self._means.repository.blame(target)
                    raise
                yield place, piece

    def _verify(self, source: Source, number: int, piece: bytes) -> None:
        """Check a part or a frame. Raises DigestError or ImageError."""
        if source is Source.PACK:
            unpacked_chunk(piece, self._index.chunks[number])
        elif self._delta and _sha256(piece) != self._delta.parts[number].seal.sha256:
            raise DigestError(f"part {number} of {self._target(source).name} is not what was signed")

    def _is_good(self, source: Source, number: int, piece: bytes) -> bool:
        try:
            self._verify(source, number, piece)
        except (DigestError, ImageError):
            return False
        return True


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
