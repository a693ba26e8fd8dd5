"""Where progress goes: bars on a terminal, otherwise lines, or events for programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty

import pytest
from rich.console import Console

from signpost.progress import Action, EventReporter, LineReporter, ProgressStep
from updog.progress import BarReporter, reporter_to, reporting

STEP = ProgressStep(action=Action.COMPRESS, item="a.zst", total=2048)


def _terminal() -> tuple[io.StringIO, BarReporter]:
    out = io.StringIO()
    return out, BarReporter(Console(file=out, force_terminal=True, width=120))


def test_a_terminal_shows_a_bar_and_keeps_a_line() -> None:
    out, reporter = _terminal()
    reporter.say("No room [here].")
    with reporter.phase(Action.FETCH, "root", 2_000_000) as advance:
        advance(1_000_000)
        assert "No room [here]." in out.getvalue()
        assert "━" in out.getvalue()
        advance(1_000_000)
    assert "fetch root: 100 % of 2.0 MB\n" in out.getvalue()


def test_bars_go_when_work_fails() -> None:
    out, reporter = _terminal()
    with contextlib.suppress(ValueError), reporter.phase(Action.WRITE, "root", 10) as advance:
        advance(1)
        raise ValueError
    shown = out.getvalue()
    assert "100 %" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.parametrize("as_json", [True, False])
def test_quiet_work_reports_nothing(*, as_json: bool) -> None:
    out, err = io.StringIO(), io.StringIO()
    with reporting(out, err, as_json=as_json, quiet=True) as progress:
        progress(STEP)
        progress(STEP.at(2048))
    assert out.getvalue() + err.getvalue() == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_progress_goes_to_a_bar_to_lines_or_to_events_by_who_reads(*, as_json: bool) -> None:
    kind = EventReporter if as_json else LineReporter
    assert isinstance(reporter_to(io.StringIO(), io.StringIO(), as_json=as_json), kind)


def test_off_a_terminal_progress_is_a_line_a_phase_or_events() -> None:
    out, err = io.StringIO(), io.StringIO()
    for as_json in (True, False):
        with reporting(out, err, as_json=as_json) as progress:
            for done in (0, 1024, 2048):
                progress(STEP.at(done))
    assert [json.loads(line)["done"] for line in out.getvalue().splitlines()] == [2048]
    assert err.getvalue() == "compress a.zst: 100 % of 2.0 KiB\n"


def _everything_shown(terminal: int) -> str:
    """Return what was written to a terminal whose other side is closed: further reads then fail with EIO."""
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            shown += data
    os.close(terminal)
    return shown.decode()


@pytest.mark.parametrize("end", ["well", "badly"])
def test_on_a_terminal_progress_is_a_bar(end: str) -> None:
    main, terminal = pty.openpty()
    with (
        os.fdopen(terminal, "w") as err,
        contextlib.suppress(ValueError),
        reporting(io.StringIO(), err, as_json=False) as progress,
    ):
        progress(STEP)
        progress(STEP.at(1024))
        if end == "badly":
            raise ValueError
        progress(STEP.at(2048))
    shown = _everything_shown(main)
    assert "compress a.zst" in shown
    assert ("compress a.zst: 100 % of 2.0 KiB" in shown) == (end == "well")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
