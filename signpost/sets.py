"""Which partitions make slot A and slot B. PURE.

Rules it enforces:

* by type GUID, in table order: the first BOOT, ROOT and HASH partitions are slot A, the second ones slot B;
  labels decide nothing (D28), and one that names the other slot is mentioned in a note;
* there are one or two partitions of each type, and the same number of each: a disk with a third BOOT
  partition, an incomplete slot or no PRIVATE partition is refused, because counting would pair the wrong
  partitions, and an update would overwrite what runs;
* a disk with one partition of each type is "single".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import LayoutError
from signpost.gpt import Guid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from signpost.gpt import PartitionEntry

__all__ = [
    "BOOT",
    "DATA",
    "EFI_SYSTEM",
    "HASH",
    "PRIVATE",
    "RESERVED",
    "ROOT",
    "ImageKind",
    "Layout",
    "PartitionSet",
    "Slot",
    "find",
]

BOOT = Guid("6b636168-7420-6568-2070-6c616e657421")
ROOT = Guid("5526016a-1a97-4ea4-b39a-b7c8c6ca4502")
HASH = Guid("598f10af-c955-4456-6a99-7720068a6cea")
RESERVED = Guid("0c5d99a5-d331-4147-baef-08e2b855bdc9")
PRIVATE = Guid("440408bb-eb0b-4328-a6e5-a29038fad706")
DATA = Guid("626f7474-6c65-6474-6861-726d61726b73")
EFI_SYSTEM = Guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_SET = {"BOOT": BOOT, "ROOT": ROOT, "HASH": HASH}


class Slot(StrEnum):
    """One of the two places where an operating system can be installed."""

    A = "A"
    B = "B"

    @property
    def other(self) -> Slot:
        """The other slot."""
        return Slot.B if self is Slot.A else Slot.A


class ImageKind(StrEnum):
    """One of the three images of a release. Each slot has a partition for each of them."""

    BOOT = "boot"
    ROOT = "root"
    HASH = "hash"


class PartitionSet(NamedTuple):
    """The three partitions of a slot, as indices into the table's entries."""

    boot: int
    root: int
    hash: int


class Layout(NamedTuple):
    """The slots' partitions, the index of PRIVATE's entry, and notes on contradicting labels."""

    slots: Mapping[Slot, PartitionSet]
    private: int
    notes: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is no slot B."""
        return len(self.slots) == 1

    def slot_of(self, index: int) -> Slot | None:
        """Return the slot that the partition with this entry index belongs to, if any."""
        return next((slot for slot, parts in self.slots.items() if index in parts), None)


def find(entries: Sequence[PartitionEntry]) -> Layout:
    """Find the slots of a table. Raises LayoutError, which names missing and surplus partitions."""
    found = {name: _indices(entries, type_) for name, type_ in _SET.items()}
    private = _indices(entries, PRIVATE)
    if surplus := [f"{len(own)} {name}" for name, own in found.items() if len(own) > len(Slot)]:
        counts = ", ".join(f"{len(own)} {name}" for name, own in found.items())
        raise LayoutError(
            f"the disk has {' and '.join(surplus)} partitions ({counts}): which make a slot is not known",
            next_step="Give partitions of another system, such as a rescue system, another type GUID.",
        )
    slots = [*Slot][: max(1, *map(len, found.values()))]
    missing = [f"{name}-{slot}" for name, indices in found.items() for slot in slots[len(indices) :]]
    if not private:
        missing.append("PRIVATE")
    if missing:
        raise LayoutError(f"the disk has no {' and no '.join(missing)} partition")
    sets = {
        slot: PartitionSet(*(indices[number] for indices in found.values()))
        for number, slot in enumerate(slots)
    }
    notes = (
        f"partition {index + 1} belongs to slot {slot}, but its label is {entries[index].label!r}"
        for slot, parts in sets.items()
        for index in parts
        if entries[index].label.upper().endswith(f"-{slot.other}")
    )
    return Layout(sets, private[0], tuple(notes))


def _indices(entries: Sequence[PartitionEntry], type_: Guid) -> list[int]:
    """Return the indices of the entries of a type, in table order."""
    return [index for index, entry in enumerate(entries) if entry.type == type_]
