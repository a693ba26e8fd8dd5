"""A real web server on loopback whose every answer can be spoiled, and a small forward proxy.

    with HttpServer({"a": b"content"}) as server:
        server.behave("a", plain(cut=3), answer(503), plain())
        server.url("a")

Paths without a behaviour are served as by any good web server: length, ETag, byte ranges. Behaviours of a
path are used in order, one for each request; the last one stays. All requests and every byte of content sent
are in :attr:`HttpServer.log`. Nothing here waits longer than the server lives.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from repo_tools.copies.serve import LoopbackHandler, LoopbackServer
from updog.byte_ranges import chosen_range, range_answer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    Behaviour = Callable[["Exchange"], None]

_LARGEST_FILE = 1 << 62
_SECOND = 1.0
_PIECE = 1 << 16


@dataclass(kw_only=True, slots=True)
class Request:
    """What was asked: path without the first slash, query, headers; and how many content bytes were sent."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    sent: int = 0

    @property
    def start(self) -> int:
        """The first byte asked for."""
        chosen = self.chosen(_LARGEST_FILE)
        return chosen.start if chosen else 0

    def chosen(self, size: int) -> range | None:
        """Return which bytes of a file of ``size`` bytes are asked for; None for all of them."""
        return chosen_range(self.headers.get("Range"), size)


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request being answered: its content is what the server has under that path, if anything."""

    request: Request
    content: bytes | None
    closing: Event
    handler: LoopbackHandler = field(repr=False)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.handler.send_head(status, headers)

    def send(self, data: bytes) -> None:
        """Send content and count it."""
        for place in range(0, len(data), _PIECE):
            piece = data[place : place + _PIECE]
            self.request.sent += len(piece)  # before the client can receive it and look
            self.handler.wfile.write(piece)

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection, normally or with a TCP reset."""
        self.handler.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.handler.rfile.close()
            self.handler.connection.close()


def plain(
    *,
    cut: int | None = None,
    ranges: bool = True,
    etag: str | None = "",
    headers: Mapping[str, str] | None = None,
    most: int | None = None,
    length: bool = True,
    reset: bool = False,
) -> Behaviour:
    """Serve the content, or a range of it, correctly, except for these arguments.

    Args:
        cut: break off after so many bytes of this answer.
        ranges: False ignores them.
        etag: instead of the true one; None sends none.
        headers: added; they replace true ones.
        most: a range answer gives at most so many bytes, and states so.
        length: False sends no Content-Length: the end of the connection is the end of the content.
        reset: break off with a TCP reset.
    """

    def behave(exchange: Exchange) -> None:
        content = exchange.content
        if content is None:
            answer(404)(exchange)
            return
        chosen = exchange.request.chosen(len(content)) if ranges else None
        if chosen is not None and most is not None:
            chosen = chosen[:most]
        good = range_answer(chosen, len(content))
        facts = good.headers
        if etag is not None:
            facts["ETag"] = etag or f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if not length:
            del facts["Content-Length"]
            facts["Connection"] = "close"
        exchange.head(good.status, facts | dict(headers or {}))
        part = good.part if cut is None else good.part[:cut]
        exchange.send(content[part.start : part.stop])
        if cut is not None or not length:
            exchange.hang_up(reset=reset)

    return behave


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Behaviour:
    """Answer with this status, whatever the path has."""

    def behave(exchange: Exchange) -> None:
        exchange.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        exchange.send(body)

    return behave


def redirect(location: str, status: int = 301) -> Behaviour:
    """Redirect the client."""
    return answer(status, {"Location": location})


def endless(
    status: int = 200, headers: Mapping[str, str] | None = None, *, first: bytes | None = None
) -> Behaviour:
    """Send the content (or ``first``) and never stop adding to it."""

    def behave(exchange: Exchange) -> None:
        exchange.head(status, {"Connection": "close", **(headers or {})})
        exchange.send((exchange.content or b"") if first is None else first)
        while not exchange.closing.is_set():
            exchange.send(bytes(_PIECE))
        exchange.hang_up()

    return behave


def stalled(*, after: int = 0, head: bool = True) -> Behaviour:
    """Send so many bytes (or not even a head), then nothing more, and keep the connection open."""

    def behave(exchange: Exchange) -> None:
        content = exchange.content or b""
        if head:
            exchange.head(200, {"Content-Length": str(len(content))})
            exchange.send(content[:after])
        exchange.closing.wait()
        exchange.hang_up()

    return behave


