"""Waits of drills: they end after a silence, not at a fixed time; a slow machine stretches both."""

from __future__ import annotations

import pytest

from updog.drill.patience import MAX_SLOWNESS, Patience, slowness


class Host:
    """A clock, and how slow the machine is while it runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.factor = 1.0
        self.measured = 0

    def clock(self) -> float:
        return self.now

    def measure(self) -> float:
        self.measured += 1
        return self.factor

    def patience(self, silence: float, limit: float) -> Patience:
        return Patience(silence=silence, limit=limit, measure=self.measure, clock=self.clock)


def test_a_silence_ends_a_wait_and_progress_ends_a_silence() -> None:
    host = Host()
    patience = host.patience(10, 1000)
    for line in range(5):
        host.now += 9
        patience.watch(line)
        assert not patience.is_over()
    host.now += 9
    patience.watch(4)  # the same as before
    assert not patience.is_over()
    host.now += 2
    assert patience.is_over()
    assert patience.seconds == 56


def test_progress_without_end_does_not_go_on_for_ever() -> None:
    host = Host()
    patience = host.patience(10, 100)
    for line in range(20):
        host.now += 5
        patience.watch(line)
        assert not patience.is_over()
    host.now += 5
    patience.watch(20)
    assert patience.is_over()


def test_a_slow_machine_is_measured_before_a_wait_fails_and_gets_as_much_longer() -> None:
    host = Host()
    patience = host.patience(10, 1000)
    host.now += 10
    assert not patience.is_over()
    assert host.measured == 0
    host.factor = 4.0
    for _ in range(3):
        host.now += 10
        assert not patience.is_over()
    assert host.measured == 1
    host.factor = 1.0  # busy for most of the time, and quiet when it is measured again
    host.now += 1
    assert patience.is_over()


def test_a_limit_is_stretched_too() -> None:
    host = Host()
    host.factor = 2.0
    patience = host.patience(10, 20)
    for line in range(5):
        host.now += 8
        patience.watch(line)
        assert not patience.is_over()
    host.now += 1
    assert patience.is_over()


@pytest.mark.parametrize("_", range(3))
def test_this_machine_is_as_slow_as_it_is_within_bounds(_: int) -> None:
    assert 1.0 <= slowness() <= MAX_SLOWNESS
