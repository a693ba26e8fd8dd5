"""The boot stage built from a real Debian system: the same bytes every time, and readable by other tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from fixtures.os.stage import PACKAGES
from repo_tools.bootstage.efi import DEFAULT_OPTIONS, FALLBACK_PATH, STUB, make_efi, make_partition
from repo_tools.bootstage.image import build
from repo_tools.cli import cli
from signpost.console import run

if TYPE_CHECKING:
    from repo_tools.bootstage.image import BootStage

needs_stub = pytest.mark.skipif(not STUB.exists(), reason="systemd-boot-efi is not installed")
MEBIBYTE = 1 << 20
MOST = 8 * MEBIBYTE
"""Bytes of an initial RAM file system that an EFI partition of 32 MiB holds beside any kernel in use."""


def test_the_same_system_gives_the_same_bytes(system: Path, stage: BootStage) -> None:
    assert build(system) == stage


def test_it_holds_no_source_no_shell_and_no_command_line(stage: BootStage) -> None:
    whole = zstandard.ZstdDecompressor().decompress(stage.initramfs, max_output_size=64 * MEBIBYTE)
    listed = subprocess.run(["cpio", "-it", "--quiet"], input=whole, capture_output=True, check=True)
    names = listed.stdout.decode().splitlines()
    assert "usr/lib/python3.11/signpost/initramfs.pyc" in names
    assert [name for name in names if name.endswith((".py", "/sh", "/signpost/cli.pyc"))] == []
    assert [name for name in names if "ext4" in name] == [], "built into Debian's cloud kernel"
    assert len(stage.initramfs) < MOST


@needs_stub
def test_an_efi_binary_repeats_and_its_sections_follow_each_other(stage: BootStage, tmp_path: Path) -> None:
    binary = make_efi(stage)
    assert make_efi(stage) == binary
    (tmp_path / "efi").write_bytes(binary)
    listed = subprocess.run(["objdump", "-h", tmp_path / "efi"], capture_output=True, text=True, check=True)
    found = re.findall(r"^ *\d+ (\S+) +([0-9a-f]+)  ([0-9a-f]+) ", listed.stdout, re.MULTILINE)
    places = {name: (int(place, 16), int(size, 16)) for name, size, place in found}
    assert [name for name in places if name in {".osrel", ".cmdline", ".linux", ".initrd"}]
    in_order = sorted(places.values())
    assert all(place + size <= following for (place, size), (following, _) in zip(in_order, in_order[1:]))  # noqa: B905, RUF007
    assert DEFAULT_OPTIONS.encode() in binary


@needs_stub
def test_the_command_leaves_every_way_to_start_it(
    system: Path, stage: BootStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stage"
    words = ["boot-stage", "build", str(folder), "--system", str(system), "--options", "console=hvc0"]
    assert run(cli, [*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found["vmlinuz"] == stage.kernel
    assert found["initramfs.zst"] == stage.initramfs
    assert found["BOOTX64.EFI"] == make_efi(stage, options="console=hvc0")
    assert said["kernel"] == stage.version
    assert {Path(row["file"]).name: row["size"] for row in said["files"]} == {
        name: len(content) for name, content in found.items()
    }


@needs_stub
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_an_efi_partition_repeats_and_gives_the_binary_back(
    stage: BootStage, tmp_path: Path, sector_size: int
) -> None:
    files = {FALLBACK_PATH: make_efi(stage)}
    partition = make_partition(64 * MEBIBYTE, files, sector_size=sector_size)
    assert len(partition) == 64 * MEBIBYTE
    assert make_partition(64 * MEBIBYTE, files, sector_size=sector_size) == partition
    (tmp_path / "image").write_bytes(partition)
    read = subprocess.run(
        ["mtype", "-i", tmp_path / "image", f"::{FALLBACK_PATH}"], capture_output=True, check=True
    )
    assert read.stdout == files[FALLBACK_PATH]
    if shutil.which("fsck.vfat", path="/usr/sbin:/sbin"):
        subprocess.run(["/usr/sbin/fsck.vfat", "-n", tmp_path / "image"], capture_output=True, check=True)


def test_the_how_to_names_the_packages_it_is_built_from() -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/boot.md").read_text(encoding="utf-8")
    assert [name for name in PACKAGES if name not in text] == []
