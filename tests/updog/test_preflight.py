"""Obstacles are found before the first byte is written, and reported with the next step."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from signpost.app import RunningDiskView, Signpost
from signpost.errors import ExitStatus
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from tests.support.nodes import CONFIRMED, TWO_SLOTS, disk_bytes, guid, make_node
from updog.errors import PreflightError, UnconfirmedSlotError
from updog.preflight import (
    SPOOL_MARGIN_BYTES,
    Placement,
    check_disk,
    check_not_in_use,
    check_sizes,
    check_slots,
    inactive_slot_held,
    room_for_spool,
)
from updog.state import NodeState
from updog.trust import Target
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IMAGES = {role: role.encode() for role in ("boot", "root", "hash")}


def _disk(path: Path, flags: Mapping[Slot, Flags] = TWO_SLOTS, *, name: str = "disk") -> RunningDiskView:
    """Make a disk and read it, with slot A running."""
    path.write_bytes(disk_bytes(IMAGES, flags=flags, name=name))
    return Signpost(OsMedium(), str(path), Slot.A).view()


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """Assert that a file is the same afterwards."""
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    yield
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_a_disk_with_one_slot_has_nothing_to_update(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="one slot only") as caught:
        check_slots(_disk(tmp_path / "disk.img", {Slot.A: CONFIRMED}))
    assert "repo-tools disk create" in caught.value.next_step
    assert caught.value.status is ExitStatus.REFUSED


def test_a_slot_that_is_not_confirmed_is_the_wrong_one_to_update_from(tmp_path: Path) -> None:
    """D44."""
    flags = {Slot.A: Flags(priority=2, tries=1), Slot.B: CONFIRMED}
    with pytest.raises(UnconfirmedSlotError) as caught:
        check_slots(_disk(tmp_path / "disk.img", flags))
    assert "updog confirm" in caught.value.next_step


def test_two_slots_of_which_the_running_one_is_confirmed_are_in_order(tmp_path: Path) -> None:
    check_slots(_disk(tmp_path / "disk.img"))


def test_another_disk_with_the_same_layout_is_refused(tmp_path: Path) -> None:
    """D29."""
    view = _disk(tmp_path / "disk.img")
    check_disk(view, NodeState())
    check_disk(view, NodeState(disk_guid=guid("disk")))
    with pytest.raises(PreflightError, match="another disk") as caught:
        check_disk(view, NodeState(disk_guid=guid("the one this node runs from")))
    assert str(guid("disk")) in caught.value.message


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_an_image_larger_than_its_partition_is_refused_by_both_sizes(
    tmp_path: Path,
    more: int,
    fits: bool,  # noqa: FBT001 - parametrized
) -> None:
    """D73."""
    partition = _disk(tmp_path / "disk.img").slots[Slot.B].root
    target = Target(name="root.zst", length=1, sha256="0" * 64)
    content = Content(size=partition.size + more, sha256="0" * 64)
    placement = Placement(kind=ImageKind.ROOT, target=target, content=content, partition=partition)
    check_sizes((Placement(kind=ImageKind.ROOT, target=target, content=None, partition=partition),))
    if fits:
        check_sizes((placement,))
        return
    with pytest.raises(PreflightError, match=f"unpacks to {partition.size + 1} bytes.*has {partition.size}"):
        check_sizes((placement,))


def test_there_is_room_for_the_spool_if_a_margin_stays_free(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize
    assert room_for_spool(tmp_path, 0) is (free >= SPOOL_MARGIN_BYTES)
    assert not room_for_spool(tmp_path, free + (1 << 40))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_margin_beside_the_spool_stays_free_to_the_byte(tmp_path: Path) -> None:
    """64 MiB, for the state and for logs; on a file system that nobody else writes to."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(tmp_path)], check=True)
    try:
        assert room_for_spool(tmp_path, 32 << 20)
        assert not room_for_spool(tmp_path, (32 << 20) + 1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- in use: trees of plain files in the shape of sysfs and procfs --------------------------------------


class Kernel:
    """What the kernel would report about devices, mounts and swap."""

    def __init__(self, folder: Path) -> None:
        self.sysfs = folder / "sys"
        self.proc = folder / "proc"
        (self.sysfs / "block").mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        self.mount("8:1", "/")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")

    def mount(self, number: str, where: str) -> None:
        with (self.proc / "self/mountinfo").open("a") as file:
            file.write(f"28 27 {number} / {where} rw,relatime - ext4 /dev/x rw\n")

    def swap(self, device: str) -> None:
        with (self.proc / "swaps").open("a") as file:
            file.write(f"{device} partition 1024 0 -2\n")

    def partition(self, disk: str, number: int, device: str) -> Path:
        folder = self.sysfs / "block" / disk / f"{disk}{number}"
        (folder / "holders").mkdir(parents=True)
        (folder / "partition").write_text(f"{number}\n")
        (folder / "dev").write_text(f"{device}\n")
        return folder

    def loop(self, name: str, backing: Path, *, offset: int, limit: int, device: str) -> Path:
        folder = self.sysfs / "block" / name
        (folder / "loop").mkdir(parents=True)
        (folder / "holders").mkdir()
        (folder / "dev").write_text(f"{device}\n")
        for key, value in (("backing_file", backing), ("offset", offset), ("sizelimit", limit)):
            (folder / "loop" / key).write_text(f"{value}\n")
        return folder

    def check(self, view: RunningDiskView) -> None:
        check_not_in_use(view, sysfs=self.sysfs, proc=self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """Return a kernel that knows nothing of the disk."""
    return Kernel(tmp_path / "kernel")


def test_a_disk_nobody_uses_may_be_written(tmp_path: Path, kernel: Kernel) -> None:
    kernel.check(_disk(tmp_path / "vda"))


@pytest.mark.parametrize(("number", "label"), [(4, "BOOT-B"), (5, "ROOT-B"), (6, "HASH-B")])
def test_a_mounted_partition_of_the_inactive_slot_is_named_with_its_place(
    tmp_path: Path, kernel: Kernel, number: int, label: str
) -> None:
    """D72."""
    view = _disk(tmp_path / "vda")
    kernel.partition("vda", number, f"254:{number}")
    kernel.check(view)
    kernel.mount(f"254:{number}", "/mnt/b")
    with pytest.raises(PreflightError, match=rf"partition {number} \({label}\).*mounted on /mnt/b") as caught:
        kernel.check(view)
    assert "Unmount" in caught.value.next_step


def test_what_the_running_slot_is_used_for_does_not_stop_an_update(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "vda")
    for number in (1, 2, 3, 7):
        (kernel.partition("vda", number, f"254:{number}") / "holders" / "dm-0").mkdir()
        kernel.mount(f"254:{number}", f"/mnt/{number}")
    kernel.check(view)


def test_a_partition_held_by_another_driver_is_named_with_it(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "vda")
    (kernel.partition("vda", 5, "254:5") / "holders" / "dm-3").mkdir()
    with pytest.raises(PreflightError, match=r"partition 5 \(ROOT-B\).*held by dm-3"):
        kernel.check(view)


def test_a_file_used_as_swap_is_not_a_device(tmp_path: Path, kernel: Kernel) -> None:
    kernel.swap(str(tmp_path / "swapfile"))
    kernel.check(_disk(tmp_path / "vda"))


@pytest.mark.parametrize(
    ("start", "limit", "clash"),
    [
        (0, 0, False),
        ("start", 0, True),
        ("start", "size", True),
        ("before", 4096, False),
        ("before", 4097, True),
        ("before", 0, True),
        ("last", 1, True),
        ("end", 0, False),
        ("end", "size", False),
    ],
)
def test_a_loop_device_counts_if_it_shows_a_byte_of_the_inactive_slot(
    tmp_path: Path,
    kernel: Kernel,
    start: int | str,
    limit: int | str,
    clash: bool,  # noqa: FBT001 - parametrized
) -> None:
    """The whole disk mapped to write on it is not a conflict; a part of it is, wherever it begins."""
    view = _disk(tmp_path / "disk.img")
    slot = view.slots[Slot.B]
    begin, end = slot.boot.offset, slot.hash.offset + slot.hash.size
    places = {"start": begin, "before": begin - 4096, "last": end - 1, "end": end}
    offset = start if isinstance(start, int) else places[start]
    length = limit if isinstance(limit, int) else slot.boot.size
    kernel.loop("loop0", tmp_path / "disk.img", offset=offset, limit=length, device="7:0")
    kernel.mount("7:0", "/mnt/loop")
    if not clash:
        kernel.check(view)
        return
    with pytest.raises(PreflightError, match="mounted on /mnt/loop"):
        kernel.check(view)


def test_a_loop_device_of_another_or_a_deleted_file_does_not_stop_an_update(
    tmp_path: Path, kernel: Kernel
) -> None:
    view = _disk(tmp_path / "disk.img")
    _disk(tmp_path / "other.img", name="other")
    for number, backing in enumerate([tmp_path / "other.img", Path(f"{tmp_path}/disk.img (deleted)")]):
        kernel.loop(f"loop{number}", backing, offset=1 << 22, limit=0, device=f"7:{number}")
        kernel.mount(f"7:{number}", f"/mnt/{number}")
    kernel.check(view)


def test_loop_devices_and_mounts_of_others_may_have_any_name(tmp_path: Path, kernel: Kernel) -> None:
    """Neither valid UTF-8 nor possible file names: the kernel shows what others made."""
    view = _disk(tmp_path / "disk.img")
    odd = [
        b"/mnt/\xff\xfe",
        b"/mnt/\n",
        b"/" + b"x" * 300 + b" (deleted)",
        b"relative",
        b"",
        b"/proc/self/mem",
    ]
    for number, backing in enumerate(odd):
        folder = kernel.loop(f"loop{number}", Path("x"), offset=1 << 22, limit=0, device=f"7:{number}")
        (folder / "loop/backing_file").write_bytes(backing + b"\n")
    with (kernel.proc / "self/mountinfo").open("ab") as file:
        for name in (b"\xff", "\u2028".encode(), b"\r"):
            file.write(b"29 27 7:0 / /mnt/" + name + b" rw - ext4 /dev/loop0 rw\n")
    with (kernel.proc / "swaps").open("ab") as file:
        file.write(b"/mnt/\xfe file 1024 0 -2\n")
    kernel.check(view)


def test_a_loop_device_that_is_detached_meanwhile_is_no_obstacle(tmp_path: Path, kernel: Kernel) -> None:
    folder = kernel.loop("loop0", tmp_path / "disk.img", offset=1 << 22, limit=0, device="7:0")
    for name in ("sizelimit", "offset", "backing_file"):
        (folder / "loop" / name).unlink()
        kernel.check(_disk(tmp_path / "disk.img"))


def test_a_disk_of_any_name_is_compared_with_what_loop_devices_show(tmp_path: Path, kernel: Kernel) -> None:
    disk = tmp_path / os.fsdecode(b"disk \xff ")
    view = _disk(disk)
    folder = kernel.loop("loop0", Path("x"), offset=view.slots[Slot.B].root.offset, limit=0, device="7:0")
    (folder / "loop/backing_file").write_bytes(os.fsencode(disk) + b"\n")
    kernel.mount("7:0", "/mnt/loop")
    with pytest.raises(PreflightError, match="mounted on /mnt/loop"):
        kernel.check(view)


def test_a_mount_point_with_a_space_is_named_as_it_is(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "disk.img")
    kernel.loop("loop0", tmp_path / "disk.img", offset=view.slots[Slot.B].root.offset, limit=0, device="7:0")
    kernel.mount("7:0", "/mnt/my\\040disk")
    with pytest.raises(PreflightError, match="mounted on /mnt/my disk"):
        kernel.check(view)


def test_names_are_bytes_and_are_shown_as_printable_text(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "vda")
    kernel.partition("vda", 5, "254:5")
    with (kernel.proc / "self/mountinfo").open("ab") as file:
        file.write(b"28 27 9:9 / /mnt/m\xe4trum rw - ext4 /dev/\xff rw\nshort\nfour fields in all\n\n")
    kernel.check(view)
    with (kernel.proc / "self/mountinfo").open("ab") as file:
        file.write(b"28 27 254:5 / /mnt/m\xe4\x1b[31m rw - ext4 /dev/x rw\n")
    with pytest.raises(PreflightError, match=r"mounted on /mnt/m\\xe4\\x1b\[31m"):
        kernel.check(view)


@pytest.mark.parametrize("missing", ["swaps", "self/mountinfo"])
def test_what_a_kernel_does_not_have_is_not_in_use(tmp_path: Path, kernel: Kernel, missing: str) -> None:
    (kernel.proc / missing).unlink()
    kernel.partition("vda", 5, "254:5")
    kernel.check(_disk(tmp_path / "vda"))


def test_a_loop_device_that_vanishes_or_has_an_odd_file_is_not_ours(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "disk.img")
    for number, attribute in enumerate(["backing_file", "offset", "sizelimit"]):
        folder = kernel.loop(
            f"loop{number}", tmp_path / "disk.img", offset=1 << 20, limit=0, device=f"7:{number}"
        )
        (folder / "loop" / attribute).unlink()
        kernel.mount(f"7:{number}", f"/mnt/{number}")
    odd = kernel.loop("loop9", tmp_path / "disk.img", offset=1 << 20, limit=0, device="7:9")
    (odd / "loop/backing_file").write_bytes(b"/tmp/\xff\xfe\n")
    kernel.check(view)


needs_loops = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="attaching loop devices needs root"
)


@contextmanager
def _loop(image: Path, offset: int, size: int) -> Iterator[str]:
    command = ["losetup", "--find", "--show", f"--offset={offset}", f"--sizelimit={size}", str(image)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@needs_loops
def test_a_partition_used_as_swap_is_named(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "vda")
    with _loop(tmp_path / "vda", 0, 0) as device:
        number = Path(device).stat().st_rdev
        kernel.partition("vda", 5, f"{os.major(number)}:{os.minor(number)}")
        kernel.check(view)
        kernel.swap(device)
        with pytest.raises(PreflightError, match=r"partition 5 \(ROOT-B\).*in use \(swap\)"):
            kernel.check(view)


# -- held: nodes in a folder of their own, in the shape of /dev -------------------------------------------


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """Return a folder for device nodes, without any."""
    folder = tmp_path / "dev"
    folder.mkdir()
    return folder


def test_a_holder_of_the_slot_is_named_before_the_kernel_is_asked(
    tmp_path: Path, kernel: Kernel, dev: Path
) -> None:
    view = _disk(tmp_path / "vda")
    (kernel.partition("vda", 5, "254:5") / "holders" / "dm-3").mkdir()
    with (
        pytest.raises(PreflightError, match="held by dm-3"),
        inactive_slot_held(view, sysfs=kernel.sysfs, dev=dev),
    ):
        pytest.fail("the slot was given")


@needs_loops
def test_a_partition_without_a_node_does_not_hide_a_busy_one(
    tmp_path: Path, kernel: Kernel, dev: Path
) -> None:
    """The kernel gives a device exclusively once; what has no node cannot be asked about."""
    view = _disk(tmp_path / "vda")
    for number in (4, 5, 6):
        kernel.partition("vda", number, f"254:{number}")
    with _loop(tmp_path / "vda", 0, 0) as device:
        (dev / "vda5").symlink_to(device)
        taken = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            with (
                pytest.raises(PreflightError, match=r"partition 5 \(ROOT-B\).*does not give .*/vda5"),
                inactive_slot_held(view, sysfs=kernel.sysfs, dev=dev),
            ):
                pytest.fail("the slot was given")
        finally:
            os.close(taken)


@needs_loops
def test_the_slot_is_held_as_long_as_it_is_written_and_no_longer(
    tmp_path: Path, kernel: Kernel, dev: Path
) -> None:
    view = _disk(tmp_path / "vda")
    kernel.partition("vda", 5, "254:5")
    with _loop(tmp_path / "vda", 0, 0) as device:
        (dev / "vda5").symlink_to(device)
        with (
            inactive_slot_held(view, sysfs=kernel.sysfs, dev=dev),
            pytest.raises(OSError, match="busy"),
        ):
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))


