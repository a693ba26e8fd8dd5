"""An image that comes as one stream: upstream's ``.lz4``, or a ``.zst`` without an index.

Nobody can tell a good piece of it from a bad one, only the whole. So, where there is room, it is fetched and
hashed and unpacked once for trial before the slot is given up; else it streams into the slot and counts only
if its digest was the right one in the end. Fetching, unpacking and writing go on at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from updog.errors import PreflightError
from updog.image.ahead import ahead
from updog.image.codec import decompressed
from updog.image.install import prove, write_image
from updog.image.plan import Source
from updog.installing.needs import Needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from updog.image.install import Region
    from updog.installing.means import Means
    from updog.preflight import Placement
    from updog.update_metadata.content import Content


class WholeImage:
    """One image that is fetched as a whole.

    Args:
        means: what it is installed with.
        placement: what it is and where it goes. region: its partition.
    """

    def __init__(self, means: Means, placement: Placement, region: Region) -> None:
        self._placement, self._region = placement, region
        self._repository, self._spool, self._teller = means.repository, means.spool, means.teller
        self._is_kept = False

    @property
    def spooled(self) -> frozenset[str]:
        """The file it is kept in."""
        return frozenset({self._placement.target.sha256})

    def needs(self) -> Needs:
        """Say what it takes: all that is not kept yet."""
        target, content = self._placement.target, self._placement.content
        missing = self._spool.missing(target)
        size = content.size if content else None
        source = Source.PACK if missing else Source.SPOOL
        return Needs(
            placement=self._placement,
            size=size,
            raw={source: size or 0},
            wire={Source.PACK: missing},
            index=0,
            requests=1 if missing else 0,
        )

    def keep(self) -> None:
        """Fetch and hash it, and unpack it into nothing. Raises DigestError, ImageError, PreflightError."""
        target = self._placement.target
        with self._teller.phase(f"fetch {self._placement.role}", target.length) as advance:
            self._spool.fetch(target, self._repository.stream, advance)
        self._is_kept = True
        self._try_unpacking()

    def prime(self) -> None:
        """Fetch and decode the first bytes. Raises UnreachableError or ImageError."""
        if not self._is_kept:
            target = self._placement.target
            next(decompressed(self._repository.stream(target), name=target.name), b"")

    def write(self) -> Content:
        """Write it as it comes, and read it back. Raises DigestError, ImageError, ReadBackError."""
        placement = self._placement
        target = placement.target
        blocks = self._spool.blocks(target) if self._is_kept else self._repository.verified(target)
        raw = ahead(decompressed(ahead(blocks), name=target.name))
        total = placement.content.size if placement.content else target.length
        with self._teller.phase(f"write {placement.role}", total) as advance:
            content = write_image(raw, self._region, expected=placement.content, advance=advance)
        with self._teller.phase(f"read back {placement.role}", content.size) as advance:
            prove(self._region, content, advance=advance)
        return content

    def _try_unpacking(self) -> None:
        """Unpack into nothing, so that an image that does not unpack is refused before a write."""
        placement = self._placement
        size = 0
        with self._teller.phase(f"unpack {placement.role}", placement.target.length) as advance:
            for block in self._raw():
                size += len(block)
                if size > placement.partition.size:
                    raise PreflightError(
                        f"the {placement.role} image unpacks to more than its partition holds"
                    )
            advance(placement.target.length)

    def _raw(self) -> Iterator[bytes]:
        """Yield the raw image out of the spool."""
        return decompressed(self._spool.blocks(self._placement.target), name=self._placement.target.name)
