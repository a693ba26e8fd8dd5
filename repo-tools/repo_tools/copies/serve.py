"""A loopback web server for trying things out: a repository's public files, with byte ranges.

Rules:

* only ``metadata/`` and ``targets/`` are served, never ``keys/`` or ``repo.toml``, and no listings;
* a part of a file is answered as :mod:`updog.byte_ranges` says, ``If-Range`` by ETag;
* caches are told the same as `push` tells a bucket's (:func:`repo_tools.copies.destination.cache_control`);
* for a fleet use any web server, bucket or CDN: a repository is plain files.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from repo_tools.copies.destination import cache_control, content_type
from repo_tools.errors import ServeError
from updog.byte_ranges import chosen_range, range_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import BufferedReader
    from pathlib import Path

FOLDERS = ("metadata", "targets")
_SEND_BYTES = 1 << 18
_POLL_SECONDS = 0.005  # how long shutting down may take


class LoopbackServer(ThreadingHTTPServer):
    """A server whose threads end with the program, and that does not report clients that hang up."""

    daemon_threads = True

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report nothing: a client may hang up at any time."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer from a thread for the length of a ``with`` block, then close."""
        thread = Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class LoopbackHandler(BaseHTTPRequestHandler):
    """Keeps connections open, sends without delay, and logs at debug level only."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; waiting for the first one costs 40 ms

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log at debug level instead of writing to stderr."""
        import logging

        logging.getLogger(__name__).debug(format, *args)


class RepositoryServer(LoopbackServer):
    """Serves the public files of one repository: append ``metadata`` or ``targets`` to its URL.

    Args:
        folder: the repository. address: host and port; port 0 takes a free one.
    """

    def __init__(self, folder: Path, address: tuple[str, int]) -> None:
        self.folder = folder.resolve()
        super().__init__(address, _Handler)

    def file_of(self, path: str) -> Path | None:
        """Return the file at a path without its first slash, None if there is no such public file."""
        file = (self.folder / path).resolve()
        public = [(self.folder / name).resolve() for name in FOLDERS]
        allowed = ".." not in path.split("/") and any(file.is_relative_to(folder) for folder in public)
        return file if allowed and file.is_file() else None


class _Handler(LoopbackHandler):
    """Answers GET and HEAD."""

    wbufsize = -1
    server: RepositoryServer

    def do_GET(self) -> None:
        """Send a file, or a part of it."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send what GET would, without the content."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        file = self.server.file_of(path)
        if file is None:
            self.send_head(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        with file.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            size, etag = facts.st_size, f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
            is_current = self.headers.get("If-Range", etag) == etag
            chosen = chosen_range(self.headers.get("Range"), size) if is_current else None
            answer = range_answer(chosen, size)
            known = {"Content-Type": content_type(path), "Cache-Control": cache_control(path)}
            self.send_head(answer.status, {"Accept-Ranges": "bytes", "ETag": etag, **known, **answer.headers})
            if body:
                self._send(stream, answer.part)

    def _send(self, stream: BufferedReader, part: range) -> None:
        stream.seek(part.start)
        rest = len(part)
        while rest and (block := stream.read(min(rest, _SEND_BYTES))):
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
    with server.running():
        yield server.url
