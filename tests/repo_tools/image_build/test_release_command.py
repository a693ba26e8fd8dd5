"""`repo-tools release`, as it is typed: from a source to a signed release."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from repo_tools.bootstage.image import MOMENT
from repo_tools.cli import cli
from repo_tools.image_build.tree import file, write_tar
from signpost.console import run
from tests.support.boot_images import bz_image
from tests.support.trees import sound_tree

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "boot/vmlinuz-6.1.0-1-test"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and other owners")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return an archive of a system."""
    write_tar(sound_tree({KERNEL: file(bz_image())}), tmp_path / "box.tar", moment=MOMENT)
    return tmp_path / "box.tar"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    assert run(cli, ["new", str(tmp_path / "repo")]) == 0
    return tmp_path / "repo"


def release(repository: Path, *words: str | Path) -> int:
    return run(cli, ["--repo", str(repository), "release", *map(str, words)])


def offered(repository: Path) -> list[str]:
    """Return the versions of every manifest there was."""
    manifests = [json.loads(path.read_bytes()) for path in (repository / "targets").glob("*.manifest.json")]
    return [update["version"] for manifest in manifests for update in manifest["updates"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_source_becomes_a_release_and_nothing_else_is_left(
    tmp_path: Path, source: Path, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = names(tmp_path)
    capfd.readouterr()
    assert release(repository, source, "--version", "2.0.0", "--waves", "none", "--json") == 0
    outcome = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert "disk" not in outcome
    assert offered(repository) == ["2.0.0"]
    assert names(tmp_path) == before
    assert run(cli, ["--repo", str(repository), "validate"]) == 0


def test_the_images_are_kept_where_it_is_told(tmp_path: Path, source: Path, repository: Path) -> None:
    out = tmp_path / "images"
    assert release(repository, source, "--out", out, "--waves", "none") == 0
    assert names(out) == ["boot.ext4", "images.json", "root.erofs", "root.verity"]


def test_nodes_trust_the_repository_that_it_is_published_in(
    tmp_path: Path, source: Path, repository: Path
) -> None:
    out = tmp_path / "images"
    assert release(repository, source, "--out", out, "--waves", "none") == 0
    trusted = (repository / "metadata/1.root.json").read_bytes()
    assert trusted in (out / "root.erofs").read_bytes()


def test_what_would_not_run_as_a_node_is_not_published(
    tmp_path: Path, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tar(sound_tree({"usr/lib/systemd/systemd": None}), tmp_path / "bad.tar", moment=MOMENT)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert release(repository, tmp_path / "bad.tar", "--waves", "none") == 1
    assert "systemd" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_disk_that_exists_is_refused_before_anything_is_published(
    tmp_path: Path, source: Path, repository: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"mine")
    assert release(repository, source, "--disk", disk, "--waves", "none") == 2
    assert disk.read_bytes() == b"mine"
    assert offered(repository) == []


def test_a_source_without_python_has_no_boot_stage_and_is_not_published(
    tmp_path: Path, source: Path, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert release(repository, source, "--disk", tmp_path / "disk", "--waves", "none") == 1
    assert "Python" in capfd.readouterr().err
    assert offered(repository) == []
    assert not (tmp_path / "disk").exists()