def test_a_disk_that_cannot_be_opened_is_reported_by_the_write_to_it(tmp_path: Path, kernel: Kernel) -> None:
    view = _disk(tmp_path / "vda")
    (tmp_path / "vda").unlink()
    with inactive_slot_held(view, sysfs=kernel.sysfs):
        pass  # holding it is not what finds that


def test_bytes_that_cannot_be_locked_are_not_another_updog(tmp_path: Path, kernel: Kernel) -> None:
    """As on a file system without such locks; here the bytes are beyond what any file can have."""
    view = _disk(tmp_path / "vda")
    slot = view.slots[Slot.B]
    beyond = slot._replace(boot=slot.boot._replace(offset=(1 << 63) - 1))
    with inactive_slot_held(view._replace(slots={**view.slots, Slot.B: beyond}), sysfs=kernel.sysfs):
        pass


@needs_loops
@pytest.mark.parametrize("command", [("update",), ("update-image",)], ids=" ".join)
def test_a_slot_that_is_mounted_in_another_namespace_is_refused(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    node = make_node(tmp_path)
    place = node.view().slots[Slot.B].root
    folder = tmp_path / "mounted"
    folder.mkdir()
    with _loop(node.disk, place.offset, place.size) as device:
        subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
        script = f"mount {device} {folder} && echo ready && exec sleep 600"
        mounted = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
        )
        try:
            assert mounted.stdout
            assert mounted.stdout.readline() == b"ready\n"
            subprocess.run(["sync"], check=True)
            assert device not in Path("/proc/self/mounts").read_text()
            with _unchanged(node.disk):
                said = node.updog(*command)
            assert said.status == ExitStatus.REFUSED
            assert "in use" in said.err
        finally:
            mounted.kill()
            mounted.communicate()


