"""Which partitions make up the slots (D28)."""

from __future__ import annotations

import pytest

from signpost import gpt, sets
from signpost.errors import LayoutError
from signpost.sets import BOOT, HASH, PRIVATE, ROOT, PartitionSet, Slot


def entries(*types: gpt.Guid) -> list[gpt.PartitionEntry]:
    """Return a table's entries of these types."""
    return [gpt.PartitionEntry(type=type_) for type_ in types]


def test_the_first_of_each_type_is_slot_a_and_the_second_slot_b() -> None:
    layout = sets.find(entries(BOOT, ROOT, HASH, BOOT, ROOT, HASH, PRIVATE))
    assert layout.slots == {Slot.A: PartitionSet(0, 1, 2), Slot.B: PartitionSet(3, 4, 5)}
    assert layout.private == 6
    assert not layout.single
    assert layout.notes == ()


def test_slots_follow_the_order_in_the_table_whatever_is_between() -> None:
    found = sets.find(entries(sets.EFI_SYSTEM, PRIVATE, HASH, gpt.UNUSED, BOOT, BOOT, ROOT, HASH, ROOT))
    assert found.slots == {Slot.A: PartitionSet(4, 6, 2), Slot.B: PartitionSet(5, 8, 7)}
    assert found.private == 1


def test_labels_decide_nothing() -> None:
    parts = [
        gpt.PartitionEntry(type=type_, name="BOTTLEROCKET-BOOT-B")
        for type_ in (BOOT, ROOT, HASH, BOOT, ROOT, HASH, PRIVATE)
    ]
    assert sets.find(parts).slots[Slot.A] == PartitionSet(0, 1, 2)


@pytest.mark.parametrize(
    ("types", "problem"),
    [
        (
            (BOOT, BOOT, ROOT, HASH, BOOT, ROOT, HASH, PRIVATE),
            r"3 BOOT partitions \(3 BOOT, 2 ROOT, 2 HASH\)",
        ),
        ((BOOT, ROOT, HASH, BOOT, ROOT, HASH, BOOT, PRIVATE), "3 BOOT partitions"),
        ((BOOT, ROOT, HASH) * 3 + (PRIVATE,), "3 BOOT and 3 ROOT and 3 HASH partitions"),
        ((BOOT, ROOT, ROOT, ROOT, HASH, PRIVATE), "3 ROOT partitions"),
    ],
    ids=["rescue-first", "rescue-last", "three-sets", "three-roots"],
)
def test_more_than_two_of_a_type_are_refused_never_paired_by_counting(
    types: tuple[gpt.Guid, ...], problem: str
) -> None:
    with pytest.raises(LayoutError, match=problem):
        sets.find(entries(*types))


def test_a_label_that_names_the_other_slot_is_noted() -> None:
    parts = entries(BOOT, ROOT, HASH, BOOT, ROOT, HASH, PRIVATE)
    parts[1] = gpt.PartitionEntry(type=ROOT, name="BOTTLEROCKET-ROOT-B")
    parts[3] = gpt.PartitionEntry(type=BOOT, name="BOTTLEROCKET-BOOT-B")
    assert sets.find(parts).notes == (
        "partition 2 belongs to slot A, but its label is 'BOTTLEROCKET-ROOT-B'",
    )


def test_one_of_each_is_a_single_disk() -> None:
    layout = sets.find(entries(BOOT, ROOT, HASH, PRIVATE))
    assert layout.single
    assert list(layout.slots) == [Slot.A]


@pytest.mark.parametrize(
    ("types", "missing"),
    [
        ((), "no BOOT-A and no ROOT-A and no HASH-A and no PRIVATE partition"),
        ((BOOT, ROOT, HASH), "no PRIVATE partition"),
        ((BOOT, ROOT, HASH, BOOT, ROOT, PRIVATE), "no HASH-B partition"),
        ((BOOT, ROOT, ROOT, HASH, PRIVATE), "no BOOT-B and no HASH-B partition"),
        ((ROOT, HASH, PRIVATE), "no BOOT-A partition"),
        ((sets.EFI_SYSTEM, sets.DATA), "no BOOT-A"),
    ],
)
def test_what_is_missing_is_named(types: tuple[gpt.Guid, ...], missing: str) -> None:
    with pytest.raises(LayoutError, match=missing):
        sets.find(entries(*types))


def test_each_partition_has_its_slot() -> None:
    layout = sets.find(entries(BOOT, ROOT, HASH, BOOT, ROOT, HASH, PRIVATE))
    assert [layout.slot_of(index) for index in range(7)] == [*"AAABBB", None]


def test_other_is_the_opposite_slot() -> None:
    assert (Slot.A.other, Slot.B.other) == (Slot.B, Slot.A)
