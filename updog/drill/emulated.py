"""A machine in QEMU that runs the releases themselves: their own kernels and services fail and fall back.

An image needs: `updog` and `signpost` on PATH, a unit that runs `updog confirm` at every start
(:data:`CONFIRM_UNIT`), and a root shell on the second serial port of machines whose chassis asset tag is
:data:`~updog.drill.qemu.ASSET_TAG`. docs/how-to/drill.md has the unit for that.

Rules it enforces:

* the node updates itself over QEMU's network, from :mod:`updog.drill.proxy`; only the URLs and the number of
  tries differ from its own configuration;
* drills begin with one snapshot (:mod:`updog.drill.snapshots`), the first release up and confirmed, and go on
  from another where several begin with the same command; a machine that restarts or loses power starts as
  any other.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from signpost.errors import DiskBusyError, ExitStatus
from updog.drill import sparse
from updog.drill.console import START_SECONDS, NodeConsole, status_of, wait_until_judged
from updog.drill.drill_file import Moment, Until
from updog.drill.machine import NodeCommand
from updog.drill.patience import Patience
from updog.drill.proxy import Proxy
from updog.drill.shell import GoneError
from updog.drill.snapshots import Snapshot
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from pathlib import Path

    from updog.drill.drill_file import Drill
    from updog.drill.machine import DrillReleases, Order
    from updog.drill.snapshots import Emulation

CONFIRM_UNIT = "updog-confirm.service"
ORDER_SECONDS = 900  # without a byte of output; an update takes 25 on two quiet cores
_HELD_RESPONSES = (2, 3, 4)
"""Which response is held: the first is the manifest, and every update takes three more files."""

_HOST = "10.0.2.2"  # where QEMU's user network shows the host
_OWN_CONFIG = "/etc/updog.toml"
_CONFIG = "/run/updog-drill.toml"
_COMMANDS = {
    NodeCommand.UPDATE: "updog --config {config} update --now --image {version} --json",
    NodeCommand.INSTALL: "updog --config {config} update-image --now --image {version} --json",
    NodeCommand.APPLY: "updog update-apply",
    NodeCommand.REVERT: "updog update-revert",
    NodeCommand.ROLLBACK: "signpost rollback-to-inactive",
    NodeCommand.CONFIRM: "systemctl start {unit}",
}


class EmulatedMachine:
    """A node in QEMU, in the first snapshot, switched off.

    Args:
        folder: is created.
        releases: its disk, and the repository it updates from.
        drill: gives the number of tries of a release.
        emulation: what it shares with the other machines.
        dice: chooses when cuts happen.
    """

    def __init__(
        self, folder: Path, releases: DrillReleases, drill: Drill, emulation: Emulation, dice: random.Random
    ) -> None:
        first = emulation.first(releases.disk)
        folder.mkdir(parents=True)
        self.disk = folder / "disk.img"
        self.log = folder / "console.log"
        self._drill, self._emulation, self._dice = drill, emulation, dice
        sparse.copy(first.disk, self.disk)
        self._console = NodeConsole(emulation.hardware, self.disk, self.log)
        self._proxy = Proxy(releases.metadata_url, releases.targets_url)
        self._proxy.__enter__()
        self._first: Snapshot | None = first  # until it was resumed
        self._opening = drill.opening if drill.opening in emulation.shared else None  # until it was done
        self._is_up = False
        self._status: Mapping[str, Any] | None = None  # None once anything was done to the node

    @property
    def boots(self) -> int:
        """How many times a slot was taken so far."""
        return self._console.boots()

    @property
    def is_on(self) -> bool:
        """Whether a system is up."""
        return self._is_up

    def start(self, until: Until) -> bool:
        """Switch on; the first time, resume the first snapshot."""
        first, self._first = self._first, None
        if first is not None:
            return self._resume(first)
        self._status = None
        self._console.switch_on()
        return self._come_up(until)

    def restart(self, until: Until) -> bool:
        """Restart as `systemctl reboot` does, or switch on."""
        if not self._is_up:
            return self.start(until)
        self._status = None
        answer = self._reboot()
        self._console.emulator.wait_for(
            self._console.is_gone,
            START_SECONDS,
            f"the node did not restart after `systemctl reboot` ({answer})",
        )
        return self._come_up(until)

    def _reboot(self) -> str:
        """Order a restart; return what the node answered. No answer may be that of a node that goes down."""
        try:
            status, said = self._console.ask("systemctl reboot")
        except DrillFailedError as error:
            return error.message
        return f"status {status} {said.strip()}".strip()

    def _resume(self, snapshot: Snapshot) -> bool:
        """Go on from a snapshot; its disk was copied already."""
        self._console.switch_on(snapshot.memory)
        self._is_up = self._console.wait_until_up()
        self._status = snapshot.status
        return self._is_up

    def _come_up(self, until: Until) -> bool:
        """Wait until a system answers; then until it is judged, or stop its confirm until :meth:`judge`."""
        self._is_up = self._console.wait_until_up()
        if self._is_up and until is Until.JUDGED:
            return self.judge()
        if self._is_up:
            self._console.ask(f"systemctl stop {CONFIRM_UNIT}")
        return self._is_up

    def cut(self) -> None:
        """Cut the power."""
        self._is_up, self._status = False, None
        self._console.switch_off()
        self._proxy.release()

    def judge(self) -> bool:
        """Wait until the running system is confirmed or was left."""
        with suppress(GoneError):
            self._console.ask(f"systemctl start --no-block {CONFIRM_UNIT}")
        self._status = wait_until_judged(self._console)
        self._is_up = self._status is not None
        return self._is_up

    def status(self) -> Mapping[str, Any]:
        """Return the document of `updog status --json`."""
        if self._status is None:
            self._status = status_of(self._console)
        return self._status

    def close(self) -> None:
        """Switch off."""
        self.cut()
        self._console.close()
        self._proxy.__exit__()

    def order(self, order: Order) -> int | None:
        """Carry out an order; the first one of several drills is done once, and its snapshot resumed."""
        opening, self._opening = self._opening, None
        if order.stop is not None:
            command = self._configure(order)
            if order.kill:
                self._run_and_kill(order, command)
            else:
                self._run_until(order, order.stop, command)
                self.cut()
            return None
        if opening is None:
            return self._carry_out(order)
        snapshot = self._emulation.after(opening, partial(self._carry_out_and_save, order))
        self._console.switch_off()
        sparse.copy(snapshot.disk, self.disk)
        self._resume(snapshot)
        return snapshot.exit_status

    def _carry_out_and_save(self, order: Order, folder: Path) -> Snapshot:
        status = self._carry_out(order)
        return Snapshot.take(self._console, self.disk, folder, status=self.status(), exit_status=status)

    def _carry_out(self, order: Order) -> int:
        """Run a command to its end, and measure how long it takes.

        An updog that a timer started is waited for: no drill has asked for it.
        """
        command = self._configure(order)
        began, patience = time.monotonic(), Patience(silence=ORDER_SECONDS)
        while True:
            status, said = self._console.run(command, ORDER_SECONDS)
            if status != ExitStatus.BUSY or DiskBusyError.code in said or patience.is_over():
                self._emulation.seconds[order.command] = time.monotonic() - began
                return status
            time.sleep(1)

    def _configure(self, order: Order) -> str:
        """Write this boot's configuration, the node's own with our URLs and tries; return the command."""
        self._status = None
        url = f"http://{_HOST}:{self._proxy.port}"
        self._console.ask(f"{configure(url, self._drill.tries)}; systemctl start network-online.target")
        return _COMMANDS[order.command].format(config=_CONFIG, version=order.version, unit=CONFIRM_UNIT)

    def _run_and_kill(self, order: Order, command: str) -> None:
        """Run a command, and kill its process at a random moment; the machine stays on."""
        moment = self._random_moment(order)
        if order.command is NodeCommand.CONFIRM:
            self._console.ask(f"systemctl start --no-block {CONFIRM_UNIT}")
            time.sleep(moment)
            self._console.ask(f"systemctl kill --signal=KILL {CONFIRM_UNIT}")
        else:
            self._console.run(f"timeout -s KILL {moment:.2f} {command}", ORDER_SECONDS)

    def _run_until(self, order: Order, stop: Moment, command: str) -> None:
        """Start a command, and return at the moment at which power is to be cut. Raises DrillFailedError."""
        if stop is Moment.DOWNLOAD:
            self._proxy.hold(self._dice.choice(_HELD_RESPONSES), self._dice.random())
        share, seconds = self._dice.random(), self._random_moment(order)
        patience = Patience(silence=ORDER_SECONDS)
        question = self._console.shell.begin(command)
        while not patience.is_over():
            status, said = self._console.shell.poll(question)
            if stop is Moment.WRITE and written(said) >= share:
                return
            if stop is Moment.DOWNLOAD and self._proxy.reached.is_set():
                return
            if stop is Moment.ANYWHERE and (status is not None or patience.seconds > seconds):
                return
            if status is not None:
                message = f"{command} ended in status {status} before its power was cut: {said[-300:]}"
                raise DrillFailedError(message)
            patience.watch(len(said))
        message = f"`{command}` did not reach the moment of {stop} in {patience.seconds:.0f} s"
        raise DrillFailedError(self._console.emulator.with_last_lines(message))

    def _random_moment(self, order: Order) -> float:
        """Return a random number of seconds within the usual time of a command."""
        return self._dice.uniform(0.0, self._emulation.seconds[order.command])


def configure(url: str, tries: int, *, own: str = _OWN_CONFIG, new: str = _CONFIG) -> str:
    """Return the command that writes the node's own configuration with our URLs and tries. PURE.

    Ours come first: at the end of the file they would belong to its last table, such as ``[auto]``.
    """
    ours = f'metadata_base_url = "{url}/metadata/"\\ntargets_base_url = "{url}/targets/"\\ntries = {tries}\\n'
    others = "grep -vE '^(metadata_base_url|targets_base_url|tries|https_proxy) *='"
    return f"printf '{ours}' >{new}; {others} {own} >>{new}"


def written(said: str) -> float:
    """Return how much of ROOT is written, 0.0 to 1.0, by the events of `update --json`; -1.0 before. PURE."""
    share = -1.0
    for line in said.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last line may be incomplete
        if isinstance(event, dict) and event.get("phase") == "write root":
            share = event["done"] / max(1, event["total"])
    return share