def test_two_updogs_with_two_state_folders_do_not_mix_one_slot(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    view = node.agent().status().view
    with inactive_slot_held(view), _unchanged(node.disk):
        said = node.updog("update")
    assert said.status == ExitStatus.REFUSED
    assert "another updog is writing to slot B" in said.err
    assert node.updog("update").status == 0


# -- the same through the agent: a refusal changes nothing ----------------------------------------------


def _refused(tmp_path: Path, disk: bytes | None = None, *, words: tuple[str, ...] = ("update",)) -> str:
    """Update a node, which must be refused without a change of its disk; return the message."""
    node = make_node(tmp_path)
    if disk is not None:
        node.disk.write_bytes(disk)
    with _unchanged(node.disk):
        said = node.updog(*words)
    assert said.status == ExitStatus.REFUSED
    return said.err


def test_an_update_of_a_disk_with_one_slot_is_refused(tmp_path: Path) -> None:
    disk = disk_bytes(IMAGES, flags={Slot.A: CONFIRMED})
    assert "one slot only" in _refused(tmp_path, disk)


def test_status_of_a_disk_with_one_slot_works_whatever_is_remembered(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    assert node.updog("update").status == 0
    node.disk.write_bytes(disk_bytes(IMAGES, flags={Slot.A: CONFIRMED}))
    said = node.updog("status", "--json")
    assert said.status == 0
    assert list(said.document["slots"]) == ["A"]
    assert node.updog("update-apply").status == ExitStatus.NOTHING_TO_DO


def test_an_update_on_another_disk_is_refused(tmp_path: Path) -> None:
    """D29."""
    disk = disk_bytes(IMAGES, flags=TWO_SLOTS, name="somebody else's")
    assert "another disk" in _refused(tmp_path, disk)


def test_an_update_of_a_slot_too_small_for_its_image_is_refused(tmp_path: Path) -> None:
    """D73: the image is signed with its size."""
    node = make_node(tmp_path, published=[])
    node.repository.synthesize("2.0.0").root.write_bytes(bytes((1 << 20) + 1))
    node.publish("2.0.0")
    for settings in ({"spool": True}, {"spool": False}):
        node.configure(**settings)
        with _unchanged(node.disk):
            said = node.updog("update")
        assert said.status == ExitStatus.REFUSED
        assert "unpacks to 1048577 bytes" in said.err


@pytest.mark.parametrize("command", ["update-apply", "update-revert", "check-update", "confirm"])
def test_a_wrong_disk_changes_nothing_and_teaches_nothing(tmp_path: Path, command: str) -> None:
    """D29: this node's plan is not carried out on, nor judged by, a disk that only looks like its own."""
    node = make_node(tmp_path / "one")
    other = make_node(tmp_path / "two")
    other.disk.write_bytes(
        disk_bytes(
            IMAGES,
            flags={Slot.A: Flags(priority=2, successful=True), Slot.B: Flags(priority=1, tries=1)},
            name="other",
        )
    )
    assert node.updog("update-image" if command == "update-apply" else "update").status == 0
    with _unchanged(other.disk), _unchanged(node.state_file):
        said = node.updog(command, options=["--disk", str(other.disk)])
    assert said.status == ExitStatus.REFUSED
    assert "another disk" in said.err
