"""Waves that start in the past, and policies that stop below the whole fleet: reported, done as written."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.fleet.simulate import RolloutPlan, simulate
from repo_tools.render.releases import published_text
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.console import run
from tests.support.repositories import SmallRepository, make_repository
from updog.update_metadata.waves import WavePolicy

if TYPE_CHECKING:
    from pathlib import Path

CANARY = '[[waves]]\nstart_after = "0 minutes"\nfleet_percentage = 10\n'


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", waves="default")


def test_a_policy_that_stops_is_told_and_stays_at_its_share(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "canary.toml"
    policy.write_text(CANARY)
    repo = ["--repo", str(repository.folder), "waves"]
    assert run(cli, [*repo, "set", "1.0.0", "--waves", str(policy)]) == 0
    assert "its waves stop at 10.0 % of the fleet: the rest waits for `waves open`" in capsys.readouterr().out
    assert run(cli, [*repo, "show", "1.0.0"]) == 0
    assert "not by itself" in capsys.readouterr().out
    assert check(FolderSource(repository.folder), now=repository.now).clean
    assert run(cli, [*repo, "open", "1.0.0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waves"] == {}


def test_waves_in_the_past_are_told(repository: SmallRepository) -> None:
    start = repository.now - timedelta(days=3)
    text = published_text(repository.publish("1.1.0", waves="default", start_at=start))
    assert "its waves started in the past" in text
    assert "its waves" not in published_text(repository.publish("1.2.0", waves="default"))


def test_a_policy_that_stops_can_be_simulated(repository: SmallRepository) -> None:
    waves = WavePolicy.from_toml(CANARY).waves(repository.now)
    done = simulate(RolloutPlan(waves=waves, start=repository.now, nodes=1000))
    assert 0.05 < float(done.updated[-1]) < 0.15
