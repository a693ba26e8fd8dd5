"""From the root file system to partition and disk, in simulated sysfs trees."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from signpost import app, blockdev
from signpost.blockdev import Device, RunningRoot
from signpost.errors import LayoutError, MediumError, ToolError, UsageError
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.support import disks

if TYPE_CHECKING:
    from pathlib import Path


class Sysfs:
    """A tree like the kernel's: devices under /devices, links to them under /dev/block."""

    def __init__(self, root: Path) -> None:
        self.root = root / "sys"
        (self.root / "dev" / "block").mkdir(parents=True)

    def device(self, place: str, numbers: str, **attributes: str) -> Path:
        """Add a block device, named by the last part of its path; ``attributes`` are its files."""
        folder = self.root / "devices" / place
        folder.mkdir(parents=True)
        major, minor = numbers.split(":")
        node = attributes.pop("node", folder.name)
        folder.joinpath("uevent").write_text(f"MAJOR={major}\nMINOR={minor}\nDEVNAME={node}\n")
        folder.joinpath("dev").write_text(f"{numbers}\n")
        for name, value in attributes.items():
            folder.joinpath(name).write_text(f"{value}\n")
        (self.root / "dev" / "block" / numbers).symlink_to(folder)
        return folder

    def disk(self, place: str, numbers: str, partitions: dict[int, str], infix: str = "") -> None:
        """Add a disk with partitions, by number."""
        name = self.device(place, numbers).name
        for number, own in partitions.items():
            self.device(f"{place}/{name}{infix}{number}", own, partition=str(number))

    def mapping(self, name: str, numbers: str, *slaves: str) -> None:
        """Add a device-mapper device over others, given by their numbers."""
        folder = self.device(f"virtual/block/{name}", numbers)
        folder.joinpath("slaves").mkdir()
        for slave in slaves:
            below = (self.root / "dev" / "block" / slave).resolve()
            folder.joinpath("slaves", below.name).symlink_to(below)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """A machine with an NVMe disk of two slots, a virtio disk like it, and dm-verity over slot A."""
    tree = Sysfs(tmp_path)
    tree.disk("pci0/nvme/nvme0/nvme0n1", "259:0", {n: f"259:{n}" for n in range(1, 8)}, infix="p")
    tree.disk("pci0/virtio/block/vdb", "254:16", {n: f"254:{16 + n}" for n in range(1, 8)})
    tree.mapping("dm-0", "253:0", "259:2", "259:3")
    return tree


def running(sysfs: Sysfs, major: int, minor: int) -> RunningRoot:
    """Find what runs on a device."""
    return blockdev.running_root(str(sysfs.root), Device(major, minor))


class TestRunning:
    def test_below_verity_are_the_root_and_hash_partitions_of_one_disk(self, sysfs: Sysfs) -> None:
        assert running(sysfs, 253, 0) == RunningRoot(Device(259, 0), (2, 3))

    def test_a_plain_root_partition_is_found_too(self, sysfs: Sysfs) -> None:
        assert running(sysfs, 254, 21) == RunningRoot(Device(254, 16), (5,))

    def test_a_mapping_on_a_mapping_is_followed(self, sysfs: Sysfs) -> None:
        sysfs.mapping("dm-1", "253:1", "253:0")
        assert running(sysfs, 253, 1) == RunningRoot(Device(259, 0), (2, 3))

    def test_numbers_above_255_are_kept_whole(self, sysfs: Sysfs) -> None:
        sysfs.disk("virtual/block/loop70", "7:1048575", {2: "259:70000"}, infix="p")
        sysfs.mapping("dm-300", "253:300", "259:70000")
        found = running(sysfs, 253, 300)
        assert found == RunningRoot(Device(7, 1048575), (2,))
        assert blockdev.partition_nodes(str(sysfs.root), found.disk) == {2: "/dev/loop70p2"}

    def test_a_mapping_over_two_disks_is_refused(self, sysfs: Sysfs) -> None:
        sysfs.mapping("dm-2", "253:2", "259:2", "254:19")
        with pytest.raises(LayoutError, match="is on nvme0n1, vdb"):
            running(sysfs, 253, 2)

    def test_a_whole_disk_has_no_partition(self, sysfs: Sysfs) -> None:
        with pytest.raises(LayoutError, match="is on no partition"):
            running(sysfs, 254, 16)

    def test_a_root_that_is_not_on_a_block_device_is_refused_with_the_next_step(self, sysfs: Sysfs) -> None:
        with pytest.raises(LayoutError, match="0:42 is not a block device") as caught:
            running(sysfs, 0, 42)
        assert "--disk" in caught.value.next_step

    def test_a_loop_in_the_tree_ends(self, sysfs: Sysfs) -> None:
        sysfs.mapping("dm-8", "253:8")
        folder = sysfs.root / "devices/virtual/block/dm-8"
        folder.joinpath("slaves", "dm-8").symlink_to(folder)
        with pytest.raises(LayoutError, match="no partition"):
            running(sysfs, 253, 8)

    def test_an_attribute_that_cannot_be_read_is_named(self, sysfs: Sysfs) -> None:
        (sysfs.root / "devices/pci0/nvme/nvme0/nvme0n1/dev").unlink()
        with pytest.raises(LayoutError, match="nvme0n1/dev: No such file"):
            running(sysfs, 253, 0)


