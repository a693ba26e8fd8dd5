"""Channels on their way to nodes: pushed, mirrored, bundled, pruned and validated."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.copies.bundle import Nodes, bundled_targets, export
from repo_tools.copies.clone import copy, verify_source
from repo_tools.copies.locations import destination_of
from repo_tools.copies.push import push
from repo_tools.releases import promote
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.published import manifest_of, published_targets
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import check
from repo_tools.upkeep.prune import PruneRequest, prune
from tests.support.channels import add_channel
from tests.support.nodes import make_node
from tests.support.repositories import ARCH, VARIANT, SmallRepository, later, make_repository
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

_TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """Make dev with three releases, of which stable has the first two."""
    repository = make_repository(tmp_path_factory.mktemp("master") / "repo", versions=[])
    for channel in ("dev", "stable"):
        add_channel(repository, channel)
    for version in VERSIONS:
        repository.synthesize(version, sizes=_TINY)
        repository.publish(version, channel="dev")
        if version != "1.2.0":
            _promote(repository, version)
    return repository


def _promote(repository: SmallRepository, version: str) -> None:
    which = ReleaseName(version=Version.parse(version))
    asked = Promotion(which=which, source="dev", target="stable", waves="none")
    promote.promote(repository.folder, asked, now=repository.now)


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    return master.copied(tmp_path / "repo")


def _codes(folder: Path, repository: SmallRepository) -> list[str]:
    return [finding.code for finding in check.check(FolderSource(folder), now=repository.now).findings]


def test_a_destination_and_a_mirror_have_every_channel(repository: SmallRepository, tmp_path: Path) -> None:
    push(repository.folder, destination_of(str(tmp_path / "www")), now=repository.now)
    verified = verify_source(
        FolderSource(tmp_path / "www"),
        tmp_path / "mirror",
        trusted_root=repository.root_json,
        now=repository.now,
    )
    copy(verified, tmp_path / "mirror", published_targets(verified.chain))
    assert _codes(tmp_path / "www", repository) == []
    assert _codes(tmp_path / "mirror", repository) == []
    assert (tmp_path / "mirror" / "targets" / "stable").is_dir()


@pytest.mark.parametrize(("channel", "newest"), [("dev", "1.2.0"), ("stable", "1.1.0")])
def test_a_bundle_holds_the_releases_of_its_channel(
    repository: SmallRepository, tmp_path: Path, channel: str, newest: str
) -> None:
    nodes = Nodes(starts=[Version.parse("1.0.0")], channel=channel)
    bundle = export(repository.folder, tmp_path / "bundle", nodes, now=repository.now)
    assert [str(step.version) for step in bundle.paths[0].path.steps] == [newest]
    images = [path.name for path in (tmp_path / "bundle" / "targets").glob("*-root.erofs.zst")]
    assert [newest in name for name in images] == [True]
    assert [path.name for path in (tmp_path / "bundle" / "targets").iterdir() if path.is_dir()] == [channel]


def test_a_node_follows_its_channel_from_a_bundle(tmp_path: Path) -> None:
    node = make_node(tmp_path / "site", published=[])
    add_channel(node.repository, "stable")
    node.publish("1.1.0", channel="stable")
    repository = node.repository
    nodes = Nodes(starts=[Version.parse("1.0.0")], channel="stable")
    export(repository.folder, tmp_path / "bundle.d", nodes, now=repository.now)
    verified = verify_source(
        FolderSource(tmp_path / "bundle.d"),
        tmp_path / "srv",
        trusted_root=repository.root_json,
        now=repository.now,
    )
    copy(verified, tmp_path / "srv", bundled_targets(verified))
    node.lose_repository()
    base = (tmp_path / "srv").as_uri()
    node.configure(
        channel="stable", metadata_base_url=f"{base}/metadata/", targets_base_url=f"{base}/targets/"
    )
    assert node.updog("update").status == 0
    assert node.boot().status == 0
    assert node.updog("confirm").status == 0
    assert node.updog("status", "--json").document["running"]["version"] == "1.1.0"


def test_an_image_stays_as_long_as_one_channel_lists_it(repository: SmallRepository) -> None:
    folder = repository.folder / "targets"
    wish = PruneRequest(keep=1, grace=timedelta(), channel="dev")
    now = later(repository.now, minutes=10)
    done = prune(repository.folder, wish, now=now)
    assert [str(update.version) for update in done.plan.releases] == ["1.0.0", "1.1.0"]
    assert list(folder.glob("*-1.0.0-root.erofs.zst")) != []
    assert [update.version for update in manifest_of(repository.folder, "dev").updates] == [
        Version.parse("1.2.0")
    ]
    prune(repository.folder, PruneRequest(keep=1, grace=timedelta(), channel="stable"), now=now)
    assert list(folder.glob("*-1.0.0-root.erofs.zst")) == []
    assert list(folder.glob("*-1.1.0-root.erofs.zst")) != []
    assert manifest_of(repository.folder, "stable").find(VARIANT, ARCH, Version.parse("1.1.0"))
    assert _codes(repository.folder, repository) == []


def test_a_fault_of_a_channel_is_found_once_and_named(repository: SmallRepository) -> None:
    path = next((repository.folder / "targets").glob("*-1.1.0-root.erofs.zst"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert _codes(repository.folder, repository) == ["target-digest"]


def test_a_channel_whose_metadata_are_gone(repository: SmallRepository) -> None:
    newest = max(
        (repository.folder / "metadata").glob("*.stable.json"), key=lambda path: int(path.name.split(".")[0])
    )
    newest.unlink()
    report = check.check(FolderSource(repository.folder), now=repository.now)
    assert [(finding.code, finding.place) for finding in report.findings] == [
        ("metadata-missing", f"metadata/{newest.name}")
    ]
