"""Models of FleetLock servers on loopback, each with the traps of the real one for a client.

    with Airlock(slots=1) as server:
        server.base_url            # what goes into the client's configuration

Real HTTP; all of them ignore members of the body that they do not know, as the decoders of the real ones do.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self

from repo_tools.copies.serve import LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_MAX_REQUEST = 1 << 16
_GROUP = re.compile(r"[a-zA-Z0-9.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that a server got."""

    path: str
    headers: dict[str, str]
    document: Any

    @property
    def id(self) -> str:
        """The identity of the client."""
        return str(self.document["client_params"]["id"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a server answers."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"


def error(status: int, kind: str, value: str, content_type: str = "application/json") -> Reply:
    """Return an error of the protocol."""
    body = json.dumps({"kind": kind, "value": value}).encode()
    return Reply(status=status, body=body, content_type=content_type)


class FleetLockServer:
    """A server with ``slots`` for each group.

    Args:
        slots: nodes that may hold the lock of a group at once. path: of the base URL.

    Attributes:
        holders: group → identities. log: every request. closing: set at the end, for those that wait.
    """

    content_type = "application/json"

    def __init__(self, *, slots: int = 1, path: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.slots = slots
        self.holders: dict[str, set[str]] = {}
        self.log: list[Asked] = []
        self.closing = Event()
        self._path, self._scheme = path, "https" if tls else "http"
        self._lock, self._running = Lock(), ExitStack()
        server = self

        class Handler(LoopbackHandler):
            def do_POST(self) -> None:  # noqa: N802 - the name that http.server looks for
                content = self.rfile.read(min(int(self.headers["Content-Length"]), _MAX_REQUEST))
                asked = Asked(path=self.path, headers=dict(self.headers), document=json.loads(content))
                server.log.append(asked)
                server.answer(self, asked)

        self._listener = LoopbackServer(("127.0.0.1", 0), Handler)
        if tls:
            self._listener.socket = tls.wrap_socket(self._listener.socket, server_side=True)

    @property
    def base_url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"{self._scheme}://127.0.0.1:{self._listener.server_address[1]}{self._path}"

    def __enter__(self) -> Self:
        self._running.enter_context(self._listener.running())
        return self

    def __exit__(self, *_exception: object) -> None:
        self.closing.set()
        self._running.close()

    def answer(self, handler: LoopbackHandler, asked: Asked) -> None:
        """Answer one request."""
        reply = self._reply(asked)
        length = str(len(reply.body))
        handler.send_head(reply.status, {"Content-Type": reply.content_type, "Content-Length": length})
        handler.wfile.write(reply.body)

    def _reply(self, asked: Asked) -> Reply:
        if asked.headers.get("fleet-lock-protocol") != "true":
            return error(
                400, "missing_header", "the header fleet-lock-protocol is missing", self.content_type
            )
        client = asked.document["client_params"]
        if not client["id"] or not _GROUP.fullmatch(client["group"]):
            return error(400, "invalid_client_identity", "bad id or group", self.content_type)
        with self._lock:
            holders = self.holders.setdefault(client["group"], set())
            if asked.path == f"{self._path}/v1/pre-reboot":
                return self.pre_reboot(holders, asked.id)
            if asked.path == f"{self._path}/v1/steady-state":
                return self.steady_state(holders, asked.id)
        return Reply(status=404, body=b"404 page not found\n", content_type="text/plain")

    def pre_reboot(self, holders: set[str], node: str) -> Reply:
        """Give a slot to the node, if there is one."""
        if node not in holders and len(holders) >= self.slots:
            return self.full()
        holders.add(node)
        return self.done()

    def steady_state(self, holders: set[str], node: str) -> Reply:
        """Take the node's slot back; fine if it has none."""
        holders.discard(node)
        return self.done()

    def full(self) -> Reply:
        """All slots are taken."""
        return error(423, "lock_held", "all slots are taken")

    def done(self) -> Reply:
        """It is done."""
        return Reply(status=200)


class Airlock(FleetLockServer):
    """coreos/airlock: 500 when all slots are taken; JSON of the content type text/plain."""

    content_type = "text/plain; charset=utf-8"

    def full(self) -> Reply:
        value = f"all {self.slots} semaphore slots currently locked"
        return error(500, "failed_lock", value, self.content_type)


class PoseidonFleetlock(FleetLockServer):
    """poseidon/fleetlock: a single slot; 423 at steady-state, too, where another node holds it."""

    def __init__(self) -> None:
        super().__init__(slots=1)

    def full(self) -> Reply:
        return error(423, "lock_held", "reboot lease unavailable, held by another node")

    def steady_state(self, holders: set[str], node: str) -> Reply:
        return self.full() if holders - {node} else super().steady_state(holders, node)


class HeathcliffFleetlock(FleetLockServer):
    """heathcliff26/fleetlock: 202 as long as it drains the node that it gave a slot.

    Args:
        drains: how many requests are answered so.
    """

    def __init__(self, *, slots: int = 1, drains: int = 0) -> None:
        super().__init__(slots=slots)
        self._drains = drains

    def pre_reboot(self, holders: set[str], node: str) -> Reply:
        reply = super().pre_reboot(holders, node)
        if reply.status == 200 and self._drains:
            self._drains -= 1
            return error(202, "waiting_for_node_drain", "the node is being drained")
        return reply

    def done(self) -> Reply:
        return error(200, "success", "The operation was successful")


class BrokenServer(FleetLockServer):
    """Anything else that may stand at the configured URL.

    Args:
        behave: answers a request.
    """

    def __init__(self, behave: Callable[[LoopbackHandler, Event], None]) -> None:
        super().__init__()
        self._behave = behave

    def answer(self, handler: LoopbackHandler, asked: Asked) -> None:
        del asked
        self._behave(handler, self.closing)
