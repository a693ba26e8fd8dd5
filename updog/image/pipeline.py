"""Carry a plan out: fetch, verify, unpack, write and read back at the same time, in bounded memory.

One thread fetches, and cuts what arrives into jobs; workers unpack, verify and write them; what is written is
read back meanwhile (:mod:`.read_back`). Chunks that lie side by side are written in one go.

Rules it enforces:

* every chunk is hashed before it is written, whatever its source;
* at most :data:`IN_FLIGHT_BYTES` are between the network and the medium, :data:`DELTA_IN_FLIGHT_BYTES` if
  parts of a delta are among them, which are large; a fast network waits;
* an image counts as written when the medium has returned each of its chunks;
* a chunk that the running slot (or a delta from it) turns out not to make, or cannot be read for, is
  reported, not fetched silently: the caller makes a new plan.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import chain, islice, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from signpost.errors import MediumError
from updog.errors import DigestError, ImageError
from updog.image.delta import check_body, in_blocks, rebuilt
from updog.image.frames import unpacked_chunk, verified_chunk
from updog.image.index import runs
from updog.image.ordered_pool import ordered_results
from updog.image.plan import ChunkSource
from updog.image.read_back import ReadBack
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from updog.image.delta import Delta
    from updog.image.index import Index, Span
    from updog.image.plan import ChunkPlan, Request
    from updog.image.region import Advance, Region

IN_FLIGHT_BYTES = 12 << 20  # raw bytes that workers hold
DELTA_IN_FLIGHT_BYTES = 20 << 20  # the same: two parts of a delta, or three; a larger one goes alone
JOB_BYTES = 1 << 20  # raw bytes of one job, or one chunk: long beside the cost of handing it over
_ZEROS = memoryview(bytes(IO_BYTES))

_T = TypeVar("_T")


class Fetch(Protocol):
    """Where the bytes of requests come from."""

    def __call__(self, source: ChunkSource, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield (number of the span, its bytes in blocks), in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        index: of the image. delta: head of the delta that the plan uses. plan: what comes from where.
        region: where the image goes. base: the running slot's image.
        fetch: yields the bytes of the plan's requests. spooled: those of the requests that lie in the spool.
    """

    index: Index
    delta: Delta | None
    plan: ChunkPlan
    region: Region
    base: Region
    fetch: Fetch
    spooled: Fetch


class _Done(NamedTuple):
    """Numbers of the chunks that a job has written, and of those that the running slot does not make."""

    written: Sequence[int]
    missing: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """Something for a worker.

    Attributes:
        first: number of its first chunk. weight: the memory it holds, in bytes. run: does it.
    """

    first: int
    weight: int
    run: Callable[[], _Done]


def carry_out(work: Work, *, proof: Advance) -> frozenset[int]:
    """Put everything of the plan in its place and prove it.

    Args:
        work: what is to be done.
        proof: called with the number of bytes that were read back.

    Returns:
        Numbers of the chunks that the running slot does not make, though the plan expected it to.

    Raises:
        DigestError, ImageError: what was fetched is not what was signed.
        ReadBackError: the medium returns something else than was written.
        UnreachableError: something could not be fetched. MediumError: the medium failed.
    """
    requests = (*work.plan.requests, *work.plan.spooled)
    has_parts = any(request.source is ChunkSource.DELTA for request in requests)
    limit = DELTA_IN_FLIGHT_BYTES if has_parts else IN_FLIGHT_BYTES
    jobs = _in_turns(_local_jobs(work), _fetched_jobs(work))
    missing = set[int]()
    with (
        ReadBack(work.index, work.region, proof) as read_back,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        closing(
            ordered_results(pool, lambda job: job.run(), jobs, limit=limit, weight=attrgetter("weight"))
        ) as results,
    ):
        for done in results:
            read_back.written(done.written)
            missing.update(done.missing)
    return frozenset(missing)


# -- jobs: made in one thread, which also fetches -------------------------------------------------------


def _fetched_jobs(work: Work) -> Iterator[_Job]:
    """Yield the jobs of everything that comes over the network, file by file."""
    return chain.from_iterable(_requested_jobs(work, work.plan.requests, work.fetch))


def _local_jobs(work: Work) -> Iterator[_Job]:
    """Yield the jobs of everything that is on this node already, in the order of the image.

    So neighbours, whatever their source, are flushed and read back together.
    """
    spooled = _requested_jobs(work, work.plan.spooled, work.spooled)
    return merge(*spooled, _copy_jobs(work), key=attrgetter("first"))


def _requested_jobs(work: Work, requests: Iterable[Request], fetch: Fetch) -> Iterator[Iterator[_Job]]:
    """Yield the jobs of one file after the other, each in the order of the image."""
    for source, cut in ((ChunkSource.DELTA, _part_jobs), (ChunkSource.PACK, _frame_jobs)):
        mine = [request for request in requests if request.source is source]
        if mine:
            yield _cut_jobs(work, mine, fetch(source, [request.span for request in mine]), cut)


def _cut_jobs(
    work: Work,
    requests: Sequence[Request],
    fetched: Iterable[tuple[int, Iterator[bytes]]],
    cut: Callable[[Work, Request, Iterator[bytes]], Iterator[_Job]],
) -> Iterator[_Job]:
    for number, blocks in fetched:
        yield from cut(work, requests[number], blocks)


