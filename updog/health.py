"""Is this boot good? Executables in ``required/`` and ``wanted/`` say so (greenboot's convention).

Rules it enforces:

* every check is run, in the order of names; a required one that fails, is killed by a signal, cannot be
  started or exceeds its time makes the boot unhealthy; a wanted one is only a warning (D38, D39);
* a check runs in a session of its own and the whole session is killed at its time-out, so that a child
  it left behind cannot keep the node waiting; one that even SIGKILL does not end (it hangs inside the
  kernel) is left behind after :data:`_LAST_WORDS_SECONDS`;
* all checks together have a time as well, counted by a clock that nobody can set (D42): what is not run by
  then has not passed;
* only the last :data:`KEPT_BYTES` of its output are kept, whatever it prints, and what does not print is
  replaced: the last line goes to terminals and into a login message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

KEPT_BYTES = 2000  # a cause for `status` and one screen of a console, not a log
_PIPE_BYTES = 1 << 16
_LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of one check: its name, whether it is required, and why it failed (empty: it passed)."""

    check: str
    required: bool
    problem: str

    @property
    def fatal(self) -> bool:
        """Whether this finding makes the boot unhealthy."""
        return self.required and bool(self.problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """The time checks may take: ``each`` so many seconds, and all until ``end`` of the monotonic clock."""

    each: float
    end: float

    def left(self) -> float:
        """Return the seconds that the next check may take; none is left at 0 and below."""
        return min(self.each, self.end - time.monotonic())


OUT_OF_TIME = "was not run: the time for all health checks was over"


def run_checks(folder: Path, allowance: Allowance) -> tuple[Finding, ...]:
    """Run every executable in ``folder``/required and then in ``folder``/wanted, as long as there is time."""
    return tuple(
        _finding(path, allowance.left(), required=kind == "required")
        for kind in ("required", "wanted")
        for path in sorted((folder / kind).glob("*"))
        if path.is_file()
    )


def _finding(path: Path, timeout: float, *, required: bool) -> Finding:
    """Run one check; a file that cannot be run is pointed out, not passed over in silence."""
    name = _printable(path.name)
    if not os.access(path, os.X_OK):
        return Finding(check=name, required=False, problem="is not executable, so it was not run")
    problem = run_bounded([str(path)], timeout).problem if timeout > 0 else OUT_OF_TIME
    return Finding(check=name, required=required, problem=problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a program answered: why it failed (empty: it did not) and the end of its output."""

    problem: str
    said: str = ""


def run_bounded(command: list[str], timeout: float) -> Answer:
    """Run a program for at most ``timeout`` seconds, whatever it does, and end what it left behind."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(problem=f"cannot be started: {error.strerror}")
    with _Tail(process) as tail:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return Answer(problem=f"gave no answer in {round(timeout, 1):g} s")
        finally:
            _end_session(process)
    said = tail.text()
    return Answer(problem=_problem(status, _printable(said.rpartition("\n")[2])), said=said)


class _Tail:
    """Drains a check's output for as long as it lasts and keeps its end, so that a flood costs nothing."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._stream = process.stdout
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join(_LAST_WORDS_SECONDS)  # a child with a session of its own may hold the pipe

    def _drain(self) -> None:
        if self._stream is None:
            return
        with (
            self._stream as stream
        ):  # the thread's alone: closed elsewhere, its number could be another file's
            while block := os.read(stream.fileno(), _PIPE_BYTES):
                self._kept = (self._kept + block)[-KEPT_BYTES:]

    def text(self) -> str:
        """Return the end of what was printed."""
        return self._kept.decode(errors="replace").strip()


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the check and whatever it left behind in its session, without waiting for ever for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_WORDS_SECONDS)


def _problem(status: int, said: str) -> str:
    """Put an exit status into words."""
    if status == 0:
        return ""
    how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    return f"{how}: {said}" if said else how


def _printable(text: str) -> str:
    """Return a text with a question mark in the place of whatever a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
