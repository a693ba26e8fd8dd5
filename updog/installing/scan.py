"""Step 2: look at both slots and the spool for what is on the node already. Fetches and writes nothing.

Rules it enforces:

* what the inactive slot has in place counts by its SHA-256, read from the medium;
* the running slot is read to find blocks only if there is no delta, and something is missing;
* pieces in the spool count only if they are what was signed, and can be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from signpost.errors import MediumError
from signpost.progress import Action
from updog.errors import DigestError, ImageError
from updog.image.plan import ChunkSource, SlotScan, recipes_by_delta, recipes_by_fingerprint
from updog.image.slot_scan import blocks_of, first_fingerprints, first_fingerprints_of_copies, in_place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from updog.image.index import Fingerprints
    from updog.image.plan import Recipe
    from updog.installing.context import InstallContext, SeekableImage
    from updog.installing.image_index import FetchedIndex


def scan_slots(context: InstallContext, image: SeekableImage, fetched: FetchedIndex) -> SlotScan:
    """Look for an image's chunks in both slots, and for its pieces in the spool. Raises MediumError."""
    index, delta = fetched.index, fetched.delta
    active = recipes_by_delta(index, delta) if delta else {}
    firsts = (
        first_fingerprints(index, fetched.fingerprints)
        if fetched.fingerprints
        else first_fingerprints_of_copies(active, image.running.region)
    )
    with context.reporter.phase(Action.LOOK_AT, image.placement.kind, index.image_size) as advance:
        there = in_place(index, firsts, image.region, advance=advance)
    if fetched.fingerprints and len(there) < len(index.chunks):
        active = _compare_running(context, image, fetched, fetched.fingerprints)
    local = there | active.keys()
    parts = delta.parts if delta else ()
    needed_parts = (number for number, part in enumerate(parts) if not local.issuperset(part.chunks))
    needed_frames = (n for n, chunk in enumerate(index.chunks) if n not in local and not chunk.zeros)
    return SlotScan(
        in_place=there,
        active=active,
        spooled_parts=_spooled(context, fetched, ChunkSource.DELTA, needed_parts),
        spooled_frames=_spooled(context, fetched, ChunkSource.PACK, needed_frames),
    )


def _compare_running(
    context: InstallContext, image: SeekableImage, fetched: FetchedIndex, fingerprints: Fingerprints
) -> dict[int, Recipe]:
    """Find the chunks that blocks of the running slot make."""
    running = image.running
    size = running.content.size if running.content else running.region.size
    with context.reporter.phase(Action.COMPARE, f"running {image.placement.kind}", size) as advance:
        blocks = blocks_of(running.region, size, advance=advance)
        return recipes_by_fingerprint(fetched.index, fingerprints, blocks)


def _spooled(
    context: InstallContext, fetched: FetchedIndex, source: ChunkSource, numbers: Iterable[int]
) -> frozenset[int]:
    """Return which of some pieces lie in the spool and are what was signed."""
    file = fetched.file_of(source)
    if not context.spool.has_pieces(file):
        return frozenset()
    found = set()
    for number in numbers:
        try:
            piece = context.spool.piece(file, fetched.place_of(source, number))
            fetched.check_piece(source, number, piece)
        except (DigestError, ImageError, MediumError):
            continue
        found.add(number)
    return frozenset(found)
