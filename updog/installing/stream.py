"""An image that comes as one stream: upstream's ``.lz4``, or a ``.zst`` without an index.

Only the whole can be verified, not a piece of it. So, if there is room, it is fetched into the spool, hashed
and unpacked once without writing before the slot is given up; otherwise it is streamed into the slot and
counts only if its digest is right at the end. Fetching, unpacking and writing go on at the same time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from signpost.progress import Action
from updog.errors import PreflightError
from updog.image.codec import decompressed
from updog.image.plan import ChunkSource
from updog.image.prefetch import prefetched
from updog.image.region import prove, require_signed_content, write_image
from updog.installing.estimate import Estimate
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from updog.image.region import Region
    from updog.installing.context import InstallContext
    from updog.preflight import Placement


def plan_stream(context: InstallContext, placement: Placement, region: Region) -> StreamPlan:
    """Look into the spool, and decide: what is missing there is fetched. Fetches and writes nothing."""
    missing = context.spool.missing(placement.target)
    return StreamPlan(context=context, placement=placement, region=region, missing=missing)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPlan:
    """How one stream gets into the slot; an :class:`~updog.installing.ImagePlan`.

    Attributes:
        context: what it is carried out with. placement: what the image is and where it goes.
        region: its partition. missing: bytes to fetch. is_kept: whether it is written from the spool.
    """

    context: InstallContext
    placement: Placement
    region: Region
    missing: int
    is_kept: bool = False

    @property
    def estimate(self) -> Estimate:
        """What it takes: all that is missing."""
        size = self.placement.content.size if self.placement.content else None
        source = ChunkSource.PACK if self.missing else ChunkSource.SPOOL
        return Estimate(
            placement=self.placement,
            size=size,
            raw={source: size or 0},
            wire={ChunkSource.PACK: self.missing},
            index=0,
            requests=1 if self.missing else 0,
        )

    @property
    def spool_files(self) -> frozenset[str]:
        """The file it is kept in."""
        return frozenset({self.placement.target.sha256})

    def keep(self) -> StreamPlan:
        """Fetch and hash it, and unpack it without writing, so that a bad image is refused before a write."""
        placement, spool, reporter = self.placement, self.context.spool, self.context.reporter
        target = placement.target
        with reporter.phase(Action.FETCH, placement.kind, target.length) as advance:
            spool.fetch(target, self.context.repository.stream, advance)
        with reporter.phase(Action.UNPACK, placement.kind, target.length) as advance:
            size, digest = 0, hashlib.sha256()
            for block in decompressed(spool.blocks(target), name=target.name):
                size += len(block)
                digest.update(block)
                if size > placement.partition.size:
                    raise PreflightError(
                        f"the {placement.kind} image unpacks to more than its partition holds"
                    )
            advance(target.length)
        found = Content(size=size, sha256=digest.hexdigest())
        require_signed_content(found, placement.content, self.region)
        return replace(self, missing=0, is_kept=True)

    def without_keeping(self) -> StreamPlan:
        """Return the plan that streams all of it: what an earlier run left in the spool is of no use then."""
        return replace(self, missing=self.placement.target.length)

    def begin(self) -> StreamPlan:
        """Fetch and decode the first bytes, unless all of it is kept."""
        if not self.is_kept:
            target = self.placement.target
            next(decompressed(self.context.repository.stream(target), name=target.name), b"")
        return self

    def write(self) -> Content:
        """Write it as it is fetched or read, and prove it by reading it back."""
        placement, reporter = self.placement, self.context.reporter
        target = placement.target
        source = self.context.spool.blocks if self.is_kept else self.context.repository.verified
        raw = prefetched(decompressed(prefetched(source(target)), name=target.name))
        total = placement.content.size if placement.content else target.length
        with reporter.phase(Action.WRITE, placement.kind, total) as advance:
            content = write_image(raw, self.region, expected=placement.content, advance=advance)
        with reporter.phase(Action.READ_BACK, placement.kind, content.size) as advance:
            prove(self.region, content, advance=advance)
        return content
