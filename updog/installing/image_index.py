"""Step 1: fetch what shows which bytes of an image are missing: index, and delta head or fingerprints.

Rules it enforces:

* the index must be that of the image that the manifest describes, and of the pack that is signed;
* a delta is verified by its head, whose size and SHA-256 are signed, and used if its base is what runs;
* nothing longer than the format allows for this image is fetched;
* what is kept from an earlier run is verified again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import MediumError
from updog.errors import DigestError, IndexFormatError, PreflightError
from updog.image.delta import Delta, check_body, max_head_bytes
from updog.image.frames import unpacked_chunk
from updog.image.index import (
    Fingerprints,
    Index,
    Span,
    max_fingerprints_bytes,
    max_index_bytes,
)
from updog.image.plan import ChunkSource

if TYPE_CHECKING:
    from updog.installing.context import InstallContext, SeekableImage
    from updog.trust import Target
    from updog.update_metadata.packs import DeltaFile


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedIndex:
    """What was fetched to look at the slots and to decide.

    A *piece* is what can be verified by itself: a part of the delta or a frame of the pack, by its number.

    Attributes:
        index: of the image. pack: the file with its frames.
        delta: head of a delta from what runs, if there is one to use. delta_file: the file with its parts.
        fingerprints: of the image, if there is no delta.
        wire: bytes that all this took from the network now.
        spool_files: names of the spool's files for it, and for pieces.
    """

    index: Index
    pack: Target
    wire: int
    spool_files: frozenset[str]
    delta: Delta | None = None
    delta_file: Target | None = None
    fingerprints: Fingerprints | None = None

    def file_of(self, source: ChunkSource) -> Target:
        """Return the file that has the pieces of a source."""
        return self.delta_file if self.delta_file and source is ChunkSource.DELTA else self.pack

    def place_of(self, source: ChunkSource, number: int) -> Span:
        """Return where in its file a piece is."""
        if self.delta and source is ChunkSource.DELTA:
            return self.delta.parts[number].place
        return self.index.chunks[number].frame

    def check_piece(self, source: ChunkSource, number: int, piece: bytes) -> None:
        """Raise DigestError or ImageError unless the bytes are the piece."""
        if self.delta and source is ChunkSource.DELTA:
            check_body(self.delta.parts[number], piece)
        else:
            unpacked_chunk(piece, self.index.chunks[number])


class _Verified(NamedTuple):
    """Verified bytes of a target, and how many of them were fetched just now."""

    target: Target
    data: bytes
    wire: int


def fetch_index(context: InstallContext, image: SeekableImage) -> FetchedIndex:
    """Fetch what shows which bytes of an image are missing, and keep it for the next run.

    Raises:
        UnreachableError: it could not be fetched. DigestError: it is not what was signed.
        IndexFormatError: it is not well formed, or not of this image. PreflightError: it does not fit.
    """
    limit = max_index_bytes(image.placement.partition.size)
    index_file = _small_target(context, image.pack.index, limit)
    index = Index.from_bytes(index_file.data)
    _check_index(index, image)
    spool, pack = context.spool, image.placement.target
    wire, files = index_file.wire, {index_file.target.sha256, spool.pieces_name(pack)}
    if image.running.delta is not None:
        head = _delta_head(context, image.running.delta, index)
        wire += head.wire
        delta = Delta.from_bytes(head.data, index)
        if delta.size != head.target.length:
            raise IndexFormatError(
                f"{head.target.name} has {head.target.length} bytes, its head says {delta.size}"
            )
        content = image.running.content
        if content is None or (content.size, content.sha256) == (delta.base_size, delta.base_sha256.hex()):
            return FetchedIndex(
                index=index,
                pack=pack,
                wire=wire,
                spool_files=frozenset({*files, spool.pieces_name(head.target)}),
                delta=delta,
                delta_file=head.target,
            )
    fingerprints = _small_target(context, image.pack.fingerprints, max_fingerprints_bytes(index))
    return FetchedIndex(
        index=index,
        pack=pack,
        wire=wire + fingerprints.wire,
        spool_files=frozenset({*files, fingerprints.target.sha256}),
        fingerprints=Fingerprints.from_bytes(fingerprints.data, index),
    )


def _check_index(index: Index, image: SeekableImage) -> None:
    """Compare the index with what else is signed. Raises IndexFormatError or PreflightError."""
    placement, name = image.placement, image.pack.index
    target, content = placement.target, placement.content
    if index.image_size > placement.partition.size:
        raise PreflightError(f"the {placement.kind} image unpacks to more than its partition holds")
    if index.pack_size != target.length:
        raise IndexFormatError(f"{name} is not the index of {target.name}, which has another size")
    if content and (index.image_size, index.image_sha256.hex()) != (content.size, content.sha256):
        raise IndexFormatError(f"{name} is the index of another image than the manifest's")


def _small_target(context: InstallContext, name: str, limit: int) -> _Verified:
    """Return a target of at most ``limit`` bytes, kept or fetched. Raises IndexFormatError."""
    target = context.repository.target(name)
    if target.length > limit:
        raise IndexFormatError(f"{target.name} is signed as {target.length} bytes, {limit} are possible")
    if kept := context.spool.small(target):
        return _Verified(target, kept, 0)
    data = b"".join(context.repository.verified(target))
    with suppress(MediumError):  # keeping it only saves the next run fetching it
        context.spool.keep_small(target, data)
    return _Verified(target, data, len(data))


def _delta_head(context: InstallContext, file: DeltaFile, index: Index) -> _Verified:
    """Return a delta's head, kept or fetched. Raises DigestError or IndexFormatError."""
    repository, spool = context.repository, context.spool
    target = repository.target(file.target)
    if file.head_size > min(target.length, max_head_bytes(index)):
        raise IndexFormatError(f"{file.target} cannot have a head of {file.head_size} bytes")
    span = Span(offset=0, length=file.head_size)
    kept = spool.piece(target, span) if spool.has_pieces(target) else b""
    if hashlib.sha256(kept).hexdigest() == file.head_sha256:
        return _Verified(target, kept, 0)
    fetched = b"".join(block for _, blocks in repository.ranges(target, [span]) for block in blocks)
    if hashlib.sha256(fetched).hexdigest() != file.head_sha256:
        repository.demote_mirror(target)
        raise DigestError(f"the head of {file.target} is not what was signed")
    with suppress(MediumError):  # as above
        spool.keep_piece(target, 0, fetched)
    return _Verified(target, fetched, len(fetched))
