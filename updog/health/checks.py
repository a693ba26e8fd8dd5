"""The node's own health checks: executables in ``required/`` and ``wanted/`` (greenboot's convention).

Rules it enforces:

* all checks are run, in the order of their names; a required check that fails, is killed by a signal, cannot
  be run or exceeds its time makes the boot unhealthy; a wanted check only causes a warning (D38, D39);
* a check that cannot be run is reported, whatever the reason: a file that is not executable, a link to
  nothing, a device, a folder of checks that cannot be read;
* what an editor or a package manager leaves behind (:func:`is_leftover`), a folder and a file named README
  are not checks, which is reported as a warning; hidden files are ignored;
* a check runs in its own session, and the whole session is killed at its timeout, so that a child process
  cannot keep the node waiting; a process that not even SIGKILL ends (it hangs inside the kernel) is left
  behind after :data:`_KILL_SECONDS`;
* all checks together have a time limit too, measured by the monotonic clock (D42); a check that was not run
  by then has not passed;
* only the last :data:`KEPT_BYTES` of a check's output are kept, and control characters are escaped: the
  last line is shown on terminals and in the login message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.text import line
from updog.child_process import signals_held_back

if TYPE_CHECKING:
    from pathlib import Path

KEPT_BYTES = 2000  # enough for the cause in `status` and for one screen; this is not a log
_PIPE_BYTES = 1 << 16
_KILL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """The result of one check: its name, whether it is required, and why it failed (empty: it passed)."""

    check: str
    required: bool
    problem: str

    @property
    def fatal(self) -> bool:
        """Whether this result makes the boot unhealthy."""
        return self.required and bool(self.problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeBudget:
    """The time for checks: ``each`` at most so many seconds, all until ``end`` of the monotonic clock."""

    each: float
    end: float

    def next_timeout(self) -> float:
        """Return the seconds that the next check may take; at 0 or less the time has expired."""
        return min(self.each, self.end - time.monotonic())


_IS_A_FOLDER = "is a folder"
OUT_OF_TIME = "was not run: the time limit for all health checks was reached"


_LEFTOVER_SUFFIXES = frozenset(
    [
        "bak",
        "old",
        "orig",
        "save",
        "swp",
        "swo",
        "tmp",
        "new",
        "rej",
        "disabled",
        "rpmnew",
        "rpmsave",
        "rpmorig",
        "dpkg-old",
        "dpkg-new",
        "dpkg-tmp",
        "dpkg-dist",
        "dpkg-bak",
        "dpkg-backup",
        "dpkg-remove",
        "ucf-old",
        "ucf-new",
        "ucf-dist",
        "pacnew",
        "pacsave",
        "pacorig",
        "apk-new",
    ]
)
"""What editors and package managers append to the names of copies: systemd's list, and a few more."""


def is_leftover(name: str) -> bool:
    """Return whether a file of this name is a copy that an editor or a package manager left behind."""
    return name.endswith("~") or name[:1] == "#" or name.rpartition(".")[2] in _LEFTOVER_SUFFIXES


def run_checks(folder: Path, budget: TimeBudget) -> tuple[CheckResult, ...]:
    """Run the executables in ``folder``/required, then those in ``folder``/wanted, within the time budget."""
    results: list[CheckResult] = []
    for kind in ("required", "wanted"):
        required = kind == "required"
        try:
            names = names_in(folder / kind)
        except OSError as error:
            problem = f"{folder / kind} cannot be read, so no check in it was run: {error.strerror}"
            results.append(CheckResult(check=kind, required=required, problem=problem))
            continue
        results += [_run_check(folder / kind / name, budget, required=required) for name in names]
    return tuple(results)


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder that are not hidden, sorted; none without the folder. Raises OSError."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - pathlib's glob is silent about errors
    except FileNotFoundError:
        if any(path.is_symlink() and not path.exists() for path in (folder.parent, folder)):
            raise  # a link to nothing: somebody wants checks
        return []
    return sorted(name for name in names if not name.startswith("."))


def _run_check(path: Path, budget: TimeBudget, *, required: bool) -> CheckResult:
    """Run one check, or report why it was not run."""
    result = run_file(path, budget.next_timeout())
    return CheckResult(check=line(path.name), required=required and result.is_meant, problem=result.problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramResult:
    """The result of a program: why it failed (empty: it did not) and the end of its output.

    ``is_meant`` is False for a file that was not run because it is not one of the programs of its folder.
    """

    problem: str
    output: str = ""
    is_meant: bool = True


def run_file(path: Path, timeout: float) -> ProgramResult:
    """Run a file of a folder of executables for at most ``timeout`` seconds, or report why it was not run."""
    if is_leftover(path.name):
        problem = "looks like the copy of an editor or a package manager, so it was not run"
        return ProgramResult(problem=problem, is_meant=False)
    if obstacle := _obstacle(path):
        is_meant = obstacle != _IS_A_FOLDER and not path.name.upper().startswith("README")
        return ProgramResult(problem=f"{obstacle}, so it was not run", is_meant=is_meant)
    return run_bounded([str(path)], timeout) if timeout > 0 else ProgramResult(problem=OUT_OF_TIME)


def _obstacle(path: Path) -> str:
    """Return why a file cannot be run; an empty text if nothing is known that prevents it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        return "is a link to a file that does not exist" if dangling else f"{error.strerror}"
    if not stat.S_ISREG(mode):
        return _IS_A_FOLDER if stat.S_ISDIR(mode) else "is not a regular file"
    return "" if os.access(path, os.X_OK) else "is not executable"


def run_bounded(command: list[str], timeout: float, *, kept: int = KEPT_BYTES) -> ProgramResult:
    """Run a program for at most ``timeout`` seconds, then kill all that is left of its session.

    The last ``kept`` bytes of its output are kept.
    """
    process = tail = None
    try:
        with signals_held_back():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        tail = _Tail(process, kept)
        status = process.wait(timeout)
    except OSError as error:
        return ProgramResult(problem=f"cannot be started: {error.strerror}")
    except RuntimeError as error:  # the limit of threads, or of memory
        return ProgramResult(problem=f"cannot be watched: {error}")
    except subprocess.TimeoutExpired:
        return ProgramResult(problem=f"did not finish in {round(timeout, 1):g} s")
    finally:
        if process is not None:
            _kill_session(process)
        if tail is not None:
            tail.join()
        elif process is not None and process.stdout is not None:
            process.stdout.close()
    output = tail.text()
    if status == 0:
        return ProgramResult(problem="", output=output)
    problem = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    if last_line := line(output.rpartition("\n")[2], KEPT_BYTES):
        problem += f": {last_line}"
    return ProgramResult(problem=problem, output=output)


class _Tail:
    """Reads all output of a check and keeps its end, so that a flood of output does no harm.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        self._limit = limit
        self._stream = process.stdout
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the output; not for long: a child in another session may keep the pipe open."""
        self._thread.join(_KILL_SECONDS)

    def _drain(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:  # closed only here: its number could otherwise be that of another file
            while block := os.read(stream.fileno(), _PIPE_BYTES):
                self._kept = (self._kept + block)[-self._limit :]

    def text(self) -> str:
        """Return the end of the output."""
        return self._kept.decode(errors="replace").strip()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the check and everything else in its session; wait at most :data:`_KILL_SECONDS` for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:  # it is collected when it ends
        with contextlib.suppress(RuntimeError):  # no thread can be started
            threading.Thread(target=process.wait, daemon=True).start()
