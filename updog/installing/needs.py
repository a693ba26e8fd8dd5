"""PURE: what installing an update takes, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from updog.errors import TooManyBytesError
from updog.image.plan import Source
from updog.progress import megabytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from updog.preflight import Placement


_HERE = frozenset({Source.IN_PLACE, Source.ZEROS, Source.ACTIVE, Source.SPOOL})


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What installing one image takes; all figures are bytes.

    Attributes:
        placement: of the image. size: of it, None where nobody signed it.
        raw: source → bytes of the image from there.
        wire: source → bytes that will be fetched. index: fetched to know all this.
        requests: how many.
    """

    placement: Placement
    size: int | None
    raw: Mapping[Source, int]
    wire: Mapping[Source, int]
    index: int
    requests: int

    @property
    def total(self) -> int:
        """All that an update fetches for this image, the index included."""
        return self.index + self.fetch

    @property
    def fetch(self) -> int:
        """All that is yet to be fetched."""
        return sum(self.wire.values())

    def to_json(self) -> dict[str, Any]:
        """Return the needs as ``--json`` prints them."""
        partition = self.placement.partition
        return {
            "image": self.placement.role,
            "partition": {"number": partition.number, "label": partition.label, "size": partition.size},
            "size": self.size,
            "raw": {source.value: count for source, count in self.raw.items()},
            "wire": {"index": self.index, **{source.value: count for source, count in self.wire.items()}},
            "requests": self.requests,
        }


def check_total(needs: Sequence[Needs], most: int | None) -> None:
    """Refuse a plan that brings more than ``most`` bytes (None: any number). Raises TooManyBytesError."""
    total = sum(need.total for need in needs)
    if most is not None and total > most:
        raise TooManyBytesError(f"the update takes {total} bytes from the network, allowed are {most}")


def sentence_of(needs: Sequence[Needs]) -> str:
    """Return in one sentence how much is fetched, and how much of the update is here already."""
    size = sum(need.size or 0 for need in needs)
    fetch = sum(need.fetch for need in needs)
    here = sum(count for need in needs for source, count in need.raw.items() if source in _HERE)
    if not size:
        return f"The update takes {megabytes(fetch)} from the network."
    return f"Of {megabytes(size)}, {megabytes(here)} are here already; {megabytes(fetch)} are fetched."
