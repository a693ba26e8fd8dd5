"""Carry a plan out: fetch, verify, unpack, write and read back at the same time, in bounded memory.

One thread fetches and cuts what comes into pieces; workers unpack, verify and write them; another thread
flushes what was written and drops the kernel's copy, and yet others read it back meanwhile. Chunks that lie
side by side are written and read in one go. Rules:

* every chunk is hashed before it is written, whatever its source;
* at most :data:`FLIGHT_BYTES` are between the network and the medium, :data:`PARTS_FLIGHT_BYTES` where
  parts of a delta are among them, which are large; a fast line waits;
* an image counts as there when the medium has returned each of its chunks;
* a chunk that the running slot (or a delta from it) turns out not to make is reported, not fetched in
  silence: whoever asked makes a new plan.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import chain, islice, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from updog.errors import DigestError, ImageError, ReadBackError
from updog.image.delta import in_blocks, rebuilt
from updog.image.frames import unpacked_chunk, verified_chunk
from updog.image.plan import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from updog.image.delta import Delta
    from updog.image.index import Chunk, Index, Span
    from updog.image.install import Advance, Region
    from updog.image.plan import Plan, Request

FLIGHT_BYTES = 12 << 20  # raw bytes that workers hold
PARTS_FLIGHT_BYTES = 20 << 20  # the same: two parts of a delta, or three; a larger one may exceed it, alone
BATCH_BYTES = 1 << 20  # raw bytes of one job, or one chunk: long beside the cost of handing it over
WINDOW_BYTES = 32 << 20  # written before it is flushed and read back
_ZEROS = bytes(1 << 20)

_T = TypeVar("_T")


class Fetch(Protocol):
    """Where the bytes of requests come from."""

    def __call__(self, source: Source, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield (number of the span, its bytes in blocks), in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        index: of the image. delta: head of the delta that the plan uses. plan: what comes from where.
        region: where the image goes. base: the running slot's image.
        fetch: brings the plan's requests. kept: brings those that lie in the spool.
    """

    index: Index
    delta: Delta | None
    plan: Plan
    region: Region
    base: Region
    fetch: Fetch
    kept: Fetch


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """Something for a worker.

    Attributes:
        first: number of its first chunk. weight: the memory it holds, in bytes.
        do: does it; returns the numbers of the chunks that are written.
    """

    first: int
    weight: int
    do: Callable[[], list[int]]


def carry_out(work: Work, *, proof: Advance) -> frozenset[int]:
    """Put everything of the plan in its place and prove it.

    Args:
        work: what is to be done.
        proof: told how many bytes were read back.

    Returns:
        Numbers of the chunks that the running slot does not make, though the plan said so.

    Raises:
        DigestError, ImageError: what was fetched is not what was signed.
        ReadBackError: the medium returns something else than was written.
        UnreachableError: something could not be fetched. MediumError: the medium failed.
    """
    writer = _Writer(work)
    prover = _Prover(work.index, work.region, proof)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, prover:
        flight = _Flight(pool, prover.written, most=_most_in_flight(work.plan))
        try:
            for job in _alternated(writer.local(), writer.fetched()):
                flight.submit(job)
            flight.land()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        prover.finish()
    return frozenset(writer.failed)


def _most_in_flight(plan: Plan) -> int:
    parts = any(request.source is Source.DELTA for request in (*plan.requests, *plan.kept))
    return PARTS_FLIGHT_BYTES if parts else FLIGHT_BYTES


class _Flight:
    """Jobs at work, bounded by their weight; results are taken in order, in the caller's thread."""

    def __init__(self, pool: ThreadPoolExecutor, landed: Callable[[list[int]], None], *, most: int) -> None:
        self._pool, self._landed, self._most = pool, landed, most
        self._jobs = deque[tuple[int, Future[list[int]]]]()
        self._weight = 0

    def submit(self, job: _Job) -> None:
        """Hand a job over as soon as there is room for it. Raises what earlier jobs raised."""
        while self._jobs and (self._weight + job.weight > self._most or self._jobs[0][1].done()):
            self._land_one()
        self._jobs.append((job.weight, self._pool.submit(job.do)))
        self._weight += job.weight

    def land(self) -> None:
        """Wait for all of them."""
        while self._jobs:
            self._land_one()

    def _land_one(self) -> None:
        weight, future = self._jobs.popleft()
        self._weight -= weight
        self._landed(future.result())


