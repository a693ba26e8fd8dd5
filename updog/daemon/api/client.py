"""A client of the event stream: for ``updog watch``, and as an example for other programs."""

from __future__ import annotations

import http.client
import json
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from signpost.errors import MediumError
from signpost.text import line
from updog.errors import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SILENCE_SECONDS = 45.0
"""Three heartbeats: after that the connection is dead."""

AGAIN_SECONDS = 1.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SILENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of ``GET /v1/events`` for ever: ``id``, ``event`` and ``data``.

    After the connection was lost it is made anew, and goes on after the last event.

    Args:
        path: of the socket.

    Raises:
        NotRunningError: nobody listens there, at the beginning.
        MediumError: this user may not open the socket, or not read.
    """
    last: str | None = None
    while True:
        try:
            for event in _connected(path, last):
                last = event["id"]
                yield event
        except (ConnectionRefusedError, FileNotFoundError) as error:
            if last is None:
                raise NotRunningError(f"nobody listens at {path}") from error
        except PermissionError as error:
            raise MediumError.of(f"cannot open {path}: {error.strerror}", error) from error
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(AGAIN_SECONDS)


def _connected(path: Path, last: str | None) -> Iterator[dict[str, Any]]:
    connection = _UnixConnection(path)
    headers = {"Accept": "application/x-ndjson"} | ({"Last-Event-ID": last} if last else {})
    try:
        connection.request("GET", "/v1/events", headers=headers)
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            said = line(response.read(4096).decode(errors="replace"))
            message = f"the agent refuses: {said}"
            raise MediumError(message, next_step="Look at api.read in updog.toml.")
        for each in response:
            if each.strip():  # an empty line is a heartbeat
                yield json.loads(each)
    finally:
        connection.close()