def trickled(*, size: int, every: float) -> Behaviour:
    """Send the content, or its range, ``size`` bytes at a time, pausing ``every`` so many seconds."""

    def behave(exchange: Exchange) -> None:
        content = exchange.content or b""
        good = range_answer(exchange.request.chosen(len(content)), len(content))
        exchange.head(good.status, good.headers)
        for place in good.part[::size]:
            exchange.send(content[place : min(place + size, good.part.stop)])
            if exchange.closing.wait(every):
                break
        exchange.hang_up()

    return behave


def raw(data: bytes) -> Behaviour:
    """Send exactly these bytes and hang up; the server adds nothing of HTTP."""

    def behave(exchange: Exchange) -> None:
        exchange.handler.wfile.write(data)
        exchange.hang_up()

    return behave


class _Serving(ABC):
    """Something that answers on a free port of loopback for the length of a ``with`` block."""

    def __init__(self) -> None:
        self.connections = 0
        self._closing = Event()
        self._server = _Listener(self)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._running.enter_context(self._server.running())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.set()
        self._running.close()

    @abstractmethod
    def answer(self, handler: LoopbackHandler) -> None:
        """Answer one request."""


class HttpServer(_Serving):
    """Serves ``files`` (path without the first slash → content), which may change at any time.

    Attributes:
        files: what is served.
        log: every request, in order of arrival.
        connections: how many there were.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.files = {} if files is None else files
        self.log: list[Request] = []
        self._behaviours: dict[str, list[Behaviour]] = {}
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str = "", *, host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self._scheme}://{host}:{self.port}/{path}"

    def behave(self, path: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for ``path`` with these, in order; the last behaviour stays."""
        self._behaviours[path] = list(behaviours)

    def behave_well(self) -> None:
        """Answer everything as any good web server again."""
        self._behaviours.clear()

    def asked(self, path: str | None = None) -> list[Request]:
        """Return the requests so far; only those of one path if it is given."""
        return [request for request in self.log if path in {None, request.path}]

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.path for request in self.log]

    def answer(self, handler: LoopbackHandler) -> None:
        """Record the request and let its behaviour answer it."""
        parts = urlsplit(handler.path)
        path = unquote(parts.path).removeprefix("/")
        request = Request(path=path, query=dict(parse_qsl(parts.query)), headers=dict(handler.headers))
        self.log.append(request)
        steps = self._behaviours.get(path) or [plain()]
        behave = steps.pop(0) if len(steps) > 1 else steps[0]
        content = self.files.get(path)
        behave(Exchange(request=request, content=content, closing=self._closing, handler=handler))


class _Listener(LoopbackServer):
    """The listening socket; counts the connections of its owner."""

    request_queue_size = 64

    def __init__(self, owner: _Serving) -> None:
        class Handler(LoopbackHandler):
            timeout = 30 * _SECOND

            def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
                owner.answer(self)

            def finish(self) -> None:
                if not self.wfile.closed and self.connection.fileno() != -1:
                    super().finish()

        self._owner = owner
        super().__init__(("127.0.0.1", 0), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection, here where there is one thread."""
        self._owner.connections += 1
        super().process_request(request, client_address)


class ForwardProxy(_Serving):
    """An HTTP forward proxy: takes absolute URIs, asks the real server, passes the answer on.

    Attributes:
        log: the URLs that were requested from it.
        cuts: how many bytes of content to let through before hanging up, for the next requests in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.cuts: list[int] = []

    @property
    def url(self) -> str:
        """What goes into ``https_proxy``."""
        return self._server.url

    def answer(self, handler: LoopbackHandler) -> None:
        """Ask the origin and pass its answer on."""
        self.log.append(handler.path)
        parts = urlsplit(handler.path)
        cut = self.cuts.pop(0) if self.cuts else None
        origin = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=10)
        try:
            wanted = {name: value for name, value in handler.headers.items() if name != "Proxy-Connection"}
            origin.request("GET", f"{parts.path}?{parts.query}", headers=wanted)
            answered = origin.getresponse()
            handler.send_head(answered.status, dict(answered.getheaders()))
            handler.wfile.write(answered.read()[:cut])
        finally:
            origin.close()
        handler.close_connection = cut is not None


def unused_port() -> int:
    """Return a loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
