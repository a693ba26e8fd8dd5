"""Pruning: what is removed, what is always kept, and that no reader and no node misses anything."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.cli import cli
from repo_tools.copies.bundle import Nodes, export
from repo_tools.copies.locations import destination_of
from repo_tools.copies.push import push
from repo_tools.errors import NothingToPruneError, ReleaseError
from repo_tools.repository.published import manifest_of
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import check
from repo_tools.upkeep.prune import Pruned, PruneRequest, prune
from signpost.console import run
from tests.repo_tools.clients import Client, fetched
from tests.support.repositories import SmallRepository, later, make_repository, tree_digest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

_TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}
VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0")
AT_ONCE = timedelta()


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """Make five releases; 1.3.0 needs 1.1.0 first."""
    repository = make_repository(tmp_path_factory.mktemp("master") / "repo", versions=[])
    for version in VERSIONS:
        repository.synthesize(version, sizes=_TINY)
        repository.publish(version, floor=Version.parse("1.1.0") if version >= "1.3.0" else None)
    return repository


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    return master.copied(tmp_path / "repo")


def _prune(repository: SmallRepository, **wishes: Any) -> Pruned:
    return prune(repository.folder, PruneRequest(**wishes), now=later(repository.now, minutes=1))


def _age(repository: SmallRepository, **span: float) -> None:
    """Make everything on disk so much older."""
    for path in (repository.folder / "metadata").iterdir():
        moment = path.stat().st_mtime - timedelta(**span).total_seconds()
        os.utime(path, (moment, moment))


def _versions(repository: SmallRepository) -> list[str]:
    return [str(update.version) for update in manifest_of(repository.folder).updates]


def _images(repository: SmallRepository, version: str) -> list[str]:
    return sorted(path.name for path in (repository.folder / "targets").glob(f"*-{version}-*"))


def test_old_releases_go_and_stepping_stones_stay(repository: SmallRepository) -> None:
    done = _prune(repository, keep=1)
    assert [str(update.version) for update in done.plan.releases] == ["1.0.0", "1.1.0", "1.3.0"]
    assert _versions(repository) == ["1.2.0", "1.4.0"], "nodes below the floor pass through 1.2.0"
    assert check.check(FolderSource(repository.folder), now=repository.now).clean


def test_files_go_when_no_reader_can_be_on_the_way(repository: SmallRepository, tmp_path: Path) -> None:
    client = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        on_the_way = client.visit(url)
        first = _prune(repository, keep=2)
        assert first.plan.files == ()
        assert first.plan.waiting > 0
        name = next(name for name in first.plan.names if name.endswith("1.0.0-root.erofs.zst"))
        assert fetched(on_the_way, name)
    _age(repository, days=2)
    second = _prune(repository, keep=2)
    assert second.plan.releases == ()
    assert len(second.plan.files) >= len(first.plan.names)
    assert _images(repository, "1.0.0") == []
    assert _images(repository, "1.4.0") != []
    with pytest.raises(NothingToPruneError):
        _prune(repository, keep=2)
    report = check.check(FolderSource(repository.folder), now=repository.now)
    assert report.findings == ()


def test_without_a_grace_all_goes_at_once(repository: SmallRepository) -> None:
    done = _prune(repository, keep=1, grace=AT_ONCE)
    assert done.plan.waiting == 0
    assert {path.partition(".")[2] for path in done.plan.files} >= done.plan.names
    assert _images(repository, "1.0.0") == []
    assert check.check(FolderSource(repository.folder), now=repository.now).findings == ()


def test_what_is_left_takes_every_node_to_the_newest(repository: SmallRepository, tmp_path: Path) -> None:
    _prune(repository, keep=1, grace=AT_ONCE)
    starts = [Version.parse(version) for version in ("0.1.0", *VERSIONS)]
    bundle = export(repository.folder, tmp_path / "bundle", Nodes(starts=starts), now=repository.now)
    assert [item.path.arrives for item in bundle.paths] == [True] * len(starts)


def test_a_dry_run_changes_nothing(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree_digest(repository.folder)
    words = ["--repo", str(repository.folder), "prune", "--keep", "2", "--dry-run"]
    assert run(cli, [*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["releases"] == ["1.0.0 for synthetic on x86_64", "1.1.0 for synthetic on x86_64"]
    assert document["metadata"] == {}
    assert run(cli, words) == 0
    assert "would be removed from the manifest: 1.0.0" in capsys.readouterr().out
    assert tree_digest(repository.folder) == before


def test_all_roots_and_other_metadata_stay(repository: SmallRepository) -> None:
    before = {path.name for path in (repository.folder / "metadata").iterdir()}
    _prune(repository, keep=1, grace=AT_ONCE)
    assert before < {path.name for path in (repository.folder / "metadata").iterdir()}


def test_what_nobody_signed_is_not_touched(repository: SmallRepository) -> None:
    stray = repository.folder / "targets" / "stray.bin"
    stray.write_bytes(b"?")
    _prune(repository, keep=1, grace=AT_ONCE)
    assert stray.exists()


def test_what_is_withdrawn_or_held_stays(repository: SmallRepository) -> None:
    place = ["--repo", str(repository.folder)]
    assert run(cli, [*place, "withdraw", "1.4.0"]) == 0
    assert run(cli, [*place, "waves", "hold", "1.3.0"]) == 0
    _prune(repository, keep=1, grace=AT_ONCE)
    assert set(_versions(repository)) == {"1.2.0", "1.3.0", "1.4.0"}


def test_the_published_list_is_current_though_a_killed_writer_left_a_newer_one(
    repository: SmallRepository,
) -> None:
    metadata = repository.folder / "metadata"
    number = max(int(path.name.partition(".")[0]) for path in metadata.glob("*.targets.json"))
    shutil.copy(metadata / f"{number - 3}.targets.json", metadata / f"{number + 1}.targets.json")
    _age(repository, days=2)
    before = _images(repository, "1.4.0")
    _prune(repository, keep=5, grace=AT_ONCE)
    assert _images(repository, "1.4.0") == before


def test_a_destination_forgets_what_was_pruned(repository: SmallRepository, tmp_path: Path) -> None:
    place = destination_of(str(tmp_path / "www"))
    push(repository.folder, place, now=repository.now)
    _prune(repository, keep=1, grace=AT_ONCE)
    push(repository.folder, place, now=later(repository.now, days=2), delete=timedelta(days=1))
    here = {path.name for path in (repository.folder / "targets").iterdir()}
    assert {path.removeprefix("targets/") for path in place.list_files("targets")} <= here
    assert check.check(FolderSource(tmp_path / "www"), now=repository.now).findings == ()


def test_prune_deletes_nothing_that_is_needed_or_in_its_grace_period(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (repository.folder / "targets").glob("*.json"):
        path.touch()
    before = tree_digest(repository.folder / "targets")
    assert run(cli, ["--repo", str(repository.folder), "prune", "--keep", "9"]) == 3
    assert "are still in their grace period" in capsys.readouterr().err
    assert tree_digest(repository.folder / "targets") == before


def test_the_version_number_of_a_pruned_release_stays_used(repository: SmallRepository) -> None:
    _prune(repository, keep=1, grace=AT_ONCE)
    before = tree_digest(repository.folder)
    with pytest.raises(ReleaseError, match="published and cleared away before"):
        repository.publish("1.0.0")
    assert tree_digest(repository.folder) == before
