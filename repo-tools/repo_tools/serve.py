"""A loopback web server for trying things out: a repository's public files, with byte ranges.

Rules:

* only ``metadata/`` and ``targets/`` are served, never ``keys/`` or ``repo.toml``, and no listings;
* one range of bytes is honoured (RFC 9110 §14.2), ``If-Range`` by ETag; several ranges, or one that cannot
  be read, give the whole file, as the RFC allows;
* caches are told what `push` tells a bucket's (:func:`repo_tools.destination.cache_control`);
* for a fleet use any web server, bucket or CDN: a repository is plain files.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from repo_tools.destination import cache_control, content_type
from repo_tools.errors import ServeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

FOLDERS = ("metadata", "targets")
_BLOCK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def chosen_range(header: str | None, size: int) -> range | None:
    """Return which bytes of ``size`` a Range header asks for; None for all of them. PURE.

    An empty range means that it cannot be satisfied (416).
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return None
    return range(min(int(first), size), end)


class RepositoryServer(ThreadingHTTPServer):
    """Serves the public files of one repository.

    Args:
        folder: the repository. address: host and port; port 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, folder: Path, address: tuple[str, int]) -> None:
        self.folder = folder.resolve()
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """The base URL: append ``metadata`` or ``targets``."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def file_of(self, target: str) -> Path | None:
        """Return the file that a request's path names, None if there is none to be served."""
        path = unquote(urlsplit(target).path).lstrip("/")
        file = (self.folder / path).resolve()
        public = [self.folder / name for name in FOLDERS]
        allowed = any(file.is_relative_to(folder.resolve()) for folder in public) and ".." not in path.split(
            "/"
        )
        return file if allowed and file.is_file() else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client hangs up; that is its right."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes; waiting for the first costs 40 ms
    wbufsize = -1
    server: RepositoryServer

    def do_GET(self) -> None:
        """Send a file, or a part of it."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send what GET would, without the content."""
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log at debug level instead of writing to stderr."""
        import logging

        logging.getLogger(__name__).debug(format, *args)

    def _answer(self, *, body: bool) -> None:
        file = self.server.file_of(self.path)
        if file is None:
            self._say(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        with file.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
            part = self._part(facts.st_size, etag)
            self._head(file, facts.st_size, part, etag)
            if body:
                self._send(stream, range(facts.st_size) if part is None else part)

    def _part(self, size: int, etag: str) -> range | None:
        if self.headers.get("If-Range", etag) != etag:
            return None
        return chosen_range(self.headers.get("Range"), size)

    def _head(self, file: Path, size: int, part: range | None, etag: str) -> None:
        path = str(file.relative_to(self.server.folder))
        facts = {"Accept-Ranges": "bytes", "ETag": etag}
        facts |= {"Content-Type": content_type(path), "Cache-Control": cache_control(path)}
        if part is None:
            self._say(HTTPStatus.OK, {**facts, "Content-Length": str(size)})
        elif not part:
            length = {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._say(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, facts | length)
        else:
            place = f"bytes {part.start}-{part.stop - 1}/{size}"
            length = {"Content-Range": place, "Content-Length": str(len(part))}
            self._say(HTTPStatus.PARTIAL_CONTENT, facts | length)

    def _say(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, stream: BufferedReader, part: range) -> None:
        stream.seek(part.start)
        rest = len(part)
        while rest and (block := stream.read(min(rest, _BLOCK_BYTES))):
            self.wfile.write(block)
            rest -= len(block)


def listen(folder: Path, *, bind: str = "127.0.0.1", port: int = 0) -> RepositoryServer:
    """Return a server that listens but does not answer yet (``serve_forever``). Raises ServeError."""
    try:
        return RepositoryServer(folder, (bind, port))
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot listen on {bind}:{port}: {error}") from error


@contextmanager
def serving(folder: Path, *, bind: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve ``folder`` from a thread for the length of a ``with`` block; yields the base URL."""
    server = listen(folder, bind=bind, port=port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
