"""The bytes in the kernel between a server on loopback and its client: sent, but not yet read."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.patience import slowness_of_this_run

_LISTENING = "0A"  # its queues count connections, not bytes
_PAUSE_SECONDS = 0.05  # longer than a writer needs to fill the queues again, on a quiet machine


def bytes_in_sockets(port: int) -> int:
    """Return the number of bytes in the queues of all connections to ``port``, when it no longer grows.

    The client must be stopped: the server then fills the queues and waits.
    """
    before, now = -1, _queued(port)
    while now != before:
        time.sleep(_PAUSE_SECONDS * slowness_of_this_run())
        before, now = now, _queued(port)
    return now


def _queued(port: int) -> int:
    """Sum up the queues in /proc/net/tcp (proc_net_tcp.rst: local, remote, state, tx_queue:rx_queue; hex)."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues = line.split()[:5]
        if state != _LISTENING and port in {_port(local), _port(remote)}:
            total += sum(int(queue, 16) for queue in queues.split(":"))
    return total


def _port(address: str) -> int:
    return int(address.split(":")[1], 16)
