"""Where the progress of long work goes: events on stdout, bars on a terminal, or lines on stderr.

Events, lines, rates and ETA are :mod:`signpost.progress`'s. Here are the bars, which need ``rich``, and the
choice, for updog and repo-tools alike. With ``--quiet`` there is no progress at all; results, warnings and
errors stay.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from signpost.progress import EventReporter, LineReporter, ProgressReporter, SilentReporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from signpost.progress import Progress, ProgressReport

_BAR_SECONDS = 0.1  # as often as rich draws


def reporter_to(out: IO[str], err: IO[str], *, as_json: bool, quiet: bool = False) -> ProgressReporter:
    """Return the reporter for these streams.

    Args:
        out: gets one JSON object a line, if ``as_json``.
        err: else gets bars if it is a terminal, or lines.
        as_json: whether a program reads this.
        quiet: report nothing.
    """
    if quiet:
        return SilentReporter()
    if as_json:
        return EventReporter(lambda line: print(line, file=out, flush=True))
    if err.isatty():
        from rich.console import Console

        return BarReporter(Console(file=err))
    return LineReporter(lambda line: print(line, file=err, flush=True))


@contextmanager
def reporting(out: IO[str], err: IO[str], *, as_json: bool, quiet: bool = False) -> Iterator[Progress]:
    """Give what :func:`reporter_to` returns as a callback, for the length of a ``with`` block."""
    reporter = reporter_to(out, err, as_json=as_json, quiet=quiet)
    try:
        yield reporter.update
    finally:
        reporter.close()


class BarReporter(ProgressReporter):
    """Reports to a person: a bar with rate and ETA for each piece of work, and a line once it is done.

    Args:
        console: rich's console over stderr.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(every=_BAR_SECONDS, at_once=True)
        self._console = console
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def say(self, sentence: str) -> None:
        """Print the sentence, above the bars."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def _show(self, report: ProgressReport, now: float) -> None:
        del now
        step = report.step
        if report.finished:
            self.say(report.to_text())
            return
        if self._bars is None:
            self._bars = _bars_on(self._console)
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bars.add_task(step.phase, total=step.total, figures="")
        self._bars.update(self._tasks[step.phase], completed=step.done, figures=report.figures)

    def _drop(self, phase: str) -> None:
        super()._drop(phase)
        if self._bars is None or phase not in self._tasks:
            return
        self._bars.remove_task(self._tasks.pop(phase))
        if not self._tasks:
            self._bars.stop()
            self._bars = None


def _bars_on(console: Console) -> Bars:
    from rich.progress import BarColumn, Progress, TextColumn

    name = TextColumn("{task.description}", markup=False)
    figures = TextColumn("{task.fields[figures]}", markup=False)
    bars = Progress(name, BarColumn(), figures, console=console, transient=True)
    bars.start()
    return bars
