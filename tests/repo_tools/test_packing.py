"""Packing, and reading what other tools packed; verity; progress."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.errors import ImageError, VerityError
from repo_tools.images.packing import pack_whole
from repo_tools.images.seekable import SeekableStager
from repo_tools.images.stored import unpacked
from repo_tools.images.verity import make_hash_image
from signpost.console import run
from signpost.medium import OsMedium
from tests.support.repositories import ARCH, VARIANT, make_repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from signpost.progress import ProgressStep

RAW = bytes(range(256)) * 5000 + bytes(3_000_000)


def _made_by(tool: list[str], data: bytes = RAW) -> bytes:
    return subprocess.run(tool, input=data, capture_output=True, check=True).stdout


def _blocks(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize(
    ("tool", "ending"),
    [
        (["zstd", "-c"], ".zst"),
        (["zstd", "-c", "--no-check", "-19", "--long=27"], ".zst"),
        (["lz4", "-c"], ".lz4"),
        (["lz4", "-c", "-9", "-BD", "--no-frame-crc"], ".lz4"),
    ],
)
def test_what_other_tools_write_is_read(tool: list[str], ending: str) -> None:
    assert b"".join(unpacked(_blocks(_made_by(tool)), "x" + ending)) == RAW


def test_several_zstd_frames_are_one_image() -> None:
    data = _made_by(["zstd", "-c"], RAW[:7]) + _made_by(["zstd", "-c"], RAW[7:])
    assert b"".join(unpacked(_blocks(data), "x.zst")) == RAW


@pytest.mark.parametrize("level", [0, 9])
def test_packing_whole_is_undone_by_unpacking(tmp_path: Path, level: int) -> None:
    (tmp_path / "raw").write_bytes(RAW)
    staged = pack_whole(OsMedium(), tmp_path / "raw", tmp_path / "x.lz4", name="x.lz4", level=level)
    assert b"".join(unpacked(_blocks(staged.path.read_bytes(), 1 << 20), staged.name)) == RAW


def test_the_same_image_packs_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(RAW)
    staged = [
        pack_whole(OsMedium(), tmp_path / "raw", tmp_path / str(number), name="x", level=2)
        for number in (1, 2)
    ]
    assert staged[0].sha256 == staged[1].sha256


def test_an_image_that_grows_while_it_is_read(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(RAW)

    def grow(step: ProgressStep) -> None:
        if step.done == 1 << 20:
            with raw.open("ab") as stream:
                stream.write(b"more")

    with pytest.raises(ImageError):
        pack_whole(OsMedium(), raw, tmp_path / "whole", name="x", level=1, progress=grow)
    raw.write_bytes(RAW)
    stager = SeekableStager(medium=OsMedium(), folder=tmp_path, level=1, progress=grow)
    with pytest.raises(ImageError):
        stager.stage(raw, "x.zst", cut_along=[], deltas_from=[])


def test_verity_images_are_what_veritysetup_verifies(tmp_path: Path) -> None:
    root, tree = tmp_path / "root", tmp_path / "tree"
    root.write_bytes(RAW[: 4096 * 300])
    root_hash = make_hash_image(root, tree, name="os-vm-x86_64-1.0.0")
    subprocess.run(
        ["veritysetup", "verify", str(root), str(tree), root_hash], check=True, capture_output=True
    )
    assert make_hash_image(root, tmp_path / "again", name="os-vm-x86_64-1.0.0") == root_hash
    assert (tmp_path / "again").read_bytes() == tree.read_bytes()


def test_a_failing_or_missing_veritysetup_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VerityError, match="failed"):
        make_hash_image(tmp_path / "nothing", tmp_path / "tree", name="x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerityError, match="not installed") as caught:
        make_hash_image(tmp_path / "nothing", tmp_path / "tree", name="x")
    assert "cryptsetup-bin" in caught.value.next_step


def test_publish_makes_the_hash_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    made = repository.synthesize("1.0.0")
    words = ["--repo", str(repository.folder), "publish", "--variant", VARIANT, "--arch", ARCH, "--verity"]
    words += [
        "--version",
        "1.0.0",
        "--boot",
        str(made.boot),
        "--root",
        str(made.root),
        "--compression",
        "lz4",
    ]
    assert run(cli, words) == 0
    captured = capsys.readouterr()
    assert "dm-verity root hash: " in captured.out
    assert captured.err.splitlines()[0].startswith("compress 3 items: ")
    assert run(cli, ["--repo", str(repository.folder), "validate"]) == 0
