"""The daemon of this node as the commands see it: its lock, its process, what it says of itself."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any


def run_folder() -> Path:
    """Return the folder of what is forgotten at a restart, as systemd names it to its units."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", "/run/updog").partition(":")[0])


def pid() -> int | None:
    """Return the process of the running daemon, which holds the lock of the file with its number."""
    with suppress(OSError, ValueError), (run_folder() / "agent.lock").open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read(32))
    return None


def nudge() -> bool:
    """Make the daemon look at once; return whether it runs and could be told."""
    process = pid()
    if process is None:
        return False
    try:
        os.kill(process, signal.SIGUSR1)
    except OSError:
        return False
    return True


def document() -> dict[str, Any] | None:
    """Return what the running daemon says of itself (``agent.json``); None if it does not run."""
    if pid() is None:
        return None
    with suppress(OSError, ValueError):
        value = json.loads((run_folder() / "agent.json").read_bytes())
        if isinstance(value, dict):
            return value
    return None
