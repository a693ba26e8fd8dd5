"""How long work is told: to machines, to journals, to people at a terminal, to nobody."""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from updog.progress import BarTeller, LineTeller, Silence, megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """A clock that goes on by so many seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self.now = 100.0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def _told(step: float, counts: list[int], total: int, *, as_json: bool) -> list[str]:
    """Return the lines told of one phase, with ``step`` seconds between any two looks at the clock."""
    lines: list[str] = []
    teller = LineTeller(lines.append, as_json=as_json, monotonic=Clock(step))
    with teller.phase("write root", total) as advance:
        for count in counts:
            advance(count)
    return lines


def test_a_machine_reads_one_event_a_line() -> None:
    events = [json.loads(line) for line in _told(1, [500, 500], 1000, as_json=True)]
    assert events == [
        {"event": "progress", "phase": "write root", "done": 500, "total": 1000, "rate": 500, "eta": 1.0},
        {"event": "progress", "phase": "write root", "done": 1000, "total": 1000, "rate": 500, "eta": 0.0},
        {"event": "progress", "phase": "write root", "done": 1000, "total": 1000, "rate": 333, "eta": 0.0},
    ]


def test_a_journal_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    lines = _told(4, [2_000_000] * 4, 8_000_000, as_json=False)
    assert lines == [
        "write root: 75 % of 8.0 MB, 0.5 MB/s, 4 s left",
        "write root: 100 % of 8.0 MB, 0.4 MB/s, 0 s left",
    ]


def test_quick_work_is_told_once() -> None:
    for as_json in (True, False):
        assert len(_told(0.001, [1] * 100, 100, as_json=as_json)) == 1


def test_no_time_and_no_bytes_divide_nothing() -> None:
    assert _told(0, [0], 0, as_json=False) == ["write root: 100 % of 0.0 kB, 0.0 kB/s, 0 s left"]


def test_more_than_was_announced_promises_no_negative_time() -> None:
    events = [json.loads(line) for line in _told(1, [300], 200, as_json=True)]
    assert [event["eta"] for event in events] == [0.0, 0.0]


def test_a_step_is_a_sentence_or_an_event() -> None:
    lines: list[str] = []
    LineTeller(lines.append, as_json=False).say("Streaming.")
    LineTeller(lines.append, as_json=True).say("Streaming.")
    assert lines == ["Streaming.", '{"event": "step", "sentence": "Streaming."}']


def test_work_that_fails_is_not_said_to_be_done() -> None:
    lines: list[str] = []
    teller = LineTeller(lines.append, as_json=False)

    def work() -> Iterator[None]:
        with teller.phase("write root", 10) as advance:
            advance(10)
            raise ValueError
            yield

    with pytest.raises(ValueError):
        list(work())
    assert lines == []


def test_a_terminal_shows_a_bar() -> None:
    out = StringIO()
    teller = BarTeller(Console(file=out, force_terminal=True, width=120))
    teller.say("No room [here].")
    with teller.phase("write root", 2_000_000) as advance:
        advance(2_000_000)
    assert "No room [here]." in out.getvalue()
    assert "write root" in out.getvalue()
    assert "2.0/2.0 MB" in out.getvalue()


def test_nobody_is_told_anything(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Silence()
    teller.say("anything")
    with teller.phase("write root", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 kB"), (999, "1.0 kB"), (99_999, "100.0 kB"), (100_000, "0.1 MB"), (2_500_000_000, "2500.0 MB")],
)
def test_sizes_are_in_the_units_people_buy_disks_in(count: float, text: str) -> None:
    assert megabytes(count) == text
