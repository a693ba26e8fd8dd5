"""Prove chunks while others are still being written: flush a window of them, then read it back and hash it.

One thread flushes what was written and drops the kernel's copy; others read meanwhile. Rules it enforces:

* a chunk counts as written only after the medium has returned it with its signed SHA-256;
* it is read after the flush and after the kernel's copy was dropped, so that the medium itself is asked;
* the first error ends all of it, and comes out in the thread that reports what was written.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from updog.errors import ReadBackError
from updog.image.index import runs
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from updog.image.index import Chunk, Index
    from updog.image.region import Advance, Region

WINDOW_BYTES = 32 << 20  # written before it is flushed and read back


class ReadBack:
    """Proves the chunks that are reported to it; leaving its ``with`` block waits for the last of them.

    Args:
        index: of the image. region: where it was written.
        proof: called with the number of bytes that were read back and found right, from several threads.

    Raises:
        ReadBackError: (also at the end of the block) the medium returns something else than was written.
        MediumError: it failed.
    """

    def __init__(self, index: Index, region: Region, proof: Advance) -> None:
        self._chunks, self._region, self._proof = index.chunks, region, proof
        self._window: list[int] = []
        self._window_bytes = 0
        self._error: BaseException | None = None
        self._flushing = ThreadPoolExecutor(1)
        self._reading = ThreadPoolExecutor(os.cpu_count() or 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exception: object) -> None:
        if kind is None:
            if self._window:
                self._close_window()
        else:
            self._error = self._error or InterruptedError()  # what waits is not read any more
        self._flushing.shutdown()
        self._reading.shutdown()
        if kind is None and self._error is not None:
            raise self._error

    def written(self, numbers: Iterable[int]) -> None:
        """Take note that these chunks were written. Raises what proving earlier ones raised."""
        if self._error is not None:
            raise self._error
        for number in numbers:
            self._window.append(number)
            self._window_bytes += self._chunks[number].place.length
        if self._window_bytes >= WINDOW_BYTES:
            self._close_window()

    def _close_window(self) -> None:
        self._flushing.submit(self._unless_failed, self._flush, sorted(self._window))
        self._window, self._window_bytes = [], 0

    def _unless_failed(self, step: Callable[[list[int]], None], numbers: list[int]) -> None:
        """Take a step in a thread of a pool, and keep what it raises for the thread that reports."""
        try:
            if self._error is None:
                step(numbers)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that reports
            self._error = self._error or error

    def _flush(self, numbers: list[int]) -> None:
        self._region.settle()
        for run in runs(numbers, self._chunks, limit=IO_BYTES):
            self._reading.submit(self._unless_failed, self._compare, run)

    def _compare(self, run: list[int]) -> None:
        """Read neighbouring chunks and compare each with its SHA-256. Raises ReadBackError."""
        chunks = [self._chunks[number] for number in run]
        start, length = chunks[0].place.offset, chunks[-1].place.end - chunks[0].place.offset
        for chunk in _differing(chunks, self._region.blocks(length, start)):
            raise ReadBackError(
                f"{self._region.name} does not read back as it was written, from {chunk.place.offset}"
            )
        self._proof(length)


def _differing(chunks: Iterable[Chunk], blocks: Iterator[bytes]) -> Iterator[Chunk]:
    """Yield which neighbouring chunks are not what ``blocks``, cut anywhere, have in their places."""
    data = memoryview(b"")
    for chunk in chunks:
        digest, missing = hashlib.sha256(), chunk.place.length
        while missing and (data := data or memoryview(next(blocks, b""))):
            digest.update(data[:missing])
            missing, data = missing - len(data[:missing]), data[missing:]
        if missing or digest.digest() != chunk.sha256:
            yield chunk
