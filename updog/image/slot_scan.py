"""What the slots have already: chunks in their place in the inactive slot, blocks of the running one.

Rules it enforces:

* what is found in place was read from the medium, after its cached copy was dropped, and counts with its
  SHA-256: it is proven, whichever program wrote it, and whatever a journal states;
* a chunk whose first block has another fingerprint is not read any further;
* what a slot does not give (a decayed sector) is not there: it is fetched and written, and the disk renews a
  sector when it is written. Whether it did, the proof shows;
* the running slot is never written, and what it is expected to hold is not proven: it is hashed when it is
  copied.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from updog.image.index import BLOCK_BYTES, FINGERPRINT_BYTES, fingerprint
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from updog.image.index import Chunk, Fingerprints, Index
    from updog.image.plan import Recipe
    from updog.image.region import Advance, Region

log = logging.getLogger(__name__)

_BATCH_CHUNKS = 64  # that a thread looks at in one go: long beside the cost of handing them over
_ZERO_BLOCK = bytes(BLOCK_BYTES)


def in_place(
    index: Index, firsts: Mapping[int, bytes], region: Region, *, advance: Advance
) -> frozenset[int]:
    """Return the numbers of the chunks that lie in their place already.

    Args:
        index: of the wanted image.
        firsts: chunk number → fingerprint of its first block, as far as known: it avoids most of the reading.
        region: the inactive slot's partition.
        advance: called with the bytes of the image that were looked at, from several threads.

    Raises:
        MediumError: what was written before could not be flushed.
    """
    region.settle()

    def look(numbers: range) -> list[int]:
        there = [n for n in numbers if _is_there(index.chunks[n], firsts.get(n), region)]
        advance(index.chunks[numbers[-1]].place.end - index.chunks[numbers[0]].place.offset)
        return there

    count = len(index.chunks)
    batches = (range(start, min(start + _BATCH_CHUNKS, count)) for start in range(0, count, _BATCH_CHUNKS))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return frozenset(number for there in pool.map(look, batches) for number in there)


def _is_there(chunk: Chunk, first: bytes | None, region: Region) -> bool:
    """Tell whether a chunk is in its place, reading no more than it takes to know."""
    place = chunk.place
    if place.end > region.size:
        return False
    try:
        block = region.read(min(BLOCK_BYTES, place.length), place.offset)
        if chunk.zeros:
            differs = block != _ZERO_BLOCK[: len(block)]
        else:
            differs = first is not None and fingerprint(block) != first
        return not differs and region.sha256(place.length, place.offset) == chunk.sha256
    except MediumError as error:
        log.info("not in place: %s", error)
        return False


def first_fingerprints(index: Index, fingerprints: Fingerprints) -> dict[int, bytes]:
    """Return chunk number → fingerprint of its first block, of the data chunks, as published."""
    return {number: blocks[:FINGERPRINT_BYTES] for number, blocks in fingerprints.by_chunk(index)}


def first_fingerprints_of_copies(copies: Mapping[int, Recipe], running: Region) -> dict[int, bytes]:
    """Return the same of the chunks that the running slot is expected to have, from its own blocks.

    A block that decayed there costs a look at the chunk in the inactive slot; the chunk is fetched if the
    running slot turns out not to have it.
    """
    firsts = {}
    for number, spans in copies.items():
        with suppress(MediumError):  # the whole chunk is looked at then
            firsts[number] = fingerprint(running.read(min(BLOCK_BYTES, spans[0].length), spans[0].offset))
    return firsts


def blocks_of(region: Region, size: int, *, advance: Advance) -> Iterator[tuple[bytes, int]]:
    """Yield (fingerprint, offset) of every block of an image that lies in a region.

    Args:
        region: the running slot's partition.
        size: of the image, bytes.
        advance: called with the number of bytes that were looked at.
    """
    for start in range(0, size, IO_BYTES):
        length = min(IO_BYTES, size - start)
        try:
            data = memoryview(region.read(length, start))
        except MediumError as error:
            log.info("not used: %s", error)
            advance(length)
            continue
        for at in range(0, len(data), BLOCK_BYTES):
            yield fingerprint(data[at : at + BLOCK_BYTES]), start + at
        advance(len(data))
