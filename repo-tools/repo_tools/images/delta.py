"""Make deltas: what a node that has an earlier image needs for the new one, in as few bytes as possible.

A rebuilt program differs from the earlier one mostly in addresses: the same bytes at a small distance, with a
changed number every few instructions. So looking for equal strings is not enough. For every stretch of the
image, the *distance* to the base is found at which most bytes are equal. The byte-wise difference at that
distance is nearly all zeros, and compresses far better than the strings between the changes would.

Rules:

* chunks that are in the base unchanged cost sixteen bytes per run; zeros cost nothing;
* the rest is cut into parts of at most :data:`PART_BYTES`, each of which can be applied by itself;
* memory is bounded by :data:`MAX_SEEDS`, whatever the images; streams are compressed on all processors;
* data that hardly compresses is stored: unpacking it would cost a node more than fetching it;
* the same images always give the same file;
* :func:`saving` says whether a delta is worth publishing.
"""

from __future__ import annotations

import bisect
import hashlib
import lzma
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

from updog.image.delta import (
    ADD,
    COPY,
    LITERAL,
    MAX_ADDED_BYTES,
    STREAM_FILTER,
    CopiedSpan,
    Delta,
    DeltaStream,
    Seal,
    head_bytes,
    number,
    remaining,
    signed_number,
    subtracted,
)
from updog.image.index import BLOCK_BYTES, Index, Span, fingerprint
from updog.image.ordered_pool import ordered_results

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator

    Bytes = bytes | mmap.mmap
    """An image, in memory or mapped: a slice of it is bytes."""

PART_BYTES = 1 << 22  # raw bytes that one part rebuilds and a node repeats; enough parts for its processors
MAX_SEEDS = 1 << 22  # places of the base that are remembered; about 120 bytes of memory each
SEED_BYTES = 16  # shorter strings are equal by chance, longer ones miss short functions
SEED_STRIDE = 16  # between remembered places if they are few enough: compilers align to it
_STEP = 32  # bytes compared at once
_HORIZON = 128  # bytes by which two distances are compared
_GOOD = 112  # equal bytes of those: the distance is kept without looking for a better one
_MARGIN = 16  # more equal bytes than before, or a change of distance costs more than it saves
_BACK = 256  # bytes that a better distance may begin before the place where it was found
_GRAIN = 64  # bytes that become difference or literal together
_NEAR = 32  # equal bytes of those: the difference compresses better than the literal
_COPY_BYTES = 1 << 10  # shorter equal runs cost less as zeros in the differences
_DENSE_BLOCK_BYTES = 1 << 18  # of a stream, tested at once
_DENSE = 0.85  # share that a quick compressor leaves: above it, unpacking costs a node more than fetching
_STORED_BYTES = 1 << 16  # most bytes of one stored chunk of LZMA2
_STORED_CHUNK = struct.Struct(">BH")  # head of such a chunk: control, length - 1
_LZMA2_STORED, _LZMA2_END = 1, b"\0"  # controls: a stored chunk that needs nothing before it; the end
_PACKER = [{**STREAM_FILTER, "preset": 9 | lzma.PRESET_EXTREME}]


def make_delta(
    index: Index,
    image: Bytes,
    base: Bytes,
    write: Callable[[bytes, int], None],
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda _count: None,
) -> Delta:
    """Write a delta file that makes ``image`` out of ``base``.

    Args:
        index: of ``image``.
        image: raw.
        base: raw image of the release that the node runs.
        write: takes bytes and their offset in the file.
        workers: threads; None for one per processor.
        advance: called with the number of further bytes of the image that the delta covers.

    Returns:
        The head that was written: its ``head()`` is what the manifest has to sign.
    """
    places = _places(base)
    copies = tuple(_copies(index, image, base, places))
    matcher = _Matcher(image, base, _seeds(base, _gone(base, image)))
    groups = list(_groups(index, remaining(index, copies)))
    programs = (_program(index, group, matcher, _Shifts(index, copies)) for group in groups)
    offset = head_bytes(copies=len(copies), parts=len(groups))
    sizes = [sum(index.chunks[chunk_number].place.length for chunk_number in group) for group in groups]
    advance(index.image_size - sum(sizes))
    seals = []
    count = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        parts = ordered_results(pool, _sealed, programs, limit=count)
        for size, (seal, body) in zip(sizes, parts, strict=True):
            write(body, offset)
            offset += len(body)
            seals.append(seal)
            advance(size)
    identity = (len(base), hashlib.sha256(base).digest())
    delta = Delta.of(index, base=identity, copies=copies, seals=seals)
    write(delta.head(), 0)
    return delta


