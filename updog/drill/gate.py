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
        self._answers: int | None = None
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
        """Where it listens."""
        return int(self._server.server_address[1])

    def hold(self, answer: int, share: float) -> None:
        """Hold the first, second, … answer with a target from now on after this share of its bytes."""
        with self._changed:
            self._answers, self._share = answer, share
            self.reached.clear()

    def release(self) -> None:
        """Let everything through again."""
        with self._changed:
            self._answers = None
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
        if folder != "targets" or not self._is_held():
            return found
        length = int(found.headers.get("Content-Length", 0))
        return found._replace(blocks=self._held(found.blocks, int(self._share * length)))

    def _is_held(self) -> bool:
        """Count an answer with a target; tell whether it is the one to hold."""
        with self._changed:
            self._answers = None if self._answers is None else self._answers - 1
            return self._answers == 0

    def _held(self, blocks: Blocks, after: int) -> Blocks:
        """Yield blocks, and stop for a while after so many bytes."""
        seen = 0
        with closing(blocks):
            for block in blocks:
                first, rest = block[: max(0, after - seen)], block[max(0, after - seen) :]
                seen += len(block)
                yield first
                if rest and seen > after:
                    self.reached.set()
                    with self._changed:
                        self._changed.wait_for(lambda: self._answers is None)
                yield rest


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
