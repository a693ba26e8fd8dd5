"""What has to be fetched to know which bytes of an image are missing: index, and delta head or fingerprints.

Rules it enforces:

* the index must be that of the image that the manifest describes, and of the pack that is signed;
* a delta is believed by its head, of which size and SHA-256 are signed, and used if its base is what runs;
* nothing longer than the format allows for this image is fetched;
* what is kept from an earlier run is verified again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from updog.errors import DigestError, IndexFormatError, PreflightError
from updog.image.delta import Delta, most_head_bytes
from updog.image.index import (
    Fingerprints,
    Index,
    Span,
    most_fingerprints_bytes,
    most_index_bytes,
)

if TYPE_CHECKING:
    from updog.image.install import Region
    from updog.installing.means import Means
    from updog.preflight import Placement
    from updog.trust import Target
    from updog.update_metadata.content import Content
    from updog.update_metadata.packs import DeltaFile, Pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What the running slot has of the same role.

    Attributes:
        region: its partition. content: the image in it, as far as that is known.
        delta: from its version to the wanted one, where one is published.
    """

    region: Region
    content: Content | None
    delta: DeltaFile | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaHead:
    """A delta from what runs: its target and its head."""

    target: Target
    delta: Delta


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a plan is made from.

    Attributes:
        index: of the image. marks: its fingerprints, fetched only where there is no delta to go by.
        head: of the delta from what runs, if there is one.
        fetched: bytes that all this took now. files: names of the spool's files it is kept in.
    """

    index: Index
    marks: Fingerprints | None
    head: DeltaHead | None
    fetched: int
    files: frozenset[str]


class Describer:
    """Fetches what tells which bytes of an image are missing, and keeps it for the next run.

    Args:
        means: what the image is installed with.
    """

    def __init__(self, means: Means) -> None:
        self._repository, self._spool = means.repository, means.spool
        self._fetched = 0

    def describe(self, placement: Placement, pack: Pack, running: Running) -> Description:
        """Return the description of an image.

        Raises:
            UnreachableError: it could not be had. DigestError: it is not what was signed.
            IndexFormatError: it is not well formed, or not of this image. PreflightError: it does not fit.
        """
        self._fetched = 0
        target = self._repository.target(pack.index)
        index = Index.from_bytes(self._whole(target, most_index_bytes(placement.partition.size)))
        _check(index, placement, pack)
        head = self._head(index, running.delta, running.content) if running.delta else None
        if head is not None:
            files = frozenset({target.sha256})
            return Description(index=index, marks=None, head=head, fetched=self._fetched, files=files)
        marks_target = self._repository.target(pack.fingerprints)
        data = self._whole(marks_target, most_fingerprints_bytes(index))
        marks = Fingerprints.from_bytes(data, index)
        files = frozenset({target.sha256, marks_target.sha256})
        return Description(index=index, marks=marks, head=None, fetched=self._fetched, files=files)

    def _head(self, index: Index, file: DeltaFile, content: Content | None) -> DeltaHead | None:
        """Return the head of a delta if its base is ``content``, as far as that is known."""
        target = self._repository.target(file.target)
        if file.head_size > min(target.length, most_head_bytes(index)):
            raise IndexFormatError(f"{file.target} cannot have a head of {file.head_size} bytes")
        delta = Delta.from_bytes(self._head_bytes(target, file), index)
        if delta.size != target.length:
            raise IndexFormatError(f"{file.target} has {target.length} bytes, its head tells of {delta.size}")
        base = (delta.base_size, delta.base_sha256.hex())
        if content is not None and (content.size, content.sha256) != base:
            return None
        return DeltaHead(target=target, delta=delta)

    def _head_bytes(self, target: Target, file: DeltaFile) -> bytes:
        """Return the verified bytes of a delta's head, kept or fetched."""
        span = Span(offset=0, length=file.head_size)
        if self._spool.has_pieces(target):
            head = self._spool.reader(target)(span)
            if _sha256(head) == file.head_sha256:
                return head
        ranges = self._repository.ranges(target, [span])
        head = b"".join(block for _, blocks in ranges for block in blocks)
        self._fetched += len(head)
        if _sha256(head) != file.head_sha256:
            self._repository.blame(target)
            raise DigestError(f"the head of {file.target} is not what was signed")
        with suppress(MediumError):  # keeping it only spares the next run the way
            self._spool.keep(target, 0, head)
        return head

    def _whole(self, target: Target, most: int) -> bytes:
        """Return a verified target of at most ``most`` bytes, kept or fetched. Raises IndexFormatError."""
        if target.length > most:
            raise IndexFormatError(f"{target.name} is signed as {target.length} bytes, {most} are possible")
        if kept := self._spool.whole(target):
            return kept
        data = b"".join(self._repository.verified(target))
        self._fetched += len(data)
        with suppress(MediumError):  # the same
            self._spool.put(target, data)
        return data


def _check(index: Index, placement: Placement, pack: Pack) -> None:
    """Compare the index with what else is signed. Raises IndexFormatError."""
    target, content = placement.target, placement.content
    if index.image_size > placement.partition.size:
        raise PreflightError(f"the {placement.role} image unpacks to more than its partition holds")
    if index.pack_size != target.length:
        raise IndexFormatError(f"{pack.index} is not the index of {target.name}, which has another size")
    if content and (index.image_size, index.image_sha256.hex()) != (content.size, content.sha256):
        raise IndexFormatError(f"{pack.index} is the index of another image than the manifest's")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
