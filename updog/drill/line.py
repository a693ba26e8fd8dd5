"""A machine in QEMU and the root shell in it, over any number of starts.

It knows a start by what the boot stage says on the console, an answer by the shell on the second serial port,
and the end of a judgement by systemd and `updog status`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updog.drill.qemu import Emulator
from updog.drill.shell import GoneError, Shell
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from updog.drill.qemu import Hardware

log = logging.getLogger(__name__)

TIMERS = "updog-check.timer updog-update.timer updog-check.service updog-update.service"
"""Are stopped at every start: the drill says when the node updates."""

TAKING = re.compile(r"taking slot [AB]\b")
"""What the boot stage says on the console when it starts a slot."""

NOTHING_LEFT = "no slot can boot"
"""What it says when there is none."""

START_SECONDS = 600  # a start takes 25 on two quiet cores
JUDGE_SECONDS = 900
ANSWER_SECONDS = 180


class Line:
    """An emulator and the shell in it, over any number of starts.

    Attributes:
        emulator: the machine.
        boots: how often a slot was taken when it was last looked.
    """

    def __init__(self, hardware: Hardware, disk: Path, console: Path) -> None:
        self._sockets = Path(tempfile.mkdtemp(prefix="drill-"))  # a socket's path has to be short
        self.emulator = Emulator(hardware, [disk], console, self._sockets / "shell")
        self.boots = 0
        self._shell: Shell | None = None

    def switch_on(self, state: Path | None = None) -> None:
        """Start it."""
        self._drop_shell()
        self.boots = self.boots_now()
        self.emulator.switch_on(state)
        self._shell = Shell(self.emulator.shell, self.is_gone)

    def switch_off(self) -> None:
        """Cut the power."""
        self._drop_shell()
        self.emulator.switch_off()

    def close(self) -> None:
        """Switch off and remove the sockets."""
        self.switch_off()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def boots_now(self) -> int:
        """Count how often a slot was taken, on the console."""
        return len(TAKING.findall(self.emulator.said())) if self.emulator.console.exists() else 0

    def is_gone(self) -> bool:
        """Whether the system that was spoken to restarted."""
        return self.boots_now() != self.boots or not self.emulator.is_on

    @property
    def shell(self) -> Shell:
        """The shell. Raises GoneError while the machine is off."""
        if self._shell is None:
            raise GoneError("the machine is off")
        return self._shell

    def run(self, command: str, seconds: float) -> tuple[int, str]:
        """Run a command on the node."""
        return self.shell.run(command, seconds)

    def wait_until_up(self, seconds: float) -> bool:
        """Wait until a system answers; False when the boot stage has nothing left to start.

        Every slot that is taken has `seconds` to answer. Raises DrillFailedError.
        """
        before = len(self.emulator.said())
        deadline = time.monotonic() + seconds
        while True:
            if self.boots_now() != self.boots:
                self.boots, deadline = self.boots_now(), time.monotonic() + seconds
                before = len(self.emulator.said())
            if NOTHING_LEFT in self.emulator.said()[before:]:
                return False
            with suppress(GoneError):
                if self.shell.answers() and not self.is_gone():
                    self.run(f"systemctl stop {TIMERS}", ANSWER_SECONDS)
                    return True
            if time.monotonic() > deadline or not self.emulator.is_on:
                lines = self.emulator.last_lines()
                raise DrillFailedError(f"no system answered in {seconds:.0f} s; the console ends:\n{lines}")

    def _drop_shell(self) -> None:
        if self._shell is not None:
            self._shell.__exit__()
            self._shell = None


def wait_until_judged(line: Line) -> Mapping[str, Any] | None:
    """Wait until the running system is confirmed, through as many restarts as it takes.

    Returns its `updog status`, or None when nothing is left to start. Raises DrillFailedError.
    """
    deadline = time.monotonic() + JUDGE_SECONDS
    while time.monotonic() < deadline:
        try:
            # Asked first: it costs a tenth of our status, and nothing is confirmed while a job is left.
            _, jobs = line.run("systemctl list-jobs --no-legend", ANSWER_SECONDS)
            if not jobs.strip() and (status := status_of(line))["running"]["confirmed"]:
                return status
        except GoneError:
            if not line.wait_until_up(START_SECONDS):
                return None
        except DrillFailedError:
            log.info("no status from the node; it may be on its way down")
        time.sleep(0.5)
    raise DrillFailedError(f"the boot was neither confirmed nor left in {JUDGE_SECONDS} s")


def status_of(line: Line) -> Mapping[str, Any]:
    """Return the document of `updog status --json`. Raises DrillFailedError."""
    status, text = line.run("updog status --json", ANSWER_SECONDS)
    try:
        document: Mapping[str, Any] = json.loads(text[text.index("{") :])
    except ValueError as error:
        raise DrillFailedError(f"`updog status` ended in status {status} and said {text!r}") from error
    return document
