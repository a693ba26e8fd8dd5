"""A real web server on loopback whose every answer can be spoilt, and a small forward proxy.

    with HttpServer({"a": b"content"}) as server:
        server.behave("a", plain(cut=3), answer(503), plain())
        server.url("a")

Paths without a behaviour are served as by any good web server: length, ETag, byte ranges. Behaviours of a
path are used in order, one a request; the last one stays. Everything asked and every byte of content sent is
in :attr:`HttpServer.log`. Nothing here waits longer than the server lives.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import struct
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    Behaviour = Callable[["Exchange"], None]

_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")
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
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    @property
    def end(self) -> int | None:
        """The byte behind the last one asked for, if that was said."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        return int(match[2]) + 1 if match and match[2] else None


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request being answered: its content is what the server has under that path, if anything."""

    request: Request
    content: bytes | None
    closing: Event
    handler: BaseHTTPRequestHandler = field(repr=False)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()

    def send(self, data: bytes) -> None:
        """Send content and count it."""
        for place in range(0, len(data), _PIECE):
            piece = data[place : place + _PIECE]
            self.request.sent += len(piece)  # before the client can have it, and look
            self.handler.wfile.write(piece)

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection, politely or with a TCP reset."""
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
    """Serve the content, or a range of it, as it should be, but for these.

    Args:
        cut: break off after so many bytes of this answer.
        ranges: False ignores them.
        etag: instead of the true one; None sends none.
        headers: added, or put in the place of true ones.
        most: a range answer gives at most so many bytes, and says so.
        length: False sends no Content-Length: the end of the connection is the end of the content.
        reset: break off with a TCP reset.
    """

    def behave(exchange: Exchange) -> None:
        content = exchange.content
        if content is None:
            answer(404)(exchange)
            return
        partial = ranges and "Range" in exchange.request.headers
        start = exchange.request.start if partial else 0
        end = min(exchange.request.end or len(content), len(content)) if partial else len(content)
        if partial and most is not None:
            end = min(end, start + most)
        facts = {"Content-Length": str(end - start)} if length else {"Connection": "close"}
        if etag is not None:
            facts["ETag"] = etag or f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if partial and start >= len(content):
            exchange.head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        if partial:
            facts["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        exchange.head(206 if partial else 200, facts | dict(headers or {}))
        exchange.send(content[start : end if cut is None else min(end, start + cut)])
        if cut is not None or not length:
            exchange.hang_up(reset=reset)

    return behave


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Behaviour:
    """Answer with this status, whatever is there."""

    def behave(exchange: Exchange) -> None:
        exchange.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        exchange.send(body)

    return behave


def redirect(location: str, status: int = 301) -> Behaviour:
    """Send the client elsewhere."""
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
    """Send so many bytes (or not even a head), then nothing more, and hold the line."""

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
        content, start = exchange.content or b"", exchange.request.start
        facts = {"Content-Length": str(len(content) - start)}
        if start:
            facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        exchange.head(206 if start else 200, facts)
        for place in range(start, len(content), size):
            exchange.send(content[place : place + size])
            if exchange.closing.wait(every):
                break
        exchange.hang_up()

    return behave


def raw(data: bytes) -> Behaviour:
    """Put these very bytes on the line and hang up; nothing of HTTP is ours any more."""

    def behave(exchange: Exchange) -> None:
        exchange.handler.wfile.write(data)
        exchange.hang_up()

    return behave


class HttpServer:
    """Serves ``files`` (path without the first slash → content), which may change at any time.

    Attributes:
        files: what is served.
        log: every request, in order of arrival.
        connections: how many there were.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.files = {} if files is None else files
        self.log: list[Request] = []
        self.connections = 0
        self._behaviours: dict[str, list[Behaviour]] = {}
        self._closing = Event()
        self._scheme = "https" if tls else "http"
        self._server = _Listener(self)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str = "", *, host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self._scheme}://{host}:{self.port}/{path}"

    def behave(self, path: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for ``path`` so, one after the other; the last behaviour stays."""
        self._behaviours[path] = list(behaviours)

    def behave_well(self) -> None:
        """Answer everything as any good web server again."""
        self._behaviours.clear()

    def asked(self, path: str | None = None) -> list[Request]:
        """Return the requests there were, of one path only if it is given."""
        return [request for request in self.log if path in {None, request.path}]

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.path for request in self.log]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Note the request and let its behaviour answer it."""
        parts = urlsplit(handler.path)
        path = unquote(parts.path).removeprefix("/")
        request = Request(path=path, query=dict(parse_qsl(parts.query)), headers=dict(handler.headers))
        self.log.append(request)
        steps = self._behaviours.get(path) or [plain()]
        behave = steps.pop(0) if len(steps) > 1 else steps[0]
        content = self.files.get(path)
        behave(Exchange(request=request, content=content, closing=self._closing, handler=handler))


class _Listener(ThreadingHTTPServer):
    """The listening socket; a client that hangs up is nobody's fault."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, server: HttpServer | ForwardProxy) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30 * _SECOND
            disable_nagle_algorithm = True  # head and content are two writes: 40 ms otherwise

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Say nothing: the log is a list."""

            def finish(self) -> None:
                if not self.wfile.closed and self.connection.fileno() != -1:
                    super().finish()

        self._owner = server
        super().__init__(("127.0.0.1", 0), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection, here where there is one thread."""
        self._owner.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client hangs up; that is its right."""


class ForwardProxy:
    """An HTTP forward proxy: takes absolute URIs, asks the real server, hands the answer on.

    Attributes:
        log: the URLs that were asked of it.
        cuts: how many bytes of content to let through before hanging up, for the next requests in order.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.connections = 0
        self.cuts: list[int] = []
        self._server = _Listener(self)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """What goes into ``https_proxy``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Ask the origin and pass its answer on."""
        self.log.append(handler.path)
        parts = urlsplit(handler.path)
        cut = self.cuts.pop(0) if self.cuts else None
        origin = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=10)
        try:
            wanted = {name: value for name, value in handler.headers.items() if name != "Proxy-Connection"}
            origin.request("GET", f"{parts.path}?{parts.query}", headers=wanted)
            answered = origin.getresponse()
            handler.send_response(answered.status)
            for name, value in answered.getheaders():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(answered.read()[:cut])
        finally:
            origin.close()
        handler.close_connection = cut is not None


def unused_port() -> int:
    """Return a loopback port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
