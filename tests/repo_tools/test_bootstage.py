"""The boot stage's parts: modules in order, an archive other tools read, and every missing piece named."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import zstandard

from repo_tools.bootstage import cpio
from repo_tools.bootstage.efi import DEFAULT_OPTIONS, make_efi, make_partition
from repo_tools.bootstage.files import read_efi
from repo_tools.bootstage.image import MOMENT, BootStage, build
from repo_tools.bootstage.kernel import depends, find_kernel, load_order, modules_in, read_module
from repo_tools.bootstage.python import find_python, gather
from repo_tools.cli import cli
from repo_tools.errors import BootStageError
from signpost.console import run

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "6.1.0-1-cloud-amd64"


def module(needs: str = "") -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0"


def lay(system: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = system / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    return system


KERNEL = {
    f"boot/vmlinuz-{VERSION}": b"kernel",
    f"lib/modules/{VERSION}/modules.builtin": b"kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko\n",
    f"lib/modules/{VERSION}/kernel/md/dm-verity.ko": module("dm-mod,dm-bufio,crc-t10dif"),
    f"lib/modules/{VERSION}/kernel/md/dm-bufio.ko.xz": lzma.compress(module("dm-mod")),
    f"lib/modules/{VERSION}/kernel/md/dm-mod.ko.zst": zstandard.compress(module()),
    f"lib/modules/{VERSION}/kernel/md/dm-mod.kotxt": b"no module",
}


# -- kernel ---------------------------------------------------------------------------------------


def test_depends_reads_the_names_a_module_carries() -> None:
    assert depends(b"\0depends=dm-bufio,reed_solomon\0") == ["dm_bufio", "reed_solomon"]
    assert depends(b"\0depends=\0") == []
    assert depends(b"no such section") == []


def test_each_module_comes_after_what_it_needs_compressed_or_not(tmp_path: Path) -> None:
    kernel = find_kernel(lay(tmp_path, KERNEL))
    order = load_order(["dm_verity", "ext4", "dm_mod"], kernel.modules, kernel.builtin)
    assert list(order) == ["dm_mod", "dm_bufio", "dm_verity"]
    assert read_module(order["dm_mod"]) == module()
    assert read_module(order["dm_bufio"]) == module("dm-mod")


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(BootStageError, match="no module erofs"):
        load_order(["erofs"], modules_in(tmp_path))


def test_a_module_that_needs_a_missing_one_is_refused(tmp_path: Path) -> None:
    kernel = find_kernel(lay(tmp_path, KERNEL))
    with pytest.raises(BootStageError, match="no module crc_t10dif"):
        load_order(["dm_verity"], kernel.modules)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        pytest.param({}, "one kernel is needed in .*/boot; found: none", id="none"),
        pytest.param({"boot/vmlinuz-1": b"", "boot/vmlinuz-2": b""}, "found: 1, 2", id="two"),
        pytest.param({"boot/vmlinuz-1": b""}, "no modules of the kernel 1", id="without modules"),
    ],
)
def test_one_kernel_with_its_modules_is_needed(tmp_path: Path, files: dict[str, bytes], fault: str) -> None:
    with pytest.raises(BootStageError, match=fault):
        find_kernel(lay(tmp_path, files))


def test_of_several_kernels_the_wanted_one_is_taken(tmp_path: Path) -> None:
    lay(tmp_path, {**KERNEL, "boot/vmlinuz-7": b"another"})
    assert find_kernel(tmp_path, VERSION).image.read_bytes() == b"kernel"
    with pytest.raises(BootStageError, match=r"the kernel 8 is needed in .*; found: 6\.1.*, 7") as caught:
        find_kernel(tmp_path, "8")
    assert "--kernel" in caught.value.next_step


# -- archive --------------------------------------------------------------------------------------


def test_an_archive_does_not_depend_on_the_order_of_entries() -> None:
    one, two = cpio.file(b"one"), cpio.link("one")
    whole = cpio.archive({"b/one": one, "a": two}, moment=MOMENT)
    assert whole == cpio.archive({"a": two, "b/one": one}, moment=MOMENT)
    assert whole != cpio.archive({"a": two, "b/one": one}, moment=MOMENT + 1)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_an_archive_back(tmp_path: Path) -> None:
    entries = {
        "bin/tool": cpio.file(b"data", executable=True),
        "sh": cpio.link("bin/tool"),
        "dev": cpio.folder(),
    }
    whole = cpio.archive(entries, moment=MOMENT)
    subprocess.run(["cpio", "-i", "--quiet"], input=whole, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"data"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "sh").readlink().as_posix() == "bin/tool"
    assert (tmp_path / "dev").is_dir()


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_lists_a_device_with_its_numbers() -> None:
    whole = cpio.archive({"dev/urandom": cpio.character_device(1, 9)}, moment=MOMENT)
    listed = subprocess.run(["cpio", "-itv", "--quiet"], input=whole, capture_output=True, check=True)
    line = listed.stdout.decode().splitlines()[-1].split()
    assert line[0] == "crw-------"
    assert line[4:6] == ["1,", "9"]


# -- Python ---------------------------------------------------------------------------------------

_LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        pytest.param({}, "one Python is needed in .*/usr/bin; found: none", id="none"),
        pytest.param({"usr/bin/python3.11": b"", "usr/bin/python3.13": b""}, "python3.13", id="two"),
        pytest.param({"usr/bin/python3.11": b""}, "no dynamic loader", id="without libc6"),
    ],
)
def test_one_python_is_needed(tmp_path: Path, files: dict[str, bytes], fault: str) -> None:
    with pytest.raises(BootStageError, match=fault):
        find_python(lay(tmp_path, files))


@pytest.mark.parametrize(
    ("loader", "fault"),
    [
        pytest.param(b"#!/bin/sh\necho first >&2\necho 'no libz' >&2\nexit 1\n", "no libz", id="fails"),
        pytest.param(b"#!/bin/sh\nexit 1\n", "it gave no reason", id="fails in silence"),
        pytest.param(b"\x7fELF of another machine", "cannot run on this machine", id="foreign"),
        pytest.param(
            b"#!/bin/sh\necho module /etc/x.py\n", "/etc/x.py was used, but is outside", id="outside"
        ),
    ],
)
def test_a_python_that_does_not_run_there_is_reported(tmp_path: Path, loader: bytes, fault: str) -> None:
    python = find_python(lay(tmp_path, {"usr/bin/python3.11": b"", _LOADER: loader}))
    with pytest.raises(BootStageError, match=fault):
        gather(python)


def test_a_folder_without_a_system_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(BootStageError):
        build(tmp_path)


# -- EFI ------------------------------------------------------------------------------------------

STAGE = BootStage(version=VERSION, kernel=b"kernel" * 1000, initramfs=b"initramfs" * 1000)


def test_a_missing_stub_is_reported_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(BootStageError) as caught:
        make_efi(STAGE, stub=tmp_path / "stub")
    assert "systemd-boot-efi" in caught.value.next_step


@pytest.mark.skipif(shutil.which("objcopy") is None, reason="binutils is not installed")
def test_a_stub_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stub").write_bytes(b"no binary")
    with pytest.raises(BootStageError, match="objdump failed"):
        make_efi(STAGE, stub=tmp_path / "stub")


def test_a_missing_tool_is_reported_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repo_tools.bootstage.efi._ADMIN_FOLDERS", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BootStageError) as caught:
        make_partition(1 << 20, {})
    assert "dosfstools" in caught.value.next_step


@pytest.mark.skipif(shutil.which("mcopy") is None, reason="mtools is not installed")
def test_an_efi_binary_that_does_not_fit_is_reported() -> None:
    with pytest.raises(BootStageError, match="mcopy failed"):
        make_partition(1 << 20, {"EFI/BOOT/BOOTX64.EFI": bytes(2 << 20)})


# -- command line ---------------------------------------------------------------------------------


def test_a_file_that_is_not_an_efi_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no binary")
    for path, fault in ((tmp_path / "text", "is not an EFI binary"), (tmp_path / "none", "No such file")):
        with pytest.raises(BootStageError, match=fault) as caught:
            read_efi(path)
        assert "boot-stage build" in caught.value.next_step


def test_a_build_that_fails_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["boot-stage", "build", str(tmp_path / "stage"), "--system", str(tmp_path)]
    assert run(cli, words) == 1
    assert "one kernel is needed" in capsys.readouterr().err
    assert not (tmp_path / "stage").exists()


def test_help_shows_the_command_line_that_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["boot-stage", "build", "--help"]) == 0
    assert DEFAULT_OPTIONS in " ".join(capsys.readouterr().out.split())
