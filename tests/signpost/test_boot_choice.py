"""The bootloader's choice, compared with an oracle written from the text of the rule (D30-D36).

"Among BOOT entries with (tries > 0 or successful) take the strictly highest priority above 0, the first of
equals; if its tries > 0 decrement and write, even when successful. Nothing eligible: no boot."
"""

from __future__ import annotations

from collections import Counter

import pytest

from signpost import gpt, state
from signpost.gptprio import Flags
from tests.signpost.test_gptprio import ALL
from tests.support import disks

Raw = tuple[int, int, bool]


def oracle(slots: list[Raw]) -> tuple[int, Raw] | None:
    """Return the position that boots and its flags afterwards, by the loop that GRUB's rule describes."""
    best, chosen = 0, None
    for position, (priority, tries, successful) in enumerate(slots):
        if (tries > 0 or successful) and priority > best:
            best, chosen = priority, position
    if chosen is None:
        return None
    priority, tries, successful = slots[chosen]
    return chosen, (priority, tries - 1 if tries > 0 else 0, successful)


def chosen(*flags: Flags) -> tuple[int, Raw] | None:
    """Return the product's answer in the same form."""
    choice = state.next_boot(disks.boots(flags))
    return None if choice is None else (choice.entry_index, raw(choice.after))


def raw(flags: Flags) -> Raw:
    """Return flags as a tuple."""
    return flags.priority, flags.tries, flags.successful


def test_every_pair_of_flags_of_two_slots() -> None:
    """D30: 512 x 512 pairs."""
    slots = [(flags, raw(flags), disks.boots([flags])) for flags in ALL]
    tried: Counter[object] = Counter()
    for _, raw_a, entry_a in slots:
        for _, raw_b, entry_b in slots:
            choice = state.next_boot(entry_a + entry_b)
            found = None if choice is None else (choice.entry_index, raw(choice.after))
            assert found == oracle([raw_a, raw_b])
            tried[None if choice is None else choice.entry_index] += 1
    assert tried.total() == 512 * 512
    assert min(tried[slot] for slot in (None, 0, 1)) > 2000


def test_priority_0_never_boots() -> None:
    """D31."""
    assert chosen(Flags(tries=15, successful=True), Flags(successful=True)) is None


def test_the_first_of_equals_boots() -> None:
    """D32."""
    for flags in ALL:
        if flags.bootable:
            found = chosen(flags, flags)
            assert found is not None
            assert found[0] == 0


def test_a_successful_slot_still_counts_its_tries() -> None:
    """D33."""
    assert chosen(Flags(priority=1, tries=3, successful=True)) == (0, (1, 2, True))


def test_a_slot_without_tries_gives_way_to_a_lower_priority() -> None:
    assert chosen(Flags(priority=9), Flags(priority=1, successful=True)) == (1, (1, 0, True))


def power_cycle(slots: list[Flags]) -> int | None:
    """Boot once and return which slot booted."""
    choice = state.next_boot(disks.boots(slots))
    if choice is None:
        return None
    slots[choice.entry_index] = choice.after
    return choice.entry_index


def test_three_slots_count_down_one_after_the_other() -> None:
    """D34, D35."""
    slots = [
        Flags(priority=1, tries=1),
        Flags(priority=3, tries=3),
        Flags(priority=2, tries=2),
    ]
    assert [power_cycle(slots) for _ in range(8)] == [1, 1, 1, 2, 2, 0, None, None]
    assert slots == [Flags(priority=1), Flags(priority=3), Flags(priority=2)]


@pytest.mark.parametrize("slots", [[], [Flags(priority=15)], [Flags(priority=1), Flags(priority=2)]])
def test_nothing_eligible_boots_nothing(slots: list[Flags]) -> None:
    """D35."""
    assert chosen(*slots) is None


@pytest.mark.parametrize("tries", range(1, 16))
def test_power_cycles_before_the_confirm_use_up_the_tries_then_fall_back(tries: int) -> None:
    """D36."""
    slots = [Flags(priority=1, successful=True), Flags(priority=2, tries=tries)]
    assert [power_cycle(slots) for _ in range(tries + 3)] == [1] * tries + [0] * 3
    assert slots == [Flags(priority=1, successful=True), Flags(priority=2)]


@pytest.mark.parametrize("left", range(16))
def test_power_cycles_never_roll_back_a_confirmed_slot(left: int) -> None:
    """D36: neither one confirmed with its tries gone, nor one that another tool confirmed with tries left."""
    slots = [Flags(priority=1, successful=True), Flags(priority=2, tries=left, successful=True)]
    assert {power_cycle(slots) for _ in range(40)} == {1}
    assert slots[1] == Flags(priority=2, successful=True)


def test_partitions_of_other_types_are_ignored_whatever_their_bits() -> None:
    high = gpt.PartitionEntry(type=disks.SLOT[1], attributes=0x01FF << 48)
    choice = state.next_boot([high, gpt.PartitionEntry(), *disks.boots([Flags(priority=1, tries=1)])])
    assert choice is not None
    assert choice.entry_index == 2
    assert choice.counted
    assert choice.before == Flags(priority=1, tries=1)
