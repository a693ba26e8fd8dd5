"""From a chosen update and an open disk to an :class:`~updog.installing.Installation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.installing import Image, Installation
from updog.installing.description import Running
from updog.installing.seekable import SeekableImage
from updog.installing.whole import WholeImage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from signpost.app import PartitionView
    from updog.image.install import Region
    from updog.installing.means import Means
    from updog.preflight import Placement
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version

    RegionOf = Callable[[PartitionView], Region]
    """Returns a partition as a stretch of the open disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What runs: its version, its partitions by role, and its images by role as far as they are known."""

    version: Version
    partitions: Mapping[str, PartitionView]
    images: Mapping[str, Content]


def assemble(
    means: Means, update: Update, placements: Sequence[Placement], base: Base, region: RegionOf
) -> Installation:
    """Return the installation of an update.

    Args:
        means: what it is installed with.
        update: what to install.
        placements: of its images, in the order of writing.
        base: what runs.
        region: gives partitions of the disk, which stays open as long as the installation is used.
    """

    def image(placement: Placement) -> Image:
        pack = getattr(update.packs, placement.role) if update.packs else None
        if pack is None:
            return WholeImage(means, placement, region(placement.partition))
        running = Running(
            region=region(base.partitions[placement.role]),
            content=base.images.get(placement.role),
            delta=pack.deltas.get(base.version),
        )
        return SeekableImage(means, placement, region(placement.partition), pack=pack, running=running)

    images = {placement.role: image(placement) for placement in placements}
    return Installation(images, most=means.most, seekable=update.packs is not None)
