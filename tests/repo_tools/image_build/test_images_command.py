"""`repo-tools images build`, as it is typed."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from repo_tools.bootstage.image import MOMENT
from repo_tools.cli import cli
from repo_tools.image_build.request import DEFAULT_OPTIONS, Etc, InitrdKind
from repo_tools.image_build.stored import DEFAULT_LIMIT
from repo_tools.image_build.tree import write_tar
from signpost.console import run
from tests.support.trees import ROOT_JSON, sound_tree

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.image_build.tree import Inode

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and other owners")


def archive(folder: Path, changes: dict[str, Inode | None] | None = None) -> Path:
    write_tar(sound_tree(changes), folder / "box.tar", moment=MOMENT)
    return folder / "box.tar"


def images_build(*words: str | Path) -> int:
    return run(cli, ["images", "build", *map(str, words)])


@as_root
def test_an_archive_becomes_images_that_publish_takes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "images"
    assert images_build(archive(tmp_path), "--out", out, "--json") == 0
    printed = capfd.readouterr()
    facts = json.loads(printed.out)
    assert printed.err == ""
    assert facts == json.loads((out / "images.json").read_text())
    assert facts["source"]["kind"] == "tar"
    assert facts["source"]["digest"].startswith("sha256:")
    assert sorted(path.name for path in out.iterdir()) == [
        "boot.ext4",
        "images.json",
        "root.erofs",
        "root.verity",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.tar", "images"]


@as_root
def test_it_says_what_it_does_and_how_to_publish_the_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--version", "2.0.0", "--variant", "edge", "--out", tmp_path / "images")
    assert images_build(archive(tmp_path), *words) == 0
    printed = capfd.readouterr()
    assert "edge 2.0.0 for x86_64" in printed.out
    assert "repo-tools publish --variant edge --arch x86_64 --version 2.0.0" in printed.out
    assert "writing ROOT of edge-x86_64-2.0.0" in printed.err


@as_root
def test_a_folder_and_an_archive_of_it_give_the_same_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.unpack_archive(archive(tmp_path), folder, filter="fully_trusted")
    made = []
    for source in (tmp_path / "box.tar", folder):
        assert images_build(source, "--out", tmp_path / "images", "--json") == 0
        made.append(json.loads(capfd.readouterr().out)["images"])
    assert made[0] == made[1]


@as_root
def test_the_given_root_of_trust_is_used(tmp_path: Path) -> None:
    source = archive(tmp_path, {"usr/share/updog/root.json": None})
    (tmp_path / "root.json").write_bytes(ROOT_JSON)
    words = ("--out", tmp_path / "images", "--quiet")
    assert images_build(source, *words) == 1
    assert images_build(source, *words, "--trusted-root", tmp_path / "root.json") == 0


def test_faults_are_listed_with_their_codes_and_nothing_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = archive(tmp_path, {"usr/bin/updog": None, "usr/lib/modules": None})
    assert images_build(source, "--out", tmp_path / "images") == 1
    printed = capfd.readouterr().err
    assert "no-kernel: " in printed
    assert "no-updog: " in printed
    assert not (tmp_path / "images").exists()


def test_what_is_not_a_source_is_an_error_and_nothing_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("hello\n" * 1000)
    assert images_build(tmp_path / "text", "--out", tmp_path / "images") == 1
    assert images_build(tmp_path / "missing", "--out", tmp_path / "images") == 1
    assert "missing" in capfd.readouterr().err
    assert not (tmp_path / "images").exists()


def test_a_root_of_trust_that_cannot_be_read_is_wrong_usage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "images", "--trusted-root", tmp_path / "missing.json")
    assert images_build(archive(tmp_path), *words) == 2
    assert "missing.json" in capfd.readouterr().err


def test_choices_and_defaults_are_those_of_the_build() -> None:
    command = cli.get_command(None, "images").get_command(None, "build")  # type: ignore[arg-type,union-attr]
    options = {option.name: option for option in command.params}
    assert set(options["etc"].type.choices) == set(Etc)
    assert set(options["initrd"].type.choices) == set(InitrdKind)
    assert options["options"].default == DEFAULT_OPTIONS
    assert options["limit_bytes"].default == DEFAULT_LIMIT
