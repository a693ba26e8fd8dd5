"""The repository as a machine in an emulator sees it: a server on loopback that can hold an answer half way.

It hands on whatever the repository has, from a folder or from web servers, byte ranges included, and adds
nothing: the node believes signatures, not servers. A download that is to be cut is held at a byte, so that
the cut comes in the middle on fast machines as on slow ones.
"""

from __future__ import annotations

import re
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    Blocks = Generator[bytes, None, None]

_BLOCK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 30
_FOLDERS = ("metadata", "targets")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_HANDED_ON = ("Content-Length", "Content-Range", "ETag", "Content-Type", "Content-Encoding", "Accept-Ranges")


class Answer(NamedTuple):
    """An answer to a request: status, headers, content."""

    status: int
    headers: Mapping[str, str]
    blocks: Blocks


class Gate:
    """Serves a repository on a free port of loopback for the length of a ``with`` block.

    Args:
        metadata_url: where ``metadata/`` comes from.
        targets_url: where ``targets/`` comes from.

    Attributes:
        reached: set once an answer is held.
    """

    def __init__(self, metadata_url: str, targets_url: str) -> None:
        self._bases = dict(zip(_FOLDERS, (metadata_url, targets_url), strict=True))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gate = self
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._changed = Condition()
        self._left: int | None = None
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
        """Where it listens."""
        return int(self._server.server_address[1])

    def hold(self, after: int) -> None:
        """Hold every answer once so many more bytes of targets were sent."""
        with self._changed:
            self._left = after
            self.reached.clear()

    def release(self) -> None:
        """Let everything through again."""
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def answer(self, path: str, wanted: str | None) -> Answer:
        """Return the answer for a path and a Range header."""
        folder, _, name = path.partition("/")
        base = self._bases.get(folder)
        if base is None or not name or ".." in name.split("/"):
            return Answer(404, {"Content-Length": "0"}, _nothing())
        found = (
            _from_file(base + name, wanted) if base.startswith("file:") else _from_web(base + name, wanted)
        )
        return found._replace(blocks=self._held(found.blocks)) if folder == "targets" else found

    def _held(self, blocks: Blocks) -> Blocks:
        """Yield blocks, and stop where they are held."""
        with closing(blocks):
            for block in blocks:
                with self._changed:
                    first = block if self._left is None else block[: self._left]
                    self._left = None if self._left is None else self._left - len(first)
                yield first
                if len(first) < len(block):
                    self.reached.set()
                    with self._changed:
                        self._changed.wait_for(lambda: self._left is None)
                    yield block[len(first) :]


def _nothing() -> Blocks:
    yield from ()


def _from_file(url: str, wanted: str | None) -> Answer:
    """Answer from a folder."""
    path = Path(unquote(urlsplit(url).path))
    if not path.is_file():
        return Answer(404, {"Content-Length": "0"}, _nothing())
    facts = path.stat()
    tag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes"}
    match = _RANGE.fullmatch(wanted or "")
    if match is None:
        headers["Content-Length"] = str(facts.st_size)
        return Answer(200, headers, _read(path, range(facts.st_size)))
    part = range(int(match[1]), min(int(match[2] or facts.st_size - 1) + 1, facts.st_size))
    if not part:
        return Answer(416, {"Content-Range": f"bytes */{facts.st_size}", "Content-Length": "0"}, _nothing())
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{facts.st_size}"
    headers["Content-Length"] = str(len(part))
    return Answer(206, headers, _read(path, part))


def _read(path: Path, part: range) -> Blocks:
    with path.open("rb") as file:
        file.seek(part.start)
        left = len(part)
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            yield block


def _from_web(url: str, wanted: str | None) -> Answer:
    """Answer as another web server does."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
    except requests.RequestException:
        return Answer(502, {"Content-Length": "0"}, _nothing())
    kept = {name: response.headers[name] for name in _HANDED_ON if name in response.headers}
    return Answer(response.status_code, kept, _received(response))


def _received(response: Any) -> Blocks:
    with closing(response):
        yield from response.raw.stream(_BLOCK_BYTES, decode_content=False)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gate: Gate

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a machine is unplugged; that is what drills do."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET, one request a connection."""

    server: _Server

    def do_GET(self) -> None:
        """Hand an answer on."""
        path = unquote(urlsplit(self.path).path).lstrip("/")
        answer = self.server.gate.answer(path, self.headers.get("Range"))
        with closing(answer.blocks):
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for block in answer.blocks:
                self.wfile.write(block)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep quiet: the console of the node tells what matters."""
