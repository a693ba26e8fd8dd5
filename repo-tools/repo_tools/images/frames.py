"""Packs: an image as an ordinary many-frame ``.zst`` file with its chunk index and fingerprints.

Rules:

* ``zstd -d`` of a pack gives the image: one frame per chunk, nothing else;
* chunks end where an earlier release starts or stops having the same blocks, so that a node fetches little
  that it has already; they have at most :data:`CHUNK_BYTES`, and so few are short that the index stays small;
* runs of zeros are chunks of their own, which no node ever fetches;
* all processors work, memory is bounded by :data:`BATCH_BYTES` times :data:`IN_FLIGHT`, and the same bytes
  with the same options always give the same file.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from updog.image.index import (
    BLOCK_BYTES,
    BLOCKS_PER_CHUNK,
    FINGERPRINT_BYTES,
    MAX_ZEROS_BYTES,
    Fingerprints,
    Index,
    Piece,
    fingerprint,
)
from updog.image.ordered_pool import ordered_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK_BYTES = 1 << 17  # measured: smaller ones compress worse, larger ones cost more traffic (docs/adr/0009)
BATCH_BYTES = 1 << 20  # one read, and one task's work: much more than handing it to a thread costs
_BLOCKS_PER_CHUNK = CHUNK_BYTES // BLOCK_BYTES
_BLOCKS_PER_ZEROS = MAX_ZEROS_BYTES // BLOCK_BYTES
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_ZERO_MARK = fingerprint(_ZERO_BLOCK)
ZERO_RUN_BLOCKS = 8  # a shorter run costs less inside a chunk than as a chunk of its own
IN_FLIGHT = 16  # tasks: enough for eight processors, and 16 MiB

Known = frozenset[bytes]
"""Fingerprints of the blocks of one earlier release."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What was written: ``index`` and ``fingerprints`` describe the pack that went to the sink."""

    index: Index
    fingerprints: Fingerprints


def known_blocks(fingerprints: Fingerprints) -> Known:
    """Return the blocks of an earlier release as :func:`pack` wants them."""
    marks = fingerprints.blocks
    return frozenset(
        marks[start : start + FINGERPRINT_BYTES] for start in range(0, len(marks), FINGERPRINT_BYTES)
    )


def pack(
    blocks: Iterable[bytes],
    write: Callable[[bytes], None],
    *,
    level: int,
    known: tuple[Known, ...] = (),
    workers: int | None = None,
) -> Packed:
    """Compress an image chunk by chunk.

    Args:
        blocks: the raw image, cut anywhere; errors of reading it are passed on.
        write: takes the pack from front to back.
        level: of zstd.
        known: the blocks of earlier releases; chunks are cut along them.
        workers: threads; None for one per processor.
    """
    cutter = _Cutter(known)
    digest, pieces = hashlib.sha256(), list[Piece]()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        coder = _Coder(level)
        batches = ordered_results(pool, _blocks_of, _batches(blocks, digest.update), limit=IN_FLIGHT)
        for frames in ordered_results(pool, coder.frames, cutter.cut(batches), limit=IN_FLIGHT):
            for frame, piece in frames:
                write(frame)
                pieces.append(piece)
    image_sha256 = digest.digest()
    return Packed(
        index=Index.of(pieces, image_sha256=image_sha256),
        fingerprints=Fingerprints(image_sha256=image_sha256, blocks=b"".join(cutter.fingerprints)),
    )


class _Block(NamedTuple):
    """A block of the image, its fingerprint, and whether it is nothing but zeros."""

    data: memoryview
    mark: bytes
    zeros: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cut:
    """What becomes one chunk; ``data`` is None for zeros, which are counted, not held."""

    length: int
    data: bytes | None


def _batches(blocks: Iterable[bytes], hash_block: Callable[[bytes], None]) -> Iterator[bytes]:
    """Yield the image in batches of equal size, the last one perhaps shorter."""
    held = bytearray()
    for block in blocks:
        hash_block(block)
        if len(block) == BATCH_BYTES and not held:
            yield block  # the usual case, without a copy
            continue
        held += block
        while len(held) >= BATCH_BYTES:
            yield bytes(memoryview(held)[:BATCH_BYTES])
            del held[:BATCH_BYTES]
    if held:
        yield bytes(held)