class TestNodes:
    def test_a_device_has_the_kernels_name(self, sysfs: Sysfs) -> None:
        assert blockdev.node_of_device(str(sysfs.root), Device(259, 0)) == "/dev/nvme0n1"

    def test_a_name_may_have_folders(self, sysfs: Sysfs) -> None:
        sysfs.device("virtual/block/x!y", "250:1", node="x/y")
        assert blockdev.node_of_device(str(sysfs.root), Device(250, 1)) == "/dev/x/y"

    def test_a_device_without_a_node_is_refused(self, sysfs: Sysfs) -> None:
        folder = sysfs.device("virtual/block/bare", "250:2")
        folder.joinpath("uevent").write_text("MAJOR=250\n")
        with pytest.raises(LayoutError, match="bare has no device node"):
            blockdev.node_of_device(str(sysfs.root), Device(250, 2))

    def test_partitions_are_told_by_number_whatever_their_names(self, sysfs: Sysfs) -> None:
        nodes = blockdev.partition_nodes(str(sysfs.root), Device(259, 0))
        assert nodes[4] == "/dev/nvme0n1p4"
        assert set(nodes) == set(range(1, 8))

    def test_a_file_is_not_a_device_but_its_file_system_has_one(self, tmp_path: Path) -> None:
        file = tmp_path / "disk.img"
        file.touch()
        assert blockdev.device_of_node(str(file)) is None
        number = file.stat().st_dev
        assert blockdev.device_below(str(file)) == Device(os.major(number), os.minor(number))

    def test_a_path_that_is_not_there_is_named(self) -> None:
        for ask in (blockdev.device_of_node, blockdev.device_below):
            with pytest.raises(MediumError, match="cannot examine no/such"):
                ask("no/such")

    def test_devices_of_an_image_file_are_none(self, tmp_path: Path, sysfs: Sysfs) -> None:
        file = tmp_path / "disk.img"
        file.touch()
        assert app.devices(str(file), sysfs=str(sysfs.root)) == {}


def rooted(tmp_path: Path, slot_partition: int | None, root: str = "") -> Sysfs:
    """Return a machine whose root, `tmp_path` unless given, is on a partition of a disk in an image file.

    The kernel's name for the disk leads out of /dev to the file, so that nothing has to be replaced.
    """
    tree, image = Sysfs(tmp_path), tmp_path / "disk.img"
    image.write_bytes(disks.make_disk())
    own = os.stat(root or tmp_path).st_dev  # noqa: PTH116 - a string or a path
    numbers = f"{os.major(own)}:{os.minor(own)}"
    tree.device("block/sda", "8:0", node=f"..{image}")
    if slot_partition is not None:
        tree.device(f"block/sda/sda{slot_partition}", numbers, partition=str(slot_partition))
    return tree


