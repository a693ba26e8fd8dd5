"""Compressing images blocks no other publisher; the result is published on top of what they published."""

from __future__ import annotations

import logging
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools import config
from repo_tools.errors import ReleaseError, RepositoryBusyError, SigningKeyError
from repo_tools.releases import publish, rollout
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.published import manifest_of
from repo_tools.repository.workspace import PREFIX, remove_abandoned, workspace
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import prune, refresh
from repo_tools.upkeep.check import check
from signpost.medium import OsMedium
from signpost.progress import Action
from tests.support.channels import add_channel
from tests.support.repositories import (
    ARCH,
    VARIANT,
    KilledError,
    KillingMedium,
    SmallRepository,
    finding_codes,
    make_repository,
    tree_digest,
)
from updog.update_metadata.errors import DuplicateUpdateError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from signpost.progress import ProgressStep


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"], waves="default")


def _name(version: str) -> ReleaseName:
    return ReleaseName(version=Version.parse(version))


def _publish_while(
    repository: SmallRepository, action: Callable[[], object], version: str = "1.2.0", **facts: Any
) -> None:
    """Publish a release, and do something else at the moment when its first image is compressed."""
    waiting = [action]

    def progress(step: ProgressStep) -> None:
        if step.action is Action.COMPRESS and waiting:
            waiting.pop()()

    publish.publish(
        repository.folder, repository.new_release(version, **facts), now=repository.now, progress=progress
    )
    assert not waiting


def test_a_hold_does_not_wait_for_another_release_that_is_compressed(repository: SmallRepository) -> None:
    _publish_while(
        repository, lambda: rollout.hold(repository.folder, _name("1.1.0"), now=repository.now), deltas=1
    )
    manifest = manifest_of(repository.folder)
    held, new = (manifest.find(VARIANT, ARCH, Version.parse(version)) for version in ("1.1.0", "1.2.0"))
    assert held is not None
    assert held.hold
    assert new is not None
    assert new.packs
    assert check(FolderSource(repository.folder), now=repository.now).clean
    assert not list(repository.folder.glob(f"{PREFIX}*"))


def test_two_releases_are_compressed_at_once(repository: SmallRepository) -> None:
    _publish_while(repository, lambda: repository.publish("1.3.0"))
    versions = [str(update.version) for update in manifest_of(repository.folder).updates]
    assert sorted(versions) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert check(FolderSource(repository.folder), now=repository.now).clean


def test_the_same_release_is_published_once(repository: SmallRepository) -> None:
    with pytest.raises(DuplicateUpdateError):
        _publish_while(repository, lambda: repository.publish("1.2.0"))
    assert check(FolderSource(repository.folder), now=repository.now).clean


def test_a_base_of_a_delta_that_is_removed_meanwhile(repository: SmallRepository) -> None:
    request = prune.PruneRequest(keep=1)
    with pytest.raises(ReleaseError, match=r"1\.0\.0 was removed while a delta from it was made"):
        _publish_while(
            repository, lambda: prune.prune(repository.folder, request, now=repository.now), deltas=2
        )
    assert not list(repository.folder.glob(f"{PREFIX}*"))


def test_another_name_in_the_configuration_meanwhile(repository: SmallRepository) -> None:
    path = repository.folder / config.FILE

    def rename() -> None:
        path.write_text(path.read_text().replace('name = "os"', 'name = "other"'))

    with pytest.raises(ReleaseError, match=r"repo\.toml was changed"):
        _publish_while(repository, rename)


def test_waves_start_when_readers_can_see_the_release(repository: SmallRepository) -> None:
    compressed: list[datetime] = []

    def progress(step: ProgressStep) -> None:
        if not compressed:
            time.sleep(1.1)  # waves have whole seconds
        if step.done >= step.total:
            compressed.append(datetime.now(UTC))

    release = repository.new_release("1.2.0", waves="default")
    done = publish.publish(repository.folder, release, progress=progress)
    first = done.update.waves.starts[0].at
    assert first >= (compressed[-1] + timedelta(hours=1)).replace(microsecond=0)


def test_a_key_is_tried_before_an_image_is_read(repository: SmallRepository) -> None:
    (repository.folder / "keys" / "timestamp.pem").unlink()
    before = tree_digest(repository.folder)
    with pytest.raises(SigningKeyError, match=r"timestamp\.pem"):
        _publish_while(repository, lambda: pytest.fail("an image was compressed"))
    assert tree_digest(repository.folder) == before


