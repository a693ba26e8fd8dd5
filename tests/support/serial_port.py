"""A serial port that loses bytes: a Unix socket, as in QEMU, with real shells behind it on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOOK_SECONDS = 0.02


class SerialPort:
    """A port without a shell at first: what is sent waits in the socket, as it does in QEMU.

    Args:
        path: of the socket.
        environment: of the shells.

    Attributes:
        path: of the socket.
        connections: how many there were.
        lose_input: so many of the next bytes do not reach the shell.
        lose_output: so many of the next bytes of the shell do not reach the socket.
    """

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.connections = self.lose_input = self.lose_output = 0
        self._environment = environment
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._client: socket.socket | None = None
        self._shell: subprocess.Popen[bytes] | None = None
        self._terminal = -1
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closed.set()
        self._thread.join()
        self.stop_shell()
        self._listener.close()
        if self._client is not None:
            self._client.close()

    def start_shell(self, *command: str) -> None:
        """Start a shell, or another program that reads the terminal; the terminal echoes, as any new one."""
        ours, theirs = pty.openpty()
        shell = subprocess.Popen(
            command or ["/bin/sh", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._environment,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - no thread of ours holds a lock that it needs
        )
        os.close(theirs)
        with self._lock:
            self._shell, self._terminal = shell, ours

    def stop_shell(self) -> None:
        """Kill the shell, and what it runs by closing its terminal."""
        with self._lock:
            if self._shell is not None:
                os.killpg(self._shell.pid, signal.SIGKILL)
                self._shell.wait()
                os.close(self._terminal)
                self._shell = None

    def restart_shell(self) -> None:
        """Do what systemd does with a shell that ends."""
        self.stop_shell()
        self.start_shell()

    def _carry(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                self._carry_once()

    def _carry_once(self) -> None:
        watched: list[socket.socket | int] = [self._listener]
        if self._shell is not None:
            watched += [self._terminal, *([self._client] if self._client is not None else [])]
        for ready in select.select(watched, [], [], _LOOK_SECONDS)[0]:
            if ready is self._listener:
                self._accept()
            elif ready is self._client:
                self._carry_input(self._client)
            elif ready == self._terminal:
                self._carry_output()

    def _accept(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client, _ = self._listener.accept()
        self.connections += 1

    def _carry_input(self, client: socket.socket) -> None:
        try:
            data = client.recv(4096)
        except ConnectionError:  # the other side closed and had not read everything that was sent to it
            data = b""
        if not data:
            client.close()
            self._client = None
            return
        lost = min(self.lose_input, len(data))
        self.lose_input -= lost
        os.write(self._terminal, data[lost:])

    def _carry_output(self) -> None:
        with suppress(OSError):  # the shell ended, or nothing listens
            data = os.read(self._terminal, 4096)
            lost = min(self.lose_output, len(data))
            self.lose_output -= lost
            if self._client is not None:
                self._client.sendall(data[lost:])


def _take_terminal() -> None:
    """Make the terminal the shell's own, so that Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 1)
