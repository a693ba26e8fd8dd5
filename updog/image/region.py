"""Write a raw image to its partition and prove that it is there: flush, drop the cache, read back.

Rules it enforces:

* nothing is ever written outside the region that was given;
* bytes go to the medium in order, in bounded blocks; memory does not grow with the image;
* the image counts as written only after the medium itself has returned the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from updog.errors import DigestError, ImageError, ReadBackError
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signpost.app import PartitionView
    from signpost.medium import Medium

    Advance = Callable[[int], None]
    """Called with the number of bytes done, block by block; from several threads where that is stated."""


IO_BYTES = 1 << 20  # of one write to the medium, or one read; larger ones are not measurably faster


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A partition as a stretch of an open disk: ``offset`` and ``size`` in bytes."""

    medium: Medium
    descriptor: int
    offset: int
    size: int
    name: str

    @classmethod
    def of(cls, medium: Medium, descriptor: int, partition: PartitionView) -> Self:
        """Return a partition of the open disk."""
        return cls(
            medium=medium,
            descriptor=descriptor,
            offset=partition.offset,
            size=partition.size,
            name=partition.label,
        )

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Write at ``position`` inside the region.

        Raises:
            ImageError: the data would end outside it; nothing of it is written.
            MediumError: the medium failed.
        """
        if position + len(data) > self.size:
            raise ImageError(f"the image for {self.name} is larger than its {self.size} bytes")
        self.medium.write_at(self.descriptor, data, self.offset + position)

    def read(self, length: int, position: int) -> bytes:
        """Return ``length`` bytes at ``position``, fewer only at the end. Raises MediumError."""
        length = max(0, min(length, self.size - position))
        return self.medium.read_at(self.descriptor, length, self.offset + position) if length else b""

    def blocks(self, length: int, position: int = 0) -> Iterator[bytes]:
        """Yield ``length`` bytes at ``position`` in bounded blocks, fewer only at the end.

        Raises:
            MediumError: the medium failed.
        """
        end = position + length
        return (self.read(min(IO_BYTES, end - at), at) for at in range(position, end, IO_BYTES))

    def sha256(self, length: int, position: int = 0) -> bytes:
        """Return the SHA-256 of ``length`` bytes at ``position`` (fewer at the end). Raises MediumError."""
        digest = hashlib.sha256()
        for block in self.blocks(length, position):
            digest.update(block)
        return digest.digest()

    def content(self, size: int, *, advance: Advance) -> Content:
        """Read the first ``size`` bytes and return what they are; ``advance`` is called for each block.

        Raises:
            MediumError: the medium failed.
        """
        digest, seen = hashlib.sha256(), 0
        for block in self.blocks(size):
            digest.update(block)
            seen += len(block)
            advance(len(block))
        return Content(size=seen, sha256=digest.hexdigest())

    def settle(self) -> None:
        """Flush what was written and drop the kernel's copy, so that reading asks the medium."""
        self.medium.flush(self.descriptor)
        self.medium.drop_cache(self.descriptor, self.offset, self.size)


def write_image(
    raw: Iterator[bytes], region: Region, *, expected: Content | None, advance: Advance
) -> Content:
    """Write the raw image at the start of ``region``, flush it, and return what was written.

    Args:
        raw: the image's bytes; whatever they raise is passed on.
        region: where it goes.
        expected: signed size (bytes) and SHA-256 of the raw image, where the manifest has them.
        advance: called with the bytes of every block written.

    Raises:
        ImageError: the image is larger than the region.
        DigestError: it is not the one expected.
        MediumError: the medium failed.
    """
    digest, position = hashlib.sha256(), 0
    for block in raw:
        region.write(block, position)
        digest.update(block)
        position += len(block)
        advance(len(block))
    written = Content(size=position, sha256=digest.hexdigest())
    require_signed_content(written, expected, region)
    region.settle()
    return written


def require_signed_content(found: Content, expected: Content | None, region: Region) -> None:
    """Compare what an image for ``region`` unpacks to with what was signed. Raises DigestError."""
    if expected is not None and found != expected:
        raise DigestError(
            f"the image for {region.name} unpacks to {found.size} bytes with SHA-256 {found.sha256}, "
            f"signed are {expected.size} bytes with {expected.sha256}"
        )


def partition_content(
    medium: Medium, descriptor: int, partition: PartitionView, size: int, *, advance: Advance | None = None
) -> Content:
    """Read ``size`` bytes back from the start of a partition of an open disk and return what they are.

    Raises:
        MediumError: the medium failed.
    """
    region = Region.of(medium, descriptor, partition)
    return region.content(size, advance=advance or (lambda _count: None))


def prove(region: Region, content: Content, *, advance: Advance) -> None:
    """Read the image back from the medium and compare.

    Raises:
        ReadBackError: the medium returns something else than ``content``.
        MediumError: the medium failed.
    """
    found = region.content(content.size, advance=advance)
    if found != content:
        raise ReadBackError(f"{region.name} reads back as {found.sha256}, written was {content.sha256}")
