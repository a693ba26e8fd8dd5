"""A node in QEMU at which somebody types: what it prints, what its agent says, and its restarts."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from updog.drill.console import START_SECONDS, wait_until_judged
from updog.drill.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from updog.drill.console import NodeConsole

HOST = "10.0.2.2"
"""Where QEMU's user network shows the host, and with it what listens on loopback there."""

_LOOK_SECONDS = 0.5
_SILENCE_SECONDS = 300.0
_LOGIN = (
    "systemctl --quiet is-active console-login || "
    "systemd-run --quiet --unit=console-login -p TTYPath=/dev/ttyS0 -p StandardInput=tty-force "
    "-p StandardOutput=tty -p StandardError=tty -p SendSIGHUP=yes busybox login -f {user}"
)
"""As a getty does it: login(1) has the terminal, writes utmp and starts the user's shell."""


class Guest:
    """A node that is up.

    Args:
        console: its console; the agent must not be among the units that it stops.
    """

    def __init__(self, console: NodeConsole) -> None:
        self._console = console

    @property
    def shown(self) -> str:
        """Everything on the console so far."""
        return self._console.emulator.said()

    @property
    def boots(self) -> int:
        """How many times a slot was taken so far."""
        return self._console.boots()

    def types(self, command: str) -> str:
        """Type a command as root, and return what it prints; it has to succeed.

        It must be one that may be run twice: it is, if its answer got lost in the serial port.
        """
        status, printed = self._console.ask(command)
        assert status == 0, f"`{command}` ended in status {status}: {printed}"
        return printed

    def writes(self, path: str, text: str) -> None:
        """Replace a file."""
        content = base64.b64encode(text.encode()).decode()
        self.types(f"echo {content} | base64 -d >{path}")

    def logs_in(self, user: str) -> None:
        """Log a user in on the console, and wait until the system knows."""
        self.types(_LOGIN.format(user=user))
        self.eventually(lambda: user in self.types("busybox who"), f"{user} is logged in")

    @property
    def clock(self) -> datetime:
        """The node's time."""
        return datetime.fromtimestamp(float(self.types("date +%s.%N")), UTC)

    @property
    def agent(self) -> dict[str, Any]:
        """What the agent says of itself; empty if it has not said anything yet."""
        printed = self.types("cat /run/updog/agent.json || true")
        return json.loads(printed[printed.index("{") :]) if "{" in printed else {}

    def eventually(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is true; fail after a time in which nothing changed on console and agent."""
        patience = Patience(silence=_SILENCE_SECONDS)
        while not condition():
            agent = self.agent
            patience.watch((self._console.emulator.progress(), agent))
            if patience.is_over():
                message = f"not in {patience.seconds:.0f} s: {what}; the agent says {json.dumps(agent)}"
                raise AssertionError(self._console.emulator.with_last_lines(message))
            time.sleep(_LOOK_SECONDS)

    def restarts(self) -> Mapping[str, Any]:
        """Wait until it restarts by itself and a release is confirmed; return `updog status`."""
        emulator = self._console.emulator
        emulator.wait_for(self._console.is_gone, START_SECONDS, "the node did not restart by itself")
        assert self._console.wait_until_up(), emulator.with_last_lines("no slot is left to start")
        status = wait_until_judged(self._console)
        assert status is not None, emulator.with_last_lines("no slot is left to start")
        return status
