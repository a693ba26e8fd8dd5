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
    from collections.abc import Callable, Mapping, Sequence

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

_POD_PLACE = "/run/pod"
_POD = """\
# unshare --mount sh pod GROUPS SOCKET REQUEST: ask the API as a program in a container does: not as root, and
# where only programs and the mounted sockets are.
set -eu
mount -t tmpfs pod /tmp
cd /tmp
mkdir -p usr run/updog
touch run/api.sock
cp -P /bin /lib /lib64 .
mount -o bind,ro /usr usr
mount -o bind,ro /run/updog run/updog
test ! -e /run/api.sock || mount --bind /run/api.sock run/api.sock
exec chroot --userspec=1000:1000 --groups="$1" . python3.11 -ISc '
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(f"{sys.argv[2]} HTTP/1.0\\r\\n\\r\\n".encode())
    answer = b"".join(iter(lambda: client.recv(4096), b""))
head, _, body = answer.partition(b"\\r\\n\\r\\n")
print(head.split()[1].decode(), body.decode())
' "$2" "$3"
"""


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

    def asks(
        self, request: str, *, socket: str = "/run/updog/api.sock", groups: Sequence[int] = ()
    ) -> tuple[int, Any]:
        """Ask the agent's API out of a container, as a user of some groups; return status and document."""
        self.writes(_POD_PLACE, _POD)
        members = ",".join(map(str, groups))
        printed = self.types(f"unshare --mount sh {_POD_PLACE} '{members}' {socket} '{request}'")
        status, _, document = printed.partition(" ")
        return int(status), json.loads(document)

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
