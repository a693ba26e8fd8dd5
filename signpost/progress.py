"""Progress of long work: one vocabulary, one rate and ETA, the same reporters for all three programs.

Rules it enforces (docs/reference/events.md is generated from :data:`EVENTS` and :data:`ACTIONS`):

* a piece of work is an action on an item, with ``total`` bytes. Its ``done`` increases; if it decreases, the
  work has started again;
* its rate is smoothed (:class:`Pace`); the last report has the mean rate of the whole work instead;
* it is reported every few seconds and once when it is done; work that fails has no last report;
* a journal gets one line for all work of an action, a terminal and a program a report of each item;
* nothing here prints: a reporter calls the function that it was given.

signpost itself has no work that takes long enough to be reported.
"""

from __future__ import annotations

import json
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from signpost.text import duration_text, rate_text, size_text, traffic_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EVENT_SECONDS = 0.5  # often enough for a dashboard, not too often for a log
LINE_SECONDS = 10.0  # a line for a journal
_SMOOTHING_SECONDS = (
    5.0  # older values count little: longer than a burst, shorter than a change of mirror takes
)
_SHORTEST_LOOK_SECONDS = 0.001  # in less time a rate cannot be measured
_WORTH_A_RATE_SECONDS = 1.0  # in less time the rate is that of caches, not of the work


class Action(StrEnum):
    """What is done with an item; :data:`ACTIONS` explains each action."""

    LOOK_AT = "look at"
    COMPARE = "compare"
    FETCH = "fetch"
    UNPACK = "unpack"
    WRITE = "write"
    READ_BACK = "read back"
    VERIFY = "verify"
    COMPRESS = "compress"
    DELTA = "delta"
    CHECK = "check"
    UPLOAD = "upload"
    EXPORT = "export"


_TRAFFIC = frozenset({Action.FETCH, Action.UPLOAD})

ACTIONS: Mapping[Action, str] = MappingProxyType(
    {
        Action.LOOK_AT: "updog reads the inactive slot for what the update can leave as it is",
        Action.COMPARE: "updog looks through the running slot for what the update can copy",
        Action.FETCH: "bytes come over the network: to updog of an image, to `repo-tools mirror` of a target",
        Action.UNPACK: "updog unpacks an image for trial, before the slot is touched",
        Action.WRITE: "updog writes an image, or `repo-tools disk create` a target into a disk image",
        Action.READ_BACK: "updog reads a written image back",
        Action.VERIFY: "`updog verify` reads an image of a slot",
        Action.COMPRESS: "`repo-tools publish` packs an image",
        Action.DELTA: "`repo-tools publish` makes a delta",
        Action.CHECK: "`repo-tools validate` reads a target",
        Action.UPLOAD: "`repo-tools push` sends a target",
        Action.EXPORT: "`repo-tools bundle export` copies a target into the bundle",
    }
)
"""Every action, and who does it."""

EVENTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "step": {"sentence": "what happens now, in words"},
        "progress": {
            "action": "what is done: one of the actions below",
            "item": "with what: an image (`root`) or the name of a target",
            "phase": "both in one text, such as `write root`",
            "done": "bytes so far",
            "total": "bytes in all",
            "rate": "bytes per second, smoothed; when done, the mean of all the work; 0 while not known",
            "eta": "seconds left at this rate; 0 when done, null while not known",
        },
        "result": {"…": "the result; of updog's commands `command`, `version` and `sentence`"},
    }
)
"""Every event and its members."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressStep:
    """A piece of long work and its progress.

    Attributes:
        action: what is done.
        item: what it is done with.
        total: bytes in total.
        done: bytes so far.
    """

    action: Action
    item: str
    total: int
    done: int = 0

    @property
    def phase(self) -> str:
        """Action and item as text."""
        return f"{self.action} {self.item}"

    def at(self, done: int) -> ProgressStep:
        """Return the same piece of work with ``done`` bytes done."""
        return replace(self, done=done)


Progress = Callable[[ProgressStep], None]
"""Called at the start of long work and after every block of it, from any thread."""


def silent(step: ProgressStep) -> None:
    """Report nothing."""
    del step


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """The speed of work. PURE: each time the clock is read, a new value is made.

    Attributes:
        done: bytes when the clock was last read.
        elapsed: seconds of work until then.
        rate: bytes per second: the mean of the first seconds, then smoothed exponentially.
    """

    done: int = 0
    elapsed: float = 0.0
    rate: float = 0.0

    def after(self, done: int, elapsed: float) -> Pace:
        """Return the pace of work with ``done`` bytes done after ``elapsed`` seconds."""
        seconds = elapsed - self.elapsed
        if seconds < _SHORTEST_LOOK_SECONDS:
            return self  # these bytes count next time
        weight = max(1 - math.exp(-seconds / _SMOOTHING_SECONDS), seconds / elapsed)
        recent = (done - self.done) / seconds
        return Pace(done=done, elapsed=elapsed, rate=self.rate + weight * (recent - self.rate))

    def eta(self, total: int) -> float | None:
        """Return the seconds left until ``total`` bytes are done; None while that is not known."""
        left = max(0, total - self.done)
        if not left:
            return 0.0
        return left / self.rate if self.rate > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressReport:
    """The report of a piece of work.

    Attributes:
        step: the work and its progress.
        finished: whether it is done, which may be with fewer bytes than announced.
        elapsed: seconds of work.
        rate: bytes per second.
        eta: seconds left; None while not known.
    """

    step: ProgressStep
    finished: bool
    elapsed: float
    rate: float
    eta: float | None

    @property
    def share(self) -> int:
        """Percentage done, rounded down."""
        return 100 * self.step.done // self.step.total if self.step.total else 100

    def to_json(self) -> dict[str, Any]:
        """Return the event that ``--json`` prints."""
        step = self.step
        return {
            "event": "progress",
            "action": step.action.value,
            "item": step.item,
            "phase": step.phase,
            "done": step.done,
            "total": step.total,
            "rate": round(self.rate),
            "eta": None if self.eta is None else round(self.eta, 1),
        }

    @property
    def figures(self) -> str:
        """The figures as text, such as ``75 % of 8.0 MiB, 2.1 MB/s, 4 s left``."""
        step = self.step
        if not step.total:
            return f"nothing to {step.action}"
        text = traffic_text if step.action in _TRAFFIC else size_text
        head = f"{self.share} % of {text(step.total)}"
        if self.finished:
            took = f" in {duration_text(self.elapsed)}, {rate_text(self.rate)}"
            return head + (took if self.elapsed >= _WORTH_A_RATE_SECONDS else "")
        return f"{head}, {rate_text(self.rate)}" + (
            "" if self.eta is None else f", {duration_text(self.eta)} left"
        )

    def to_text(self) -> str:
        """Return the report as a line of text."""
        return f"{self.step.phase}: {self.figures}"


@dataclass(kw_only=True, slots=True)
class _Work:
    """A piece of work in progress.

    Attributes:
        began: time on the clock (seconds).
        first: bytes that were already done then, by an earlier try.
        reported: time of the last report.
        step, pace: from the last update.
    """

    began: float
    first: int
    reported: float
    step: ProgressStep
    pace: Pace

    def report(self) -> ProgressReport:
        """Return the current report."""
        pace, eta = self.pace, self.pace.eta(self.step.total)
        return ProgressReport(step=self.step, finished=False, elapsed=pace.elapsed, rate=pace.rate, eta=eta)

    def last_report(self, now: float) -> ProgressReport:
        """Return the report of the finished work."""
        elapsed = now - self.began
        rate = (self.step.done - self.first) / elapsed if elapsed > 0 else 0.0
        return ProgressReport(step=self.step, finished=True, elapsed=elapsed, rate=rate, eta=0.0)


class ProgressReporter(ABC):
    """Gets updates of long work from any thread, and reports it to one reader.

    Args:
        every: seconds between two reports of a piece of work.
        at_once: also report the start of work.
        monotonic: clock (seconds).
    """

    def __init__(
        self, *, every: float, at_once: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._every, self._at_once, self._monotonic = every, at_once, monotonic
        self._going_on: dict[str, _Work] = {}
        self._finished: set[str] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def say(self, sentence: str) -> None:
        """Report one step, as a sentence."""

    @abstractmethod
    def _show(self, report: ProgressReport, now: float) -> None:
        """Report the progress of a piece of work at a time on the clock. Called by one thread at a time."""

    def _drop(self, phase: str) -> None:
        """Forget a piece of work. Called by one thread at a time."""
        self._going_on.pop(phase, None)

    def close(self) -> None:
        """Forget all work that has not finished: it failed."""
        with self._lock:
            for phase in list(self._going_on):
                self._drop(phase)

    def update(self, step: ProgressStep) -> None:
        """Update the progress of a piece of work: at its start, after each block, and at its end."""
        with self._lock:
            now = self._monotonic()
            work = self._going_on.get(step.phase)
            if work is None and step.phase in self._finished and step.done >= step.total:
                return  # more than was announced
            if work is None or step.done < work.step.done:
                reported = -math.inf if self._at_once else now
                pace = Pace(done=step.done)
                work = _Work(began=now, first=step.done, reported=reported, step=step, pace=pace)
                self._going_on[step.phase] = work
            work.step, work.pace = step, work.pace.after(step.done, now - work.began)
            if step.done >= step.total:
                self._finish(work, now)
            elif now - work.reported >= self._every:
                work.reported = now
                self._show(work.report(), now)

    @contextmanager
    def phase(self, action: Action, item: str, total: int) -> Iterator[Callable[[int], None]]:
        """Report a piece of work during a ``with`` block, which gets ``advance(bytes)``.

        If the block ends without an exception, the work is reported as finished, even with fewer bytes than
        ``total``.
        """
        step, lock = ProgressStep(action=action, item=item, total=total), threading.Lock()
        self.update(step)

        def advance(count: int) -> None:
            nonlocal step
            with lock:
                step = step.at(step.done + count)
                self.update(step)

        try:
            yield advance
        except BaseException:
            with self._lock:
                self._drop(step.phase)
            raise
        with self._lock:
            if work := self._going_on.get(step.phase):
                self._finish(work, self._monotonic())

    def _finish(self, work: _Work, now: float) -> None:
        self._drop(work.step.phase)
        self._finished.add(work.step.phase)
        self._show(work.last_report(now), now)


class SilentReporter(ProgressReporter):
    """Reports nothing."""

    def __init__(self) -> None:
        super().__init__(every=math.inf)

    def say(self, sentence: str) -> None:
        """Report nothing."""

    def _show(self, report: ProgressReport, now: float) -> None:
        """Report nothing."""


class EventReporter(ProgressReporter):
    """Reports to a program: one JSON object per line (docs/reference/events.md).

    Args:
        write: called with each complete line.
        monotonic: clock (seconds).
    """

    def __init__(
        self, write: Callable[[str], object], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(every=EVENT_SECONDS, monotonic=monotonic)
        self._write = write

    def say(self, sentence: str) -> None:
        """Write a ``step`` event."""
        self._write(json.dumps({"event": "step", "sentence": sentence}))

    def _show(self, report: ProgressReport, now: float) -> None:
        del now
        self._write(json.dumps(report.to_json()))


@dataclass(kw_only=True, slots=True)
class _Phase:
    """All work of one action so far.

    Attributes:
        began: time on the clock (seconds) when its first item began; ended: when its last one was done.
        items: item → its last report. moved: bytes without those of earlier tries.
    """

    began: float
    ended: float
    items: dict[str, ProgressReport]
    moved: float = 0.0

    def to_text(self) -> str:
        """Return the line of a phase that is done."""
        first, *others = self.items.values()
        if not others:
            return first.to_text()
        action = first.step.action
        text = traffic_text if action in _TRAFFIC else size_text
        size = sum(item.step.done for item in self.items.values())
        head = f"{action} {len(self.items)} items: {text(size)}"
        elapsed = self.ended - self.began
        if elapsed < _WORTH_A_RATE_SECONDS:
            return head
        return f"{head} in {duration_text(elapsed)}, {rate_text(self.moved / elapsed)}"


class LineReporter(ProgressReporter):
    """Reports to a journal: one line for each phase, which is all work of one action, on however many items.

    The lines are written by :meth:`close`, because it is not known before that nothing more will be done.
    Until then each phase that goes on is reported every few seconds.

    Args:
        write: called with each complete line.
        monotonic: clock (seconds).
    """

    def __init__(
        self, write: Callable[[str], object], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(every=LINE_SECONDS, monotonic=monotonic)
        self._write = write
        self._phases: dict[Action, _Phase] = {}
        self._reported: dict[Action, float] = {}

    def say(self, sentence: str) -> None:
        """Write the sentence."""
        self._write(sentence)

    def close(self) -> None:
        """Write the line of every phase; forget all work that has not finished: it failed."""
        super().close()
        with self._lock:
            for phase in self._phases.values():
                self._write(phase.to_text())
            self._phases.clear()

    def _show(self, report: ProgressReport, now: float) -> None:
        action = report.step.action
        if not report.finished:
            if now - self._reported.get(action, -math.inf) >= LINE_SECONDS:
                self._reported[action] = now
                self._write(report.to_text())
            return
        began = now - report.elapsed
        phase = self._phases.setdefault(action, _Phase(began=began, ended=now, items={}))
        phase.began, phase.ended = min(phase.began, began), now
        phase.items[report.step.item] = report
        phase.moved += report.rate * report.elapsed
