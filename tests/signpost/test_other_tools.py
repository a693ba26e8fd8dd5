"""Other tools read every table that is written here (D24-D28, D96), also on a real block device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from signpost import app, gpt, gptprio, sets
from signpost.app import Signpost, UnbootedDisk
from signpost.disk import Disk
from signpost.errors import LayoutError, UsageError
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command
from tests.signpost.test_blockdev import Sysfs, rooted
from tests.support import disks

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
UPDATE = (Command.CLEAR_INACTIVE, Command.MARK_INACTIVE_VALID, Command.UPGRADE_TO_INACTIVE)


def tool(name: str, *words: str) -> str:
    """Run a tool, which must succeed, and return its output; skip the test if it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *words], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def aligned_disk(sector_size: int = 512, count: int = 128, entry_size: int = 128) -> bytes:
    """Return a disk with the table that `repo-tools disk create` makes: partitions of 1 MiB, aligned."""
    flags = {disks.BOOT_A: Flags(priority=2, successful=True), disks.BOOT_B: Flags()}
    parts = [
        gpt.NewPartition(type_, disks.guid(n), MIB, f"P{n}", gptprio.with_flags(0, flags.get(n, Flags())))
        for n, type_ in enumerate(disks.TWO_SLOTS)
    ]
    made = gpt.new_table(
        parts,
        disk_size=10 * MIB,
        disk_guid=disks.guid(999),
        sector_size=sector_size,
        entry_count=count,
        entry_size=entry_size,
    )
    disk = bytes(10 * MIB)
    for offset, data in made.writes():
        disk = disks.put(disk, offset, data)
    return disk


def updated(path: str, active: Slot = Slot.A) -> Signpost:
    """Carry out an update's commands on a disk."""
    signpost = Signpost(OsMedium(), path, active)
    for command in UPDATE:
        signpost.apply(command, tries=3)
    return signpost


def assert_valid(path: str) -> None:
    """Assert that sgdisk and sfdisk find no problem in a table of 512-byte sectors."""
    assert "No problems found" in tool("sgdisk", "--verify", path)
    assert "No errors detected" in tool("sfdisk", "--verify", path)


def cgpt_flags(path: str, number: int) -> Flags:
    """Read a BOOT partition's flags with cgpt."""
    words = [("-P",), ("-T",), ("-S",)]
    priority, tries, successful = (
        int(tool("cgpt", "show", "-i", str(number), *word, path)) for word in words
    )
    return Flags(priority=priority, tries=tries, successful=bool(successful))


@pytest.mark.parametrize("count", [128, 256, 64], ids="{} entries".format)
def test_sgdisk_and_sfdisk_find_no_problem_in_a_new_and_an_updated_table(tmp_path: Path, count: int) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(aligned_disk(count=count))
    assert_valid(str(path))
    updated(str(path))
    assert_valid(str(path))


