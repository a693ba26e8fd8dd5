"""The partition table as bytes and values, and how damaged ones are examined and repaired (D16-D27)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any

import pytest

from signpost import gpt, sets
from signpost.errors import LayoutError, TableError, UsageError
from signpost.gpt import CopyName, TableFault
from tests.support import disks

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
LAST = -512  # offset of the backup header on a disk of 512-byte sectors


def array_of(disk: bytes, role: CopyName = CopyName.BACKUP) -> int:
    """Return the offset of a copy's partition entry array, in bytes."""
    examined = disks.examine(disk)
    header = (examined.backup if role is CopyName.BACKUP else examined.primary).header
    assert header is not None
    return header.array_lba * 512


class TestGuid:
    def test_its_first_three_groups_are_little_endian_on_disk(self) -> None:
        data = bytes.fromhex("28732ac1 1ff8 d211 ba4b 00a0c93ec93b")
        assert gpt.guid_from_bytes(data) == sets.EFI_SYSTEM
        assert gpt.guid_to_bytes(sets.EFI_SYSTEM) == data

    def test_any_case_reads_as_lower_case(self) -> None:
        assert gpt.guid("C12A7328-F81F-11D2-BA4B-00A0C93EC93B") == sets.EFI_SYSTEM

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "c12a7328",
            "c12a7328f81f11d2ba4b00a0c93ec93b",
            "g12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "c12a7328-f81f-11d2-ba4b00a0-c93ec93b",
            "{c12a7328-f81f-11d2-ba4b-00a0c93ec93b}",
        ],
    )
    def test_a_text_in_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="not a GUID"):
            gpt.guid(text)


class TestValues:
    def test_a_header_cannot_be_changed(self) -> None:
        header = disks.trusted(disks.make_disk()).header
        with pytest.raises(FrozenInstanceError):
            header.my_lba = 2  # type: ignore[misc]

    def test_a_label_ends_at_its_first_nul_but_the_name_is_kept_whole(self) -> None:
        data = disks.trusted(disks.make_disk()).entries[0].to_bytes()
        odd = data[:56] + "BOOT\0left over".encode("utf-16-le").ljust(72, b"\0") + data[128:]
        entry = gpt.PartitionEntry.from_bytes(odd)
        assert entry.label == "BOOT"
        assert entry.to_bytes() == odd

    def test_a_broken_name_still_has_a_label(self) -> None:
        entry = gpt.PartitionEntry(name="A\ud800B")
        assert entry.label == "A\ufffdB"
        assert gpt.PartitionEntry.from_bytes(entry.to_bytes()).name == "A\ud800B"

    def test_a_partition_is_measured_in_bytes(self) -> None:
        table = disks.trusted(disks.make_disk(shape=disks.SHAPES["4096"]), 4096)
        entry = table.entries[1]
        assert table.extent(1) == gpt.Extent(entry.first_lba * 4096, 8 * 4096)
        assert table.extents()[2] == table.extent(1)
        assert set(table.extents()) == {1, 2, 3, 4, 5, 6, 7}

    def test_a_changed_entry_renews_both_checksums(self) -> None:
        before = disks.trusted(disks.make_disk())
        after = before.with_entries({3: replace(before.entries[3], attributes=0)})
        assert after.header.array_crc != before.header.array_crc
        assert after.header.header_crc == after.header.expected_crc() != before.header.header_crc

    def test_an_unchanged_entry_changes_nothing(self) -> None:
        table = disks.trusted(disks.make_disk())
        assert table.with_entries({3: table.entries[3]}) == table


