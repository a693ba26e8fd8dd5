"""What systemd is told: that the daemon is ready, what it waits for, and that it is alive (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` to the service manager; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux: a name without a file
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        connection.sendall("\n".join(assignments).encode())


def watchdog_seconds() -> float | None:
    """Return how often the service manager wants a sign of life, in seconds; None: it wants none."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 / 2 if text.isdecimal() and int(text) else None
