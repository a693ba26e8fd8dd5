"""How the last restart ended: the whole table of plan, running slot, flags and boot."""

from __future__ import annotations

from itertools import product

import pytest

from signpost.gptprio import Flags
from signpost.sets import Slot
from signpost.state import Condition, condition
from updog.host import BootId, RunningSlot
from updog.pending_update import diagnose
from updog.standing import Standing
from updog.state import PendingUpdate
from updog.update_metadata.version import Version

OLD, NEW = Version.parse("1.0.0"), Version.parse("1.1.0")
THIS_BOOT, EARLIER_BOOT = BootId("this boot"), BootId("an earlier boot")
GOOD = Flags(priority=1, successful=True)


def _pending(boot_id: str | None) -> PendingUpdate:
    return PendingUpdate(version=NEW, slot=Slot.B, previous=OLD, boot_id=boot_id)


def _running(slot: Slot) -> RunningSlot:
    return RunningSlot(variant="v", version=OLD, boot_id=THIS_BOOT, slot=slot, disk="disk")


CASES = [
    # running slot, applied during, flags of the new slot, flags of the old one, state of the update
    (Slot.A, None, Flags(tries=1), GOOD, Standing.STAGED, "installed, never applied"),
    (Slot.A, THIS_BOOT, Flags(tries=1), GOOD, Standing.STAGED, "cut between memory and table, or cancelled"),
    (Slot.A, EARLIER_BOOT, Flags(tries=1), GOOD, Standing.STAGED, "the same, and restarted since"),
    (Slot.A, THIS_BOOT, Flags(priority=2, tries=1), GOOD, Standing.WAITING, "applied"),
    (Slot.A, None, Flags(priority=2, tries=1), GOOD, Standing.WAITING, "applied by signpost"),
    (
        Slot.A,
        EARLIER_BOOT,
        Flags(priority=2, tries=1),
        GOOD,
        Standing.WAITING,
        "the old slot was started by hand",
    ),
    (Slot.B, EARLIER_BOOT, Flags(priority=2, tries=0), GOOD, Standing.TRIAL, "came up"),
    (Slot.B, EARLIER_BOOT, Flags(priority=2, tries=2), GOOD, Standing.TRIAL, "came up with tries left (D36)"),
    (
        Slot.B,
        EARLIER_BOOT,
        Flags(priority=2, successful=True),
        GOOD,
        Standing.CONFIRMED,
        "cut after the flag",
    ),
    (Slot.B, THIS_BOOT, Flags(priority=2, successful=True), GOOD, Standing.CONFIRMED, "whatever the boot"),
    (Slot.A, EARLIER_BOOT, Flags(priority=2), GOOD, Standing.FELL_BACK, "tries used up"),
    (Slot.A, None, Flags(priority=2), GOOD, Standing.FELL_BACK, "the same, applied by signpost"),
    (
        Slot.A,
        EARLIER_BOOT,
        Flags(priority=1),
        Flags(priority=1, successful=True),
        Standing.FELL_BACK,
        "equals",
    ),
    (
        Slot.A,
        EARLIER_BOOT,
        Flags(priority=1),
        Flags(priority=2, successful=True),
        Standing.ROLLED_BACK,
        "left with `signpost rollback-to-inactive`",
    ),
    (
        Slot.A,
        EARLIER_BOOT,
        Flags(priority=1, tries=2),
        Flags(priority=2, successful=True),
        Standing.ROLLED_BACK,
        "the same with tries left",
    ),
]


@pytest.mark.parametrize(
    ("slot", "boot_id", "new", "old", "stands"), [case[:5] for case in CASES], ids=[case[5] for case in CASES]
)
def test_the_table_says_where_an_update_stands(
    slot: Slot, boot_id: str | None, new: Flags, old: Flags, stands: Standing
) -> None:
    assert diagnose(_pending(boot_id), _running(slot), new, old) is stands


def test_without_a_plan_nothing_stands_anywhere() -> None:
    for new in (None, Flags(), GOOD):
        assert diagnose(None, _running(Slot.A), new, GOOD) is Standing.NONE
    assert diagnose(_pending(None), _running(Slot.A), None, GOOD) is Standing.NONE


@pytest.mark.parametrize("flags", [Flags(), Flags(successful=True)], ids=["cleared", "retired"])
@pytest.mark.parametrize("boot_id", [None, THIS_BOOT, EARLIER_BOOT])
def test_a_slot_that_cannot_be_upgraded_to_holds_nothing_that_waits(
    flags: Flags, boot_id: str | None
) -> None:
    """`signpost clear-inactive`, or a cut after it: upgrade-to-inactive would always refuse."""
    assert diagnose(_pending(boot_id), _running(Slot.A), flags, GOOD) is Standing.NONE


EVERY_FLAGS = [
    Flags(priority=priority, tries=tries, successful=successful)
    for priority, tries, successful in product((0, 1, 2, 15), (0, 1, 15), (False, True))
]


def test_over_every_combination_the_answer_agrees_with_the_table_on_disk() -> None:
    """D30: 2 slots, 3 boots, 24 by 24 flags: 3456 states, against rules stated another way."""
    states = 0
    boots = (None, THIS_BOOT, EARLIER_BOOT)
    for slot, boot_id, new, old in product(Slot, boots, EVERY_FLAGS, EVERY_FLAGS):
        answer = diagnose(_pending(boot_id), _running(slot), new, old)
        states += 1
        assert answer is not Standing.NONE or condition(new) in {Condition.CLEARED, Condition.RETIRED}
        assert (answer in {Standing.TRIAL, Standing.CONFIRMED}) == (slot is Slot.B)
        assert (answer is Standing.CONFIRMED) == (slot is Slot.B and new.successful)
        if answer is Standing.STAGED:
            assert condition(new) is Condition.STAGED
        if answer is Standing.FELL_BACK:
            assert not new.bootable
            assert boot_id != THIS_BOOT
        if answer is Standing.ROLLED_BACK:
            assert 0 < new.priority < old.priority
        if answer is Standing.WAITING:
            assert new.priority
            assert boot_id == THIS_BOOT or new.bootable
    assert states == 3456
