"""Loading and storing a table: order, lock, read-back, and what is never written (D16-D27, D71, D79)."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from signpost import gpt
from signpost.disk import Disk
from signpost.errors import (
    DiskBusyError,
    MediumError,
    ReadBackError,
    TableChangedError,
    TableError,
    ToolError,
)
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from tests.support import disks
from tests.support.media import FailingMedium, MemoryMedium, RecordingMedium

if TYPE_CHECKING:
    from pathlib import Path

    from signpost.disk import Loaded
    from signpost.medium import Medium

NEW = Flags(priority=2, tries=1)


def changes(loaded: Loaded) -> dict[int, gpt.PartitionEntry]:
    """Return slot B's entry with new flags."""
    entry = loaded.table.entries[disks.BOOT_B]
    return {disks.BOOT_B: replace(entry, attributes=with_flags(entry.attributes, NEW))}


def stored(disk: bytes, medium: Medium | None = None) -> bytes:
    """Return a disk after slot B's flags were stored on it."""
    memory = MemoryMedium({"disk": disk})
    store(medium or memory)
    return bytes(memory.files["disk"])


def store(medium: Medium) -> Loaded:
    """Store slot B's new flags."""
    it = Disk(medium, "disk", patience=0)
    loaded = it.load()
    return it.store(loaded, changes(loaded))


def recorded(disk: bytes) -> RecordingMedium:
    """Store slot B's new flags and return the medium, which recorded the calls."""
    medium = RecordingMedium(MemoryMedium({"disk": disk}))
    store(medium)
    return medium


class TestLoading:
    @pytest.mark.parametrize("shape", disks.SHAPES.values(), ids=disks.SHAPES)
    def test_the_sector_size_of_a_file_is_found(self, shape: disks.Shape) -> None:
        """D24."""
        loaded = Disk(MemoryMedium({"disk": disks.make_disk(shape=shape)}), "disk").load()
        assert loaded.table.sector_size == shape.sector_size
        assert loaded.faults == ()

    @pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES)
    @pytest.mark.parametrize("lost", ["primary", "backup"])
    def test_also_with_one_copy_lost(self, sector_size: int, lost: str) -> None:
        disk = disks.make_disk(shape=disks.Shape(sector_size=sector_size))
        disk = disks.put(disk, sector_size if lost == "primary" else -sector_size, bytes(sector_size))
        assert Disk(MemoryMedium({"disk": disk}), "disk").load().table.sector_size == sector_size

    def test_a_block_device_is_asked_for_its_sector_size(self) -> None:
        disk = disks.make_disk(shape=disks.SHAPES["4096"])
        asked = MemoryMedium({"disk": disk}, sector_size=4096)
        assert Disk(asked, "disk").load().table.sector_size == 4096

    @pytest.mark.parametrize(("of", "on"), [("4096", 512), ("512", 4096)])
    def test_a_table_for_the_other_sector_size_is_named_as_such(self, of: str, on: int) -> None:
        disk = disks.make_disk(shape=disks.SHAPES[of])
        message = f"is for {of}-byte sectors; the disk has {on}-byte sectors"
        with pytest.raises(TableError, match=message) as caught:
            Disk(MemoryMedium({"disk": disk}, sector_size=on), "disk").load()
        assert f"--sector-size {on}" in caught.value.next_step

    def test_tables_for_both_sector_sizes_are_refused(self) -> None:
        coarse = disks.make_disk(shape=disks.SHAPES["4096"])
        length = len(coarse) // 512
        fine = gpt.new_table((), disk_size=length * 512, disk_guid=disks.guid(1), entry_count=16)
        both = disks.write_all(coarse, fine.pair)
        both = disks.put(both, 4096, coarse[4096:8192])
        with pytest.raises(TableError, match="512-byte and one for 4096-byte") as caught:
            Disk(MemoryMedium({"disk": both}), "disk").load()
        assert "losetup" in caught.value.next_step

    @pytest.mark.parametrize(
        "data", [b"", b"EFI PART", bytes(100), bytes(100_000)], ids=["empty", "8", "100", "zeros"]
    )
    def test_a_file_that_is_not_a_disk_is_refused_by_name(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "disk").write_bytes(data)
        for medium, path in ((MemoryMedium({"disk": data}), "disk"), (OsMedium(), str(tmp_path / "disk"))):
            with pytest.raises(TableError, match="disk: both copies of the partition table are invalid"):
                Disk(medium, path).load()

    def test_loading_writes_nothing(self) -> None:
        medium = RecordingMedium(MemoryMedium({"disk": disks.flip(disks.make_disk(), 530)}))
        Disk(medium, "disk").load()
        assert medium.names == []
        assert medium.calls[-1].name == "close"


