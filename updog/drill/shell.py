"""A root shell on a machine's serial port: run a command, read what it said, see it vanish with the machine.

Rules it enforces:

* a command's end is a line that cannot be in its echo or in what it prints: the shell takes a backslash out
  of it, and a part of it is new each time;
* what asks whether somebody is there has no quotes: half of it may wait in the port when a shell comes up,
  and must not open what nothing closes;
* a silence is told from a machine that is gone: both end the waiting, by different errors.
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_SECONDS = 0.1
_CONNECT_SECONDS = 30
_PROMPTLESS = "stty -echo -onlcr; PS1="


def _connected(path: Path) -> socket.socket:
    """Connect to a socket that is there and may not be listened to yet. Raises DrillFailedError."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
        except OSError as error:
            client.close()
            if time.monotonic() > deadline:
                raise DrillFailedError(f"no machine behind {path}: {error}") from error
            time.sleep(_LOOK_SECONDS)
        else:
            return client


class GoneError(DrillFailedError):
    """The machine restarted, or was switched off, while it was listened to."""


class Shell:
    """A connection to a shell.

    Args:
        path: Unix socket of the serial port.
        is_gone: tells that whoever is at the other end is no longer the one that was spoken to.
    """

    def __init__(self, path: Path, is_gone: Callable[[], bool]) -> None:
        self._is_gone = is_gone
        self._said = b""
        self._socket = _connected(path)
        self._socket.settimeout(_LOOK_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def answers(self, seconds: float = 1.0) -> bool:
        """Tell whether somebody is there, and make it quiet if so."""
        end = self._send(_PROMPTLESS)
        try:
            self._read_to(end, seconds)
        except DrillFailedError:
            return False
        return True

    def run(self, command: str, seconds: float) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed. Raises DrillFailedError, GoneError."""
        end = self._send(command)
        status, text = self._read_to(end, seconds)
        return status, text

    def begin(self, command: str) -> re.Pattern[bytes]:
        """Start a command and return what :meth:`poll` looks for."""
        return self._send(command)

    def poll(self, end: re.Pattern[bytes]) -> tuple[int | None, str]:
        """Listen for a moment; return the exit status, None while it runs, and everything printed so far."""
        self._said += self._heard()
        match = end.search(self._said)
        text = self._said[: match.start()] if match else self._said
        return (int(match[1]) if match else None), text.decode(errors="replace").replace("\r", "")

    def _heard(self) -> bytes:
        """Return what came in a moment. Raises GoneError."""
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return b""
        except OSError as error:
            raise GoneError("the machine is switched off") from error
        if not data:
            raise GoneError("the machine is switched off")
        return data

    def _send(self, command: str) -> re.Pattern[bytes]:
        self._said = b""
        mark = uuid4().hex
        try:
            self._socket.sendall(f"{command}\necho @\\@{mark} $?\n".encode())
        except OSError as error:
            raise GoneError("the machine is switched off") from error
        return re.compile(rb"@@" + mark.encode() + rb" ([0-9]+)\r?\n")

    def _read_to(self, end: re.Pattern[bytes], seconds: float) -> tuple[int, str]:
        deadline = time.monotonic() + seconds
        while True:
            status, text = self.poll(end)
            if status is not None:
                return status, text
            if self._is_gone():
                raise GoneError("the machine restarted in the middle of a command")
            if time.monotonic() > deadline:
                raise DrillFailedError(
                    f"no answer from the node in {seconds:.0f} s; it said: {text[-500:]!r}"
                )
