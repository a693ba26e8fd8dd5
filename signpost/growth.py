"""How far DATA can grow on a disk that is larger than the image that was written to it. PURE.

Rules it enforces:

* the last partition grows, and only if it is DATA: nothing is moved, and no other system's partition changes;
* what counts is the room behind it, not whether the table says less than the disk has: counting a try also
  repairs the table, so that after the first start the table may fit the disk while DATA does not;
* the new end is a multiple of 1 MiB, as that of every partition; DATA never becomes smaller;
* a disk that is smaller than its table says is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import LayoutError
from signpost.gpt import ALIGNMENT, Extent
from signpost.sets import DATA

if TYPE_CHECKING:
    from signpost.gpt import Examined, PartitionEntry, Table

__all__ = ["Growth", "growth", "refuse_smaller"]


class Growth(NamedTuple):
    """DATA, the last partition: its number, its extent before and after in bytes, and its new entry."""

    number: int
    before: Extent
    after: Extent
    entry: PartitionEntry

    @property
    def changes(self) -> dict[int, PartitionEntry]:
        """The entry to write, by index; empty if there is nothing to grow."""
        return {self.number - 1: self.entry} if self.after != self.before else {}


def growth(table: Table) -> Growth | None:
    """Return how DATA grows; None if another partition is the last one and there is no room behind it.

    Args:
        table: the copy as it should be, its usable sectors those of the disk (:func:`signpost.gpt.repair`).

    Raises:
        LayoutError: there is room, but the partition before it is not DATA.
    """
    used = [index for index, entry in enumerate(table.entries) if entry.used]
    index = max(used, key=lambda index: table.entries[index].last_lba)
    entry, step = table.entries[index], ALIGNMENT // table.sector_size
    last_lba = max(entry.last_lba, (table.header.last_usable_lba + 1) // step * step - 1)
    if entry.type != DATA:
        if last_lba == entry.last_lba:
            return None
        raise LayoutError(
            f"partition {index + 1} ({entry.label}) is the last one on the disk, and it is not DATA",
            next_step="Only DATA grows. Use the room by hand, and leave updog-grow.service off.",
        )
    grown = replace(entry, last_lba=last_lba)
    after = table._replace(entries=(*table.entries[:index], grown)).extent(index)
    return Growth(index + 1, table.extent(index), after, grown)


def refuse_smaller(examined: Examined) -> None:
    """Raise LayoutError if the disk ends before the place where its valid table has the backup."""
    table, geometry = examined.primary.table, examined.geometry
    if table and table.header.alternate_lba > geometry.last_lba:
        raise LayoutError(
            f"the disk has {geometry.sectors} sectors, its table is for {table.header.alternate_lba + 1}",
            next_step="Write the image to a disk that is at least as large as it is.",
        )