def _blocks_of(batch: bytes) -> list[_Block]:
    view = memoryview(batch)
    return [_block(view[start : start + BLOCK_BYTES]) for start in range(0, len(view), BLOCK_BYTES)]


def _block(data: memoryview) -> _Block:
    if data == _ZERO_BLOCK:
        return _Block(data, _ZERO_MARK, zeros=True)
    return _Block(data, fingerprint(data), zeros=not any(data) if len(data) < BLOCK_BYTES else False)


class _Cutter:
    """Decides, block by block, where chunks end."""

    def __init__(self, known: tuple[Known, ...]) -> None:
        self._known = known
        self._held: list[_Block] = []
        self._zeros = 0  # how many of the held blocks, counted from the last one, are zeros
        self._kind: tuple[bool, ...] | None = None  # of the held blocks; None while all are zeros
        self._seen = self._chunks = 0
        self.fingerprints: list[bytes] = []

    def cut(self, batches: Iterable[list[_Block]]) -> Iterator[list[_Cut]]:
        """Yield the chunks that end in each batch, then the last one."""
        for batch in batches:
            yield [cut for block in batch for cut in self._add(block)]
        if self._held:
            yield [self._end(len(self._held))]

    def _add(self, block: _Block) -> Iterator[_Cut]:
        """Add one block; yield the chunk that ends before it, if one does."""
        kind = None if block.zeros else tuple(block.mark in blocks for blocks in self._known)
        if self._held and self._ends_before(kind):
            yield self._end(len(self._held))
        self._held.append(block)
        self._seen += 1
        self._zeros = self._zeros + 1 if block.zeros else 0
        self._kind = self._kind if kind is None else kind
        if self._zeros == ZERO_RUN_BLOCKS < len(self._held) and self._may_cut():
            yield self._end(len(self._held) - self._zeros)

    def _ends_before(self, kind: tuple[bool, ...] | None) -> bool:
        """Return whether a block of this kind begins a new chunk. Zeros go with any kind."""
        only_zeros = self._zeros == len(self._held)
        if len(self._held) >= (_BLOCKS_PER_ZEROS if only_zeros and kind is None else _BLOCKS_PER_CHUNK):
            return True
        if kind is None or not self._may_cut():
            return False
        return self._zeros >= ZERO_RUN_BLOCKS or (self._kind is not None and kind != self._kind)

    def _may_cut(self) -> bool:
        """Return whether chunks are long enough on average for one more cut that is not needed."""
        return self._chunks < self._seen // BLOCKS_PER_CHUNK

    def _end(self, count: int) -> _Cut:
        """Return the first ``count`` held blocks as a chunk, and forget them."""
        blocks, self._held = self._held[:count], self._held[count:]
        self._chunks += 1
        self._kind, self._zeros = None, len(self._held)
        length = sum(len(block.data) for block in blocks)
        if all(block.zeros for block in blocks):
            return _Cut(length=length, data=None)
        self.fingerprints.extend(block.mark for block in blocks)
        return _Cut(length=length, data=b"".join(block.data for block in blocks))


class _Coder(threading.local):
    """Compresses; each thread has a context of its own."""

    def __init__(self, level: int) -> None:
        self._context = zstandard.ZstdCompressor(level=level, write_checksum=True)

    def frames(self, cuts: list[_Cut]) -> list[tuple[bytes, Piece]]:
        """Return the frame and the description of each chunk."""
        return [self._frame(cut) for cut in cuts]

    def _frame(self, cut: _Cut) -> tuple[bytes, Piece]:
        data = bytes(cut.length) if cut.data is None else cut.data
        frame = self._context.compress(data)
        piece = Piece(
            length=len(data),
            packed=len(frame),
            sha256=hashlib.sha256(data).digest(),
            zeros=cut.data is None,
        )
        return frame, piece
