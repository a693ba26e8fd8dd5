"""Is this boot good? Executables in ``required/`` and ``wanted/`` say so (greenboot's convention).

Rules it enforces:

* every check is run, in the order of names; a required one that fails, is killed by a signal, cannot be
  started or exceeds its time makes the boot unhealthy; a wanted one is only a warning (D38, D39);
* a check runs in a session of its own and the whole session is killed at its time-out, so that a child
  it left behind cannot keep the node waiting;
* only the last :data:`KEPT_BYTES` of its output are kept, whatever it prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
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


def run_checks(folder: Path, timeout: int) -> tuple[Finding, ...]:
    """Run every executable in ``folder``/required and ``folder``/wanted, ``timeout`` seconds each."""
    return tuple(
        _finding(path, timeout, required=kind == "required")
        for kind in ("required", "wanted")
        for path in sorted((folder / kind).glob("*"))
        if path.is_file()
    )


def _finding(path: Path, timeout: int, *, required: bool) -> Finding:
    """Run one check; a file that cannot be run is pointed out, not passed over in silence."""
    if not os.access(path, os.X_OK):
        return Finding(check=path.name, required=False, problem="is not executable, so it was not run")
    return Finding(check=path.name, required=required, problem=_run(path, timeout))


def _run(check: Path, timeout: int) -> str:
    """Return why the check failed, or nothing."""
    try:
        process = subprocess.Popen(
            [str(check)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    with process, _Tail(process) as tail:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"gave no answer in {timeout} s"
        finally:
            _end_session(process)
    return _problem(status, tail.last_line())


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
        with contextlib.suppress(ValueError):  # closed meanwhile: a daemon goes on, nobody listens any more
            while self._stream and (block := os.read(self._stream.fileno(), _PIPE_BYTES)):
                self._kept = (self._kept + block)[-KEPT_BYTES:]

    def last_line(self) -> str:
        """Return the last line that was printed."""
        return self._kept.decode(errors="replace").strip().rpartition("\n")[2]


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the check and whatever it left behind in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _problem(status: int, said: str) -> str:
    """Put an exit status into words."""
    if status == 0:
        return ""
    how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    return f"{how}: {said}" if said else how