class _Writer:
    """Turns the plan into jobs that write verified chunks."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self.failed: set[int] = set()

    def fetched(self) -> Iterator[_Job]:
        """Yield the jobs of everything that comes over the network, file by file."""
        return chain.from_iterable(self._requested(self._work.plan.requests, self._work.fetch))

    def local(self) -> Iterator[_Job]:
        """Yield the jobs of everything that is on this node already, in the order of the image.

        So neighbours, whatever their source, are flushed and read back together.
        """
        kept = self._requested(self._work.plan.kept, self._work.kept)
        return merge(*kept, self._copied(), key=attrgetter("first"))

    def _requested(self, requests: Sequence[Request], fetch: Fetch) -> Iterator[Iterator[_Job]]:
        """Yield the jobs of one file after the other, each in the order of the image."""
        for source, cut in ((Source.DELTA, self._parts), (Source.PACK, self._frames)):
            mine = [request for request in requests if request.source is source]
            if mine:
                yield self._brought(mine, fetch(source, [request.span for request in mine]), cut)

    def _brought(
        self,
        requests: Sequence[Request],
        spans: Iterator[tuple[int, Iterator[bytes]]],
        cut: Callable[[Request, Iterator[bytes]], Iterator[_Job]],
    ) -> Iterator[_Job]:
        for number, blocks in spans:
            yield from cut(requests[number], blocks)

    def _parts(self, request: Request, blocks: Iterator[bytes]) -> Iterator[_Job]:
        """Yield one job a part of the delta."""
        delta = self._work.delta
        if delta is None:
            raise ImageError("the plan has parts of a delta, but there is none")
        places = [delta.parts[number].place for number in request.items]
        for number, body in zip(request.items, pieces(blocks, request.span, places), strict=True):
            raw = sum(stream.length for stream in delta.parts[number].seal.streams)
            first = delta.parts[number].chunks[0]
            yield _Job(first=first, weight=raw + len(body), do=partial(self._rebuild, number, body))

    def _frames(self, request: Request, blocks: Iterator[bytes]) -> Iterator[_Job]:
        """Yield jobs of a few frames of the pack each."""
        chunks = self._work.index.chunks
        frames = pieces(blocks, request.span, (chunks[number].frame for number in request.items))
        numbered = zip(request.items, frames, strict=True)
        for batch in _batched(numbered, lambda item: chunks[item[0]].place.length):
            weight = _raw(chunks, (number for number, _ in batch))
            yield _Job(first=batch[0][0], weight=weight, do=partial(self._unpack, batch))

    def _copied(self) -> Iterator[_Job]:
        """Yield jobs of a few chunks of zeros or of the running slot each."""
        chunks, sources = self._work.index.chunks, self._work.plan.sources
        numbers = (n for n, source in enumerate(sources) if source in {Source.ZEROS, Source.ACTIVE})
        for batch in _batched(numbers, lambda number: chunks[number].place.length):
            weight = _raw(chunks, (n for n in batch if not chunks[n].zeros))
            yield _Job(first=batch[0], weight=weight, do=partial(self._copy, batch))

    def _unpack(self, frames: list[tuple[int, bytes]]) -> list[int]:
        """Write the chunks behind some frames, of which all are verified first."""
        chunks = self._work.index.chunks
        numbers = [number for number, _ in frames]
        raws = iter([unpacked_chunk(frame, chunks[number]) for number, frame in frames])
        for run in _runs(numbers, chunks):
            joined = b"".join(islice(raws, len(run)))
            self._work.region.write(joined, chunks[run[0]].place.offset)
        return numbers

    def _copy(self, numbers: list[int]) -> list[int]:
        done = []
        for number in numbers:
            chunk = self._work.index.chunks[number]
            if chunk.zeros:
                self._put_zeros(chunk)
            elif not self._copy_from_active(number, chunk):
                continue
            done.append(number)
        return done

    def _copy_from_active(self, number: int, chunk: Chunk) -> bool:
        recipe = self._work.plan.recipes[number]
        raw = b"".join(self._work.base.read(span.length, span.offset) for span in recipe)
        try:
            self._put(chunk, verified_chunk(raw, chunk, source="the running slot"))
        except DigestError:
            self._fail([number])
            return False
        return True

    def _rebuild(self, number: int, body: bytes) -> list[int]:
        """Write what a part of the delta makes; what it does not make has failed."""
        work, delta = self._work, self._work.delta
        if delta is None:
            raise ImageError("there is no delta")
        part = delta.parts[number]
        if hashlib.sha256(body).digest() != part.seal.sha256:
            raise DigestError("a part of the delta is not what was signed")
        used = {Source.DELTA, Source.SPOOL}
        wanted = frozenset(n for n in part.chunks if work.plan.sources[n] in used)

        def read(offset: int, length: int) -> bytes:
            return work.base.read(max(0, min(length, delta.base_size - offset)), offset)

        done: list[int] = []
        try:
            for chunk_number, raw in rebuilt(part, body, work.index, in_blocks(read), wanted=wanted):
                self._put(work.index.chunks[chunk_number], raw)
                done.append(chunk_number)
        except (DigestError, ImageError):  # the body is what was signed: the base is not
            self._fail(wanted.difference(done))
        return done

    def _fail(self, numbers: Iterable[int]) -> None:
        with self._lock:
            self.failed.update(numbers)

    def _put(self, chunk: Chunk, raw: bytes) -> None:
        self._work.region.write(raw, chunk.place.offset)

    def _put_zeros(self, chunk: Chunk) -> None:
        zeros = memoryview(_ZEROS)
        for offset in range(chunk.place.offset, chunk.place.end, len(zeros)):
            self._work.region.write(zeros[: chunk.place.end - offset], offset)


def pieces(blocks: Iterator[bytes], span: Span, places: Iterable[Span]) -> Iterator[bytes]:
    """Yield the bytes of each place out of the blocks of ``span``; what lies between is thrown away.

    Args:
        blocks: the bytes of ``span``; drained.
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


