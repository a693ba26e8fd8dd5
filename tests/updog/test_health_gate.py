"""How long a boot has to be good before it counts: on a clock of the test's own, without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from updog.health.checks import CheckResult
from updog.health.gate import RETRY_SECONDS, GateLimits, evaluate

GOOD = (CheckResult(check="web", required=True, problem=""),)
BAD = (CheckResult(check="web", required=True, problem="exited with status 1"),)
WARNED = (CheckResult(check="web", required=False, problem="exited with status 1"),)


@dataclass
class Clock:
    """Seconds that pass only by sleeping; every round of checks takes ``cost`` of them."""

    rounds: list[tuple[CheckResult, ...]]
    cost: float = 0.0
    now: float = 1000.0
    asked: list[float] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def checks(self, seconds: float) -> tuple[CheckResult, ...]:
        self.allowed.append(seconds)
        self.asked.append(self.now - 1000)
        self.now += self.cost
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def judge(self, deadline: float, window: float) -> tuple[CheckResult, ...]:
        return evaluate(
            self.checks,
            GateLimits(deadline=deadline, window=window, check=10),
            sleep=self.sleep,
            monotonic=self.monotonic,
        )


def test_a_good_boot_without_a_window_is_asked_once() -> None:
    clock = Clock([GOOD])
    assert clock.judge(300, 0) == GOOD
    assert clock.asked == [0]


def test_a_slow_start_is_good_if_it_passes_before_the_deadline() -> None:
    clock = Clock([BAD, BAD, GOOD])
    assert clock.judge(300, 0) == GOOD
    assert clock.asked == [0, RETRY_SECONDS, 2 * RETRY_SECONDS]


def test_a_boot_that_never_gets_well_is_given_up_at_the_deadline() -> None:
    clock = Clock([BAD])
    assert clock.judge(12, 30) == BAD
    assert clock.asked == [0, 5, 10]


def test_slow_checks_count_against_the_deadline() -> None:
    clock = Clock([BAD], cost=8)
    assert clock.judge(20, 0) == BAD
    assert clock.asked == [0, 13]


def test_a_service_that_dies_within_the_window_is_not_good() -> None:
    clock = Clock([GOOD, BAD])
    assert clock.judge(300, 30) == BAD
    assert clock.asked == [0, 30]


def test_a_service_that_lives_through_the_window_is_good() -> None:
    clock = Clock([BAD, GOOD, GOOD])
    assert clock.judge(300, 30) == GOOD
    assert clock.asked == [0, 5, 35]


@pytest.mark.parametrize("window", [0, 30])
def test_a_warning_neither_repeats_nor_fails(window: float) -> None:
    clock = Clock([WARNED])
    assert clock.judge(300, window) == WARNED
    assert len(clock.asked) == (2 if window else 1)


def test_a_round_has_the_time_until_the_deadline_and_at_least_that_of_one_check() -> None:
    """D38: ten checks that hang for a minute each do not take ten minutes."""
    clock = Clock([BAD, BAD, BAD, GOOD], cost=8)
    assert clock.judge(42, 0) == GOOD
    assert clock.asked == [0, 13, 26, 39]
    assert clock.allowed == [42, 29, 16, 10]


def test_the_round_after_the_window_has_a_deadline_of_its_own() -> None:
    clock = Clock([BAD, GOOD, GOOD], cost=8)
    assert clock.judge(40, 30) == GOOD
    assert clock.allowed == [40, 27, 40]


def test_without_a_deadline_one_round_has_the_time_of_one_check() -> None:
    clock = Clock([BAD])
    assert clock.judge(0, 0) == BAD
    assert clock.allowed == [10]
