"""The node on block devices: its disk image as a loop device, a partition of it mounted or held."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus
from signpost.sets import Slot
from tests.support.nodes import NEWER, RUNNING, Node, disk_bytes, images_of, make_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _why_not() -> str:
    """Return why loop devices cannot be used here; empty if they can."""
    if os.geteuid():
        return "loop devices need root"
    missing = [tool for tool in ("losetup", "mkfs.ext4", "mount", "dmsetup") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    done = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no loop device: {done.stderr.strip()}"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@contextmanager
def _loop(path: Path, *options: str) -> Iterator[str]:
    """Attach a file for a ``with`` block."""
    words = ["losetup", "--find", "--show", *options, str(path)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def _part(node: Node, slot: Slot, role: str) -> Iterator[str]:
    """Attach one partition of a node's disk."""
    place = getattr(node.view().slots[slot], role)
    with _loop(node.disk, "--offset", str(place.offset), "--sizelimit", str(place.size)) as device:
        yield device


@contextmanager
def _mounted(device: str, where: Path) -> Iterator[None]:
    """Make a file system and mount it."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", device], check=True)
    subprocess.run(["mount", device, str(where)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


@contextmanager
def _state_file_system(node: Node, folder: Path) -> Iterator[Path]:
    """Put a node's state on a small file system of its own; yield the mount point."""
    image, where = folder / "state.img", folder / "state-mnt"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    where.mkdir()
    with _loop(image) as device:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", device], check=True)
        subprocess.run(["mount", device, str(where)], check=True)
        try:
            shutil.copytree(node.folder / "state", where / "state")
            node.configure(state_dir=str(where / "state"))
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=True)


def test_a_node_on_a_block_device_behaves_as_on_a_file(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    with _loop(node.disk) as device:
        node.configure(disk=device)
        assert node.updog("update").status == 0
        assert node.updog("status", "--json").document["disk"]["path"] == device
        assert node.updog("verify", "--slot", "B").status == 0
    node.configure(disk="disk.img")
    assert node.holds(Slot.B, NEWER)
    assert node.boot().document["version"] == NEWER
    with _loop(node.disk) as device:
        assert node.updog("confirm", options=["--disk", device]).status == 0
    assert node.flags(Slot.B).successful


def test_a_disk_of_4096_byte_sectors_is_updated_too(tmp_path: Path) -> None:
    """D24."""
    node = make_node(tmp_path)
    node.disk.write_bytes(
        disk_bytes(
            images_of(node.repository, RUNNING),
            flags={slot: node.flags(slot) for slot in Slot},
            sector_size=4096,
        )
    )
    with _loop(node.disk, "--sector-size", "4096") as device:
        node.configure(disk=device)
        assert node.updog("update").status == 0
        assert node.updog("verify", "--slot", "B").status == 0
    node.configure(disk="disk.img")
    assert node.boot().document["version"] == NEWER


def test_an_update_is_refused_while_a_partition_of_the_inactive_slot_is_mounted(tmp_path: Path) -> None:
    """D72: nothing is written; after it is unmounted the same command works."""
    node = make_node(tmp_path)
    for role in ("boot", "root"):
        with _part(node, Slot.B, role) as device, _mounted(device, tmp_path / "mnt"):
            os.sync()
            before = node.disk_digest()
            for command in ("update", "update-image", "prepare"):
                said = node.updog(command)
                assert said.status == ExitStatus.REFUSED
                assert f"mounted on {tmp_path}/mnt" in said.err
            assert node.disk_digest() == before
    assert node.updog("update").status == 0


def test_a_mounted_partition_of_the_running_slot_does_not_stop_an_update(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    with _part(node, Slot.A, "hash") as device, _mounted(device, tmp_path / "mnt"):
        assert node.updog("update").status == 0


def test_an_update_is_refused_while_the_device_mapper_holds_the_inactive_slot(tmp_path: Path) -> None:
    """D72."""
    node = make_node(tmp_path)
    name = f"updog-test-{os.getpid()}"
    with _part(node, Slot.B, "root") as device:
        table = f"0 2048 linear {device} 0"
        done = subprocess.run(
            ["dmsetup", "create", name, "--table", table], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"the kernel makes no mappings here: {done.stderr.partition(chr(10))[0]}")
        try:
            before = node.disk_digest()
            said = node.updog("update")
            assert said.status == ExitStatus.REFUSED
            assert "held by dm-" in said.err
            assert node.disk_digest() == before
        finally:
            subprocess.run(["dmsetup", "remove", "--retry", name], check=True)
    assert node.updog("update").status == 0


def test_status_works_with_the_state_on_a_read_only_file_system(tmp_path: Path) -> None:
    """D80: a real read-only mount, because permissions do not restrict root."""
    node = make_node(tmp_path)
    node.updog("update")
    with _state_file_system(node, tmp_path) as where:
        subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        before = node.disk_digest()
        status = node.updog("status", "--json")
        assert status.document["pending"]["version"] == NEWER
        assert node.updog("history").status == 0
        for command in ("check-update", "update", "boot-record"):
            said = node.updog(command)
            assert said.status == ExitStatus.FAILED
            assert "Read-only file system" in said.err
            assert f"Mount the file system at {where} read-write" in said.err
        assert node.disk_digest() == before
        for command in ("confirm", "update-revert"):  # these work by the partition table alone
            assert node.updog(command).status == ExitStatus.DONE


def test_without_room_for_the_spool_the_images_stream(tmp_path: Path) -> None:
    """D71: a state file system smaller than the margin that the spool leaves free."""
    node = make_node(tmp_path)
    with _state_file_system(node, tmp_path) as where:
        before = node.disk_digest()
        refused = node.updog("prepare")
        assert refused.status == ExitStatus.REFUSED
        assert "does not have enough free space for 1.1.0" in refused.err
        assert node.disk_digest() == before
        said = node.updog("update")
        assert said.status == 0
        assert "streaming into the slot" in said.err
        assert not list((where / "state").glob("spool/*"))
        assert node.holds(Slot.B, NEWER)


def test_a_full_state_file_system_ends_an_update_before_the_slot_is_given_up(tmp_path: Path) -> None:
    """D71: with a real ENOSPC."""
    node = make_node(tmp_path)
    with _state_file_system(node, tmp_path) as where:
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={where}/filler", "bs=64k"], check=False, capture_output=True
        )
        subprocess.run(["dd", "if=/dev/zero", f"of={where}/rest", "bs=512"], check=False, capture_output=True)
        before = node.disk_digest()
        for command in ("check-update", "update", "update-image"):
            said = node.updog(command)
            assert said.status == ExitStatus.FAILED
            assert "No space left on device" in said.err
        assert node.disk_digest() == before
        assert node.updog("status").status == 0
        (where / "filler").unlink()
        assert node.updog("update").status == 0
        assert node.holds(Slot.B, NEWER)
