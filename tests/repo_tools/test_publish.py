"""Publishing: what readers get, what is refused, and that nothing changes when it is."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.images.packing import Packing
from repo_tools.repository.published import log_of, manifest_of
from signpost.console import run
from tests.repo_tools.clients import Client, releases
from tests.support.repositories import ARCH, VARIANT, make_repository, tree_digest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path


def _words(repository: Path, images: Path, version: str, *more: str) -> list[str]:
    words = ["--repo", str(repository), "publish", "--variant", VARIANT, "--arch", ARCH, "--version", version]
    for role, name in (("boot", "boot.ext4"), ("root", "root.erofs"), ("hash", "root.verity")):
        words += [f"--{role}", str(images / name)]
    return [*words, *more]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_client_reads_what_was_published(tmp_path: Path, compression: str) -> None:
    repository = make_repository(
        tmp_path / "repo", versions=["1.0.0", "1.1.0"], packing=Packing(compression=compression, level=1)
    )
    seen = releases(repository.folder, Client(tmp_path / "node", repository.root_json))
    assert seen == {
        version: (images.boot.read_bytes(), images.root.read_bytes(), images.hash.read_bytes())
        for version, images in repository.images.items()
    }


@pytest.mark.parametrize(("compression", "tool"), [("zstd", "zstd"), ("lz4", "lz4")])
def test_public_tools_accept_the_images(tmp_path: Path, compression: str, tool: str) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    outcome = repository.publish("1.0.0", packing=Packing(compression=compression, level=3))
    images = [item for item in outcome.targets if item.content]
    assert len(images) == 3
    for item in images:
        path = repository.folder / "targets" / f"{item.sha256}.{item.name}"
        subprocess.run([tool, "-t", "-q", str(path)], check=True)
        raw = subprocess.run([tool, "-d", "-c", "-q", str(path)], check=True, capture_output=True).stdout
        assert raw in {image.read_bytes() for image in repository.images["1.0.0"].images().values()}
    assert outcome.targets[1].name == f"os-{VARIANT}-{ARCH}-1.0.0-root.erofs.{tool.replace('zstd', 'zst')}"


def test_zstd_frames_carry_size_and_checksum(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    item = repository.publish("1.0.0").targets[1]
    path = repository.folder / "targets" / f"{item.sha256}.{item.name}"
    listing = subprocess.run(["zstd", "-lv", str(path)], check=True, capture_output=True, text=True).stdout
    assert "XXH64" in listing
    assert item.content is not None
    assert f"({item.content.size} B)" in listing


def test_the_command_line_publishes_and_says_what(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    images = repository.synthesize("2.0.0+build.7").folder
    words = _words(
        repository.folder, images, "2.0.0+build.7", "--waves", "ohno", "--floor", "1.0.0", "--json"
    )
    assert run(cli, words) == 0
    captured = capfd.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["event"] == "result"
    assert lines[-1]["metadata"] == {"targets": 2, "snapshot": 2, "timestamp": 2}
    assert captured.err == ""
    update = manifest_of(repository.folder).find(VARIANT, ARCH, Version.parse("2.0.0"))
    assert update is not None
    assert update.images.boot == f"os-{VARIANT}-{ARCH}-2.0.0_build.7-boot.ext4.zst"
    assert update.floor == Version.parse("1.0.0")
    assert len(update.waves.starts) == 5


def test_waves_start_when_told(tmp_path: Path) -> None:
    start = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    repository = make_repository(tmp_path / "repo", waves="ohno", start_at=start)
    (update,) = manifest_of(repository.folder).updates
    assert update.waves.to_json()["0"] == "2027-01-02T03:34:05Z"


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        pytest.param(["--version", "1.0.0"], 2, "update-exists", id="version-is-there"),
        pytest.param(["--version", "1.0"], 2, "version-invalid", id="version"),
        pytest.param(["--waves", "defualt"], 2, "policy-invalid", id="policy"),
        pytest.param(["--waves", "nowhere.toml"], 1, "io-error", id="policy-file"),
        pytest.param(["--boot", "nowhere"], 2, "image", id="image-missing"),
        pytest.param(["--boot", "/dev/null"], 2, "image", id="image-no-file"),
        pytest.param(["--floor", "9.0.0"], 2, "release", id="floor-above"),
        pytest.param(["--variant", "a/../b"], 2, "usage", id="variant"),
        pytest.param(["--start-at", "tomorrow"], 2, "time-invalid", id="start"),
        pytest.param(["--verity"], 2, None, id="hash-and-verity"),
        pytest.param(["--level", "99"], 2, None, id="level"),
        pytest.param(["--compression", "xz"], 2, None, id="compression"),
    ],
)
def test_wrong_input_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], status: int, code: str | None
) -> None:
    repository = make_repository(tmp_path / "repo")
    images = repository.synthesize("1.1.0").folder
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository.folder, images, "1.1.0", *more, "--json")) == status
    captured = capfd.readouterr()
    if code:
        assert json.loads(captured.out)["error"]["code"] == code
    assert "next:" in captured.err or "Usage:" in captured.err
    assert tree_digest(repository.folder) == before


def test_an_empty_image_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(tmp_path / "repo")
    images = repository.synthesize("1.1.0")
    images.hash.write_bytes(b"")
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository.folder, images.folder, "1.1.0")) == 2
    assert "is empty" in capfd.readouterr().err
    assert tree_digest(repository.folder) == before


def test_an_image_that_does_not_fit_the_declared_partitions_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository = make_repository(tmp_path / "repo")
    images = repository.synthesize("1.1.0")
    config = repository.folder / "repo.toml"
    config.write_text(f'{config.read_text()}\n[slots]\nroot = "4KiB"\n')
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository.folder, images.folder, "1.1.0")) == 2
    assert "[slots] gives root 4096" in capfd.readouterr().err
    assert tree_digest(repository.folder) == before


def test_a_floor_stays_until_it_is_given_up(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0", "2.0.0"])
    floor = Version.parse("2.0.0")
    repository.publish("3.0.0", floor=floor)
    repository.publish("3.1.0")
    repository.publish("4.0.0", no_floor=True)
    repository.publish("4.1.0")
    repository.publish("3.2.0")
    floors = {str(update.version): update.floor for update in manifest_of(repository.folder).updates}
    assert floors == {
        "1.0.0": None,
        "2.0.0": None,
        "3.0.0": floor,
        "3.1.0": floor,
        "3.2.0": floor,
        "4.0.0": None,
        "4.1.0": None,
    }
    assert "nodes below 2.0.0 must pass through it first" in log_of(repository.folder)[-1].change.effects