class TestFinding:
    @pytest.mark.parametrize(("partition", "slot"), [(2, Slot.A), (3, Slot.A), (5, Slot.B), (6, Slot.B)])
    def test_the_running_slot_is_the_one_below_the_root(
        self, tmp_path: Path, partition: int, slot: Slot
    ) -> None:
        tree = rooted(tmp_path, partition)
        found = app.find_running(OsMedium(), sysfs=str(tree.root), root=str(tmp_path))
        assert found.view().active is slot

    def test_a_root_on_another_partition_is_in_no_slot(self, tmp_path: Path) -> None:
        tree = rooted(tmp_path, 7)
        with pytest.raises(LayoutError, match=r"partition 7 of .*, which belongs to no slot"):
            app.find_running(OsMedium(), sysfs=str(tree.root), root=str(tmp_path))

    def test_no_system_runs_from_a_file(self, tmp_path: Path) -> None:
        tree = rooted(tmp_path, 2)
        with pytest.raises(UsageError, match=r"disk\.img is a file") as caught:
            app.find_on(OsMedium(), str(tmp_path / "disk.img"), sysfs=str(tree.root), root=str(tmp_path))
        assert "--active" in caught.value.next_step

    def test_a_root_on_an_unknown_device_is_refused(self, tmp_path: Path) -> None:
        tree = rooted(tmp_path, None)
        with pytest.raises(ToolError, match="is not a block device"):
            app.find_running(OsMedium(), sysfs=str(tree.root), root=str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")
class TestOverlayRoot:
    """A root that is not on a partition: the slot is the one that the boot stage reports to have started."""

    def machine(self, tmp_path: Path, slot: Slot, word: str = "signpost.boot=PARTUUID={}") -> Sysfs:
        """Return a machine whose root is an overlay, with the boot stage's parameter on the command line."""
        tree = rooted(tmp_path, None)
        links = tmp_path / "devices/disk/by-partuuid"
        links.mkdir(parents=True)
        slots = app.UnbootedDisk(OsMedium(), str(tmp_path / "disk.img")).view().slots
        for name, parts in slots.items():
            number = parts.boot.number
            tree.device(f"block/sda/sda{number}", f"8:{number}", partition=str(number))
            os.mknod(links / parts.boot.guid, 0o600 | stat.S_IFBLK, os.makedev(8, number))
            if name is slot:
                (tmp_path / "cmdline").write_text(f"quiet {word.format(parts.boot.guid.upper())} splash\n")
        return tree

    @pytest.mark.parametrize("slot", list(Slot))
    def test_its_slot_is_found(self, tmp_path: Path, slot: Slot) -> None:
        tree = self.machine(tmp_path, slot)
        found = app.find_running(
            OsMedium(),
            sysfs=str(tree.root),
            root=str(tmp_path),
            proc=str(tmp_path),
            dev=str(tmp_path / "devices"),
        )
        assert found.active is slot

    @pytest.mark.parametrize(
        "word",
        [
            "slot={}",
            "signpost.boot={}",
            "signpost.boot=PARTUUID={}x",
            "signpost.boot=PARTUUID={} signpost.boot=PARTUUID=",
            "signpost.boot=PARTUUID=00000000-0000-0000-0000-000000000000",
            "xsignpost.boot=PARTUUID={}",
        ],
    )
    def test_without_the_word_of_our_boot_stage_it_is_refused(self, tmp_path: Path, word: str) -> None:
        tree = self.machine(tmp_path, Slot.A, word)
        with pytest.raises(LayoutError, match="is not a block device") as caught:
            app.find_running(
                OsMedium(),
                sysfs=str(tree.root),
                root=str(tmp_path),
                proc=str(tmp_path),
                dev=str(tmp_path / "devices"),
            )
        assert "--active" in caught.value.next_step

    def test_a_root_on_a_partition_counts_and_not_the_word(self, tmp_path: Path) -> None:
        self.machine(tmp_path, Slot.A)
        (tmp_path / "other").mkdir()
        tree = rooted(tmp_path / "other", 5)
        found = app.find_running(
            OsMedium(), sysfs=str(tree.root), root=str(tmp_path / "other"), proc=str(tmp_path)
        )
        assert found.active is Slot.B
