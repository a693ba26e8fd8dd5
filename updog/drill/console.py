"""A machine in QEMU and the root shell in it, over any number of starts.

It knows a start by what the boot stage says on the console, an answer by the shell on the second serial port,
and whether a boot is confirmed by `updog status`. What the console says of a confirmed boot is a reason to
ask, and part of the error if the answers never agree with it; it is never the answer.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updog.drill.patience import Patience
from updog.drill.qemu import Emulator
from updog.drill.shell import GoneError, Shell
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from updog.drill.qemu import Hardware

UPDATERS = (
    "updog-agent.socket updog-bottlerocket.socket updog-check.timer updog-update.timer "
    "updog-check.service updog-update.service updog-agent.service"
)
"""Stopped at every start: the drill decides when the node updates."""

TAKING = re.compile(r"taking slot [AB]\b")
"""What the boot stage says on the console when it starts a slot."""

NOTHING_LEFT = re.compile(r"no slot can (?:boot|be started)\b")
"""What it prints when there is no slot to start, or none that could be."""

CONFIRMED = "This boot is confirmed."
"""What `updog confirm` says, where its output goes to the console."""

START_SECONDS = 600  # without a line on the console; a start takes 25 on two quiet cores
JUDGE_SECONDS = (
    900  # without anything new; has to be longer than a node's health_deadline and stability_window
)
ANSWER_SECONDS = 180

_LOOK_SECONDS = 0.5
_ANSWERS_SHOWN = 3
_STARTS = re.compile(f"{TAKING.pattern}|{NOTHING_LEFT.pattern}")


class NodeConsole:
    """An emulator and the shell in it, over any number of starts.

    Args:
        hardware: of the machine. disk: its disk image. log: for its console.
        stopped: units that are stopped at every start.

    Attributes:
        emulator: the machine.
    """

    def __init__(self, hardware: Hardware, disk: Path, log: Path, *, stopped: str = UPDATERS) -> None:
        self._stopped = stopped
        self._sockets = Path(tempfile.mkdtemp(prefix="drill-"))  # a socket's path has to be short
        self.emulator = Emulator(hardware, [disk], log, self._sockets / "shell")
        self._starts = 0  # lines of the boot stage on the console when a system was last waited for
        self._shell: Shell | None = None

    def switch_on(self, state: Path | None = None) -> None:
        """Start it, from a saved state if one is given. Raises DrillFailedError."""
        self.switch_off()
        self._starts = len(self._start_lines())
        self.emulator.switch_on(state)
        self._shell = Shell(self.emulator.shell, self.is_gone)

    def switch_off(self) -> None:
        """Cut the power."""
        if self._shell is not None:
            self._shell.__exit__()
            self._shell = None
        self.emulator.switch_off()

    def close(self) -> None:
        """Switch off and remove the sockets."""
        self.switch_off()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def boots(self) -> int:
        """Count how often a slot was taken, on the console."""
        return len(TAKING.findall(self.emulator.said()))

    def is_gone(self) -> bool:
        """Tell whether the system that was last waited for has restarted, or is off."""
        return not self.emulator.is_on or len(self._start_lines()) != self._starts

    def says_confirmed(self) -> bool:
        """Tell whether the console says that this boot is confirmed; not every image shows that there."""
        said = self.emulator.said()
        starts = [match.end() for match in _STARTS.finditer(said)]
        return CONFIRMED in said[starts[-1] if starts else 0 :]

    @property
    def shell(self) -> Shell:
        """The shell. Raises GoneError while the machine is off."""
        if self._shell is None:
            raise GoneError("the machine is off")
        return self._shell

    def run(self, command: str, silence: float) -> tuple[int, str]:
        """Run a command as :meth:`~updog.drill.shell.Shell.run` does; errors show the end of the console."""
        return self._explained(lambda: self.shell.run(command, silence))

    def ask(self, command: str) -> tuple[int, str]:
        """Run a command that may run twice, as :meth:`~updog.drill.shell.Shell.ask` does; likewise."""
        return self._explained(lambda: self.shell.ask(command, ANSWER_SECONDS))

    def _explained(self, get: Callable[[], tuple[int, str]]) -> tuple[int, str]:
        try:
            return get()
        except GoneError:
            raise
        except DrillFailedError as error:
            raise DrillFailedError(self.emulator.with_last_lines(error.message)) from error

    def wait_until_up(self, silence: float = START_SECONDS) -> bool:
        """Wait until a system answers; False when the boot stage has no slot left to start.

        Raises DrillFailedError after a silence: so many seconds without a line on the console.
        """
        self.shell.forget()
        patience = Patience(silence=silence)
        while not patience.is_over() and self.emulator.is_on:
            starts = self._start_lines()
            if len(starts) != self._starts:
                self._starts = len(starts)
                self.shell.forget()
                if NOTHING_LEFT.fullmatch(starts[-1]):
                    return False
            try:
                if self.shell.greet() and not self.is_gone():
                    if self._stopped:
                        self.ask(f"systemctl stop {self._stopped}")
                    return True
            except GoneError:
                self.shell.forget()
            patience.watch(self.emulator.progress())
        how = f"in {patience.seconds:.0f} s" if self.emulator.is_on else "before QEMU ended"
        raise DrillFailedError(self.emulator.with_last_lines(f"no system answered {how}"))

    def _start_lines(self) -> list[str]:
        """Return the line of the boot stage for each start: it takes a slot, or none is left."""
        return _STARTS.findall(self.emulator.said())


def wait_until_judged(console: NodeConsole, silence: float = JUDGE_SECONDS) -> Mapping[str, Any] | None:
    """Wait until the running system is confirmed and has nothing left to do, through any number of restarts.

    Returns its `updog status`, or None when nothing is left to start. Raises DrillFailedError after a
    silence: so many seconds without a new answer or a line on the console. It says what was answered last.
    """
    patience = Patience(silence=silence)
    answers: deque[str] = deque(maxlen=_ANSWERS_SHOWN)
    while not patience.is_over():
        try:
            jobs = _jobs(console)
            # A status costs ten times as much, and a boot is not confirmed while its job is left.
            status = status_of(console) if not jobs or console.says_confirmed() else None
            if not jobs and status and status["running"]["confirmed"]:
                return status
            answer = f"jobs that have not ended: {', '.join(sorted(jobs))}" if jobs else "no job is left"
            if status is not None:
                answer = f"{'' if status['running']['confirmed'] else 'not '}confirmed, {answer}"
        except GoneError as error:
            answer = error.message
            if not console.wait_until_up():
                return None
        except DrillFailedError as error:
            answer = error.message  # the node may be shutting down
        if answer not in answers:
            answers.append(answer)
        patience.watch((console.emulator.progress(), answer))
        time.sleep(_LOOK_SECONDS)
    said = ", though its console says that it is confirmed" if console.says_confirmed() else ""
    message = (
        f"the boot was neither confirmed nor left in {patience.seconds:.0f} s{said}; asked for its jobs and "
        f"`updog status`, the last answers were: {'; '.join(answers) or 'none'}"
    )
    raise DrillFailedError(console.emulator.with_last_lines(message))


def _jobs(console: NodeConsole) -> list[str]:
    """Return the jobs that systemd has left: unit, kind, state. Raises DrillFailedError, GoneError."""
    status, text = console.ask("systemctl list-jobs --no-legend --no-pager --plain")
    if status:
        raise DrillFailedError(f"`systemctl list-jobs` ended in status {status} and said {text.strip()!r}")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.strip()]


def status_of(console: NodeConsole) -> Mapping[str, Any]:
    """Return the document of `updog status --json`. Raises DrillFailedError, GoneError."""
    status, text = console.ask("updog status --json")
    try:
        document: Mapping[str, Any] = json.loads(text[text.index("{") :])
        document["running"]["confirmed"]
    except (ValueError, KeyError) as error:
        raise DrillFailedError(f"`updog status` ended in status {status} and said {text!r}") from error
    return document
