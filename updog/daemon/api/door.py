"""The sockets of the API, open before the first client comes. It imports as little as it can.

A socket that systemd opened is used as it is; else the daemon makes its own, in a folder that only root can
write.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from updog import durable
from updog.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from updog.api_keys import ApiSettings

_BACKLOG = 64
_FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
BOTTLEROCKET = "bottlerocket"
"""FileDescriptorName= of its socket unit; any other name is the API's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """Open sockets.

    Attributes:
        own: with all paths. bottlerocket: with Bottlerocket's only.
        passed: those of them that systemd opened; where there are some, it starts the daemon for a client.
    """

    own: Sequence[socket.socket] = ()
    bottlerocket: Sequence[socket.socket] = ()
    passed: Sequence[socket.socket] = ()

    @property
    def is_activated(self) -> bool:
        """Whether systemd starts the daemon when a client comes."""
        return bool(self.passed)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """All of them."""
        return (*self.own, *self.bottlerocket)

    def leave_open(self) -> None:
        """Let the program that this process becomes have the sockets that systemd opened.

        It opens the others again: left open, they would be somebody who listens there.
        """
        for each in self.passed:
            each.set_inheritable(True)


def open_door(settings: ApiSettings, environment: Mapping[str, str], *, is_off: bool) -> Door:
    """Open the sockets.

    Args:
        settings: which.
        environment: of this process, which says what systemd opened.
        is_off: automatic updates are off: only what systemd opened is used.

    Raises:
        MediumError: a socket cannot be made, or others can write to its folder.
        BusyError: another process listens there.
    """
    passed = _passed_sockets(environment)
    own = [each for name, each in passed if name != BOTTLEROCKET]
    bottlerocket = [each for name, each in passed if name == BOTTLEROCKET]
    if not own and settings.socket is not None and not is_off:
        own = [_listen_for("api.socket", settings.socket, mode=0o666, group="updog")]
    if not bottlerocket and settings.bottlerocket_socket is not None and not is_off:
        place = settings.bottlerocket_socket
        bottlerocket = [_listen_for("api.bottlerocket_socket", place, mode=0o660, group="api")]
    return Door(own=own, bottlerocket=bottlerocket, passed=[each for _, each in passed])


def _listen_for(key: str, path: Path, *, mode: int, group: str) -> socket.socket:
    """Return :func:`listen`; its MediumError names the ``key`` of the configuration that has the path."""
    try:
        return listen(path, mode=mode, group=group)
    except MediumError as error:
        raise MediumError(f"{key} = {path}: {error.message}", next_step=error.next_step) from error


def _passed_sockets(environment: Mapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd opened for this process, by their names (sd_listen_fds(3))."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for offset in range(int(environment.get("LISTEN_FDS", "0"))):
        listener = socket.socket(fileno=_FIRST_FD + offset)
        listener.set_inheritable(False)
        found.append((names[offset] if offset < len(names) else "", listener))
    return found


def listen(path: Path, *, mode: int, group: str) -> socket.socket:
    """Return a new socket at ``path`` for ``group``, in the place of one that nobody listens to.

    Raises:
        MediumError: it cannot be made, or others can write to its folder.
        BusyError: somebody listens there.
    """
    durable.require_private(path.parent)
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_unused(path)
        listener.bind(str(path))
        with suppress(KeyError, PermissionError):  # without the group, or not as root: for those of the mode
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise MediumError.of(f"cannot listen at {path}: {error.strerror}", error) from error
    except BusyError:
        listener.close()
        raise
    return listener


def _remove_unused(path: Path) -> None:
    """Remove the socket of a process that has ended; anything else that is not a socket stays."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        return  # bind says that the address is in use
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            return
    raise BusyError(f"another process listens at {path}", next_step="Choose another api.socket.")
