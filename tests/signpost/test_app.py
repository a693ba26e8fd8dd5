"""What updog calls: view, apply, take_next, repair (D13, D28, D29, D35-D37)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from signpost import gpt, gptprio, sets
from signpost.app import DiskView, RunningDiskView, Signpost, UnbootedDisk
from signpost.errors import LayoutError, NothingBootableError, TableError, TransitionRefusedError
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command
from tests.signpost.test_boot_choice import oracle, raw
from tests.support import disks
from tests.support.media import MemoryMedium, RecordingMedium

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SINGLE = (*disks.SLOT, sets.PRIVATE)


def on(disk: bytes, active: Slot = Slot.A) -> tuple[Signpost, MemoryMedium]:
    """Return a signpost on a disk in memory."""
    medium = MemoryMedium({"disk": disk})
    return Signpost(medium, "disk", active), medium


class TestView:
    def test_a_view_has_every_fact_of_the_disk(self) -> None:
        view = on(disks.make_disk(ever_booted=True))[0].view()
        assert isinstance(view, RunningDiskView)
        table = disks.trusted(disks.make_disk())
        assert (view.disk, view.disk_guid, view.sector_size) == ("disk", disks.guid(999), 512)
        assert (view.active, view.next, view.next_partition) == (Slot.A, Slot.A, 1)
        assert view.slots[Slot.B].root.number == 5
        assert view.slots[Slot.B].root.offset == table.extent(4).offset
        assert view.slots[Slot.B].root.size == 8 * 512
        assert view.slots[Slot.B].root.label == "partition 5"
        assert view.slots[Slot.B].root.guid == disks.guid(4)
        assert view.slots[Slot.A].flags == disks.RUNNING
        assert view.ever_booted
        assert not view.single
        assert (view.faults, view.notes) == ((), ())

    def test_flags_stand_beside_their_own_partitions_whichever_slot_runs(self) -> None:
        """Upstream shows slot A's flags beside the active slot's devices."""
        flags = Flags(priority=1), Flags(priority=2, successful=True)
        for active in Slot:
            slots = on(disks.make_disk(flags), active)[0].view().slots
            assert [slots[slot].boot.number for slot in Slot] == [1, 4]
            assert tuple(slots[slot].flags for slot in Slot) == flags

    def test_priority_0_is_not_predicted_even_if_successful(self) -> None:
        """D31: upstream's prediction says that it would boot, its bootloader does not boot it."""
        view = on(disks.make_disk((Flags(successful=True), Flags(successful=True))))[0].view()
        assert (view.next, view.next_partition) == (None, None)

    def test_faults_of_the_table_are_listed(self) -> None:
        view = on(disks.flip(disks.make_disk(), 530))[0].view()
        assert view.faults == ("primary: wrong header CRC",)

    def test_without_a_known_slot_there_is_no_active_one(self) -> None:
        seen = UnbootedDisk(on(disks.make_disk())[1], "disk").view()
        assert type(seen) is DiskView
        assert seen.running is None
        with pytest.raises(LayoutError, match="not known"):
            _ = RunningDiskView(*seen).active

    def test_a_disk_without_slots_is_refused(self) -> None:
        with pytest.raises(LayoutError, match="no BOOT-A"):
            on(disks.make_disk((), types=[sets.EFI_SYSTEM, sets.DATA]))[0].view()


