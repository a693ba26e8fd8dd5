"""A year of a fleet under a simulated clock, driven by the table: tools/simulate_year.py with fewer nodes."""

from __future__ import annotations

import pytest

from tools.simulate_year import RELEASES, Chances, Year, simulate
from updog.auto.table import Lock

HARSH = Chances(install_fails=0.3, answer_is_lost=0.3, daemon_is_killed=0.03, restart_fails=0.2)
(_, FIRST_AT), (SECOND, SECOND_AT) = RELEASES[1:]
FIRST = RELEASES[1][0]


def assert_all_done(year: Year) -> None:
    assert {node.running for node in year.nodes} == {SECOND}
    assert {node.state.lock for node in year.nodes} == {Lock.NO}
    assert year.holder is None


def test_all_nodes_are_updated_one_at_a_time_and_the_lock_is_free_in_the_end() -> None:
    year = simulate(30, seed=1)
    assert_all_done(year)
    assert FIRST_AT < year.finished[FIRST] < SECOND_AT
    assert year.counts["restart"] >= 60
    assert year.counts["steps"] < 2500 * len(year.nodes), "an idle agent wakes for its checks only"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_nodes_are_updated_although_much_goes_wrong(seed: int) -> None:
    year = simulate(12, seed, HARSH)
    assert_all_done(year)
    for what in ("killed", "restart-failed", "revert"):
        assert year.counts[what], "the year was not as harsh as it was meant to be"


def test_a_release_that_fails_stops_at_the_first_node_until_the_publisher_replaces_it() -> None:
    year = simulate(12, seed=1, bad=frozenset({FIRST}))
    assert_all_done(year)
    assert year.counts[f"fell back from {FIRST}"] == 1
    assert year.counts["lock-kept"] == 1
    assert year.counts[f"confirmed {SECOND}"] == 12
