"""A publisher killed before, and in the middle of, each of its steps; and two publishers at once.

Every time: an independent client reads the old or the new release whole, whether this is its first visit or
not; the next publish succeeds; then everything is there, and validate finds nothing.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName, policy_named, waves_of
from repo_tools.repository.store import Store
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import check, refresh
from signpost.console import run
from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.repo_tools.clients import Client, releases
from tests.support.repositories import (
    FailingMedium,
    KilledError,
    KillingMedium,
    SmallRepository,
    kill_points,
    later,
    make_repository,
    tree_digest,
)
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

_TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


def _copy(repository: SmallRepository, folder: Path) -> SmallRepository:
    shutil.copytree(repository.folder, folder)
    return SmallRepository(folder=folder, now=repository.now, images=repository.images)


def _everything(repository: SmallRepository, versions: tuple[str, ...]) -> dict[str, tuple[bytes, ...]]:
    return {
        version: tuple(path.read_bytes() for path in repository.images[version].images().values())
        for version in versions
    }


def _base(tmp_path: Path) -> SmallRepository:
    repository = make_repository(tmp_path / "base", versions=[])
    for version in VERSIONS:
        repository.synthesize(version, sizes=_TINY)
    repository.publish("1.0.0")
    return repository


def test_killed_at_every_step(tmp_path: Path) -> None:
    base = _base(tmp_path)
    recorder = KillingMedium()
    _copy(base, tmp_path / "recorded").publish("1.1.0", medium=recorder)
    old, new = _everything(base, VERSIONS[:1]), _everything(base, VERSIONS[:2])
    points = list(kill_points(recorder.steps))
    assert len(points) > 40
    assert releases(base.folder, Client(tmp_path / "node", base.root_json)) == old
    outcomes = []
    for number, torn in points:
        repository = _copy(base, tmp_path / f"at-{number}-{torn}")
        client = Client(
            shutil.copytree(tmp_path / "node", tmp_path / f"node-{number}-{torn}"), base.root_json
        )
        with pytest.raises(KilledError):
            repository.publish("1.1.0", medium=KillingMedium(number, torn=torn))
        seen = releases(repository.folder, client)
        assert seen in (old, new), recorder.steps[number]
        fresh = Client(tmp_path / f"fresh-{number}-{torn}", base.root_json)
        assert torn or releases(repository.folder, fresh) == seen
        outcomes.append(seen == new)
        if torn:
            repository.publish("1.2.0")
            assert check.check(FolderSource(repository.folder), now=repository.now).clean
        else:
            _carries_on(repository, client, published=seen == new)
    assert outcomes == sorted(outcomes), "once new, always new"
    assert outcomes[0] is False
    assert outcomes[-1] is True


def _carries_on(repository: SmallRepository, client: Client, *, published: bool) -> None:
    if not published:
        repository.publish("1.1.0")
    repository.publish("1.2.0")
    assert releases(repository.folder, client) == _everything(repository, VERSIONS)
    report = check.check(FolderSource(repository.folder), now=repository.now)
    assert [finding for finding in report.findings if finding.code != "metadata-unnamed"] == []
    assert list((repository.folder / ".staging").iterdir()) == []


def test_another_release_after_a_kill_leaves_nothing_behind(tmp_path: Path) -> None:
    base = _base(tmp_path)
    recorder = KillingMedium()
    _copy(base, tmp_path / "recorded").publish("1.1.0", medium=recorder)
    for number in range(len(recorder.steps)):
        repository = _copy(base, tmp_path / f"at-{number}")
        with pytest.raises(KilledError):
            repository.publish("1.1.0", medium=KillingMedium(number))
        repository.publish("1.2.0")
        report = check.check(FolderSource(repository.folder), now=repository.now)
        assert report.clean, (recorder.steps[number], report.findings)


def test_a_failure_at_any_step_leaves_no_more_than_unnamed_metadata(tmp_path: Path) -> None:
    base = _base(tmp_path)
    before = tree_digest(base.folder)
    recorder = KillingMedium()
    _copy(base, tmp_path / "recorded").publish("1.1.0", medium=recorder)
    unchanged = 0
    for number, step in enumerate(recorder.steps):
        repository = _copy(base, tmp_path / f"at-{number}")
        try:
            repository.publish("1.1.0", medium=FailingMedium(number))
        except MediumError as error:
            assert step[0] in error.message  # noqa: PT017 - removing what is done with may fail unseen
        assert list((repository.folder / ".staging").iterdir()) == [] or step[0] == "remove"
        report = check.check(FolderSource(repository.folder), now=repository.now)
        assert {finding.code for finding in report.findings} <= {"metadata-unnamed"}, step
        unchanged += tree_digest(repository.folder) == before
    assert unchanged > len(recorder.steps) / 2


def test_every_rename_follows_a_flush_and_every_folder_is_flushed(tmp_path: Path) -> None:
    base = _base(tmp_path)
    recorder = KillingMedium()
    base.publish("1.1.0", medium=recorder)
    dirty: set[str] = set()
    moved: set[str] = set()
    for name, place in recorder.steps:
        if name == "write":
            dirty.add(place)
        elif name in {"flush", "remove"}:
            dirty.discard(place)
        elif name == "rename":
            assert not dirty, f"{place} is put in place while {dirty} are not on the medium"
            moved.add(place.rpartition("/")[0])
        elif name == "flush folder":
            moved.discard(place)
        if name == "create" and place.endswith("timestamp.json.tmp"):
            assert not moved, "the timestamp is written before what it leads to is on the medium"
    assert not moved
    renames = [place for name, place in recorder.steps if name == "rename" and "/metadata/" in place]
    assert [place.rpartition("/")[2] for place in renames] == [
        "3.targets.json",
        "3.snapshot.json",
        "timestamp.json",
    ]


def test_a_timestamp_that_a_power_cut_took_back_is_never_fallen_behind(tmp_path: Path) -> None:
    """A client saw the new timestamp, the power cut undid its rename: what follows is not a rollback."""
    repository = _base(tmp_path)
    client = Client(tmp_path / "node", repository.root_json)
    before = (repository.folder / "metadata" / "timestamp.json").read_bytes()
    repository.publish("1.1.0")
    assert set(releases(repository.folder, client)) == {"1.0.0", "1.1.0"}
    (repository.folder / "metadata" / "timestamp.json").write_bytes(before)
    done = refresh.refresh(
        repository.folder, within=later(repository.now, days=8) - repository.now, now=repository.now
    )
    assert done.versions == {"targets": 4, "snapshot": 4, "timestamp": 4}
    assert set(releases(repository.folder, client)) == {"1.0.0"}


def _around_renames(steps: list[tuple[str, str]]) -> list[int]:
    """Return the steps before which readers may see something else than before the previous step."""
    renames = {number for number, (name, _) in enumerate(steps) if name == "rename"}
    return sorted(renames | {number + 1 for number in renames})


@pytest.mark.parametrize("command", ["waves", "withdraw", "refresh"])
def test_every_other_change_killed_around_every_rename(tmp_path: Path, command: str) -> None:
    base = _base(tmp_path)
    base.publish("1.1.0")

    def change(repository: SmallRepository, medium: KillingMedium) -> None:
        which = ReleaseName(version=Version.parse("1.1.0"))
        if command == "waves":
            planned = waves_of(policy_named("ohno"), base.now)
            rollout.take(repository.folder, rollout.setting(which, planned), now=base.now, medium=medium)
        elif command == "withdraw":
            rollout.take(repository.folder, rollout.withdrawing(which), now=base.now, medium=medium)
        else:
            refresh.refresh(
                repository.folder, within=later(base.now, days=400) - base.now, now=base.now, medium=medium
            )

    recorder = KillingMedium()
    change(_copy(base, tmp_path / "recorded"), recorder)
    for number in _around_renames(recorder.steps):
        repository = _copy(base, tmp_path / f"at-{number}")
        client = Client(tmp_path / f"node-{number}", base.root_json)
        releases(repository.folder, client)
        with pytest.raises(KilledError):
            change(repository, KillingMedium(number))
        assert releases(repository.folder, client) == _everything(base, VERSIONS[:2])
        repository.publish("1.2.0")
        assert "1.2.0" in releases(repository.folder, client)
        assert check.check(FolderSource(repository.folder), now=base.now).clean


def test_the_second_publisher_is_told_to_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = _base(tmp_path)
    before = tree_digest(repository.folder)
    with Store(repository.folder, OsMedium()).writing():
        words = ["--repo", str(repository.folder), "withdraw", "1.0.0"]
        assert run(cli, words) == 75
    assert "another publisher" in capsys.readouterr().err
    assert tree_digest(repository.folder) == before
    assert run(cli, words) == 0
