"""Processes of other users that ask the agent's API: real credentials, as the kernel tells them.

    with process_of(agent.socket, uid=4001) as process:
        process.ask("GET", "/v1/config").status

Only root can become another user, see :data:`AS_ROOT`. A copy of the test's process gives up its rights:
others may not be able to execute the interpreter.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import socket
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.support.api_clients import Connection, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AS_ROOT = os.geteuid() == 0
NOBODY = 65534
_CLONE_NEWUSER, _PR_SET_DUMPABLE = 0x1000_0000, 4  # linux/sched.h, linux/prctl.h


class NoNamespaceError(Exception):
    """This machine lets nobody make user namespaces."""


@dataclass(kw_only=True)
class OtherProcess:
    """A process of another user that asks what it is told to."""

    pid: int
    _channel: IO[str]

    def ask(self, method: str, path: str, body: object = None) -> Reply:
        """Return the response to its request. PermissionError: it cannot connect."""
        self._channel.write(json.dumps([method, path, body]) + "\n")
        self._channel.flush()
        answer = json.loads(self._channel.readline())
        if "denied" in answer:
            raise PermissionError(answer["denied"])
        if "namespace" in answer:
            raise NoNamespaceError(answer["namespace"])
        assert "failed" not in answer, answer["failed"]
        return Reply(
            status=answer["status"], headers=answer["headers"], body=base64.b64decode(answer["body"])
        )


@contextmanager
def process_of(
    path: Path, *, uid: int, gid: int | None = None, groups: Sequence[int] = (), is_namespaced: bool = False
) -> Iterator[OtherProcess]:
    """Start a process of a user.

    Args:
        path: the socket that it asks.
        uid: its user.
        gid: its group; by default the same number.
        groups: its supplementary groups.
        is_namespaced: make it root of a user namespace of its own, as ``unshare --map-root-user`` does.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        with theirs.makefile("rw", encoding="utf-8") as channel:
            try:
                _become(uid, uid if gid is None else gid, groups)
                if is_namespaced:
                    _become_root_of_a_namespace()
                _serve(path, channel)
            except NoNamespaceError as error:
                _say(channel, namespace=str(error))
            except BaseException:  # noqa: BLE001 - pytest must not go on here
                _say(channel, failed=traceback.format_exc())
            finally:
                os._exit(0)
    theirs.close()
    try:
        with ours.makefile("rw", encoding="utf-8") as channel:
            yield OtherProcess(pid=child, _channel=channel)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _become_root_of_a_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 1)  # else its files in /proc belong to root, because it was root
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise NoNamespaceError(os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="utf-8")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="utf-8")
    assert os.geteuid() == 0


def _serve(path: Path, channel: IO[str]) -> None:
    while line := channel.readline():
        method, target, body = json.loads(line)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with Connection(path) as connection:
                reply = connection.ask(method, target, data, {"Connection": "close", **headers})
        except PermissionError as error:
            _say(channel, denied=str(error))
            continue
        content = base64.b64encode(reply.body).decode()
        _say(channel, status=reply.status, headers=dict(reply.headers), body=content)


def _say(channel: IO[str], **members: Any) -> None:
    channel.write(json.dumps(members) + "\n")
    channel.flush()