def saving(delta: Delta, index: Index) -> int:
    """Return how many bytes fewer than from the pack a node that has the base fetches; negative for more."""
    frames = (index.chunks[number].frame.length for part in delta.parts for number in part.chunks)
    return sum(frames) - delta.size


def _places(base: Bytes) -> dict[bytes, int]:
    """Return fingerprint → offset of the first block of the base that has it."""
    places: dict[bytes, int] = {}
    for offset in range(0, len(base), BLOCK_BYTES):
        places.setdefault(fingerprint(base[offset : offset + BLOCK_BYTES]), offset)
    return places


def _gone(base: Bytes, image: Bytes) -> list[int]:
    """Return the offsets of the base's blocks that the image no longer has."""
    kept = {fingerprint(image[offset : offset + BLOCK_BYTES]) for offset in range(0, len(image), BLOCK_BYTES)}
    offsets = range(0, len(base), BLOCK_BYTES)
    return [at for at in offsets if fingerprint(base[at : at + BLOCK_BYTES]) not in kept]


def _seeds(base: Bytes, gone: list[int]) -> dict[bytes, int]:
    """Return string → offset for short strings of the base, of the blocks that the image no longer has."""
    fewest = -(-len(gone) * BLOCK_BYTES // MAX_SEEDS)
    stride = max(SEED_STRIDE, -(-fewest // SEED_STRIDE) * SEED_STRIDE)
    seeds: dict[bytes, int] = {}
    for offset in gone:
        for at in range(offset, min(offset + BLOCK_BYTES, len(base) - SEED_BYTES + 1), stride):
            seeds.setdefault(base[at : at + SEED_BYTES], at)
    seeds.pop(bytes(SEED_BYTES), None)
    return seeds


def _copies(index: Index, image: Bytes, base: Bytes, places: dict[bytes, int]) -> Iterator[CopiedSpan]:
    """Yield the runs of chunks that are in the base unchanged."""
    run: CopiedSpan | None = None
    end = 0  # in the base, of the run
    for chunk_number, chunk in enumerate(index.chunks):
        raw = b"" if chunk.zeros else image[chunk.place.offset : chunk.place.end]
        if run and raw and base[end : end + len(raw)] == raw:
            run = CopiedSpan(first=run.first, count=run.count + 1, offset=run.offset)
            end += len(raw)
            continue
        if run:
            yield run
        at = places.get(fingerprint(raw[:BLOCK_BYTES]), len(base))
        there = raw and base[at : at + len(raw)] == raw
        run = CopiedSpan(first=chunk_number, count=1, offset=at) if there else None
        end = at + len(raw)
    if run:
        yield run


def _groups(index: Index, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Yield the chunks of each part."""
    group: list[int] = []
    size = 0
    for chunk_number in numbers:
        length = index.chunks[chunk_number].place.length
        if group and size + length > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(chunk_number)
        size += length
    if group:
        yield group


class _Shifts:
    """Where a stretch probably is in the base: behind the copy that is before it in the image."""

    def __init__(self, index: Index, copies: tuple[CopiedSpan, ...]) -> None:
        self._firsts = [copy.first for copy in copies]
        self._values = [copy.offset - index.chunks[copy.first].place.offset for copy in copies]

    def before(self, chunk_number: int) -> int:
        """Return the distance to the base of the last copy before a chunk; 0 if there is none."""
        found = bisect.bisect(self._firsts, chunk_number)
        return self._values[found - 1] if found else 0


class _Stretch(NamedTuple):
    """A stretch of the image, up to the start of the next, and its distance to the base."""

    start: int
    distance: int


class _Matcher:
    """Finds the distances at which most bytes of image and base are equal."""

    def __init__(self, image: Bytes, base: Bytes, seeds: dict[bytes, int]) -> None:
        self.image, self.base = image, base
        self._seeds = seeds

    def stretches(self, span: Span, distance: int) -> list[_Stretch]:
        """Return the stretches of ``span``; ``distance`` is what the first is tried with."""
        found = [_Stretch(span.offset, distance)]
        at = span.offset
        while at < span.end:
            distance = found[-1].distance
            if self._equal(at, distance) or self.agreement(at, distance, _HORIZON) >= _GOOD:
                at += _STEP
            elif better := self._better(at, min(at + _STEP, span.end), distance):
                found.append(self._with_best_border(better, found[-1]))
                at = better.start + SEED_BYTES
            else:
                at += _STEP
        return found

    def agreement(self, at: int, distance: int, length: int) -> int:
        """Return how many of ``length`` bytes from ``at`` on are equal in the base, -1 before its start."""
        source = at + distance
        if source < 0:
            return -1
        mine, other = self.image[at : at + length], self.base[source : source + length]
        common = min(len(mine), len(other))
        differing = int.from_bytes(mine[:common], "little") ^ int.from_bytes(other[:common], "little")
        return differing.to_bytes(common, "little").count(0)

    def _equal(self, at: int, distance: int) -> bool:
        source = at + distance
        return source >= 0 and self.image[at : at + _STEP] == self.base[source : source + _STEP]

    def _better(self, start: int, end: int, distance: int) -> _Stretch | None:
        """Return a place in ``start`` … ``end`` at which another distance is clearly better."""
        window = self.image[start : end + SEED_BYTES]
        for place in range(end - start):
            at = self._seeds.get(window[place : place + SEED_BYTES])
            if at is None or at - start - place == distance:
                continue
            candidate = _Stretch(start + place, at - start - place)
            gained = self.agreement(*candidate, _HORIZON)
            if gained > self.agreement(candidate.start, distance, _HORIZON) + _MARGIN:
                return candidate
        return None

    def _with_best_border(self, later: _Stretch, earlier: _Stretch) -> _Stretch:
        """Return ``later``, begun where most bytes of the two stretches are equal."""
        first = max(earlier.start, later.start - _BACK, -later.distance)
        best = gained = 0
        border = later.start
        for at in range(later.start - 1, first - 1, -1):
            byte = self.image[at : at + 1]
            old = at + earlier.distance
            gained += self.base[at + later.distance : at + later.distance + 1] == byte
            gained -= old >= 0 and self.base[old : old + 1] == byte
            if gained > best:
                best, border = gained, at
        return _Stretch(border, later.distance)


class _Program(NamedTuple):
    """The three streams of a part, not compressed yet, and how many chunks they make."""

    chunks: int
    streams: tuple[bytes, bytes, bytes]


def _program(index: Index, group: list[int], matcher: _Matcher, shifts: _Shifts) -> _Program:
    """Return what rebuilds a group of chunks."""
    writer = _Writer(matcher)
    for run in _runs(group):
        first, last = index.chunks[run[0]].place, index.chunks[run[-1]].place
        span = Span(offset=first.offset, length=last.end - first.offset)
        borders = [index.chunks[chunk_number].place.offset for chunk_number in run]
        stretches = matcher.stretches(span, shifts.before(run[0]))
        for start, end, distance in _split(stretches, borders, span.end):
            writer.stretch(start, end, distance)
    return _Program(len(group), writer.streams())


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Yield consecutive chunk numbers together."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        yield [chunk_number for _, chunk_number in run]


def _split(stretches: list[_Stretch], borders: list[int], end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, distance) of stretches, cut at the borders of chunks."""
    at = 0
    cuts = sorted({*borders, *(stretch.start for stretch in stretches), end})
    for start, stop in pairwise(cuts):
        while at + 1 < len(stretches) and stretches[at + 1].start <= start:
            at += 1
        yield start, stop, stretches[at].distance


class _Writer:
    """Writes the program of one part."""

    def __init__(self, matcher: _Matcher) -> None:
        self._matcher = matcher
        self._program, self._differences, self._literals = bytearray(), bytearray(), bytearray()
        self._distance = 0

    def streams(self) -> tuple[bytes, bytes, bytes]:
        """Return what was written."""
        return bytes(self._program), bytes(self._differences), bytes(self._literals)

    def stretch(self, start: int, end: int, distance: int) -> None:
        """Write a stretch of the image, each grain as what compresses best."""
        grains = [(self._kind(at, min(_GRAIN, end - at), distance), at) for at in range(start, end, _GRAIN)]
        for kind, run in groupby(_without_short_copies(grains), lambda grain: grain[0]):
            places = [at for _, at in run]
            self._instruction(kind, places[0], min(places[-1] + _GRAIN, end), distance)

    def _kind(self, at: int, length: int, distance: int) -> int:
        agreeing = self._matcher.agreement(at, distance, length)
        if agreeing == length:
            return COPY
        inside = at + distance + length <= len(self._matcher.base)
        return ADD if inside and agreeing * _GRAIN >= _NEAR * length else LITERAL

    def _instruction(self, kind: int, start: int, end: int, distance: int) -> None:
        self._program += number((end - start) * 4 + kind)
        if kind == LITERAL:
            self._literals += self._matcher.image[start:end]
            return
        self._program += signed_number(distance - self._distance)
        self._distance = distance
        if kind == ADD:
            self._differences += self._difference(start, end, distance)

    def _difference(self, start: int, end: int, distance: int) -> bytes:
        image, base = self._matcher.image, self._matcher.base
        return b"".join(
            subtracted(
                image[at : min(at + MAX_ADDED_BYTES, end)],
                base[at + distance : min(at + MAX_ADDED_BYTES, end) + distance],
            )
            for at in range(start, end, MAX_ADDED_BYTES)
        )


def _without_short_copies(grains: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the grains; copies too short for an instruction of their own become differences."""
    for kind, run in groupby(grains, lambda grain: grain[0]):
        places = [at for _, at in run]
        kept = ADD if kind == COPY and len(places) * _GRAIN < _COPY_BYTES else kind
        yield from ((kept, at) for at in places)


def _sealed(program: _Program) -> tuple[Seal, bytes]:
    """Return a part: its entry in the head, and its bytes."""
    packed = [_packed_stream(stream) for stream in program.streams]
    first, second, third = (
        DeltaStream(length=len(stream), packed=len(data))
        for stream, data in zip(program.streams, packed, strict=True)
    )
    body = b"".join(packed)
    return Seal(
        chunks=program.chunks, streams=(first, second, third), sha256=hashlib.sha256(body).digest()
    ), body


def _packed_stream(stream: bytes) -> bytes:
    """Return one LZMA2 stream, in which blocks that hardly compress (such as an initrd's) are stored."""
    starts = range(0, len(stream), _DENSE_BLOCK_BYTES)
    blocks = (stream[start : start + _DENSE_BLOCK_BYTES] for start in starts)
    runs = ((dense, b"".join(run)) for dense, run in groupby(blocks, _is_dense))
    return b"".join(_stored(run) if dense else _compressed(run) for dense, run in runs) + _LZMA2_END


def _is_dense(block: bytes) -> bool:
    return len(zlib.compress(block, 1)) > _DENSE * len(block)


def _compressed(data: bytes) -> bytes:
    """Return LZMA2 chunks that need nothing before them, without the end of a stream."""
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=_PACKER).removesuffix(_LZMA2_END)


def _stored(data: bytes) -> bytes:
    """Return LZMA2 chunks that are not compressed."""
    starts = range(0, len(data), _STORED_BYTES)
    chunks = (data[start : start + _STORED_BYTES] for start in starts)
    return b"".join(_STORED_CHUNK.pack(_LZMA2_STORED, len(chunk) - 1) + chunk for chunk in chunks)