def test_sgdisk_reads_back_every_label_type_and_bit(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(aligned_disk())
    updated(str(path))
    info = tool("sgdisk", "--info=4", str(path))
    assert re.search(r"GUID code: 6B636168-7420-6568-2070-6C616E657421", info)
    assert re.search(rf"unique GUID: {disks.guid(3).upper()}", info)
    assert "Partition name: 'P3'" in info
    bits = 2 << 48 | 3 << 52
    assert re.search(rf"Attribute flags: {bits:016X}", info)


def test_cgpt_reads_our_flags_after_every_command(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    (tmp_path / "disk.img").write_bytes(aligned_disk())
    signpost = Signpost(OsMedium(), path, Slot.A)
    for command in (*UPDATE, Command.CANCEL_UPGRADE, Command.MARK_SUCCESSFUL_BOOT):
        view = signpost.apply(command, tries=15)
        for number, slot in ((1, Slot.A), (4, Slot.B)):
            assert cgpt_flags(path, number) == view.slots[slot].flags
    UnbootedDisk(OsMedium(), path).take_next()
    assert_valid(path)


def test_we_read_the_flags_that_cgpt_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    (tmp_path / "disk.img").write_bytes(aligned_disk())
    tool("cgpt", "add", "-i", "4", "-P", "11", "-T", "7", "-S", "1", path)
    view = Signpost(OsMedium(), path, Slot.A).view()
    assert view.slots[Slot.B].flags == Flags(priority=11, tries=7, successful=True)
    assert view.faults == ()


@pytest.mark.parametrize(
    ("place", "length"),
    [(512, 512), (1024, 64), (-512, 512), (-33 * 512, 64)],
    ids=["D18", "D17", "D19", "D17b"],
)
def test_sgdisk_and_sfdisk_find_no_problem_in_a_repaired_table(
    tmp_path: Path, place: int, length: int
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(disks.put(aligned_disk(), place, bytes(length)))
    assert UnbootedDisk(OsMedium(), str(path)).repair_disk()
    assert_valid(str(path))


def test_sgdisk_and_sfdisk_find_no_problem_in_a_table_moved_to_the_end_of_a_grown_disk(
    tmp_path: Path,
) -> None:
    """D21."""
    path = tmp_path / "disk.img"
    path.write_bytes(aligned_disk() + bytes(5 * MIB))
    assert UnbootedDisk(OsMedium(), str(path)).repair_disk()
    assert_valid(str(path))
    assert f"last usable sector is {15 * MIB // 512 - 34}" in tool("sgdisk", "--print", str(path))


def test_a_hybrid_mbr_survives(tmp_path: Path) -> None:
    """D26."""
    path = tmp_path / "disk.img"
    path.write_bytes(aligned_disk())
    tool("sgdisk", "--hybrid", "1:2", str(path))
    mbr = path.read_bytes()[:512]
    updated(str(path))
    assert path.read_bytes()[:512] == mbr
    assert_valid(str(path))


@pytest.fixture(params=gpt.SECTOR_SIZES, ids="{}-byte sectors".format)
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Attach a disk as a block device of each sector size; skip if that is not allowed."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("a loop device needs root and losetup")
    size: int = request.param
    path = tmp_path / "disk.img"
    path.write_bytes(aligned_disk(size))
    words = ["losetup", "--sector-size", str(size), "--find", "--show", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    device = done.stdout.strip()
    yield device, size
    subprocess.run(["losetup", "--detach", device], check=True, timeout=600)


def test_on_a_block_device_its_own_sector_size_counts(loop: tuple[str, int], tmp_path: Path) -> None:
    """D24: the same tools on a device that has a sector size."""
    device, size = loop
    signpost = updated(device)
    assert Disk(OsMedium(), device).load().table.sector_size == size
    view = signpost.view()
    assert view.faults == ()
    assert view.next is Slot.B
    assert_valid(device)
    assert cgpt_flags(device, 4) == Flags(priority=2, tries=3)
    table = disks.trusted((tmp_path / "disk.img").read_bytes(), size)
    assert disks.boot_flags(table) == [Flags(priority=1, successful=True), Flags(priority=2, tries=3)]


def test_a_block_device_named_by_hand_is_compared_with_the_running_one(
    loop: tuple[str, int], tmp_path: Path
) -> None:
    """D29: the running slot is found on the given disk, if the system runs from it."""
    device, _ = loop
    disk, own = Path(device).stat().st_rdev, tmp_path.stat().st_dev
    tree = Sysfs(tmp_path)
    tree.device("block/loop", f"{os.major(disk)}:{os.minor(disk)}")
    tree.device("block/loop/loop5", f"{os.major(own)}:{os.minor(own)}", partition="5")
    found = app.find_on(OsMedium(), device, sysfs=str(tree.root), root=str(tmp_path))
    assert found.active is Slot.B
    assert app.devices(device, sysfs=str(tree.root)) == {5: "/dev/loop5"}
    assert app.devices(device, sysfs=str(tmp_path)) == {}


def test_a_block_device_that_is_not_the_running_one_is_refused(loop: tuple[str, int], tmp_path: Path) -> None:
    """D29: two disks with the same layout."""
    device, _ = loop
    tree = rooted(tmp_path, 2)
    with pytest.raises(UsageError, match=rf"is on /dev/.*, not on {device}"):
        app.find_on(OsMedium(), device, sysfs=str(tree.root), root=str(tmp_path))


@pytest.mark.parametrize("slot", list(Slot))
def test_an_overlay_root_is_in_the_slot_that_the_boot_stage_started(
    loop: tuple[str, int], tmp_path: Path, slot: Slot
) -> None:
    """No partition of the disk is known to the kernel: the GUID is looked up in the table."""
    device, _ = loop
    tree = Sysfs(tmp_path)
    boot = app.UnbootedDisk(OsMedium(), device).view().slots[slot].boot
    (tmp_path / "cmdline").write_text(f"root=overlay signpost.boot=PARTUUID={boot.guid}\n")
    found = app.find_on(OsMedium(), device, sysfs=str(tree.root), root=str(tmp_path), proc=str(tmp_path))
    assert found.active is slot


def test_an_overlay_root_whose_slot_is_on_another_disk_is_refused(
    loop: tuple[str, int], tmp_path: Path
) -> None:
    device, _ = loop
    tree = Sysfs(tmp_path)
    other = "01234567-89ab-cdef-0123-456789abcdef"
    (tmp_path / "cmdline").write_text(f"signpost.boot=PARTUUID={other}\n")
    with pytest.raises(LayoutError, match="is not a block device"):
        app.find_on(OsMedium(), device, sysfs=str(tree.root), root=str(tmp_path), proc=str(tmp_path))


def test_type_guids_are_those_of_upstream() -> None:
    """Written here a second time, so that a typing error in the product is noticed."""
    assert (sets.BOOT, sets.ROOT, sets.HASH, sets.PRIVATE) == (
        "6b636168-7420-6568-2070-6c616e657421",
        "5526016a-1a97-4ea4-b39a-b7c8c6ca4502",
        "598f10af-c955-4456-6a99-7720068a6cea",
        "440408bb-eb0b-4328-a6e5-a29038fad706",
    )