def test_a_key_of_another_pair_is_noticed_before_an_image_is_read(repository: SmallRepository) -> None:
    keys = repository.folder / "keys"
    shutil.copy(keys / "snapshot.pem", keys / "timestamp.pem")
    with pytest.raises(SigningKeyError, match=r"cannot use the key at file2:keys/timestamp\.pem"):
        _publish_while(repository, lambda: pytest.fail("an image was compressed"))


def test_a_workspace_of_a_killed_publisher_is_removed_by_the_next_writer(repository: SmallRepository) -> None:
    steps = KillingMedium()
    trial = make_repository(repository.folder.with_name("trial"), versions=["1.0.0"])
    trial.publish("1.2.0", medium=steps)
    at = next(
        number for number, (step, place) in enumerate(steps.steps) if step == "flush" and PREFIX in place
    )
    with pytest.raises(KilledError):
        repository.publish("1.2.0", medium=KillingMedium(at))
    assert list(repository.folder.glob(f"{PREFIX}*"))
    rollout.hold(repository.folder, _name("1.1.0"), now=repository.now)
    assert not list(repository.folder.glob(f"{PREFIX}*"))


def test_a_living_workspace_is_left_and_an_empty_one_removed(tmp_path: Path) -> None:
    medium = OsMedium()
    (tmp_path / f"{PREFIX}0").mkdir()
    with workspace(tmp_path, medium) as place:
        (place / "image").write_bytes(b"x")
        remove_abandoned(tmp_path, medium)
        assert [path.name for path in tmp_path.iterdir()] == [place.name]
        assert (place / "image").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_disappears_while_it_is_looked_at(tmp_path: Path) -> None:
    raced = []

    class Disappearing(OsMedium):
        """Another writer removes the workspace after it was seen, before its lock is opened."""

        def open(self, path: str, *, write: bool) -> int:
            raced.append(path)
            shutil.rmtree(tmp_path / f"{PREFIX}0")
            return super().open(path, write=write)

    (tmp_path / f"{PREFIX}0").mkdir()
    (tmp_path / f"{PREFIX}0" / "lock").touch()
    remove_abandoned(tmp_path, Disappearing())
    assert list(tmp_path.iterdir()) == []
    assert raced


def test_a_lock_file_that_another_first_writer_creates(repository: SmallRepository) -> None:
    lock = repository.folder / ".lock"
    lock.unlink()
    raced = []

    class Second(OsMedium):
        def create(self, path: str, mode: int = 0o644) -> int:
            if path == str(lock):
                raced.append(path)
                lock.touch()
            return super().create(path, mode)

    repository.publish("1.2.0", medium=Second())
    assert raced
    assert finding_codes(repository) == []


def test_writers_that_remove_every_workspace(tmp_path: Path) -> None:
    class Removing(OsMedium):
        def lock(self, descriptor: int) -> None:
            super().lock(descriptor)
            for lock in tmp_path.glob(f"{PREFIX}*/lock"):
                lock.unlink()

    with pytest.raises(RepositoryBusyError), workspace(tmp_path, Removing()):
        pytest.fail("it is not ours")


# One key of two.


@pytest.fixture
def two_keys(tmp_path: Path) -> SmallRepository:
    repository = make_repository(tmp_path / "two", versions=["1.0.0"])
    add_channel(repository, "dev", available=[True, True])
    return repository


def test_one_key_of_two_is_enough_and_the_other_is_named(
    two_keys: SmallRepository, caplog: pytest.LogCaptureFixture
) -> None:
    (two_keys.folder / "keys" / "dev-2.pem").unlink()
    with caplog.at_level(logging.WARNING):
        two_keys.publish("1.1.0", channel="dev")
    (warning,) = caplog.messages
    assert "dev-2.pem" in warning
    report = check(FolderSource(two_keys.folder), now=two_keys.now)
    assert [finding.code for finding in report.findings] == ["key-missing"]


def test_a_refresh_signs_the_rest_if_the_keys_of_a_channel_cannot_be_used(two_keys: SmallRepository) -> None:
    for number in (1, 2):
        (two_keys.folder / "keys" / f"dev-{number}.pem").unlink()
    done = refresh.refresh(two_keys.folder, within=timedelta(days=100), now=two_keys.now)
    assert set(done.versions) == {"targets", "snapshot", "timestamp"}
    assert "dev-1.pem" in done.unsigned["dev"]
