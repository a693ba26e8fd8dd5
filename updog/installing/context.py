"""What an image is installed with, and what is known of it before anything is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signpost.progress import ProgressReporter
    from updog.image.region import Region
    from updog.preflight import Placement
    from updog.repository import Repository
    from updog.spool import Spool
    from updog.update_metadata.content import Content
    from updog.update_metadata.packs import DeltaFile, Pack


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallContext:
    """Where bytes come from, where they are kept, and where progress is reported.

    Attributes:
        repository: where they come from. spool: where they are kept.
        reporter: of progress. max_bytes: that may be fetched for an update; None: any number.
    """

    repository: Repository
    spool: Spool
    reporter: ProgressReporter
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningImage:
    """What the running slot has of the same kind.

    Attributes:
        region: its partition. content: the image in it, as far as that is known.
        delta: from its version to the wanted one, if one is published.
    """

    region: Region
    content: Content | None
    delta: DeltaFile | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekableImage:
    """One image with an index.

    Attributes:
        placement: what it is and where it goes. region: its partition in the inactive slot.
        pack: names of its index, fingerprints and deltas. running: what runs instead of it.
    """

    placement: Placement
    region: Region
    pack: Pack
    running: RunningImage