class TestOrder:
    def test_the_backup_is_complete_before_the_primary_is_touched(self) -> None:
        medium = recorded(disks.make_disk())
        assert medium.names == [
            "lock",
            "flush",
            "write_at",
            "write_at",
            "flush",
            "write_at",
            "write_at",
            "flush",
        ]
        size = len(disks.make_disk())
        assert [write.offset for write in medium.writes] == [size - 33 * 512, size - 512, 1024, 512]

    def test_a_bad_primary_goes_first_for_the_backup_is_the_only_valid_copy(self) -> None:
        medium = recorded(disks.flip(disks.make_disk(), 530))
        assert [write.offset for write in medium.writes][:2] == [1024, 512]

    def test_each_copy_is_read_back_from_the_medium_after_its_flush(self) -> None:
        calls = [call.name for call in recorded(disks.make_disk()).calls]
        first_flush = calls.index("flush", calls.index("write_at"))
        assert calls[first_flush : first_flush + 5] == [
            "flush",
            "drop_cache",
            "read_at",
            "drop_cache",
            "read_at",
        ]

    def test_only_the_table_is_written(self) -> None:
        """D26: the protective MBR and every byte outside the two copies are unchanged."""
        before = disks.put(disks.make_disk(), 0, bytes(range(256)) * 2)
        after = stored(before)
        assert after[:512] == before[:512]
        places = [(512, 34 * 512), (len(before) - 33 * 512, len(before))]
        for at in range(0, len(before), 512):
            if before[at : at + 512] != after[at : at + 512]:
                assert any(start <= at < end for start, end in places)

    def test_bits_that_are_not_ours_are_kept(self) -> None:
        """D27, read directly from the bytes."""
        after = stored(disks.make_disk())
        for array in (1024, len(after) - 33 * 512):
            bits = disks.raw_attributes(after, disks.BOOT_B, array=array)
            assert disks.raw_flags(bits) == (2, 1, False)
            assert bits & ~(0x01FF << 48) == disks.STRANGE_BITS

    def test_both_copies_say_the_same_afterwards(self) -> None:
        assert disks.examine(stored(disks.make_disk())).faults == ()


class TestRepairing:
    @pytest.mark.parametrize("place", [512, 1024 + 8, -512, -33 * 512 + 8], ids=["D18", "D17", "D19", "D17b"])
    def test_a_store_repairs_the_other_copy_in_the_same_write(self, place: int) -> None:
        disk = disks.make_disk()
        assert stored(disks.put(disk, place, bytes(16))) == stored(disk)

    def test_nothing_to_change_and_a_bad_copy_is_a_repair(self) -> None:
        disk = disks.make_disk()
        memory = MemoryMedium({"disk": disks.put(disk, -512, bytes(512))})
        it = Disk(memory, "disk")
        assert it.store(it.load(), {}).faults == ()
        assert bytes(memory.files["disk"]) == disk

    def test_nothing_to_change_and_nothing_to_repair_does_not_even_open_the_disk(self) -> None:
        medium = RecordingMedium(MemoryMedium({"disk": disks.make_disk()}))
        loaded = Disk(medium, "disk").load()
        seen = len(medium.calls)
        assert Disk(medium, "disk").store(loaded, {}) is loaded
        assert len(medium.calls) == seen

    def test_a_rewrite_writes_a_sound_table_too(self) -> None:
        memory = MemoryMedium({"disk": disks.make_disk()})
        medium = RecordingMedium(memory)
        it = Disk(medium, "disk")
        it.store(it.load(), {}, rewrite=True)
        assert len(medium.writes) == 4
        assert bytes(memory.files["disk"]) == disks.make_disk()

    def test_two_bad_copies_are_refused_and_the_file_stays_bit_for_bit(self, tmp_path: Path) -> None:
        """D23."""
        path = tmp_path / "disk"
        bad = disks.put(disks.flip(disks.make_disk(), 530), -512, bytes(512))
        path.write_bytes(bad)
        with pytest.raises(TableError) as caught:
            Disk(OsMedium(), str(path)).load()
        assert "primary: wrong header CRC; backup: no GPT signature" in str(caught.value)
        assert path.read_bytes() == bad


