"""Who asks: one line for the history, such as ``uid 1000 (anna), pid 4711, bash``.

It is what the kernel says of the process that asks, for an operator who wants to know whom to talk to. It
proves nothing: whoever may ask is root, and root can be anybody.
"""

from __future__ import annotations

import os
from pathlib import Path

from signpost.text import FOREIGN_CHARACTERS, line

_NOBODY = 0xFFFF_FFFF  # audit: no login belongs to this process
_COMMAND_BYTES = 64  # the kernel keeps 16 of a process's name


def described(uid: int, pid: int, *, proc: Path = Path("/proc")) -> str:
    """Return the line for a process ``pid`` of the user ``uid``."""
    import pwd  # late: the agent's process does not need it

    try:
        user = f"uid {uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        user = f"uid {uid}"
    command = process_name(pid, proc=proc)
    return line(", ".join(filter(None, (user, f"pid {pid}", command))), FOREIGN_CHARACTERS)


def process_name(pid: int, *, proc: Path = Path("/proc")) -> str:
    """Return the name of a process as the kernel keeps it, one printable line; empty if it is gone."""
    return line(_text(proc / str(pid) / "comm"))


def caller(*, proc: Path = Path("/proc")) -> str:
    """Return the line for the process that started this one.

    The user is who logged in (audit's login id), else who used sudo, else whose process this is.
    """
    return described(_login(proc), os.getppid(), proc=proc)


def _login(proc: Path) -> int:
    logged_in, sudo, own = _text(proc / "self/loginuid"), os.environ.get("SUDO_UID", ""), os.getuid()
    if logged_in.isdecimal() and int(logged_in) != _NOBODY:
        return int(logged_in)
    return int(sudo) if own == 0 and sudo.isdecimal() and int(sudo) < _NOBODY else own


def _text(path: Path) -> str:
    """Return the start of one of the kernel's files; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_COMMAND_BYTES).decode("utf-8", "backslashreplace").strip()
    except OSError:
        return ""
