"""A power cut at any moment of any command leaves a valid table with the old flags or the new (D05-D13, D15).

Every state is tried in which each changed sector since the last flush is old, new or torn, in any
combination: all prefixes, lost writes and reorderings are among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from signpost import gpt
from signpost.app import Signpost, UnbootedDisk
from signpost.gptprio import Flags, ever_booted
from signpost.sets import Slot
from signpost.state import Command
from tests.support import disks
from tests.support.media import MemoryMedium, RecordingMedium, crash_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signpost.medium import Medium

AllFlags = tuple[Flags, Flags, bool]
GOOD = Flags(priority=1, successful=True)


def apply(command: Command, active: Slot = Slot.A, tries: int = 1) -> Callable[[Medium], object]:
    """Return an action that applies a command to the disk on a medium."""
    return lambda medium: Signpost(medium, "disk", active).apply(command, tries=tries)


def take_next(medium: Medium) -> object:
    """Do the bootloader's step."""
    return UnbootedDisk(medium, "disk").take_next()


def repair(medium: Medium) -> object:
    """Repair the table."""
    return UnbootedDisk(medium, "disk").repair_disk()


class Case(NamedTuple):
    """Flags on the disk, and what is done."""

    flags: tuple[Flags, Flags]
    action: Callable[[Medium], object]


CASES = {
    "clear": Case((GOOD, Flags(priority=2, tries=1)), apply(Command.CLEAR_INACTIVE)),
    "mark-valid": Case((GOOD, Flags()), apply(Command.MARK_INACTIVE_VALID, tries=3)),
    "upgrade": Case((Flags(priority=2, successful=True), Flags(tries=1)), apply(Command.UPGRADE_TO_INACTIVE)),
    "confirm, D10": Case((GOOD, Flags(priority=2, tries=2)), apply(Command.MARK_SUCCESSFUL_BOOT, Slot.B)),
    "rollback, D11": Case(
        (GOOD, Flags(priority=2, successful=True)), apply(Command.ROLLBACK_TO_INACTIVE, Slot.B)
    ),
    "cancel, D12": Case((GOOD, Flags(priority=2, tries=1)), apply(Command.CANCEL_UPGRADE)),
    "boot, D13": Case((GOOD, Flags(priority=2, tries=3)), take_next),
}


def damaged(disk: bytes, sector_size: int) -> dict[str, bytes]:
    """Return the disk as it is and in states that need a repair."""
    return {
        "sound": disk,
        "D16": disks.flip(disk, sector_size + 20),
        "D17": disks.flip(disk, 2 * sector_size + 20),
        "D18": disks.put(disk, sector_size, bytes(sector_size)),
        "D19": disks.put(disk, -sector_size, bytes(sector_size)),
        "D21": disk + bytes(40 * sector_size),
    }


def all_flags(disk: bytes, sector_size: int) -> AllFlags:
    """Return the flags in a disk's trusted table."""
    table = disks.trusted(disk, sector_size)
    boot_a, boot_b = disks.boot_flags(table)
    return boot_a, boot_b, ever_booted(table.entries[disks.PRIVATE].attributes)


def run(disk: bytes, action: Callable[[Medium], object]) -> tuple[bytes, RecordingMedium]:
    """Do an action on a disk; return the disk afterwards and the recorded calls."""
    memory = MemoryMedium({"disk": disk})
    medium = RecordingMedium(memory)
    action(medium)
    return bytes(memory.files["disk"]), medium


def cut(disk: bytes, action: Callable[[Medium], object], sector_size: int) -> Iterator[bytes]:
    """Yield every state that a power cut during an action leaves; each must have the old or the new flags."""
    after, medium = run(disk, action)
    allowed = {all_flags(disk, sector_size), all_flags(after, sector_size)}
    complete = False
    for state in crash_states(disk, medium.calls, sector_size):
        assert all_flags(state, sector_size) in allowed
        complete = complete or state == after
        yield state
    assert complete


@pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cut_leaves_the_old_flags_or_the_new(case: Case, sector_size: int) -> None:
    disk = disks.make_disk(case.flags, shape=disks.Shape(sector_size=sector_size))
    after, _ = run(disk, case.action)
    tried = 0
    for state in cut(disk, case.action, sector_size):
        assert run(state, repair)[0] in {disk, after}
        tried += 1
    assert tried > 60


@pytest.mark.parametrize("damage", ["D16", "D17", "D18", "D19", "D21"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cut_in_a_command_that_also_repairs_leaves_the_old_flags_or_the_new(
    case: Case, damage: str
) -> None:
    disk = damaged(disks.make_disk(case.flags), 512)[damage]
    assert sum(1 for _ in cut(disk, case.action, 512)) > 40


@pytest.mark.parametrize("damage", ["D16", "D17", "D18", "D19", "D21"])
@pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES)
def test_a_cut_during_a_repair_changes_no_flags(damage: str, sector_size: int) -> None:
    sound = disks.make_disk(shape=disks.Shape(sector_size=sector_size))
    disk = damaged(sound, sector_size)[damage]
    wanted = all_flags(sound, sector_size)
    assert {all_flags(state, sector_size) for state in cut(disk, repair, sector_size)} == {wanted}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_second_cut_during_the_repair_of_the_first(case: Case) -> None:
    """D15."""
    disk = disks.make_disk(case.flags)
    first = list(cut(disk, case.action, 512))
    for state in first[:: max(1, len(first) // 10)]:
        assert {all_flags(second, 512) for second in cut(state, repair, 512)} == {all_flags(state, 512)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_boot_after_a_cut_takes_the_slot_of_before_or_after(case: Case) -> None:
    disk = disks.make_disk(case.flags)
    after, _ = run(disk, case.action)
    slots = {UnbootedDisk(MemoryMedium({"disk": each}), "disk").predict() for each in (disk, after)}
    for state in cut(disk, case.action, 512):
        assert UnbootedDisk(MemoryMedium({"disk": state}), "disk").take_next() in slots


def test_a_write_without_a_flush_between_the_copies_can_lose_the_table() -> None:
    """D95: without the flush between the copies the states above include a lost table."""
    disk = disks.make_disk()
    _, medium = run(disk, apply(Command.MARK_INACTIVE_VALID))
    unflushed = [call for call in medium.calls if call.name != "flush"]
    lost = [state for state in crash_states(disk, unflushed, 512) if disks.examine(state).trusted is None]
    assert lost
