"""The same command once more, in the same second or later: it works, or says that there is nothing to do."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.errors import NothingToFinishError, RolloutUnchangedError
from repo_tools.releases import promote, rollout
from repo_tools.releases.finish import finish, plan_finish
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.pending_changes import load
from repo_tools.upkeep.refresh import refresh, refresh_by_this_clock
from tests.support.channels import add_channel, sign_pending
from tests.support.repositories import finding_codes, make_repository, tree_digest
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.repositories import SmallRepository

pytestmark = pytest.mark.parametrize(
    "later", [timedelta(0), timedelta(hours=1)], ids=["in-the-same-second", "an-hour-later"]
)
V1 = ReleaseName(version=Version.parse("1.0.0"))


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    made = make_repository(tmp_path / "repo", versions=[])
    add_channel(made, "dev")
    made.publish("1.0.0", channel="dev")
    return made


def test_refresh_signs_again(repository: SmallRepository, later: timedelta) -> None:
    first = refresh(repository.folder, within=timedelta(days=300), now=repository.now)
    again = refresh(repository.folder, within=timedelta(days=300), now=repository.now + later)
    assert again.versions == {role: version + 1 for role, version in first.versions.items()}
    by_clock = refresh_by_this_clock(repository.folder, now=repository.now + later)
    assert by_clock.versions["timestamp"] == again.versions["timestamp"] + 1
    assert finding_codes(repository) == []


def test_waves_set_signs_again(repository: SmallRepository, later: timedelta) -> None:
    versions = []
    for now in (repository.now, repository.now + later):
        step = rollout.setting(V1, Waves())
        versions.append(rollout.take(repository.folder, step, now=now, channel="dev")[1].versions["dev"])
    assert versions == [3, 4]
    assert finding_codes(repository) == []


def test_promote_has_nothing_to_do(repository: SmallRepository, later: timedelta) -> None:
    add_channel(repository, "beta")
    promotion = Promotion(which=V1, source="dev", target="beta", waves="none")
    promote.promote(repository.folder, promotion, now=repository.now)
    before = tree_digest(repository.folder)
    with pytest.raises(RolloutUnchangedError, match="is already in beta"):
        promote.promote(repository.folder, promotion, now=repository.now + later)
    assert tree_digest(repository.folder) == before
    assert finding_codes(repository) == []


def test_finish_has_nothing_to_do_and_removes_a_file_that_was_left(
    repository: SmallRepository, tmp_path: Path, later: timedelta
) -> None:
    file = add_channel(repository, "lts", available=(True, False), threshold=2).pending
    assert file is not None
    sign_pending(repository, file, "lts-2")
    copy = tmp_path / "copy.json"
    shutil.copy(file, copy)
    finish(repository.folder, [load(file)], now=repository.now)
    before = tree_digest(repository.folder)
    shutil.copy(copy, file)  # as if the first one had been killed before it removed the file
    with pytest.raises(NothingToFinishError, match="published already, as lts version 1"):
        plan_finish(repository.folder, [load(copy)], now=repository.now + later)
    assert file.exists()
    with pytest.raises(NothingToFinishError, match="published already, as lts version 1"):
        finish(repository.folder, [load(copy)], now=repository.now + later)
    assert tree_digest(repository.folder) == before
    assert finding_codes(repository) == []
