"""How long work is reported: rate and ETA, events for programs, lines for journals."""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signpost.progress import (
    ACTIONS,
    EVENTS,
    Action,
    EventReporter,
    LineReporter,
    Pace,
    ProgressReport,
    ProgressStep,
    SilentReporter,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
STEP = ProgressStep(action=Action.COMPRESS, item="a.zst", total=1000)


class Clock:
    """A clock that advances by so many seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self.now = 100.0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def _events(step: float, counts: Sequence[int], total: int) -> list[dict[str, Any]]:
    """Return the events of one piece of work, with ``step`` seconds between two readings of the clock."""
    lines: list[str] = []
    reporter = EventReporter(lines.append, monotonic=Clock(step))
    with reporter.phase(Action.WRITE, "root", total) as advance:
        for count in counts:
            advance(count)
    return [json.loads(line) for line in lines]


def _lines(step: float, counts: Sequence[int], total: int, action: Action = Action.WRITE) -> list[str]:
    lines: list[str] = []
    reporter = LineReporter(lines.append, monotonic=Clock(step))
    with reporter.phase(action, "root", total) as advance:
        for count in counts:
            advance(count)
    reporter.close()
    return lines


# -- rate and ETA ------------------------------------------------------------------------------------


def test_a_steady_pace_is_its_rate_and_gives_the_time_left() -> None:
    pace = Pace()
    for second in range(1, 101):
        pace = pace.after(50 * second, float(second))
        assert pace.rate == pytest.approx(50)
        assert pace.eta(10_000) == pytest.approx((10_000 - 50 * second) / 50)


def test_a_pace_that_changes_is_followed_within_seconds() -> None:
    pace = Pace()
    for second in range(1, 61):
        pace = pace.after(1000 * second, float(second))
    for second in range(61, 81):
        pace = pace.after(60_000 + 10 * (second - 60), float(second))
    assert 10 <= pace.rate < 30
    assert pace.after(60_200 + 50_000, 80.5).rate < 100_000 / 5, "one burst is not the rate"


def test_the_first_seconds_are_their_mean() -> None:
    pace = Pace().after(100, 0.1).after(100, 1.0)
    assert pace.rate == pytest.approx(100)


def test_an_earlier_try_does_not_count_as_speed() -> None:
    assert Pace(done=9000).after(9100, 1.0).rate == pytest.approx(100)


def test_bytes_of_no_time_count_in_the_next_look() -> None:
    pace = Pace().after(500, 0.0)
    assert (pace.rate, pace.eta(1000)) == (0.0, None)
    assert pace.after(1000, 1.0).rate == pytest.approx(1000)


def test_with_nothing_left_the_eta_is_zero() -> None:
    assert Pace().eta(0) == 0.0
    assert Pace(done=300).eta(200) == 0.0


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.floats(0, 1e6)), max_size=50), st.integers(0, 1 << 50))
def test_rate_and_eta_are_finite_and_never_negative(looks: list[tuple[int, float]], total: int) -> None:
    pace, done, elapsed, fastest = Pace(), 0, 0.0, 0.0
    for count, seconds in looks:
        before = pace
        done, elapsed = done + count, elapsed + seconds
        pace = pace.after(done, elapsed)
        if pace is not before:
            fastest = max(fastest, (pace.done - before.done) / (pace.elapsed - before.elapsed))
        eta = pace.eta(total)
        assert 0 <= pace.rate <= fastest * (1 + 1e-9)
        assert eta is None or (eta >= 0 and not math.isnan(eta))


# -- events and lines --------------------------------------------------------------------------------


def test_a_program_reads_one_event_a_line() -> None:
    common = {"event": "progress", "action": "write", "item": "root", "phase": "write root", "total": 1000}
    assert _events(1, [250, 500, 250], 1000) == [
        {**common, "done": 250, "rate": 250, "eta": 3.0},
        {**common, "done": 750, "rate": 375, "eta": 0.7},
        {**common, "done": 1000, "rate": 333, "eta": 0.0},
    ]


def test_every_event_has_the_members_of_the_reference() -> None:
    for event in _events(1, [250, 500, 250], 1000):
        assert event.keys() - {"event"} == EVENTS[event["event"]].keys()
    assert set(ACTIONS) == set(Action)


def test_an_eta_that_is_not_known_yet_is_null() -> None:
    (event,) = [json.loads(line) for line in _stalled()]
    assert (event["done"], event["rate"], event["eta"]) == (0, 0, None)


def _stalled() -> list[str]:
    lines: list[str] = []
    reporter = EventReporter(lines.append, monotonic=Clock(1))
    reporter.update(STEP)
    reporter.update(STEP)
    return lines


def test_a_journal_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    assert _lines(4, [2 * MIB] * 4, 8 * MIB) == [
        "write root: 75 % of 8.0 MiB, 524.3 kB/s, 4 s left",
        "write root: 100 % of 8.0 MiB in 16 s, 524.3 kB/s",
    ]


def test_network_bytes_are_decimal() -> None:
    assert _lines(4, [2_000_000] * 4, 8_000_000, Action.FETCH)[-1] == (
        "fetch root: 100 % of 8.0 MB in 16 s, 500.0 kB/s"
    )


def test_quick_work_is_reported_once_without_a_rate() -> None:
    assert len(_events(0.001, [1] * 100, 100)) == 1
    assert _lines(0.001, [1] * 100, 100) == ["write root: 100 % of 100 B"]


def test_no_time_and_no_bytes_divide_nothing() -> None:
    assert _lines(0, [0], 0) == ["write root: nothing to write"]
    assert _events(0, [], 0)[0]["rate"] == 0


def test_more_than_was_announced_is_reported_once_and_promises_no_negative_time() -> None:
    assert [event["eta"] for event in _events(1, [300, 300], 200)] == [0.0]


def test_less_than_was_announced_is_still_finished() -> None:
    assert [event["done"] for event in _events(0.01, [40], 200)] == [40]


def test_an_unknown_time_left_is_left_out() -> None:
    report = ProgressReport(step=STEP, finished=False, elapsed=20.0, rate=0.0, eta=None)
    assert report.to_text() == "compress a.zst: 0 % of 1000 B, 0 B/s"


def test_a_step_is_a_sentence_or_an_event() -> None:
    lines: list[str] = []
    LineReporter(lines.append).say("Streaming.")
    EventReporter(lines.append).say("Streaming.")
    SilentReporter().say("Streaming.")
    assert lines == ["Streaming.", '{"event": "step", "sentence": "Streaming."}']


def test_work_that_fails_is_not_said_to_be_done() -> None:
    lines: list[str] = []
    reporter = LineReporter(lines.append)

    def work() -> None:
        with reporter.phase(Action.WRITE, "root", 10) as advance:
            advance(5)
            raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"):
        work()
    reporter.close()
    assert lines == []


def test_work_that_begins_again_is_measured_again() -> None:
    lines: list[str] = []
    reporter = EventReporter(lines.append, monotonic=Clock(1))
    for done in (900, 950, 0, 500, 1000, 1000, 0, 1000):
        reporter.update(STEP.at(done))
    events = [json.loads(line) for line in lines]
    assert [event["done"] for event in events] == [950, 500, 1000, 1000]
    assert [event["rate"] for event in events] == [50, 500, 500, 1000], "900 bytes were of an earlier try"


def test_a_journal_gets_one_line_for_all_items_of_a_phase() -> None:
    lines: list[str] = []
    reporter = LineReporter(lines.append)
    other = ProgressStep(action=Action.COMPRESS, item="b.zst", total=10)
    delta = ProgressStep(action=Action.DELTA, item="b.delta", total=7)
    failed = ProgressStep(action=Action.COMPRESS, item="c.zst", total=10)
    for step in (STEP, other, other.at(10), delta, delta.at(7), failed, failed.at(5), STEP.at(1000)):
        reporter.update(step)
    assert lines == []
    reporter.close()
    assert lines == ["compress 2 items: 1010 B", "delta b.delta: 100 % of 7 B"]
    reporter.close()
    assert len(lines) == 2


def test_a_long_phase_of_many_items_has_a_rate_and_is_reported_now_and_then() -> None:
    lines: list[str] = []
    reporter = LineReporter(lines.append, monotonic=Clock(1))
    names = [f"{number}.zst" for number in range(30)]
    steps = [ProgressStep(action=Action.FETCH, item=name, total=2_000_000) for name in names]
    for done in (0, 1_000_000, 2_000_000):  # all at once, as a mirror fetches them
        for step in steps:
            reporter.update(step.at(done))
    reporter.close()
    *going_on, last = lines
    assert 0 < len(going_on) <= 10
    assert all(" 50 % of 2.0 MB" in line for line in going_on)
    assert last == "fetch 30 items: 60.0 MB in 1 min 29 s, 674.2 kB/s"


def test_threads_report_one_at_a_time_and_lose_nothing() -> None:
    lines: list[str] = []
    reporter = EventReporter(lines.append)
    with reporter.phase(Action.FETCH, "root", 8 * 500) as advance:
        threads = [threading.Thread(target=lambda: [advance(1) for _ in range(500)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert json.loads(lines[-1])["done"] == 8 * 500


def test_the_silent_reporter_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = SilentReporter()
    with reporter.phase(Action.WRITE, "root", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
