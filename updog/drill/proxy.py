"""The repository as a machine in QEMU sees it: a proxy on loopback that can hold a response at a byte.

It passes on what the repository has, from a folder or from web servers, byte ranges included, and adds
nothing: the node trusts signatures, not servers. A download that is to be cut is held at a byte, so that the
cut comes in the middle on fast hosts and on slow ones.
"""

from __future__ import annotations

from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from updog.byte_ranges import chosen_range, range_answer
from updog.url import Url

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    Blocks = Generator[bytes, None, None]

_RELAY_BYTES = 1 << 16
_TIMEOUT_SECONDS = 30
_FOLDERS = ("metadata", "targets")
_PASSED_ON = ("Content-Length", "Content-Range", "ETag", "Content-Type", "Content-Encoding", "Accept-Ranges")


class ProxyResponse(NamedTuple):
    """A response: status, headers, content."""

    status: int
    headers: Mapping[str, str]
    blocks: Blocks


class Proxy:
    """Serves a repository on a free port of loopback during a ``with`` block.

    Args:
        metadata_url: source of ``metadata/``, http, https or file.
        targets_url: source of ``targets/``.

    Raises:
        ValueError: one of them is not such a URL.

    Attributes:
        reached: set once a response is held.
    """

    def __init__(self, metadata_url: str, targets_url: str) -> None:
        bases = (Url.parse_base(url) for url in (metadata_url, targets_url))
        self._bases = dict(zip(_FOLDERS, bases, strict=True))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._changed = Condition()
        self._responses: int | None = None  # until the one to hold; None: none is
        self._share = 0.0
        self.reached = Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def hold(self, response: int, share: float) -> None:
        """Hold the first, second, … response with a target from now on, after this share of its bytes."""
        with self._changed:
            self._responses, self._share = response, share
            self.reached.clear()

    def release(self) -> None:
        """Pass everything on again, a held response included."""
        with self._changed:
            self._responses = None
            self._changed.notify_all()

    def respond(self, path: str, wanted: str | None) -> ProxyResponse:
        """Return the response for a path and a Range header."""
        folder, _, name = path.partition("/")
        base = self._bases.get(folder)
        if base is None or not name or ".." in name.split("/"):
            return ProxyResponse(404, {"Content-Length": "0"}, _nothing())
        found = (
            _from_file(base.below(name), wanted) if base.scheme == "file" else _from_web(base, name, wanted)
        )
        if folder != "targets" or not self._is_held():
            return found
        length = int(found.headers.get("Content-Length", 0))
        return found._replace(blocks=self._held(found.blocks, int(self._share * length)))

    def _is_held(self) -> bool:
        """Count a response with a target; tell whether it is the one to hold."""
        with self._changed:
            self._responses = None if self._responses is None else self._responses - 1
            return self._responses == 0

    def _held(self, blocks: Blocks, after: int) -> Blocks:
        """Yield blocks, and pause after so many bytes until :meth:`release`."""
        seen = 0
        with closing(blocks):
            for block in blocks:
                first, rest = block[: max(0, after - seen)], block[max(0, after - seen) :]
                seen += len(block)
                yield first
                if rest and seen > after:
                    self.reached.set()
                    with self._changed:
                        self._changed.wait_for(lambda: self._responses is None)
                yield rest


def _nothing() -> Blocks:
    yield from ()


def _from_file(url: str, wanted: str | None) -> ProxyResponse:
    """Return a response from a folder."""
    path = Path(unquote(urlsplit(url).path))
    if not path.is_file():
        return ProxyResponse(404, {"Content-Length": "0"}, _nothing())
    facts = path.stat()
    tag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    answer = range_answer(chosen_range(wanted, facts.st_size), facts.st_size)
    headers = {"ETag": tag, "Accept-Ranges": "bytes", **answer.headers}
    return ProxyResponse(answer.status, headers, _read(path, answer.part))


def _read(path: Path, part: range) -> Blocks:
    with path.open("rb") as file:
        file.seek(part.start)
        left = len(part)
        while left and (block := file.read(min(left, _RELAY_BYTES))):
            left -= len(block)
            yield block


def _from_web(base: Url, name: str, wanted: str | None) -> ProxyResponse:
    """Return the response of another web server, which gets the login and the query of its URL."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
    try:
        response = requests.get(
            base.with_query(base.below(name)),
            headers=headers,
            auth=base.credentials(),  # type: ignore[arg-type]  # bytes are sent as they are
            stream=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except requests.RequestException:
        return ProxyResponse(502, {"Content-Length": "0"}, _nothing())
    kept = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
    return ProxyResponse(response.status_code, kept, _received(response))


def _received(response: Any) -> Blocks:
    with closing(response):
        yield from response.raw.stream(_RELAY_BYTES, decode_content=False)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a client disconnects: drills cut the power of machines."""


class _Handler(BaseHTTPRequestHandler):
    """Serves GET, one request per connection."""

    server: _Server

    def do_GET(self) -> None:
        """Pass a response on."""
        path = unquote(urlsplit(self.path).path).lstrip("/")
        response = self.server.proxy.respond(path, self.headers.get("Range"))
        with closing(response.blocks):
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for block in response.blocks:
                self.wfile.write(block)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing: what matters is in the console log of the node."""
