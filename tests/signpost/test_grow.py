"""DATA grows to the end of a larger disk: `signpost grow`.

The disks have tiny partitions; the room that is added is what counts, because the end is aligned to 1 MiB.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from signpost import app, blockdev, gpt, sets
from signpost.app import UnbootedDisk
from signpost.blockdev import Device
from signpost.cli import program
from signpost.console import run
from signpost.errors import LayoutError, MediumError, TableError
from signpost.gptprio import Flags
from signpost.growth import growth
from signpost.sets import Slot
from tests.signpost.test_blockdev import Sysfs
from tests.signpost.test_other_tools import assert_valid, tool
from tests.support import disks
from tests.support.media import MemoryMedium, RecordingMedium, crash_states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


MIB = 1 << 20
WITH_DATA = (*disks.TWO_SLOTS, sets.DATA)
DATA = len(WITH_DATA) - 1
TRYING = (Flags(priority=1, successful=True), Flags(priority=2, tries=2))

both_sector_sizes = pytest.mark.parametrize("sector_size", gpt.SECTOR_SIZES, ids="{}-byte sectors".format)


def small(sector_size: int = 512, types: tuple[gpt.Guid, ...] = WITH_DATA) -> bytes:
    """Return a disk as an image has it."""
    return disks.make_disk(TRYING, types=types, shape=disks.Shape(sector_size=sector_size))


def larger(disk: bytes, room: int = MIB) -> bytes:
    """Return the disk as it is after it was written to a larger one."""
    return disk + bytes(room)


def grow(disk: bytes) -> tuple[app.GrownData, bytes]:
    """Grow DATA of a disk; return the result and the disk afterwards."""
    memory = MemoryMedium({"disk": disk})
    grown = UnbootedDisk(memory, "disk").grow()
    return grown, bytes(memory.files["disk"])


def entries(disk: bytes, sector_size: int = 512) -> tuple[gpt.PartitionEntry, ...]:
    return disks.trusted(disk, sector_size).entries


@both_sector_sizes
def test_data_ends_at_the_last_mebibyte_before_the_backup_and_nothing_else_changes(sector_size: int) -> None:
    before = larger(small(sector_size), 3 * MIB)
    grown, after = grow(before)
    examined = disks.examine(after, sector_size)
    assert examined.faults == ()
    assert grown.after is not None
    end = grown.after.offset + grown.after.size
    assert end % MIB == 0
    assert examined.trusted
    usable = (examined.trusted.header.last_usable_lba + 1) * sector_size
    assert end <= usable < end + MIB
    old, new = entries(before, sector_size), entries(after, sector_size)
    assert new[DATA] == replace(old[DATA], last_lba=end // sector_size - 1)
    assert [*new[:DATA], *new[DATA + 1 :]] == [*old[:DATA], *old[DATA + 1 :]]
    assert examined.trusted.header.disk_guid == disks.trusted(before, sector_size).header.disk_guid


def test_attributes_of_data_and_flags_of_slots_are_kept_bit_for_bit() -> None:
    before = larger(small())
    _, after = grow(before)
    for index in range(len(WITH_DATA)):
        assert disks.raw_attributes(after, index, array=1024) == disks.raw_attributes(
            before, index, array=1024
        )


@both_sector_sizes
def test_a_second_run_finds_nothing_to_do_and_writes_nothing(sector_size: int) -> None:
    _, once = grow(larger(small(sector_size)))
    medium = RecordingMedium(MemoryMedium({"disk": once}))
    grown = UnbootedDisk(medium, "disk").grow()
    assert grown.before == grown.after
    assert medium.names == []


def test_a_disk_that_fits_its_table_is_left_as_it_is() -> None:
    disk = small()
    assert grow(disk)[1] == disk


def test_data_also_grows_where_the_table_was_moved_to_the_end_before() -> None:
    """Counting a try repairs the table: the boot stage does it before the first start of the system."""
    before = moved(small())
    assert disks.examine(before).faults == ()
    grown, after = grow(before)
    assert grown.repaired == ()
    assert entries(after)[DATA].last_lba > entries(before)[DATA].last_lba


def test_the_backup_moves_even_where_there_is_no_mebibyte_to_grow_by() -> None:
    grown, after = grow(larger(small(), 40 * 512))
    assert grown.before == grown.after
    assert len(grown.repaired) == 1
    assert disks.examine(after).faults == ()


@pytest.mark.parametrize("damage", [512 + 20, 1024 + 20], ids=["header", "array"])
def test_data_grows_by_the_backup_of_the_image_where_the_primary_is_damaged(damage: int) -> None:
    before = disks.flip(larger(small()), damage)
    grown, after = grow(before)
    assert grown.repaired
    assert disks.examine(after).faults == ()
    assert entries(after)[DATA].last_lba > entries(before)[DATA].last_lba


OTHER_LAST = [disks.TWO_SLOTS, (*WITH_DATA, gpt.guid("0fc63daf-8483-4772-8e79-3d69d8477de4"))]


@pytest.mark.parametrize("types", OTHER_LAST, ids=["no DATA", "DATA is not the last"])
def test_room_behind_another_partition_than_data_is_refused_and_nothing_is_written(
    types: tuple[gpt.Guid, ...],
) -> None:
    medium = RecordingMedium(MemoryMedium({"disk": larger(small(types=types))}))
    with pytest.raises(LayoutError, match=rf"partition {len(types)} \(.*\) is the last .* not DATA"):
        UnbootedDisk(medium, "disk").grow()
    assert medium.names == []


@pytest.mark.parametrize("types", OTHER_LAST, ids=["no DATA", "DATA is not the last"])
def test_without_room_another_partition_may_be_the_last(types: tuple[gpt.Guid, ...]) -> None:
    disk = small(types=types)
    assert grow(disk) == (app.GrownData(None, None, ()), disk)


def test_the_last_partition_is_the_one_that_ends_last_whatever_its_number() -> None:
    disk = larger(small())
    table = disks.trusted(disk)
    swapped = {0: table.entries[DATA], DATA: table.entries[0]}
    grown = growth(gpt.repair(disks.examine(disk)).primary.with_entries(swapped))
    assert grown
    assert grown.number == 1


def test_a_disk_that_ends_before_its_table_s_backup_is_refused_and_not_written() -> None:
    """Although the backup would have room behind the partitions: nothing is shrunk."""
    whole = larger(small())
    primary = gpt.repair(disks.examine(whole)).primary
    header = replace(primary.header, last_usable_lba=entries(whole)[DATA].last_lba)
    for offset, data in primary._replace(header=header).with_crcs().writes():
        whole = disks.put(whole, offset, data)
    cut = whole[: -MIB // 2]
    medium = RecordingMedium(MemoryMedium({"disk": cut}))
    with pytest.raises(LayoutError, match=r"the disk has \d+ sectors, its table is for \d+"):
        UnbootedDisk(medium, "disk").grow()
    assert medium.names == []


@both_sector_sizes
def test_a_disk_that_ends_before_the_partitions_is_refused_and_not_written(sector_size: int) -> None:
    grown = grow(larger(small(sector_size)))[1]
    medium = RecordingMedium(MemoryMedium({"disk": grown[: -MIB // 2]}))
    with pytest.raises(TableError, match="the usable sectors do not fit the disk"):
        UnbootedDisk(medium, "disk").grow()
    assert medium.names == []


def test_a_disk_without_slots_is_not_grown() -> None:
    medium = RecordingMedium(MemoryMedium({"disk": larger(small(types=(sets.EFI_SYSTEM, sets.DATA)))}))
    with pytest.raises(LayoutError, match="no BOOT-A"):
        UnbootedDisk(medium, "disk").grow()
    assert medium.names == []


def extents(disk: bytes, sector_size: int) -> dict[int, gpt.Extent]:
    return disks.trusted(disk, sector_size).extents()


def header_damaged(disk: bytes) -> bytes:
    return disks.flip(larger(disk), disk.index(b"EFI PART") + 20)


def moved(disk: bytes) -> bytes:
    """Return the disk after a start: counting a try has moved the backup to the end."""
    memory = MemoryMedium({"disk": larger(disk)})
    UnbootedDisk(memory, "disk").take_next()
    return bytes(memory.files["disk"])


@both_sector_sizes
@pytest.mark.parametrize(
    "prepared",
    [larger, header_damaged, moved],
    ids=["sound", "primary damaged", "backup moved before"],
)
def test_a_cut_at_any_write_leaves_the_old_partitions_or_the_new_and_the_next_run_ends_it(
    sector_size: int, prepared: Callable[[bytes], bytes]
) -> None:
    before = prepared(small(sector_size))
    memory = MemoryMedium({"disk": before})
    medium = RecordingMedium(memory)
    UnbootedDisk(medium, "disk").grow()
    after = bytes(memory.files["disk"])
    old, new = extents(before, sector_size), extents(after, sector_size)
    assert old != new
    seen = set()
    for number, state in enumerate(crash_states(before, medium.calls, sector_size)):
        found = extents(state, sector_size)
        assert found in (old, new)
        seen.add(found == new)
        if number % 5 == 0:
            assert UnbootedDisk(MemoryMedium({"disk": state}), "disk").predict() is Slot.B
            assert grow(state)[1] == after
    assert seen == {False, True}


def test_what_data_writes_over_the_image_s_backup_does_not_matter_to_a_grown_table() -> None:
    """The backup of the image lies inside DATA afterwards."""
    image = small()
    _, after = grow(larger(image))
    used = disks.put(after, len(image) - 33 * 512, b"\xaa" * (33 * 512))
    assert disks.examine(used).faults == ()
    primary_lost = disks.put(after, 512, bytes(512))
    assert extents(primary_lost, 512) == extents(after, 512)


def make_image(path: Path, sector_size: int) -> None:
    """Write an image with 1 MiB partitions, as `repo-tools disk create` makes them, DATA last."""
    parts = [
        gpt.NewPartition(type_, disks.guid(n), MIB, f"P{n}", disks.STRANGE_BITS)
        for n, type_ in enumerate(WITH_DATA)
    ]
    size = (len(parts) + 2) * MIB
    made = gpt.new_table(parts, disk_size=size, disk_guid=disks.guid(999), sector_size=sector_size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in made.writes():
            file.seek(offset)
            file.write(data)


def test_sgdisk_and_sfdisk_find_no_problem_in_a_file_that_truncate_made_larger(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    make_image(path, 512)
    with path.open("r+b") as file:
        file.truncate(64 * MIB)
    assert run(program, ["--disk", str(path), "grow"]) == 0
    assert_valid(str(path))
    info = tool("sgdisk", f"--info={DATA + 1}", str(path))
    assert f"Last sector: {63 * MIB // 512 - 1}" in info
    assert f"Attribute flags: {disks.STRANGE_BITS:016X}" in info


def test_a_dry_run_says_what_would_be_done_and_leaves_the_file_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "disk.img"
    make_image(path, 512)
    with path.open("r+b") as file:
        file.truncate(64 * MIB)
    before = path.read_bytes()
    assert run(program, ["--disk", str(path), "grow", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{path}: partition {DATA + 1} (P{DATA}) would grow from 1.0 MiB to 55.0 MiB\n")
    assert "would repair:\n  - the backup header is not at the end" in said
    assert path.read_bytes() == before


@both_sector_sizes
def test_the_document_says_sizes_and_that_a_file_has_no_partitions_for_the_kernel(
    tmp_path: Path, sector_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "disk.img"
    make_image(path, sector_size)
    with path.open("r+b") as file:
        file.truncate(64 * MIB)
    documents = []
    for _ in range(2):
        assert run(program, ["--disk", str(path), "grow", "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    first, second = documents
    assert first.pop("repaired")
    assert first == {
        "disk": str(path),
        "partition": DATA + 1,
        "before": MIB,
        "after": 55 * MIB,
        "written": True,
        "kernel_knows": False,
    }
    assert second == first | {"before": 55 * MIB, "repaired": [], "written": False}


def test_a_refusal_has_status_1_and_a_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.img"
    before = larger(small(types=disks.TWO_SLOTS))
    path.write_bytes(before)
    assert run(program, ["--disk", str(path), "grow"]) == 1
    assert "leave updog-grow.service off" in capsys.readouterr().err
    assert path.read_bytes() == before


# --- the kernel ------------------------------------------------------------------------------------


def test_sizes_are_those_that_the_kernel_knows_in_bytes(tmp_path: Path) -> None:
    """`size` counts 512 bytes, also on a disk with 4096-byte sectors."""
    tree = Sysfs(tmp_path)
    tree.device("pci0/block/vda", "254:0")
    tree.device("pci0/block/vda/vda9", "254:9", partition="9", size="2048")
    assert blockdev.partition_sizes(str(tree.root), Device(254, 0)) == {9: MIB}


def test_the_structures_are_those_of_the_kernel() -> None:
    """linux/blkpg.h on a 64-bit machine: 24 and 152 bytes."""
    if struct.calcsize("P") != 8:
        pytest.skip("not a 64-bit machine")
    assert (blockdev._BLKPG_ARGUMENT.size, blockdev._BLKPG_PARTITION.size) == (24, 152)


def test_a_kernel_that_refuses_is_named_with_the_partition(tmp_path: Path) -> None:
    """A file is no block device: the kernel knows no such call for it."""
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(MediumError, match="does not take the new size of partition 9"):
        blockdev.resize_partition(str(path), 9, offset=MIB, size=MIB)