class TestOthersAtWork:
    def test_a_table_that_changed_since_it_was_read_is_not_written(self) -> None:
        memory = MemoryMedium({"disk": disks.make_disk()})
        it = Disk(memory, "disk")
        loaded = it.load()
        memory.files["disk"][:] = disks.make_disk((disks.RUNNING, Flags(tries=7)))
        between = bytes(memory.files["disk"])
        with pytest.raises(TableChangedError, match="changed since it was read"):
            it.store(loaded, changes(loaded))
        assert bytes(memory.files["disk"]) == between

    def test_a_locked_disk_is_not_written(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(disks.make_disk())
        other = OsMedium()
        descriptor = other.open(str(path), write=False)
        other.lock(descriptor)
        it = Disk(OsMedium(), str(path), patience=0.03)
        loaded = it.load()
        with pytest.raises(DiskBusyError):
            it.store(loaded, changes(loaded))
        assert path.read_bytes() == disks.make_disk()
        other.close(descriptor)
        it.store(loaded, changes(loaded))
        assert path.read_bytes() == stored(disks.make_disk())

    def test_a_lock_that_is_released_in_time_is_waited_for(self, tmp_path: Path) -> None:
        """After a program has written to a disk, udev holds its lock for a moment."""
        path = tmp_path / "disk"
        path.write_bytes(disks.make_disk())
        other = OsMedium()
        descriptor = other.open(str(path), write=False)
        other.lock(descriptor)
        it = Disk(OsMedium(), str(path), patience=60)
        loaded = it.load()
        threading.Timer(0.1, other.close, [descriptor]).start()
        it.store(loaded, changes(loaded))
        assert path.read_bytes() == stored(disks.make_disk())


class LyingMedium(MemoryMedium):
    """Loses what is written at one offset, as a failing disk does (D79)."""

    def __init__(self, disk: bytes, *, loses: int) -> None:
        super().__init__({"disk": disk})
        self._loses = loses

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        if offset != self._loses:
            super().write_at(descriptor, data, offset)


class TestFailing:
    def test_a_copy_that_reads_back_different_stops_the_write(self) -> None:
        """D79: the other copy is not touched."""
        disk = disks.make_disk()
        medium = LyingMedium(disk, loses=len(disk) - 512)
        with pytest.raises(ReadBackError, match="differ from what was written"):
            store(medium)
        left = bytes(medium.files["disk"])
        assert left[: 34 * 512] == disk[: 34 * 512]
        assert disks.boot_flags(disks.trusted(left)) == [disks.RUNNING, Flags()]

    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
    def test_a_failure_of_any_call_leaves_a_valid_copy(self, error: int) -> None:
        """D71: every call in turn."""
        counted = FailingMedium(MemoryMedium({"disk": disks.make_disk()}), at=0)
        store(counted)
        assert counted.made > 20
        for at in range(1, counted.made + 1):
            memory = MemoryMedium({"disk": disks.make_disk()})
            with pytest.raises(MediumError) as caught:
                store(FailingMedium(memory, at=at, error=error))
            assert isinstance(caught.value.__cause__, OSError)
            left = disks.boot_flags(disks.trusted(bytes(memory.files["disk"])))
            assert left in ([disks.RUNNING, Flags()], [disks.RUNNING, NEW])
            assert memory.locked == {}

    @pytest.mark.parametrize("missing", ["", "no/such/disk"])
    def test_a_disk_that_cannot_be_opened_is_named(self, missing: str) -> None:
        with pytest.raises(ToolError, match=f"cannot open {missing}: No such file"):
            Disk(OsMedium(), missing).load()
