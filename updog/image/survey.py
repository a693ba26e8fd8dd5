"""What a node has already: chunks in their place in the inactive slot, blocks of the running one.

Rules it enforces:

* what is found in place was read from the medium, after its cached copy was dropped, and counts with its
  SHA-256: it is proven, whoever wrote it, and whatever a journal might say;
* a chunk whose first block has another fingerprint is not read any further;
* the running slot is never written, and what it is said to hold is only a promise: whoever copies from it
  hashes.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from updog.image.index import BLOCK_BYTES, FINGERPRINT_BYTES, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from updog.image.index import Chunk, Fingerprints, Index
    from updog.image.install import Region
    from updog.image.plan import Recipe

    Advance = Callable[[int], None]
    """Told about every stretch that was looked at, in bytes."""

_BATCH = 64  # chunks a thread looks at in one go: long beside the cost of handing them over
_STRETCH_BYTES = 1 << 20  # of the running slot, read at once
_ZERO_BLOCK = bytes(BLOCK_BYTES)


def in_place(
    index: Index, firsts: Mapping[int, bytes], region: Region, *, advance: Advance
) -> frozenset[int]:
    """Return the numbers of the chunks that lie in their place already.

    Args:
        index: of the wanted image.
        firsts: chunk number → fingerprint of its first block, as far as known: it spares most of the reading.
        region: the inactive slot's partition.
        advance: told how many bytes of the image were looked at.

    Raises:
        MediumError: the medium failed.
    """
    region.settle()

    def look(numbers: range) -> list[int]:
        there = [n for n in numbers if _is_there(index.chunks[n], firsts.get(n), region)]
        advance(index.chunks[numbers[-1]].place.end - index.chunks[numbers[0]].place.offset)
        return there

    count = len(index.chunks)
    batches = (range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return frozenset(number for there in pool.map(look, batches) for number in there)


def published_firsts(index: Index, marks: Fingerprints) -> dict[int, bytes]:
    """Return chunk number → fingerprint of its first block, of the data chunks."""
    return {number: blocks[:FINGERPRINT_BYTES] for number, blocks in marks.by_chunk(index)}


def copied_firsts(copied: Mapping[int, Recipe], running: Region) -> dict[int, bytes]:
    """Return the same of the chunks that the running slot is said to have, from its own blocks.

    A block that rotted there costs a look at the chunk in the inactive slot, which is then fetched if the
    running slot turns out not to have it. Raises MediumError.
    """
    return {
        number: fingerprint(running.read(min(BLOCK_BYTES, spans[0].length), spans[0].offset))
        for number, spans in copied.items()
    }


def _is_there(chunk: Chunk, first: bytes | None, region: Region) -> bool:
    """Tell whether a chunk is in its place, reading no more than it takes to know."""
    place = chunk.place
    if place.end > region.size:
        return False
    block = region.read(min(BLOCK_BYTES, place.length), place.offset)
    if chunk.zeros:
        promising = block == _ZERO_BLOCK[: len(block)]
    else:
        promising = first is None or fingerprint(block) == first
    return promising and _sha256(region, place.offset, place.length) == chunk.sha256


def _sha256(region: Region, offset: int, length: int) -> bytes:
    digest = hashlib.sha256()
    for start in range(offset, offset + length, _STRETCH_BYTES):
        digest.update(region.read(min(_STRETCH_BYTES, offset + length - start), start))
    return digest.digest()


def blocks_of(region: Region, size: int, *, advance: Advance) -> Iterator[tuple[bytes, int]]:
    """Yield (fingerprint, offset) of every block of an image that lies in a region.

    Args:
        region: the running slot's partition.
        size: of the image, bytes.
        advance: told how many bytes were read.

    Raises:
        MediumError: the medium failed.
    """
    for start in range(0, size, _STRETCH_BYTES):
        data = memoryview(region.read(min(_STRETCH_BYTES, size - start), start))
        for at in range(0, len(data), BLOCK_BYTES):
            yield fingerprint(data[at : at + BLOCK_BYTES]), start + at
        advance(len(data))
