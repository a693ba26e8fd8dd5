"""A machine in QEMU that runs the releases themselves: its kernel decides, fails and falls back.

What it asks of an image: `updog` and `signpost` on PATH, a unit that runs `updog confirm` at every start
(:data:`CONFIRM_UNIT`), and a root shell on the second serial port of machines whose chassis asset tag is
:data:`~updog.drill.qemu.ASSET_TAG`. docs/how-to/drill.md has the unit for that.

Rules it enforces:

* the node updates itself over the emulator's network, from :mod:`updog.drill.gate`; only the URLs and the
  number of tries differ from its own configuration;
* drills begin from one prepared state (:mod:`updog.drill.prepared`), the first release up and confirmed, and
  go on from another where several begin with the same command; a machine that restarts or loses power starts
  as any other.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from signpost.errors import DiskBusyError, ExitStatus
from updog.drill import sparse
from updog.drill.gate import Gate
from updog.drill.line import ANSWER_SECONDS, START_SECONDS, Line, status_of, wait_until_judged
from updog.drill.machine import Command
from updog.drill.prepared import Prepared
from updog.drill.script import Moment, Until
from updog.drill.shell import GoneError
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from pathlib import Path

    from updog.drill.machine import Order, Supply
    from updog.drill.prepared import Emulation
    from updog.drill.script import Drill

CONFIRM_UNIT = "updog-confirm.service"
ORDER_SECONDS = 900
_HELD_ANSWERS = (2, 3, 4)
"""Which answer is held: the first has the manifest, and any update takes three files more."""

_HOST = "10.0.2.2"  # where QEMU's user network shows the host
_OWN_CONFIG = "/etc/updog.toml"
_CONFIG = "/run/updog-drill.toml"
_CONFIGURE = (
    "grep -vE '^(metadata_base_url|targets_base_url|tries|https_proxy) *=' {own} >{new}; "
    'printf \'metadata_base_url = "{url}/metadata/"\\ntargets_base_url = "{url}/targets/"\\n'
    "tries = {tries}\\n' >>{new}"
)
_WORDS = {
    Command.UPDATE: "updog --config {config} update --now --image {version} --json",
    Command.INSTALL: "updog --config {config} update-image --now --image {version} --json",
    Command.APPLY: "updog update-apply",
    Command.REVERT: "updog update-revert",
    Command.ROLLBACK: "signpost rollback-to-inactive",
    Command.CONFIRM: "systemctl start {unit}",
}


class EmulatedMachine:
    """A node in QEMU, in the prepared state, switched off.

    Args:
        folder: is created.
        supply: what it is made of.
        drill: says how many tries a release gets.
        emulation: what it shares with the other machines.
        dice: when cuts happen.
    """

    def __init__(
        self, folder: Path, supply: Supply, drill: Drill, emulation: Emulation, dice: random.Random
    ) -> None:
        first = emulation.first(supply.disk)
        folder.mkdir(parents=True)
        self.disk = folder / "disk.img"
        self.console = folder / "console.log"
        self._supply, self._drill, self._emulation, self._dice = supply, drill, emulation, dice
        sparse.copy(first.disk, self.disk)
        self._line = Line(emulation.hardware, self.disk, self.console)
        self._gate = Gate(supply.metadata_url, supply.targets_url)
        self._gate.__enter__()
        self._first: Prepared | None = first  # until it goes on from there
        self._opening = drill.opening if drill.opening in emulation.shared else None  # until it is done
        self._is_up = False
        self._status: Mapping[str, Any] | None = None  # of a node to which nothing was done since

    @property
    def boots(self) -> int:
        """How many times a slot was taken so far."""
        return self._line.boots_now()

    @property
    def is_on(self) -> bool:
        """Whether a system is up."""
        return self._is_up

    def start(self, until: Until) -> bool:
        """Switch on; the first time, go on from the prepared state."""
        first, self._first = self._first, None
        if first is not None:
            return self._go_on(first)
        self._status = None
        self._line.switch_on()
        return self._come_up(until)

    def restart(self, until: Until) -> bool:
        """Restart as `systemctl reboot` does, or switch on."""
        if not self._is_up:
            return self.start(until)
        self._status = None
        with suppress(GoneError):
            self._line.run("systemctl reboot", ANSWER_SECONDS)
        self._line.emulator.wait_for(self._line.is_gone, START_SECONDS, "the node did not restart")
        return self._come_up(until)

    def _go_on(self, state: Prepared) -> bool:
        """Go on from a prepared state, whose disk is ours already."""
        self._line.switch_on(state.memory)
        self._is_up = self._line.wait_until_up(START_SECONDS)
        self._status = state.status
        return self._is_up

    def _come_up(self, until: Until) -> bool:
        """Wait until a system answers; what is only to be up has its confirm held back for `judge`."""
        self._is_up = self._line.wait_until_up(START_SECONDS)
        if self._is_up and until is Until.JUDGED:
            return self.judge()
        if self._is_up:
            self._line.run(f"systemctl stop {CONFIRM_UNIT}", ANSWER_SECONDS)
        return self._is_up

    def cut(self) -> None:
        """Cut the power."""
        self._is_up, self._status = False, None
        self._line.switch_off()
        self._gate.release()

    def judge(self) -> bool:
        """Wait until the running system is confirmed or was left."""
        with suppress(GoneError):
            self._line.run(f"systemctl start --no-block {CONFIRM_UNIT}", ANSWER_SECONDS)
        self._status = wait_until_judged(self._line)
        self._is_up = self._status is not None
        return self._is_up

    def status(self) -> Mapping[str, Any]:
        """Return the document of `updog status --json`."""
        if self._status is None:
            self._status = status_of(self._line)
        return self._status

    def close(self) -> None:
        """Switch off."""
        self.cut()
        self._line.close()
        self._gate.__exit__()

    def order(self, order: Order) -> int | None:
        """Carry an order out, or go on from where it was: what drills begin with alike is done once."""
        opening, self._opening = self._opening, None
        if order.stop is not None:
            self._interrupt(order)
            return None
        if opening is None:
            return self._carry_out(order)
        state = self._emulation.after(opening, partial(self._opened, order))
        self._line.switch_off()
        sparse.copy(state.disk, self.disk)
        self._go_on(state)
        return state.answer

    def _opened(self, order: Order, folder: Path) -> Prepared:
        """Carry out what the drill begins with, and stop there."""
        answer = self._carry_out(order)
        return Prepared.of(self._line, self.disk, folder, status=self.status(), answer=answer)

    def _carry_out(self, order: Order) -> int:
        """Run a command to its end, and remember how long it took."""
        words = self._configured(order)
        began = time.monotonic()
        status = self._when_free(words)
        self._emulation.seconds[order.command] = time.monotonic() - began
        return status

    def _interrupt(self, order: Order) -> None:
        """Run a command; stop it half way by a held answer, by what it says, or after a random time."""
        words = self._configured(order)
        if order.kill:
            self._kill(order, words)
        else:
            self._run_until(order, words)
            self.cut()

    def _when_free(self, words: str) -> int:
        """Run a command; wait for an updog that a timer started, which no drill has asked for."""
        deadline = time.monotonic() + ORDER_SECONDS
        while True:
            status, said = self._line.run(words, ORDER_SECONDS)
            if status != ExitStatus.BUSY or DiskBusyError.code in said or time.monotonic() > deadline:
                return status
            time.sleep(1)

    def _configured(self, order: Order) -> str:
        """Write this start's configuration, the node's own with our URLs and tries; return the command."""
        self._status = None
        url = f"http://{_HOST}:{self._gate.port}"
        command = _CONFIGURE.format(own=_OWN_CONFIG, new=_CONFIG, url=url, tries=self._drill.tries)
        self._line.run(f"{command}; systemctl start network-online.target", ANSWER_SECONDS)
        return _WORDS[order.command].format(config=_CONFIG, version=order.version, unit=CONFIRM_UNIT)

    def _kill(self, order: Order, words: str) -> None:
        """Kill the process at a random moment; the machine stays on."""
        moment = self._moment(order)
        if order.command is Command.CONFIRM:
            self._line.run(f"systemctl start --no-block {CONFIRM_UNIT}", ANSWER_SECONDS)
            time.sleep(moment)
            self._line.run(f"systemctl kill --signal=KILL {CONFIRM_UNIT}", ANSWER_SECONDS)
        else:
            self._line.run(f"timeout -s KILL {moment:.2f} {words}", ORDER_SECONDS)

    def _run_until(self, order: Order, words: str) -> None:
        """Start a command and return at the moment at which power is to be cut. Raises DrillFailedError."""
        if order.stop is Moment.DOWNLOAD:
            self._gate.hold(self._dice.choice(_HELD_ANSWERS), self._dice.random())
        share = self._dice.random()
        deadline = time.monotonic() + (
            self._moment(order) if order.stop is Moment.ANYWHERE else float(ORDER_SECONDS)
        )
        end = self._line.shell.begin(words)
        while time.monotonic() < deadline:
            status, said = self._line.shell.poll(end)
            if order.stop is Moment.WRITE and written(said) >= share:
                return
            if order.stop is Moment.DOWNLOAD and self._gate.reached.is_set():
                return
            if status is not None and order.stop is Moment.ANYWHERE:
                return
            if status is not None:
                message = f"{words} ended in status {status} before its power was cut: {said[-300:]}"
                raise DrillFailedError(message)
        if order.stop is not Moment.ANYWHERE:
            raise DrillFailedError(f"{words} did not come to its moment of {order.stop}")

    def _moment(self, order: Order) -> float:
        """Return seconds into a command: anywhere in its usual time."""
        return self._dice.uniform(0.0, self._emulation.seconds[order.command])


def written(said: str) -> float:
    """Return how much of ROOT was written, 0.0 to 1.0, by the events of `update --json`; -1 before. PURE."""
    share = -1.0
    for line in said.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last line may be half a line
        if isinstance(event, dict) and event.get("phase") == "write root":
            share = event["done"] / max(1, event["total"])
    return share