class TestApply:
    def test_an_update_changes_the_flags_up_to_the_confirm(self) -> None:
        old, medium = on(
            disks.make_disk((Flags(priority=2, successful=True), Flags(priority=1, successful=True)))
        )
        assert old.apply(Command.CLEAR_INACTIVE).slots[Slot.B].flags == Flags()
        assert old.apply(Command.MARK_INACTIVE_VALID, tries=3).next is Slot.A
        upgraded = old.apply(Command.UPGRADE_TO_INACTIVE)
        assert (upgraded.next, upgraded.slots[Slot.B].flags) == (Slot.B, Flags(priority=2, tries=3))
        assert old.take_next() is Slot.B
        new = Signpost(medium, "disk", Slot.B)
        assert not new.view().ever_booted
        confirmed = new.apply(Command.MARK_SUCCESSFUL_BOOT)
        assert confirmed.ever_booted
        assert confirmed.slots[Slot.B].flags == Flags(priority=2, successful=True)
        assert confirmed.slots[Slot.A].flags == Flags(priority=1, successful=True)
        rolled_back = new.apply(Command.ROLLBACK_TO_INACTIVE)
        assert rolled_back.next is Slot.A

    def test_a_cancelled_upgrade_can_be_repeated(self) -> None:
        it, _ = on(disks.make_disk((Flags(priority=2, successful=True), Flags(tries=2))))
        it.apply(Command.UPGRADE_TO_INACTIVE)
        assert it.apply(Command.CANCEL_UPGRADE).next is Slot.A
        assert it.apply(Command.UPGRADE_TO_INACTIVE).slots[Slot.B].flags == Flags(priority=2, tries=2)

    def test_a_refused_command_leaves_the_file_bit_for_bit(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        for flags in (Flags(), Flags(priority=2, tries=1), Flags(successful=True)):
            path.write_bytes(disks.flip(disks.make_disk((disks.RUNNING, flags)), 530))
            before = hashlib.sha256(path.read_bytes()).digest()
            with pytest.raises(TransitionRefusedError):
                Signpost(OsMedium(), str(path), Slot.A).apply(Command.UPGRADE_TO_INACTIVE)
            assert hashlib.sha256(path.read_bytes()).digest() == before

    def test_a_command_that_changes_nothing_writes_nothing(self) -> None:
        medium = RecordingMedium(MemoryMedium({"disk": disks.make_disk()}))
        Signpost(medium, "disk", Slot.A).apply(Command.CLEAR_INACTIVE)
        assert medium.names == []

    def test_a_single_disk_confirms_and_refuses_the_rest(self) -> None:
        disk = disks.make_disk((Flags(priority=1, tries=1),), types=SINGLE)
        it, medium = on(disk)
        assert it.view().single
        for command in set(Command) - {Command.MARK_SUCCESSFUL_BOOT}:
            with pytest.raises(TransitionRefusedError, match="one slot only"):
                it.apply(command)
        assert bytes(medium.files["disk"]) == disk
        assert it.apply(Command.MARK_SUCCESSFUL_BOOT).slots == {
            Slot.A: it.view().slots[Slot.A]._replace(flags=Flags(priority=1, successful=True))
        }

    @pytest.mark.parametrize("slot", list(Slot))
    @pytest.mark.parametrize(
        "flags",
        [Flags(), Flags(priority=2), Flags(priority=1, tries=1), Flags(successful=True)],
        ids=["cleared", "spent", "armed", "retired"],
    )
    def test_a_rescue_starts_the_slot_that_was_named(self, slot: Slot, flags: Flags) -> None:
        medium = MemoryMedium({"disk": disks.make_disk((flags, flags))})
        view = UnbootedDisk(medium, "disk").rescue(slot)
        assert view.next is slot
        assert UnbootedDisk(medium, "disk").take_next() is slot

    @pytest.mark.parametrize("slot", list(Slot))
    def test_a_disk_with_one_slot_cannot_be_rescued_and_stays(self, slot: Slot) -> None:
        disk = disks.make_disk((Flags(priority=1),), types=SINGLE)
        medium = MemoryMedium({"disk": disk})
        with pytest.raises(LayoutError, match="one slot only"):
            UnbootedDisk(medium, "disk").rescue(slot)
        assert bytes(medium.files["disk"]) == disk

    def test_a_single_disk_has_no_slot_b_to_run(self) -> None:
        disk = disks.make_disk((disks.RUNNING,), types=SINGLE)
        for action in (Signpost.view, lambda it: it.apply(Command.CLEAR_INACTIVE)):
            with pytest.raises(LayoutError, match="no slot B: it has one slot only"):
                action(on(disk, Slot.B)[0])

    def test_only_the_flags_change(self) -> None:
        """D27: every entry except for the bits of the flags."""
        it, medium = on(disks.make_disk())
        it.apply(Command.MARK_INACTIVE_VALID, tries=15)
        it.apply(Command.MARK_SUCCESSFUL_BOOT)
        entries = disks.trusted(bytes(medium.files["disk"])).entries
        for index, entry in enumerate(disks.trusted(disks.make_disk()).entries):
            masked = entries[index].attributes & ~(0x03FF << 48)
            assert masked == entry.attributes & ~(0x03FF << 48)
            assert entries[index].to_bytes()[:48] == entry.to_bytes()[:48]
            assert entries[index].to_bytes()[56:] == entry.to_bytes()[56:]


class TestTakeNext:
    def test_it_takes_what_was_predicted_and_counts_it(self) -> None:
        """Every condition of both slots: prediction, step and oracle agree."""
        some = [
            Flags(priority=priority, tries=tries, successful=successful)
            for priority in (0, 1, 2)
            for tries in (0, 2)
            for successful in (False, True)
        ]
        for a in some:
            for b in some:
                it, medium = on(disks.make_disk((a, b)))
                expected = oracle([raw(a), raw(b)])
                if expected is None:
                    assert it.view().next is None
                    continue
                slot, after = [*Slot][expected[0]], expected[1]
                assert it.view().next is it.predict() is it.take_next() is slot
                bits = disks.raw_attributes(bytes(medium.files["disk"]), 3 * expected[0], array=1024)
                assert disks.raw_flags(bits) == after

    def test_without_a_try_to_count_nothing_is_written_not_even_a_repair(self) -> None:
        """D37: a boot with an unreadable primary works and does not depend on a write."""
        medium = RecordingMedium(MemoryMedium({"disk": disks.put(disks.make_disk(), 512, bytes(512))}))
        assert UnbootedDisk(medium, "disk").take_next() is Slot.A
        assert medium.names == []

    def test_counting_a_try_also_repairs_the_table(self) -> None:
        disk = disks.make_disk((disks.RUNNING, Flags(priority=2, tries=1)))
        medium = MemoryMedium({"disk": disks.put(disk, 512, bytes(512))})
        assert UnbootedDisk(medium, "disk").take_next() is Slot.B
        assert disks.examine(bytes(medium.files["disk"])).faults == ()

    def test_nothing_bootable_is_its_own_error(self) -> None:
        """D35."""
        disk = disks.make_disk((Flags(priority=2), Flags(successful=True)))
        it, medium = on(disk)
        for step in (it.predict, it.take_next):
            with pytest.raises(NothingBootableError, match="disk: no slot can boot"):
                step()
        assert bytes(medium.files["disk"]) == disk

    def test_a_third_boot_partition_is_refused_and_no_try_is_counted(self) -> None:
        disk = disks.make_disk(
            (disks.RUNNING, Flags(), Flags(priority=9, tries=1)), types=(*disks.TWO_SLOTS, sets.BOOT)
        )
        it, medium = on(disk)
        for action in (it.view, it.take_next, it.repair):
            with pytest.raises(LayoutError, match="3 BOOT partitions"):
                action()
        assert bytes(medium.files["disk"]) == disk

    def test_a_table_without_slots_is_not_repaired(self) -> None:
        """It may belong to another system, whose backup outlived the node's table."""
        other = gpt.new_table((), disk_size=2 << 20, disk_guid=disks.guid(9))
        disk = disks.write_all(bytes(2 << 20), other.pair)
        disk = disks.put(disk, 512, bytes(512))
        medium = MemoryMedium({"disk": disk})
        for it in (UnbootedDisk(medium, "disk"), Signpost(medium, "disk", Slot.A)):
            repair = it.repair if isinstance(it, Signpost) else it.repair_disk
            with pytest.raises(LayoutError, match="no BOOT-A"):
                repair()
        assert bytes(medium.files["disk"]) == disk

    def test_power_cycles_fall_back_and_stay(self) -> None:
        """D36."""
        it, _ = on(disks.make_disk((disks.RUNNING, Flags(priority=2, tries=3))))
        assert [it.take_next() for _ in range(6)] == [Slot.B] * 3 + [Slot.A] * 3


class TestRepair:
    def test_a_repair_returns_the_faults_and_leaves_none(self) -> None:
        sound = disks.make_disk()
        it, medium = on(disks.put(sound, -512, bytes(512)))
        assert it.repair_disk() == ("backup: no GPT signature",)
        assert bytes(medium.files["disk"]) == sound
        assert it.repair().faults == ()

    def test_a_sound_table_is_not_written(self) -> None:
        medium = RecordingMedium(MemoryMedium({"disk": disks.make_disk()}))
        assert Signpost(medium, "disk", Slot.A).repair().faults == ()
        assert medium.names == []

    def test_two_bad_copies_are_left_bit_for_bit(self) -> None:
        """D23, through every entry point."""
        bad = disks.put(disks.flip(disks.make_disk(), 530), -512, bytes(512))
        it, medium = on(bad)
        unbooted = UnbootedDisk(medium, "disk")
        reads: list[Callable[[], object]] = [it.view, unbooted.view, it.take_next, it.predict]
        actions = [*reads, it.repair, it.repair_disk, it.rewrite]
        for action in [*actions, *(lambda command=command: it.apply(command) for command in Command)]:
            with pytest.raises(TableError, match="both copies of the partition table are invalid"):
                action()
        assert bytes(medium.files["disk"]) == bad

    def test_a_rewrite_writes_both_copies_as_they_are(self) -> None:
        memory = MemoryMedium({"disk": disks.make_disk()})
        medium = RecordingMedium(memory)
        UnbootedDisk(medium, "disk").rewrite()
        assert len(medium.writes) == 4
        assert bytes(memory.files["disk"]) == disks.make_disk()

    def test_ever_booted_is_read_from_private(self) -> None:
        it, _ = on(disks.make_disk(ever_booted=True, strange_bits=0))
        assert it.view().ever_booted
        assert gptprio.ever_booted(1 << 57)