def _part_jobs(work: Work, request: Request, blocks: Iterator[bytes]) -> Iterator[_Job]:
    """Yield one job for each part of the delta."""
    delta = _delta_of(work)
    places = [delta.parts[number].place for number in request.items]
    for number, body in zip(request.items, pieces(blocks, request.span, places), strict=True):
        part = delta.parts[number]
        raw = sum(stream.length for stream in part.seal.streams)
        yield _Job(first=part.chunks[0], weight=raw + len(body), run=partial(_write_part, work, number, body))


def _frame_jobs(work: Work, request: Request, blocks: Iterator[bytes]) -> Iterator[_Job]:
    """Yield jobs of a few frames of the pack each."""
    chunks = work.index.chunks
    frames = pieces(blocks, request.span, (chunks[number].frame for number in request.items))
    numbered = zip(request.items, frames, strict=True)
    for batch in _batched(numbered, lambda item: chunks[item[0]].place.length):
        weight = sum(chunks[number].place.length for number, _ in batch)
        yield _Job(first=batch[0][0], weight=weight, run=partial(_write_frames, work, batch))


def _copy_jobs(work: Work) -> Iterator[_Job]:
    """Yield jobs of a few chunks of zeros or of the running slot each."""
    chunks, local = work.index.chunks, {ChunkSource.ZEROS, ChunkSource.ACTIVE}
    numbers = (number for number, source in enumerate(work.plan.sources) if source in local)
    for batch in _batched(numbers, lambda number: chunks[number].place.length):
        weight = sum(chunks[number].place.length for number in batch if not chunks[number].zeros)
        yield _Job(first=batch[0], weight=weight, run=partial(_write_copies, work, batch))


def _in_turns(left: Iterator[_Job], right: Iterator[_Job]) -> Iterator[_Job]:
    """Yield jobs of both in turns, then those of the longer one."""
    return (job for pair in zip_longest(left, right) for job in pair if job is not None)


def _batched(items: Iterable[_T], size_of: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Yield items together up to :data:`JOB_BYTES`, at least one."""
    batch: list[_T] = []
    size = 0
    for item in items:
        if batch and size + size_of(item) > JOB_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += size_of(item)
    if batch:
        yield batch


def pieces(blocks: Iterator[bytes], span: Span, places: Iterable[Span]) -> Iterator[bytes]:
    """Yield the bytes of each place out of the blocks of ``span``; what lies between is dropped.

    Args:
        blocks: the bytes of ``span``; read to their end.
        span: which stretch of a file they are.
        places: rising, inside it.

    Raises:
        ImageError: the blocks end early.
    """
    held, start = bytearray(), span.offset
    for place in places:
        while start + len(held) < place.end:
            block = next(blocks, None)
            if block is None:
                raise ImageError(f"the bytes from {span.offset} end before {place.end}")
            held += block
        yield bytes(memoryview(held)[place.offset - start : place.end - start])
        del held[: place.end - start]
        start = place.end
    for _ in blocks:
        pass


# -- what workers do ------------------------------------------------------------------------------------


def _write_frames(work: Work, frames: list[tuple[int, bytes]]) -> _Done:
    """Write the chunks behind some frames, of which all are verified first."""
    chunks = work.index.chunks
    numbers = [number for number, _ in frames]
    raws = iter([unpacked_chunk(frame, chunks[number]) for number, frame in frames])
    for run in runs(numbers, chunks, limit=IO_BYTES):
        work.region.write(b"".join(islice(raws, len(run))), chunks[run[0]].place.offset)
    return _Done(numbers)


def _write_copies(work: Work, numbers: list[int]) -> _Done:
    """Write chunks of zeros, and those that the running slot does make."""
    written, missing = list[int](), list[int]()
    for number in numbers:
        chunk = work.index.chunks[number]
        place = chunk.place
        if chunk.zeros:
            for offset in range(place.offset, place.end, len(_ZEROS)):
                work.region.write(_ZEROS[: place.end - offset], offset)
        else:
            recipe = work.plan.recipes[number]
            try:
                raw = b"".join(work.base.read(span.length, span.offset) for span in recipe)
                verified = verified_chunk(raw, chunk, source="the running slot")
            except (DigestError, MediumError):  # it is not there, or the disk does not give it
                missing.append(number)
                continue
            work.region.write(verified, place.offset)
        written.append(number)
    return _Done(written, missing)


def _write_part(work: Work, number: int, body: bytes) -> _Done:
    """Write what a part of the delta makes of the running slot. Raises DigestError if the body is wrong."""
    delta = _delta_of(work)
    part = delta.parts[number]
    check_body(part, body)
    wanted = frozenset(work.plan.parts[number])

    def read_base(offset: int, length: int) -> bytes:
        try:
            return work.base.read(max(0, min(length, delta.base_size - offset)), offset)
        except MediumError as error:
            raise DigestError(f"the running slot cannot be read: {error}") from error

    written = list[int]()
    try:
        for chunk, raw in rebuilt(part, body, work.index, in_blocks(read_base), wanted=wanted):
            work.region.write(raw, work.index.chunks[chunk].place.offset)
            written.append(chunk)
    except (DigestError, ImageError):  # the body is what was signed: the base is not
        return _Done(written, sorted(wanted.difference(written)))
    return _Done(written)


def _delta_of(work: Work) -> Delta:
    """Return the delta that the plan uses. Raises ImageError."""
    if work.delta is None:
        raise ImageError("the plan has parts of a delta, but there is no delta")
    return work.delta
