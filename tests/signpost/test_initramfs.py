"""The boot stage's edges, as far as they can be tested outside an initramfs; the drills test the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from signpost.errors import KernelLoadError, LayoutError
from signpost.initramfs import Initramfs, _concatenated


def test_disks_are_all_block_devices_but_virtual_and_removable_ones() -> None:
    names = [Path(disk).name for disk in Initramfs().disks()]
    assert names == sorted(names)
    others = {path.name.rpartition("!")[2] for path in Path("/sys/block").iterdir()} - set(names)
    assert {name.rstrip("0123456789") for name in others} <= {"loop", "ram", "zram", "dm-", "md", "sr", "fd"}


def test_a_file_that_is_not_a_kernel_is_not_loaded(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"no kernel" * 100)
    with pytest.raises(KernelLoadError, match="vmlinuz cannot be loaded: ") as caught:
        Initramfs().load(str(kernel), [], "ro")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("absent", ["vmlinuz", "initrd"])
def test_an_absent_file_is_named(tmp_path: Path, absent: str) -> None:
    for name in {"vmlinuz", "initrd"} - {absent}:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(KernelLoadError, match=f"No such file or directory .*/{absent}"):
        Initramfs().load(str(tmp_path / "vmlinuz"), [str(tmp_path / "initrd")], "ro")


def test_a_file_has_no_partitions_the_kernel_sees(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    with (
        pytest.raises(LayoutError, match="the kernel has found no partition 2"),
        Initramfs().mounted(str(tmp_path / "disk"), 2),
    ):
        pytest.fail("mounted")


def test_ram_disks_are_concatenated_at_multiples_of_four(tmp_path: Path) -> None:
    for name, content in (("a", b"first"), ("b", b"next"), ("c", b"")):
        (tmp_path / name).write_bytes(content)
    with _concatenated([str(tmp_path / name) for name in "abc"]) as descriptor:
        assert os.pread(descriptor, 100, 0) == b"first\0\0\0next"
