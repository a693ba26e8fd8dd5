"""An image of which only the missing chunks are fetched, each verified before it is written.

Fetch the index, look at the slots and decide (:func:`plan_seekable`), then carry out (:class:`SeekablePlan`).

Rules it enforces:

* chunks that the running slot turns out not to have are reported, and get a plan of their own, which does not
  rely on the running slot again;
* a mirror that sent wrong bytes is put behind the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from signpost.progress import Action
from signpost.text import counted
from updog.errors import DigestError, ImageError
from updog.image.pipeline import Work, carry_out, pieces
from updog.image.plan import ChunkSource, SlotScan, plan_chunks
from updog.installing.estimate import Estimate
from updog.installing.image_index import fetch_index
from updog.installing.scan import scan_slots
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from updog.image.index import Span
    from updog.image.plan import ChunkPlan, Request
    from updog.installing.context import InstallContext, SeekableImage
    from updog.installing.image_index import FetchedIndex


def plan_seekable(context: InstallContext, image: SeekableImage) -> SeekablePlan:
    """Fetch the index, look at both slots, and decide.

    Raises:
        UnreachableError: the index could not be fetched. DigestError, IndexFormatError: it is wrong.
        PreflightError: the image does not fit. MediumError: a slot could not be read.
    """
    fetched = fetch_index(context, image)
    scan = scan_slots(context, image, fetched)
    return decide(context, image, fetched, scan)


def decide(
    context: InstallContext, image: SeekableImage, fetched: FetchedIndex, scan: SlotScan
) -> SeekablePlan:
    """Return the cheapest plan. PURE; ``context`` is only handed on."""
    chunks = plan_chunks(fetched.index, scan, delta=fetched.delta)
    return SeekablePlan(context=context, image=image, fetched=fetched, scan=scan, chunks=chunks)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekablePlan:
    """How the chunks of one image get into their places; an :class:`~updog.installing.ImagePlan`.

    Attributes:
        context: what it is carried out with. image: which one. fetched: its index.
        scan: what the node has of it. chunks: where each chunk comes from.
        beginning: verified bytes of the first request, once they were fetched.
    """

    context: InstallContext
    image: SeekableImage
    fetched: FetchedIndex
    scan: SlotScan
    chunks: ChunkPlan
    beginning: bytes | None = None

    @property
    def estimate(self) -> Estimate:
        """What it takes, in bytes."""
        return Estimate(
            placement=self.image.placement,
            size=self.fetched.index.image_size,
            raw=self.chunks.raw,
            wire={source: self.chunks.wire_of(source) for source in (ChunkSource.DELTA, ChunkSource.PACK)},
            index=self.fetched.wire,
            requests=len(self.chunks.requests),
        )

    @property
    def spool_files(self) -> frozenset[str]:
        """Names of the spool's files that belong to the image."""
        return self.fetched.spool_files

    def keep(self) -> SeekablePlan:
        """Fetch and verify every piece into the spool; return the plan that writes from there."""
        kind, spool, requests = self.image.placement.kind, self.context.spool, self.chunks.requests
        with self.context.reporter.phase(Action.FETCH, kind, self.chunks.wire) as advance:
            for request in requests:
                file = self.fetched.file_of(request.source)
                for place, piece in self._fetched_pieces(request):
                    spool.keep_piece(file, place.offset, piece)
                advance(request.span.length)
        spool.flush_pieces({self.fetched.file_of(request.source) for request in requests})
        scan = replace(
            self.scan,
            spooled_parts=self.scan.spooled_parts | self.chunks.fetched(ChunkSource.DELTA),
            spooled_frames=self.scan.spooled_frames | self.chunks.fetched(ChunkSource.PACK),
        )
        return decide(self.context, self.image, self.fetched, scan)

    def without_keeping(self) -> SeekablePlan:
        """Return the plan as it is: pieces in the spool are of use whether or not more are kept."""
        return self

    def begin(self) -> SeekablePlan:
        """Fetch and verify the first piece that is needed, and hold it."""
        if not self.chunks.requests:
            return self
        ((_, piece),) = self._fetched_pieces(self.chunks.requests[0])
        return replace(self, beginning=piece)

    def write(self) -> Content | SeekablePlan:
        """Write the chunks that are not in place, and prove them."""
        index, kind, reporter = self.fetched.index, self.image.placement.kind, self.context.reporter
        work = Work(
            index=index,
            delta=self.fetched.delta,
            plan=self.chunks,
            region=self.image.region,
            base=self.image.running.region,
            fetch=self._fetch,
            spooled=self._read_spool,
        )
        total = index.image_size - self.chunks.raw[ChunkSource.IN_PLACE]
        with reporter.phase(Action.WRITE, kind, total) as advance:  # a byte counts once it was read back
            try:
                missing = carry_out(work, proof=advance)
            except (DigestError, ImageError):
                for source in {request.source for request in self.chunks.requests}:
                    self.context.repository.demote_mirror(self.fetched.file_of(source))
                raise
        if not missing:
            return Content(size=index.image_size, sha256=index.image_sha256.hex())
        # Without the delta: its base is not what it should be.
        fetched = replace(self.fetched, delta=None, delta_file=None)
        scan = SlotScan(in_place=frozenset(range(len(index.chunks))) - missing)
        plan = decide(self.context, self.image, fetched, scan)
        reporter.say(
            f"The running slot does not have {counted(len(missing), 'chunk')} of the {kind} image that it "
            f"should have: downloading {plan.chunks.wire} bytes instead."
        )
        return plan

    def _fetched_pieces(self, request: Request) -> Iterator[tuple[Span, bytes]]:
        """Fetch a request; yield the place and bytes of each of its pieces, verified."""
        repository, fetched, source = self.context.repository, self.fetched, request.source
        file = fetched.file_of(source)
        places = [fetched.place_of(source, number) for number in request.items]
        for _, blocks in repository.ranges(file, [request.span]):
            cut = pieces(blocks, request.span, places)
            for number, place, piece in zip(request.items, places, cut, strict=True):
                try:
                    fetched.check_piece(source, number, piece)
                except (DigestError, ImageError):
                    repository.demote_mirror(file)
                    raise
                yield place, piece

    def _fetch(self, source: ChunkSource, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the bytes of spans; the beginning is not fetched again."""
        begun = 0
        if self.beginning is not None and self.chunks.requests[0].source is source:
            yield 0, iter([self.beginning])
            begun = 1
        if len(spans) > begun:
            with self.context.repository.ranges(self.fetched.file_of(source), spans[begun:]) as ranges:
                for number, blocks in ranges:
                    yield begun + number, blocks

    def _read_spool(
        self, source: ChunkSource, spans: Sequence[Span]
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the bytes of spans out of the spool."""
        file = self.fetched.file_of(source)
        return ((n, iter([self.context.spool.piece(file, span)])) for n, span in enumerate(spans))
