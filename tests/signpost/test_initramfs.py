"""The boot stage's edges, as far as they can be tried outside an initramfs; the drills boot the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from signpost.errors import KernelLoadError, LayoutError
from signpost.initramfs import Initramfs, _joined


def test_disks_are_device_nodes_and_no_mappings() -> None:
    names = [Path(disk).name for disk in Initramfs().disks()]
    assert names == sorted(names)
    assert [name for name in names if name.startswith(("loop", "ram", "dm-"))] == []


def test_what_is_no_kernel_is_not_loaded(tmp_path: Path) -> None:
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
        pytest.raises(LayoutError, match="the kernel sees no partition 2"),
        Initramfs().mounted(str(tmp_path / "disk"), 2),
    ):
        pytest.fail("mounted")


def test_ram_disks_are_joined_at_multiples_of_four(tmp_path: Path) -> None:
    for name, content in (("a", b"first"), ("b", b"next"), ("c", b"")):
        (tmp_path / name).write_bytes(content)
    with _joined([str(tmp_path / name) for name in "abc"]) as descriptor:
        assert os.pread(descriptor, 100, 0) == b"first\0\0\0next"
