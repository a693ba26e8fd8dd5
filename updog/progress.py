"""How long work is told: phases with a total, in bytes. Nothing here prints; it calls what it is given.

Three tellers behind one Protocol: NDJSON events for machines, a bar with rate and ETA on a terminal,
and plain lines off it.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console

_EVENT_SECONDS = 0.5  # often enough for a dashboard, seldom enough for a log
_PLAIN_SECONDS = 10.0  # a line for a journal
_MEGABYTE = 1e6


class Teller(Protocol):
    """Is told what goes on."""

    def say(self, sentence: str) -> None:
        """Take note of one step, in words."""
        ...

    def phase(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Open a phase of ``total`` bytes: a context manager of ``advance(bytes)``, for any thread."""
        ...


class Silence:
    """Tells nobody."""

    def say(self, sentence: str) -> None:
        """Take no note."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Open a phase that nobody watches."""
        del name, total
        yield lambda _count: None


class LineTeller:
    """Tells in lines: NDJSON events (schema in docs/reference/events.md) or plain text.

    Args:
        write: takes one finished line.
        as_json: events instead of text.
        monotonic: seconds, for rates.
    """

    def __init__(
        self, write: Callable[[str], None], *, as_json: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._as_json = as_json
        self._monotonic = monotonic

    def say(self, sentence: str) -> None:
        """Write the sentence, or a ``step`` event."""
        self._write(json.dumps({"event": "step", "sentence": sentence}) if self._as_json else sentence)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Write a line at the start, now and then, and at the end."""
        started = last = self._monotonic()
        done = 0
        lock = threading.Lock()

        def advance(count: int) -> None:
            nonlocal done, last
            with lock:
                done += count
                now = self._monotonic()
                if now - last >= (_EVENT_SECONDS if self._as_json else _PLAIN_SECONDS):
                    last = now
                    self._line(name, done, total, now - started)

        yield advance
        self._line(name, done, total, self._monotonic() - started)

    def _line(self, name: str, done: int, total: int, seconds: float) -> None:
        """Write how far a phase is."""
        rate = done / seconds if seconds > 0 else 0.0
        eta = (total - done) / rate if rate > 0 and total > done else 0.0
        if self._as_json:
            facts = {"event": "progress", "phase": name, "done": done, "total": total}
            self._write(json.dumps({**facts, "rate": round(rate), "eta": round(eta, 1)}))
        else:
            share = 100 * done // total if total else 100
            self._write(f"{name}: {share} % of {megabytes(total)}, {megabytes(rate)}/s, {eta:.0f} s left")


class BarTeller:
    """Tells with a moving bar, rate and ETA on a terminal.

    Args:
        console: rich's console over stderr.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        self._console.print(sentence, highlight=False, markup=False)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar until the phase ends; a finished bar stays as a record."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn("{task.description:<22}"), BarColumn(), DownloadColumn())
        with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console) as bars:
            task = bars.add_task(name, total=total)
            yield lambda count: bars.advance(task, count)


def megabytes(count: float) -> str:
    """Return a size in bytes as people read it (SI)."""
    return f"{count / 1e6:.1f} MB" if count >= _MEGABYTE / 10 else f"{count / 1e3:.1f} kB"