@pytest.mark.parametrize("shape", disks.SHAPES.values(), ids=disks.SHAPES)
class TestShapes:
    """D24, D25: sector sizes, entry sizes and entry counts."""

    def test_a_sound_table_has_no_faults(self, shape: disks.Shape) -> None:
        examined = disks.examine(disks.make_disk(shape=shape), shape.sector_size)
        assert examined.faults == ()
        assert examined.primary.table
        assert examined.backup.table

    def test_encoding_gives_the_bytes_that_were_decoded(self, shape: disks.Shape) -> None:
        disk = disks.make_disk(shape=shape)
        examined = disks.examine(disk, shape.sector_size)
        assert (
            disks.write_all(bytes(len(disk)), gpt.repair(examined))
            == disk[:0].ljust(shape.sector_size, b"\0") + disk[shape.sector_size :]
        )

    def test_repair_leaves_a_sound_table_bit_for_bit(self, shape: disks.Shape) -> None:
        disk = disks.make_disk(shape=shape)
        assert disks.write_all(disk, gpt.repair(disks.examine(disk, shape.sector_size))) == disk

    def test_either_copy_is_repaired_from_the_other(self, shape: disks.Shape) -> None:
        disk, size = disks.make_disk(shape=shape), shape.sector_size
        for place in (size, -size):
            damaged = disks.put(disk, place, bytes(size))
            assert disks.write_all(damaged, gpt.repair(disks.examine(damaged, size))) == disk


# The ways to damage one copy, by name; D16-D19.
DAMAGES: dict[str, tuple[Callable[[bytes, CopyName], bytes], TableFault]] = {}


def damage(
    fault: TableFault,
) -> Callable[[Callable[[bytes, CopyName], bytes]], Callable[[bytes, CopyName], bytes]]:
    """Register a way to damage one copy, and the fault that must be reported."""

    def register(function: Callable[[bytes, CopyName], bytes]) -> Callable[[bytes, CopyName], bytes]:
        DAMAGES[function.__name__] = (function, fault)
        return function

    return register


def place_of(role: CopyName) -> int:
    """Return the offset of a copy's header; negative from the end."""
    return 512 if role is CopyName.PRIMARY else LAST


@damage(TableFault.SIGNATURE)
def zeroed_header(disk: bytes, role: CopyName) -> bytes:
    return disks.put(disk, place_of(role), bytes(512))


@damage(TableFault.HEADER_CRC)
def flipped_header_bit(disk: bytes, role: CopyName) -> bytes:
    return disks.flip(disk, (place_of(role) % len(disk)) + 0x38)


@damage(TableFault.HEADER_CRC)
def flipped_checksum_bit(disk: bytes, role: CopyName) -> bytes:
    return disks.flip(disk, (place_of(role) % len(disk)) + 0x10)


@damage(TableFault.ARRAY_CRC)
def flipped_entry_bit(disk: bytes, role: CopyName) -> bytes:
    return disks.flip(disk, array_of(disk, role) + 130)


@damage(TableFault.ARRAY_CRC)
def flipped_bit_of_an_unused_entry(disk: bytes, role: CopyName) -> bytes:
    return disks.flip(disk, array_of(disk, role) + 127 * 128 + 127)


@damage(TableFault.HEADER_SIZE)
def header_smaller_than_its_fields(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, header_size=91)


@damage(TableFault.HEADER_SIZE)
def header_larger_than_its_sector(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, header_size=513)


@damage(TableFault.REVISION)
def header_of_a_later_format(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, revision=0x0002_0000)


@damage(TableFault.MY_LBA)
def header_of_another_place(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, my_lba=7)


@damage(TableFault.ENTRY_SHAPE)
def entries_of_no_power_of_two(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, entry_size=192)


@damage(TableFault.ENTRY_SHAPE)
def entries_smaller_than_their_fields(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, entry_size=64)


@damage(TableFault.ENTRY_SHAPE)
def no_entries(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, entry_count=0)


@damage(TableFault.ENTRY_SHAPE)
def more_entries_than_memory(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, entry_count=0xFFFF_FFFF)


