"""Disk images: what other tools report about them, what is in them, and that a failure leaves no file."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.errors import DiskLayoutError, StoredImageError
from repo_tools.releases import first_disk
from repo_tools.releases.release import ReleaseName
from signpost import gpt, gptprio, sets
from signpost.console import run
from tests.support.repositories import (
    KilledError,
    KillingMedium,
    SmallRepository,
    make_repository,
    tree_digest,
)
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

WHICH = ReleaseName(version=Version.parse("1.0.0"))


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo")


def _words(repository: SmallRepository, disk_file: Path, *more: str) -> list[str]:
    return ["--repo", str(repository.folder), "disk", "create", str(disk_file), "--version", "1.0.0", *more]


def _examined(path: Path, sector_size: int) -> gpt.Examined:
    data = path.read_bytes()
    geometry = gpt.Geometry(sector_size, len(data) // sector_size)
    return gpt.examine(lambda extent: data[extent.offset : extent.end], geometry)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_disk_is_what_it_says(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], sector_size: int
) -> None:
    path = tmp_path / "node.img"
    assert run(cli, _words(repository, path, "--sector-size", str(sector_size), "--json")) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    examined = _examined(path, sector_size)
    assert examined.faults == ()
    assert examined.trusted is not None
    entries = examined.trusted.entries
    layout = sets.find(entries)
    assert layout.notes == ()
    assert gptprio.flags(entries[layout.slots[sets.Slot.A].boot].attributes) == gptprio.Flags(
        priority=1, successful=True
    )
    assert gptprio.flags(entries[layout.slots[sets.Slot.B].boot].attributes) == gptprio.Flags()
    assert [partition["label"] for partition in said["partitions"]] == [
        "EFI-SYSTEM",
        *(f"BOTTLEROCKET-{role}-{slot}" for slot in "AB" for role in ("BOOT", "ROOT", "HASH")),
        "BOTTLEROCKET-PRIVATE",
        "BOTTLEROCKET-DATA",
    ]
    assert {partition["offset"] % (1 << 20) for partition in said["partitions"]} == {0}
    assert path.stat().st_size == said["size"]
    assert path.stat().st_blocks * 512 < said["size"] / 10, "sparse"
    _holds_the_release(repository, path, said)


def _holds_the_release(repository: SmallRepository, path: Path, said: dict[str, object]) -> None:
    data = path.read_bytes()
    partitions = said["partitions"]
    assert isinstance(partitions, list)
    slots = said["slots"]
    assert isinstance(slots, dict)
    assert slots["B"] is None
    for partition, (role, image) in zip(
        partitions[1:4], repository.images["1.0.0"].images().items(), strict=True
    ):
        raw = image.read_bytes()
        offset, size = partition["offset"], partition["size"]
        assert data[offset : offset + size] == raw.ljust(size, b"\0")
        assert slots["A"][role] == {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        assert partition["slot"] == "A"
    assert not any(data[partitions[4]["offset"] : partitions[8]["offset"] + partitions[8]["size"]])


def test_other_tools_accept_it(repository: SmallRepository, tmp_path: Path) -> None:
    path = tmp_path / "node.img"
    assert run(cli, _words(repository, path)) == 0
    verified = subprocess.run(["sgdisk", "-v", str(path)], check=True, capture_output=True, text=True).stdout
    assert "No problems found" in verified
    subprocess.run(["sfdisk", "--verify", str(path)], check=True, capture_output=True)
    shown = subprocess.run(
        ["cgpt", "show", "-i", "2", "-P", str(path)], check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "1"
    assert _cgpt(path, 2, "-S") == "1"
    assert _cgpt(path, 2, "-T") == "0"
    assert (_cgpt(path, 5, "-P"), _cgpt(path, 5, "-S")) == ("0", "0")
    probed = subprocess.run(["blkid", "-p", str(path)], check=True, capture_output=True, text=True).stdout
    assert 'PTTYPE="gpt"' in probed


def _cgpt(path: Path, number: int, flag: str) -> str:
    command = ["cgpt", "show", "-i", str(number), flag, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_4096_byte_sectors_are_read_by_fdisk(repository: SmallRepository, tmp_path: Path) -> None:
    path = tmp_path / "node.img"
    assert run(cli, _words(repository, path, "--sector-size", "4096")) == 0
    listed = subprocess.run(
        ["fdisk", "-b", "4096", "-l", str(path)], check=True, capture_output=True, text=True
    )
    assert "Disklabel type: gpt" in listed.stdout
    assert "corrupt" not in listed.stdout + listed.stderr
    assert sum(line.startswith(str(path)) for line in listed.stdout.splitlines()) == 9


def test_sizes_are_as_asked(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.img"
    words = ["--size", "200MiB", "--slot-size", "boot=3MiB,root=5000000,hash=1MiB", "--json"]
    assert run(cli, _words(repository, path, *words)) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert path.stat().st_size == 200 << 20
    assert [partition["size"] >> 20 for partition in said["partitions"]] == [64, 3, 5, 1, 3, 5, 1, 16, 100]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["--version", "9.9.9"], "release", id="no-release"),
        pytest.param(["--size", "10MiB"], "disk-layout", id="too-small"),
        pytest.param(["--slot-size", "root=4096"], "disk-layout", id="slot-too-small"),
        pytest.param(["--slot-size", "efi=1MiB"], "usage", id="no-such-slot"),
        pytest.param(["--slot-size", "root=1MiB,root=2MiB"], "usage", id="twice"),
        pytest.param(["--slot-size", "root=big"], "usage", id="size"),
        pytest.param(["--size", "huge"], "usage", id="disk-size"),
    ],
)
def test_wrong_input_makes_no_file(
    repository: SmallRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: str,
) -> None:
    before = tree_digest(tmp_path)
    assert run(cli, _words(repository, tmp_path / "node.img", *words, "--json")) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert tree_digest(tmp_path) == before


def test_an_existing_file_is_not_touched(repository: SmallRepository, tmp_path: Path) -> None:
    path = tmp_path / "node.img"
    path.write_text("precious")
    assert run(cli, _words(repository, path)) == 2
    assert path.read_text() == "precious"


def test_a_sector_size_that_no_disk_has_is_refused(repository: SmallRepository, tmp_path: Path) -> None:
    with pytest.raises(DiskLayoutError):
        first_disk.create(
            repository.folder, tmp_path / "node.img", WHICH, plan=first_disk.DiskPlan(sector_size=520)
        )


@pytest.mark.parametrize("fault", ["flip", "cut", "delete", "longer"])
def test_a_damaged_image_leaves_no_file(repository: SmallRepository, tmp_path: Path, fault: str) -> None:
    path = next((repository.folder / "targets").glob("*-root.erofs.zst"))
    data = path.read_bytes()
    spoilt = {
        "flip": data[:-5] + b"?" + data[-4:],
        "cut": data[:-100],
        "longer": data + b"\0",
        "delete": b"",
    }[fault]
    path.write_bytes(spoilt)
    if fault == "delete":
        path.unlink()
    before = tree_digest(tmp_path)
    with pytest.raises(StoredImageError):
        first_disk.create(repository.folder, tmp_path / "node.img", WHICH)
    assert tree_digest(tmp_path) == before


def test_a_kill_leaves_no_disk_and_the_next_run_makes_it(repository: SmallRepository, tmp_path: Path) -> None:
    recorder = KillingMedium()
    first_disk.create(repository.folder, tmp_path / "whole.img", WHICH, medium=recorder)
    path = tmp_path / "node.img"
    for number in range(len(recorder.steps) - 1):
        with pytest.raises(KilledError):
            first_disk.create(repository.folder, path, WHICH, medium=KillingMedium(number))
        assert not path.exists()
    first_disk.create(repository.folder, path, WHICH)
    assert _examined(path, 512).faults == ()
    assert not path.with_name("node.img.partial").exists()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-utils is not installed")
@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_a_disk_for_a_cloud_holds_byte_for_byte_the_raw_one(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    disk = tmp_path / "clouds" / f"node.{form}"
    disk.parent.mkdir()
    assert run(cli, _words(repository, disk, "--cloud", form, "--json")) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["disk"], said["format"]) == (str(disk), form)
    assert list(disk.parent.iterdir()) == [disk]
    told = subprocess.run(["qemu-img", "info", "--output=json", disk], capture_output=True, check=True)
    info = json.loads(told.stdout)
    assert (info["format"], info["virtual-size"]) == (form, said["size"])
    assert disk.stat().st_size < said["size"] / 10
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    assert _examined(raw, 512).faults == ()
    _holds_the_release(repository, raw, said)


def test_without_qemu_img_its_package_is_named_and_no_file_is_left(
    repository: SmallRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    before = tree_digest(tmp_path)
    assert run(cli, _words(repository, tmp_path / "node.qcow2", "--cloud", "qcow2")) == 1
    said = capsys.readouterr().err
    assert "not installed: qemu-img" in said
    assert "qemu-utils" in said
    assert tree_digest(tmp_path) == before


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-utils is not installed")
@pytest.mark.parametrize("exists", [True, False], ids=["exists", "does not fit"])
def test_a_disk_for_a_cloud_that_cannot_be_made_leaves_what_was_there(
    repository: SmallRepository, tmp_path: Path, *, exists: bool
) -> None:
    disk = tmp_path / "node.qcow2"
    if exists:
        disk.write_text("precious")
    before = tree_digest(tmp_path)
    assert run(cli, _words(repository, disk, "--cloud", "qcow2", "--size", "10MiB")) == 2
    assert tree_digest(tmp_path) == before


@pytest.mark.skipif(shutil.which("mtype") is None, reason="mtools is not installed")
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_boot_stage_is_where_firmware_looks(
    repository: SmallRepository, tmp_path: Path, sector_size: int
) -> None:
    binary, path = b"MZ" + random.Random(1).randbytes(3 << 20), tmp_path / "node.img"
    (tmp_path / "efi").write_bytes(binary)
    words = _words(repository, path, "--boot-stage", str(tmp_path / "efi"), "--sector-size", str(sector_size))
    assert run(cli, words) == 0
    command = ["mtype", "-i", f"{path}@@{1 << 20}", "::EFI/BOOT/BOOTX64.EFI"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == binary
    assert path.stat().st_blocks * 512 < 8 << 20, "sparse"


@pytest.mark.parametrize(
    ("binary", "fault"),
    [
        pytest.param(b"text", "is not an EFI binary", id="not EFI"),
        pytest.param(b"MZ" + bytes(33 << 20), "more than half", id="too large"),
    ],
)
def test_a_boot_stage_that_cannot_be_one_leaves_no_disk(
    repository: SmallRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    binary: bytes,
    fault: str,
) -> None:
    (tmp_path / "efi").write_bytes(binary)
    assert run(cli, _words(repository, tmp_path / "node.img", "--boot-stage", str(tmp_path / "efi"))) != 0
    assert fault in capsys.readouterr().err
    assert not list(tmp_path.glob("node.img*"))