class _Prover:
    """Flushes what was written, window by window, in a thread of its own, and reads it back in others."""

    def __init__(self, index: Index, region: Region, proof: Advance) -> None:
        self._index, self._region, self._proof = index, region, proof
        self._window: list[int] = []
        self._bytes = 0
        self._error: BaseException | None = None
        self._flushing = ThreadPoolExecutor(1)
        self._reading = ThreadPoolExecutor(os.cpu_count() or 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exception: object) -> None:
        if kind is not None:
            self._error = self._error or InterruptedError()
        self._flushing.shutdown()
        self._reading.shutdown()

    def written(self, numbers: list[int]) -> None:
        """Take note of chunks; once there are enough, they are proven. Raises what proving raised."""
        self._check()
        self._window += numbers
        self._bytes += _raw(self._index.chunks, numbers)
        if self._bytes >= WINDOW_BYTES:
            self._hand_over()

    def finish(self) -> None:
        """Return once everything is proven. Raises ReadBackError or MediumError."""
        if self._window:
            self._hand_over()
        self._flushing.shutdown()
        self._reading.shutdown()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _hand_over(self) -> None:
        self._flushing.submit(self._unless_failed, self._settle, sorted(self._window))
        self._window, self._bytes = [], 0

    def _unless_failed(self, do: Callable[[list[int]], None], numbers: list[int]) -> None:
        """Do one thing to chunks unless another failed; what this raises is raised in the caller's thread."""
        try:
            if self._error is None:
                do(numbers)
        except BaseException as error:  # noqa: BLE001 - see above
            self._error = self._error or error

    def _settle(self, numbers: list[int]) -> None:
        self._region.settle()
        for run in _runs(numbers, self._index.chunks):
            self._reading.submit(self._unless_failed, self._read_back, run)

    def _read_back(self, run: list[int]) -> None:
        """Read some neighbours. Raises ReadBackError."""
        for number in self._differing(run):
            offset = self._index.chunks[number].place.offset
            raise ReadBackError(f"{self._region.name} does not read back as it was written, from {offset}")
        self._proof(_raw(self._index.chunks, run))

    def _differing(self, run: list[int]) -> Iterator[int]:
        """Yield which of some neighbours the medium does not return."""
        chunks = [self._index.chunks[number] for number in run]
        start, end = chunks[0].place.offset, chunks[-1].place.end
        stretches = (
            self._region.read(min(BATCH_BYTES, end - at), at) for at in range(start, end, BATCH_BYTES)
        )
        data = memoryview(b"")
        for number, chunk in zip(run, chunks, strict=True):
            digest, missing = hashlib.sha256(), chunk.place.length
            while missing and (data := data or memoryview(next(stretches, b""))):
                digest.update(data[:missing])
                missing, data = missing - len(data[:missing]), data[missing:]
            if missing or digest.digest() != chunk.sha256:
                yield number


def _raw(chunks: Sequence[Chunk], numbers: Iterable[int]) -> int:
    """Return how many bytes of the image some chunks are."""
    return sum(chunks[number].place.length for number in numbers)


def _runs(numbers: Iterable[int], chunks: Sequence[Chunk]) -> Iterator[list[int]]:
    """Yield neighbours together, up to :data:`BATCH_BYTES` of them."""
    run: list[int] = []
    size = 0
    for number in numbers:
        length = chunks[number].place.length
        if run and (number != run[-1] + 1 or size + length > BATCH_BYTES):
            yield run
            run, size = [], 0
        run.append(number)
        size += length
    if run:
        yield run


def _batched(items: Iterable[_T], weight: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Yield items together up to :data:`BATCH_BYTES`, at least one."""
    batch: list[_T] = []
    size = 0
    for item in items:
        if batch and size + weight(item) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += weight(item)
    if batch:
        yield batch


def _alternated(left: Iterator[_Job], right: Iterator[_Job]) -> Iterator[_Job]:
    """Yield jobs of both in turns, then those of the longer one."""
    return (job for pair in zip_longest(left, right) for job in pair if job is not None)