@damage(TableFault.USABLE)
def usable_beyond_the_disk(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, last_usable_lba=len(disk) // 512)


@damage(TableFault.USABLE)
def usable_backwards(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, first_usable_lba=99, last_usable_lba=97)


@damage(TableFault.ARRAY_PLACE)
def entries_among_the_partitions(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, array_lba=40)


@damage(TableFault.ARRAY_PLACE)
def entries_over_the_last_usable_sector(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, array_lba=disks.trusted(disk).header.last_usable_lba)


@damage(TableFault.ARRAY_PLACE)
def entries_over_the_primary_header(disk: bytes, role: CopyName) -> bytes:
    return disks.with_header(disk, role, array_lba=1)


@pytest.mark.parametrize("role", CopyName)
@pytest.mark.parametrize(("change", "fault"), DAMAGES.values(), ids=DAMAGES)
class TestOneBadCopy:
    """D16-D19 and D22, in either copy."""

    def test_the_fault_is_named(
        self, change: Callable[[bytes, CopyName], bytes], fault: TableFault, role: CopyName
    ) -> None:
        found = disks.examine(change(disks.make_disk(), role))
        copy = found.primary if role is CopyName.PRIMARY else found.backup
        assert copy.faults[0] is fault
        assert f"{role}: {fault}" in found.faults

    def test_the_other_copy_is_trusted_and_repairs_it(
        self, change: Callable[[bytes, CopyName], bytes], fault: TableFault, role: CopyName
    ) -> None:
        disk = disks.make_disk()
        found = disks.examine(change(disk, role))
        assert found.trusted is not None
        assert found.trusted.entries == disks.trusted(disk).entries
        repaired = disks.write_all(change(disk, role), gpt.repair(found))
        assert repaired == disk, fault

    def test_with_the_other_copy_gone_too_nothing_is_repaired(
        self, change: Callable[[bytes, CopyName], bytes], fault: TableFault, role: CopyName
    ) -> None:
        """D23."""
        other = CopyName.BACKUP if role is CopyName.PRIMARY else CopyName.PRIMARY
        found = disks.examine(zeroed_header(change(disks.make_disk(), role), other))
        assert found.trusted is None
        with pytest.raises(TableError, match="both copies") as caught:
            gpt.repair(found)
        assert f"{role}: {fault}" in str(caught.value)


class TestPartitionPlaces:
    @staticmethod
    def with_both(disk: bytes, index: int, **fields: Any) -> bytes:
        """Return a disk with an entry changed in both copies, with correct CRCs."""
        pair = gpt.repair(disks.examine(disk))
        return disks.write_all(
            disk, pair.with_entries({index: replace(pair.primary.entries[index], **fields)})
        )

    @pytest.mark.parametrize(
        "fields",
        [
            {"first_lba": 5},
            {"first_lba": 60, "last_lba": 50},
            {"first_lba": 0, "last_lba": 0},
            {"last_lba": 1 << 40},
        ],
        ids=["before the usable blocks", "backwards", "nowhere", "beyond the disk"],
    )
    def test_a_partition_outside_the_usable_blocks_is_a_fault(self, fields: dict[str, int]) -> None:
        found = disks.examine(self.with_both(disks.make_disk(), 6, **fields))
        assert found.trusted is None
        assert TableFault.RANGE in found.primary.faults
        assert TableFault.RANGE in found.backup.faults

    def test_overlapping_partitions_are_a_fault(self) -> None:
        disk = disks.make_disk()
        second = disks.trusted(disk).entries[1]
        found = disks.examine(self.with_both(disk, 0, last_lba=second.first_lba))
        assert found.primary.faults == (TableFault.OVERLAP,)

    def test_adjacent_partitions_do_not_overlap(self) -> None:
        disk = disks.make_disk()
        entries = disks.trusted(disk).entries
        assert entries[0].last_lba + 1 == entries[1].first_lba
        assert disks.examine(disk).faults == ()

    def test_duplicate_labels_and_type_guids_are_no_fault(self) -> None:
        """D28."""
        disk = disks.make_disk(labels=["SAME"] * 7)
        assert disks.examine(disk).faults == ()


class TestDifferingCopies:
    """D20."""

    def test_the_primary_counts(self) -> None:
        old, new = disks.make_disk(), disks.make_disk((disks.RUNNING, disks.RUNNING))
        mixed = disks.write_all(old, gpt.Pair(disks.trusted(old), gpt.repair(disks.examine(new)).backup))
        found = disks.examine(mixed)
        assert found.faults == (str(TableFault.DIFFER),)
        assert found.trusted == disks.trusted(old)
        assert disks.write_all(mixed, gpt.repair(found)) == old

    def test_a_backup_of_another_disk_is_foreign_also_where_the_primary_names_it(self) -> None:
        good = disks.make_disk()
        disk = disks.with_header(good, CopyName.BACKUP, disk_guid=disks.guid(5))
        found = disks.examine(disk)
        assert found.faults == (f"backup: {TableFault.FOREIGN}",)
        assert disks.write_all(disk, gpt.repair(found)) == good


class TestForeignBackups:
    """An image was written over a larger disk: the backup of the previous system is still at the end."""

    @staticmethod
    def over(image: bytes, sectors: int = 4000) -> bytes:
        """Return a disk of another system's table with an image written over its start."""
        other = gpt.new_table(
            [gpt.NewPartition(disks.guid(80), disks.guid(81), 1 << 20, "OLD")],
            disk_size=len(image) + sectors * 512,
            disk_guid=disks.guid(82),
        )
        return image + disks.write_all(bytes(len(image) + sectors * 512), other.pair)[len(image) :]

    def test_the_backup_that_the_primary_names_is_used(self) -> None:
        image = disks.make_disk()
        disk = self.over(image)
        found = disks.examine(disk)
        assert found.trusted == disks.trusted(image)
        assert found.backup.lba == len(image) // 512 - 1
        assert [fault.split(" (")[0] for fault in found.faults] == [str(TableFault.NOT_AT_END)]

    @pytest.mark.parametrize("place", [1024 + 57, 1024 + 8, 512 + 16, 512 + 20, 512 + 60])
    def test_a_damaged_primary_is_repaired_from_its_own_backup(self, place: int) -> None:
        image = disks.make_disk()
        disk = disks.flip(self.over(image), place)
        found = disks.examine(disk)
        assert found.trusted
        assert found.trusted.entries == disks.trusted(image).entries
        repaired = disks.examine(disks.write_all(disk, gpt.repair(found)))
        assert repaired.faults == ()
        assert repaired.trusted
        assert repaired.trusted.entries == disks.trusted(image).entries

    def test_without_a_backup_of_its_own_the_strangers_is_not_followed(self) -> None:
        image = disks.make_disk()
        disk = self.over(disks.put(disks.flip(image, 1024 + 57), -512, bytes(512)))
        found = disks.examine(disk)
        assert found.trusted is None
        assert found.faults == (f"primary: {TableFault.ARRAY_CRC}", f"backup: {TableFault.FOREIGN}")
        with pytest.raises(TableError, match="belongs to another disk"):
            gpt.repair(found)

    def test_a_damaged_header_that_names_neither_place_is_no_reason_to_follow_the_strangers(self) -> None:
        image = disks.put(disks.make_disk(), 512 + 32, (77).to_bytes(8, "little"))
        found = disks.examine(self.over(image))
        assert found.trusted is None

    def test_reserved_bytes_of_each_header_are_its_own(self) -> None:
        disk = disks.with_header(disks.make_disk(), CopyName.BACKUP, reserved=7)
        disk = disks.put(disk, 512 + 300, b"kept")
        assert disks.examine(disk).faults == ()
        assert disks.write_all(disk, gpt.repair(disks.examine(disk))) == disk


class TestMovedEnds:
    """D21, D22."""

    GROWN = 100 * 512

    @pytest.mark.parametrize("which", CopyName)
    def test_a_damaged_array_is_repaired_where_its_valid_header_has_it(self, which: CopyName) -> None:
        disk = disks.make_disk(shape=disks.SHAPES["5-sector-array"])
        place = array_of(disk, which) + 512
        disk = disks.put(disk, place, disks.trusted(disk).array())
        disk = disks.with_header(disk, which, array_lba=place // 512)
        assert disks.examine(disk).faults == ()
        damaged = disks.flip(disk, place + 1)
        assert disks.write_all(damaged, gpt.repair(disks.examine(damaged))) == disk

    def test_a_repair_keeps_the_free_sectors_between_the_usable_ones_and_the_backup(self) -> None:
        disk = disks.make_disk()
        usable = disks.trusted(disk).header.last_usable_lba - 4
        for which in CopyName:
            disk = disks.with_header(disk, which, last_usable_lba=usable)
        assert disks.examine(disk).faults == ()
        for which in CopyName:
            damaged = zeroed_header(disk, which)
            assert disks.write_all(damaged, gpt.repair(disks.examine(damaged))) == disk

    def test_after_growth_the_backup_is_found_where_it_was_and_moves_to_the_end(self) -> None:
        disk = disks.make_disk()
        found = disks.examine(disk + bytes(self.GROWN))
        assert found.backup.table
        assert [fault.split(" (")[0] for fault in found.faults] == [str(TableFault.NOT_AT_END)]
        repaired = disks.write_all(disk + bytes(self.GROWN), gpt.repair(found))
        again = disks.examine(repaired)
        assert again.faults == ()
        assert again.backup.lba == len(repaired) // 512 - 1
        assert again.trusted
        assert again.trusted.entries == disks.trusted(disk).entries
        assert again.trusted.header.last_usable_lba == disks.trusted(disk).header.last_usable_lba + 100

    @pytest.mark.parametrize("sectors", [1, 2, 31, 32, 33, 34])
    def test_growth_by_less_than_a_table_moves_it_too(self, sectors: int) -> None:
        disk = disks.make_disk() + bytes(sectors * 512)
        assert disks.examine(disks.write_all(disk, gpt.repair(disks.examine(disk)))).faults == ()

    def test_after_growth_without_a_primary_the_old_backup_is_found_by_its_hint(self) -> None:
        disk = flipped_header_bit(disks.make_disk(), CopyName.PRIMARY) + bytes(self.GROWN)
        found = disks.examine(disk)
        assert found.primary.faults == (TableFault.HEADER_CRC,)
        assert any(fault.startswith(TableFault.NOT_AT_END) for fault in found.faults)
        assert disks.examine(disks.write_all(disk, gpt.repair(found))).faults == ()

    def test_after_growth_a_zeroed_primary_leaves_no_trace_of_the_backup(self) -> None:
        found = disks.examine(zeroed_header(disks.make_disk(), CopyName.PRIMARY) + bytes(self.GROWN))
        assert found.trusted is None

    def test_a_backup_that_names_another_primary_is_not_trusted(self) -> None:
        disk = disks.with_header(disks.make_disk(), CopyName.BACKUP, alternate_lba=9)
        assert disks.examine(disk).backup.faults == (TableFault.ALTERNATE,)

    def test_a_primary_that_points_elsewhere_is_put_right(self) -> None:
        good = disks.make_disk()
        disk = disks.with_header(good, CopyName.PRIMARY, alternate_lba=77)
        found = disks.examine(disk)
        assert found.trusted
        assert len(found.faults) == 1
        repaired = disks.examine(disks.write_all(disk, gpt.repair(found)))
        assert repaired.faults == ()
        assert repaired.trusted
        assert repaired.trusted.entries == disks.trusted(good).entries

    def test_a_shrunk_disk_that_cuts_the_usable_blocks_is_refused(self) -> None:
        found = disks.examine(disks.make_disk()[: -40 * 512])
        assert found.primary.faults == (TableFault.USABLE,)
        assert found.trusted is None

    def test_without_room_for_the_backup_nothing_is_repaired(self) -> None:
        found = disks.examine(disks.make_disk()[: -20 * 512])
        assert found.trusted
        with pytest.raises(TableError, match="no room for the backup"):
            gpt.repair(found)

    def test_without_room_for_the_primary_nothing_is_repaired(self) -> None:
        disk = disks.make_disk()
        disk = disks.with_header(zeroed_header(disk, CopyName.PRIMARY), CopyName.BACKUP, first_usable_lba=20)
        with pytest.raises(TableError, match="no room for the primary"):
            gpt.repair(disks.examine(disk))

    @pytest.mark.parametrize("sectors", [0, 1, 2, 3])
    def test_a_disk_too_short_for_a_table_has_none(self, sectors: int) -> None:
        found = disks.examine(disks.make_disk()[: sectors * 512 + 5])
        assert found.trusted is None
        assert found.primary.faults == ((TableFault.SHORT if sectors < 2 else TableFault.USABLE),)


class TestNewTable:
    PARTS = (
        gpt.NewPartition(sets.BOOT, disks.guid(1), 3 * MIB - 700, "BOTTLEROCKET-BOOT-A", 1 << 48),
        gpt.NewPartition(sets.ROOT, disks.guid(2), MIB, "BOTTLEROCKET-ROOT-A"),
    )

    @pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES)
    def test_partitions_follow_each_other_aligned_to_a_mebibyte(self, sector_size: int) -> None:
        table = gpt.new_table(
            self.PARTS, disk_size=8 * MIB, disk_guid=disks.guid(0), sector_size=sector_size
        ).pair.primary
        whole = -(-(3 * MIB - 700) // sector_size) * sector_size
        assert table.extents() == {1: gpt.Extent(MIB, whole), 2: gpt.Extent(4 * MIB, MIB)}
        assert [entry.label for entry in table.entries[:2]] == ["BOTTLEROCKET-BOOT-A", "BOTTLEROCKET-ROOT-A"]
        assert table.entries[0].attributes == 1 << 48

    @pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES)
    def test_written_to_an_empty_disk_it_is_sound(self, sector_size: int) -> None:
        made = gpt.new_table(
            self.PARTS, disk_size=8 * MIB + 100, disk_guid=disks.guid(0), sector_size=sector_size
        )
        disk = bytes(8 * MIB + 100)
        for offset, data in made.writes():
            disk = disks.put(disk, offset, data)
        assert disks.examine(disk, sector_size).faults == ()
        assert disk[510:512] == b"\x55\xaa"
        assert disk[450] == 0xEE
        assert int.from_bytes(disk[454:458], "little") == 1
        assert int.from_bytes(disk[458:462], "little") == 8 * MIB // sector_size - 1

    def test_the_protective_mbr_of_a_huge_disk_says_as_much_as_it_can(self) -> None:
        mbr = gpt.protective_mbr(gpt.Geometry(512, 1 << 40))
        assert mbr[458:462] == b"\xff\xff\xff\xff"

    def test_partitions_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(LayoutError, match=r"the partitions need .* and 2 table entries"):
            gpt.new_table(self.PARTS, disk_size=5 * MIB, disk_guid=disks.guid(0))

    def test_a_partition_may_end_at_the_last_usable_sector(self) -> None:
        size = 4 * MIB
        last_usable = size // 512 - 34
        part = gpt.NewPartition(sets.DATA, disks.guid(1), (last_usable + 1) * 512 - MIB, "DATA")
        table = gpt.new_table([part], disk_size=size, disk_guid=disks.guid(0)).pair.primary
        assert table.entries[0].last_lba == table.header.last_usable_lba == last_usable
        with pytest.raises(LayoutError):
            gpt.new_table([part._replace(size=part.size + 1)], disk_size=size, disk_guid=disks.guid(0))

    def test_more_partitions_than_entries_are_refused(self) -> None:
        with pytest.raises(LayoutError, match=r"2 table entries; the disk has .* and 1$"):
            gpt.new_table(self.PARTS, disk_size=8 * MIB, disk_guid=disks.guid(0), entry_count=1)

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [("x" * 37, MIB, "name too long"), ("\N{ROCKET}" * 19, MIB, "name too long"), ("x", 0, "no size")],
    )
    def test_bad_partitions_are_refused(self, name: str, size: int, message: str) -> None:
        part = gpt.NewPartition(sets.BOOT, disks.guid(1), size, name)
        with pytest.raises(UsageError, match=message):
            gpt.new_table([part], disk_size=8 * MIB, disk_guid=disks.guid(0))

    def test_a_name_of_36_units_fits(self) -> None:
        part = gpt.NewPartition(sets.BOOT, disks.guid(1), MIB, "\N{ROCKET}" * 18)
        made = gpt.new_table([part], disk_size=8 * MIB, disk_guid=disks.guid(0))
        assert gpt.PartitionEntry.from_bytes(made.pair.primary.array()[:128]).label == "\N{ROCKET}" * 18
