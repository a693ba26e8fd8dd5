"""PURE: what installing an update takes, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signpost.text import size_text, traffic_text
from updog.errors import TooManyBytesError
from updog.image.plan import ChunkSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from updog.preflight import Placement


_LOCAL = frozenset({ChunkSource.IN_PLACE, ChunkSource.ZEROS, ChunkSource.ACTIVE, ChunkSource.SPOOL})


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What installing one image takes; all figures are bytes.

    Attributes:
        placement: of the image. size: of it, None if no size is signed.
        raw: source → bytes of the image from there.
        wire: source → bytes that will be fetched. index: fetched to know all this.
        requests: how many.
    """

    placement: Placement
    size: int | None
    raw: Mapping[ChunkSource, int]
    wire: Mapping[ChunkSource, int]
    index: int
    requests: int

    @property
    def total(self) -> int:
        """All that an update fetches for this image, the index included."""
        return self.index + self.fetch

    @property
    def fetch(self) -> int:
        """All that is still to be fetched."""
        return sum(self.wire.values())

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as ``--json`` prints it."""
        partition = self.placement.partition
        return {
            "image": self.placement.kind,
            "partition": {"number": partition.number, "label": partition.label, "size": partition.size},
            "size": self.size,
            "raw": {source.value: count for source, count in self.raw.items()},
            "wire": {"index": self.index, **{source.value: count for source, count in self.wire.items()}},
            "requests": self.requests,
        }


def check_total(total: int, max_bytes: int | None) -> None:
    """Refuse an update that fetches more than ``max_bytes`` (None: any number). Raises TooManyBytesError."""
    if max_bytes is not None and total > max_bytes:
        raise TooManyBytesError(f"the update downloads {total} bytes; {max_bytes} are allowed")


def sentence_of(estimates: Sequence[Estimate]) -> str:
    """Return in one sentence how much is fetched, and how much of the update is on the node already."""
    size = sum(estimate.size or 0 for estimate in estimates)
    fetch = traffic_text(sum(estimate.fetch for estimate in estimates))
    if not size:
        return f"The update downloads {fetch}."
    local = sum(count for estimate in estimates for source, count in estimate.raw.items() if source in _LOCAL)
    return f"Of {size_text(size)}, {size_text(local)} are on this node already; {fetch} are downloaded."
