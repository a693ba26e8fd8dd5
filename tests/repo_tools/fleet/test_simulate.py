"""A simulated roll-out: the product's own waves, the same result for the same seed, what a hold saves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings

from repo_tools.cli import cli
from repo_tools.errors import FleetPlanError, MissingExtraError
from repo_tools.extras import extra
from repo_tools.fleet.simulate import (
    RolloutPlan,
    Traffic,
    by_guard,
    make_fleet,
    over_seeds,
    ready_times,
    simulate,
    wave_numbers,
)
from repo_tools.fleet.verdict import HoldOn, Rules
from repo_tools.quantities import parse_share
from signpost.console import run
from signpost.errors import UsageError
from tests.property.test_waves_properties import rising_waves
from tests.support.repositories import make_repository
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.waves import WavePolicy, Waves

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 10, 25, 18, tzinfo=UTC)
DEFAULT = RolloutPlan(
    waves=WavePolicy.built_in("default").waves(START), start=START, nodes=4000, jitter=timedelta(minutes=30)
)
GUARD = by_guard(Rules(), timedelta(minutes=15))


@settings(max_examples=20)
@given(rising_waves())
def test_turns_are_those_of_the_policy_code(waves: Waves) -> None:
    seconds, numbers = ready_times(waves, START), wave_numbers(waves)
    for seed in range(MAX_SEED):
        ready, wave = waves.ready_at(seed), waves.position(seed)
        assert seconds[seed] == (0 if ready is None else (ready - START).total_seconds())
        assert numbers[seed] == (0 if wave is None else wave.number - 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("jitter", [0, 20, 60])
def test_every_node_takes_it_at_its_first_check_after_its_turn(aligned: bool, jitter: int) -> None:  # noqa: FBT001
    plan = replace(DEFAULT, aligned=aligned, jitter=timedelta(minutes=jitter))
    random = np.random.default_rng(7)
    ready = ready_times(plan.waves, START)[np.random.default_rng(7).integers(0, MAX_SEED, plan.nodes)]
    late = make_fleet(plan, random).take - ready
    assert late.min() >= 0
    assert late.max() <= 3600 + jitter * 60
    if aligned and not jitter:
        assert set((late + ready) % 3600) == {0.0}


def test_the_share_updated_follows_the_share_that_is_open() -> None:
    rollout = simulate(DEFAULT)
    for moment, share in zip(rollout.moments, rollout.updated, strict=True):
        earlier = moment - DEFAULT.interval - DEFAULT.jitter
        assert float(DEFAULT.waves.share_open(earlier)) - 0.03 <= share
        assert share <= float(DEFAULT.waves.share_open(moment)) + 0.03
    assert rollout.updated[-1] == 1
    assert rollout.updated_at(START) == 0
    assert rollout.updated_at(rollout.moments[20]) == rollout.updated[20]
    half, most, nearly = (rollout.reached[percent] for percent in (50, 90, 99))
    assert half
    assert most
    assert nearly
    assert half < most <= nearly


def test_the_same_seed_is_the_same_roll_out_and_another_is_another() -> None:
    once, again, other = simulate(DEFAULT), simulate(DEFAULT), simulate(replace(DEFAULT, seed=2))
    assert np.array_equal(once.updated, again.updated)
    assert np.array_equal(once.cdn, again.cdn)
    assert not np.array_equal(once.updated, other.updated)


def test_nobody_takes_a_release_before_it_is_there() -> None:
    late = replace(DEFAULT, start=START + timedelta(days=3))
    assert make_fleet(late, np.random.default_rng(1)).take.min() >= 0


def test_open_to_all_is_over_after_one_interval() -> None:
    rollout = simulate(replace(DEFAULT, waves=Waves()))
    assert rollout.updated_at(START + DEFAULT.interval + DEFAULT.jitter + rollout.step) == 1


def test_a_hold_ends_it_and_caches_let_some_more_through() -> None:
    bad = replace(DEFAULT, bad_rate=0.05, detection=timedelta(hours=2))
    held, never = simulate(bad), simulate(replace(bad, detection=None))
    assert held.held
    assert never.held is None
    assert held.harmed[-1] < 0.1 * never.harmed[-1]
    assert held.updated_at(held.held) == pytest.approx(held.updated[-1], abs=0.002)
    cached = simulate(replace(bad, traffic=Traffic(edges=3, cache=timedelta(hours=6))))
    assert cached.held == held.held
    assert cached.updated[-1] > held.updated[-1]


def test_bytes_are_those_of_the_nodes_and_a_cdn_keeps_them_from_the_origin() -> None:
    traffic = Traffic(full=1 << 20, delta=1 << 10, delta_share=0.5, check=0)
    alone = simulate(replace(DEFAULT, traffic=traffic))
    hours = alone.step / timedelta(hours=1)
    total = float(alone.cdn.sum()) * hours
    assert np.array_equal(alone.cdn, alone.origin)
    assert total == pytest.approx(DEFAULT.nodes * ((1 << 20) + (1 << 10)) / 2, rel=0.05)
    assert 1 << 20 <= alone.busiest_minute <= total
    behind = simulate(replace(DEFAULT, traffic=replace(traffic, edges=5)))
    assert float(behind.origin.sum()) * hours == pytest.approx(5 * ((1 << 20) + (1 << 10)))


def test_checks_alone_are_counted() -> None:
    plan = replace(DEFAULT, traffic=Traffic(full=0, delta=0, check=1000))
    assert simulate(plan).cdn == pytest.approx(DEFAULT.nodes * 1000)


def test_the_guard_holds_a_bad_release_early_and_a_healthy_one_never() -> None:
    bad = over_seeds(replace(DEFAULT, nodes=10_000, bad_rate=0.05), 12, GUARD)
    assert bad.held == 12
    assert bad.worst_harmed < 0.003
    assert bad.mean_harmed <= bad.worst_harmed
    assert bad.mean_updated < 0.05
    healthy = over_seeds(replace(DEFAULT, nodes=10_000, bad_rate=0.001), 12, GUARD)
    assert healthy.held == 0
    assert healthy.mean_updated == 1


def test_doubt_holds_the_healthy_too() -> None:
    guard = by_guard(Rules(hold_on=HoldOn.DOUBT), timedelta(minutes=15))
    assert over_seeds(replace(DEFAULT, nodes=10_000, bad_rate=0.001), 12, guard).held > 2


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 0},
        {"nodes": 10**9},
        {"interval": timedelta()},
        {"jitter": timedelta(hours=2)},
        {"bad_rate": 1.5},
        {"traffic": Traffic(delta_share=2)},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FleetPlanError):
        replace(DEFAULT, **change)  # type: ignore[arg-type]


def test_the_command_says_it_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--waves", "ohno", "--nodes", "2000", "--bad-rate", "5%", "--detection", "30m"]
    assert run(cli, words) == 0
    out = capsys.readouterr().out
    assert "updated, of 2000 nodes" in out
    assert "^ held" in out
    assert run(cli, [*words, "--json", "--start-at", "2027-01-01T00:00:00Z"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["held"] > document["start"] == "2027-01-01T00:00:00Z"
    assert document["series"][-1]["updated"] == document["updated"]


def test_the_command_plays_many_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--nodes", "3000", "--bad-rate", "0.2", "--guard", "1%", "--runs", "3"]
    assert run(cli, words) == 0
    assert capsys.readouterr().out.startswith("3 roll-outs: 3 held; harmed ")
    assert run(cli, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held"] == 3
    assert run(cli, [*words, "--detection", "1h"]) == 2


def test_waves_and_sizes_come_from_a_published_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0"], waves="accelerated")
    words = ["--repo", str(repository.folder), "simulate", "1.0.0", "--nodes", "100", "--json"]
    assert run(cli, words) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["waves"]) == 5
    images = sum(path.stat().st_size for path in (repository.folder / "targets").glob("*.zst"))
    checks = 100 * 2048 * len(document["series"]) * document["step_seconds"] / 3600
    assert document["bytes"]["cdn_total"] == pytest.approx(100 * images + checks, rel=0.01)
    assert run(cli, [*words, "--waves", "ohno"]) == 0
    assert len(json.loads(capsys.readouterr().out)["waves"]) == 5
    assert run(cli, ["--repo", str(repository.folder), "simulate", "9.0.0"]) == 2


@pytest.mark.parametrize(("name", "head"), [("r.png", b"\x89PNG"), ("r.svg", b"<?xml")])
def test_the_plot_is_a_file_of_the_kind_asked_for_and_the_same_again(
    tmp_path: Path, name: str, head: bytes
) -> None:
    words = ["simulate", "--nodes", "500", "--start-at", "2027-01-01T00:00:00Z", "--bad-rate", "5%"]
    words += ["--edges", "2", "--detection", "1h", "--plot", str(tmp_path / name)]
    assert run(cli, words) == 0
    first = (tmp_path / name).read_bytes()
    assert first.startswith(head)
    assert run(cli, words) == 0
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize("name", ["r.pdf", "missing/r.png"])
def test_a_plot_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    assert run(cli, ["simulate", "--nodes", "10", "--plot", str(tmp_path / name)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match="no_such_library") as caught, extra("fleet"):
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401
    assert "from your own index" in caught.value.next_step
    assert "pip install 'updog-ab[fleet]'" in caught.value.next_step


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.5 %", 0.005), ("0.05", 0.05), ("1", 1.0)])
def test_a_share_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "-1%", "101%", "5%%", "nan", "five"])
def test_a_text_that_is_not_a_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a share"):
        parse_share(text)


def test_a_plot_says_what_it_shows_in_utc_and_with_plain_ticks(tmp_path: Path) -> None:
    plot = tmp_path / "rollout.svg"
    words = ["simulate", "--waves", "accelerated", "--nodes", "2000", "--start-at", "2026-11-02T06:00:00Z"]
    assert run(cli, [*words, "--plot", str(plot)]) == 0
    texts = re.findall(r"<text[^>]*>\s*([^<]*?)\s*</text>", plot.read_text())
    assert "Simulated rollout to 2,000 nodes from 2026-11-02 06:00 UTC" in texts
    assert texts.count("time, UTC") == 2
    assert [text for text in texts if re.fullmatch(r"[1-9]\d*(\.\d)? [kMGT]?B", text)]
    assert not [text for text in texts if ".0 " in text or "1e" in text]
