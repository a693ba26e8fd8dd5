"""Who asks, by the kernel's word, and what they may.

Rules:

* identity is that of the process which connected (unix(7): SO_PEERCRED), in this daemon's user namespace:
  root of another one is not root here;
* names of users and groups are looked up at each request, so a change of them counts at once;
* a process in more groups than are read belongs to none of them.
"""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.api_keys import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from updog.api_keys import Grantee

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUP_BYTES = 1024  # the most that getsockopt of Python takes: 256 groups
_UCRED = struct.Struct("iII")


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """The process at the other end: its process, user, group, and supplementary groups."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Return who connected. Raises OSError."""
        pid, uid, gid = _UCRED.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        try:
            data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUP_BYTES)
        except OSError:  # more groups than that
            data = b""
        groups = struct.unpack(f"{len(data) // 4}I", data)
        return cls(pid=pid, uid=uid, gid=gid, groups=frozenset({gid, *groups}))


def is_granted(peer: Peer, grantees: Iterable[Grantee]) -> bool:
    """Return whether ``peer`` is one of those who are granted a right."""
    return any(_is(peer, grantee) for grantee in grantees)


def _is(peer: Peer, grantee: Grantee) -> bool:
    try:
        match grantee.kind:
            case Kind.ANY:
                return True
            case Kind.ROOT:
                return peer.uid == 0
            case Kind.USER:
                return peer.uid == pwd.getpwnam(grantee.name).pw_uid
            case Kind.GROUP:
                return grp.getgrnam(grantee.name).gr_gid in peer.groups
    except KeyError:  # no such user or group
        return False
