"""Which partitions make slot A and slot B. PURE.

Rules it enforces:

* by type GUID, in table order: the first BOOT, ROOT and HASH partitions are slot A, the second ones slot B;
  labels and duplicates of them play no part (D28);
* a third partition of a type belongs to no slot, and is named in a note: the bootloader may still take a
  third BOOT partition;
* a disk with one of each is "single"; a set with a part missing, or no PRIVATE partition, is not our disk.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import LayoutError
from signpost.gpt import Guid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from signpost.gpt import Entry

BOOT = Guid("6b636168-7420-6568-2070-6c616e657421")
ROOT = Guid("5526016a-1a97-4ea4-b39a-b7c8c6ca4502")
HASH = Guid("598f10af-c955-4456-6a99-7720068a6cea")
RESERVED = Guid("0c5d99a5-d331-4147-baef-08e2b855bdc9")
PRIVATE = Guid("440408bb-eb0b-4328-a6e5-a29038fad706")
DATA = Guid("626f7474-6c65-6474-6861-726d61726b73")
EFI_SYSTEM = Guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_SET = {"BOOT": BOOT, "ROOT": ROOT, "HASH": HASH}


class Slot(StrEnum):
    """One of the two places an operating system can be installed in."""

    A = "A"
    B = "B"

    @property
    def other(self) -> Slot:
        """The other slot."""
        return Slot.B if self is Slot.A else Slot.A


class PartitionSet(NamedTuple):
    """The three partitions of a slot, as indices into the table's entries."""

    boot: int
    root: int
    hash: int


class Layout(NamedTuple):
    """What :func:`find` found: the slots' partitions, PRIVATE's index, and what is odd about them."""

    slots: Mapping[Slot, PartitionSet]
    private: int
    notes: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is no slot B."""
        return len(self.slots) == 1

    def slot_of(self, index: int) -> Slot | None:
        """Return the slot one of whose partitions has this entry index, if any."""
        return next((slot for slot, parts in self.slots.items() if index in parts), None)


def find(entries: Sequence[Entry]) -> Layout:
    """Find the slots of a table. Raises LayoutError, naming what is missing."""
    found = {name: _indices(entries, type_) for name, type_ in _SET.items()}
    private = _indices(entries, PRIVATE)
    banks = max(1, min(2, max(map(len, found.values()))))
    missing = [f"{name}-{slot}" for name, has in found.items() for slot in [*Slot][len(has) : banks]] + (
        [] if private else ["PRIVATE"]
    )
    if missing:
        raise LayoutError(f"the disk has no {' and no '.join(missing)} partition")
    slots = {
        slot: PartitionSet(*(has[bank] for has in found.values()))
        for bank, slot in enumerate([*Slot][:banks])
    }
    return Layout(slots, private[0], _notes(found))


def _indices(entries: Sequence[Entry], type_: Guid) -> list[int]:
    """Return the indices of the entries of a type, in table order."""
    return [index for index, entry in enumerate(entries) if entry.type == type_]


def _notes(found: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Say which types there are too many of."""
    return tuple(
        f"{len(has)} {name} partitions: the slots are the first two (numbers {has[0] + 1} and {has[1] + 1})"
        for name, has in found.items()
        if len(has) > len(Slot)
    )
