"""One connection of a client: requests in, responses out (HTTP/1.1, RFC 9112, by h11).

Rules:

* a head has at most :data:`MAX_HEAD` bytes and is there within :data:`HEAD_SECONDS` of its first byte, or of
  the connection; a body has at most :data:`MAX_BODY` bytes and is there as soon;
* a client that does not read its response for :data:`SEND_SECONDS` is left, and one that has gone at the next
  piece of it;
* between two requests it may be silent for :data:`IDLE_SECONDS`.
"""

from __future__ import annotations

import re
import select
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import h11
import msgspec

from signpost.text import line
from updog.daemon.api import problems
from updog.daemon.api.documents import UNREADABLE, ErrorDocument, Problem

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from updog.daemon.api.access import Peer
    from updog.daemon.api.problems import ApiError

MAX_HEAD = 16 << 10
MAX_BODY = 64 << 10
HEAD_SECONDS = 10.0
SEND_SECONDS = 10.0
IDLE_SECONDS = 60.0

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
_READ_BYTES = 16 << 10
_ORIGIN = re.compile(r"^https?://[^/]*", re.IGNORECASE)  # RFC 9112 3.2.2: of the absolute form


class ClosedError(Exception):
    """The client has gone, or is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: in capitals; HEAD is GET. path: decoded, without the query. query: the last of each name.
        headers: names in lower case. body: all of it. peer: who asks.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: Peer


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One response; a body that comes in pieces ends with the connection's turn.

    A body that waits sends an empty piece now and then: it lets the exchange see whether the client has gone.
    """

    http: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(
    document: object, *, http: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a document as a response."""
    return Response(http=http, body=msgspec.json.encode(document) + b"\n", headers=headers or {})


def error_response(error: ApiError, *, as_text: bool = False) -> Response:
    """Return an error as a response: a document, or as text its message alone."""
    if as_text:
        return Response(
            http=error.http, content_type=TEXT, body=error.message.encode(), headers=error.headers
        )
    problem = Problem(
        code=error.code, message=error.message, next_step=error.next_step, status=int(error.status)
    )
    return json_response(ErrorDocument(error=problem), http=error.http, headers=error.headers)


def body_of(request: Request, kind: type[Any]) -> Any:
    """Return the body as a document of ``kind``. Raises ApiError."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if content_type != JSON:
        raise problems.own("not-json", f"the body must be {JSON}", f"Send the header Content-Type: {JSON}.")
    try:
        return msgspec.json.decode(request.body, type=kind)
    except UNREADABLE as error:
        raise problems.usage(f"the body is not what is expected: {line(str(error))}") from error


class Exchange:
    """Reads requests from a connection and writes responses to it.

    Args:
        connection: of the client. It is not closed here.
        peer: who the client is.
    """

    def __init__(self, connection: socket.socket, peer: Peer) -> None:
        self._socket = connection
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._is_head = False
        self._answered = False

    def next_request(self) -> Request | None:
        """Return the next request; None if the client has gone or asks nothing more.

        Raises:
            ApiError: it is not one; the connection ends after the answer to that.
            ClosedError: the connection was cut in the middle of one.
        """
        head = self._head()
        if head is None:
            return None
        method = head.method.decode("ascii", "replace")
        self._is_head = method == "HEAD"
        body = self._body(head)
        path, _, query = head.target.decode("ascii", "replace").partition("?")
        return Request(
            method="GET" if self._is_head else method,
            path=unquote(_ORIGIN.sub("", path)),
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
            body=body,
            peer=self._peer,
        )

    def _head(self) -> h11.Request | None:
        has_begun = self._buffered > 0
        end = time.monotonic() + (IDLE_SECONDS if self._answered and not has_begun else HEAD_SECONDS)
        while True:
            buffered = self._buffered
            event = self._next_event()
            if isinstance(event, h11.Request):
                if buffered - self._buffered > MAX_HEAD:  # h11 looks only at what is not complete
                    raise _head_too_large()
                return event
            if isinstance(event, h11.ConnectionClosed):
                return None
            if not self._receive(end):
                if self._answered and not has_begun:
                    return None
                raise _too_slow("request")
            if not has_begun:
                has_begun, end = True, time.monotonic() + HEAD_SECONDS

    def _body(self, head: h11.Request) -> bytes:
        length = next((value for name, value in head.headers if name == b"content-length"), b"0")
        if int(length) > MAX_BODY:
            raise _too_large()
        if self._http.they_are_waiting_for_100_continue:
            self._send(
                self._http.send(
                    h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])  # RFC 9110 10.1.1
                )
            )
        end = time.monotonic() + HEAD_SECONDS
        parts: list[bytes] = []
        size = 0
        while True:
            event = self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            if isinstance(event, h11.ConnectionClosed):
                raise ClosedError
            if isinstance(event, h11.Data):
                size += len(event.data)
                parts.append(bytes(event.data))
                if size > MAX_BODY:
                    raise _too_large()
            elif not self._receive(end):
                raise _too_slow("body")

    @property
    def _buffered(self) -> int:
        """Bytes that were received and not looked at."""
        return len(self._http.trailing_data[0])

    def _next_event(self) -> Any:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            http = HTTPStatus(error.error_status_hint)
            if http is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                raise _head_too_large() from error
            message = f"not a request of HTTP/1.1: {line(str(error))}"
            raise problems.own("not-http", message, http=http) from error

    def _receive(self, end: float) -> bool:
        """Take what the client sends; return False if it sent nothing until ``end``."""
        seconds = end - time.monotonic()
        if seconds <= 0:
            return False
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            raise ClosedError from error
        self._http.receive_data(data)
        return True

    def respond(self, response: Response) -> bool:
        """Send a response; return whether another request may follow. Raises ClosedError."""
        headers = list(response.headers.items())
        if response.http not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            headers.insert(0, ("Content-Type", response.content_type))
            if isinstance(response.body, bytes):
                headers.append(("Content-Length", str(len(response.body))))
        self._send(
            self._http.send(
                h11.Response(status_code=response.http, reason=response.http.phrase.encode(), headers=headers)
            )
        )
        pieces: Iterable[bytes] = (response.body,) if isinstance(response.body, bytes) else response.body
        for piece in pieces:
            if self._is_head:
                break
            if piece:
                self._send(self._http.send(h11.Data(data=piece)))
            elif self._has_gone():
                raise ClosedError
        self._send(self._http.send(h11.EndOfMessage()))
        self._answered = True
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def _has_gone(self) -> bool:
        """Whether the client has closed the connection; one that only asks nothing more may still listen."""
        poll = select.poll()
        poll.register(self._socket, 0)  # POLLHUP, which needs not be asked for: both directions are closed
        return bool(poll.poll(0))

    def refuse(self, error: ApiError) -> None:
        """Send an error as the last response of a connection whose request cannot be followed."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        response = error_response(error)
        self.respond(
            Response(
                http=response.http, body=response.body, headers={**response.headers, "Connection": "close"}
            )
        )

    def _send(self, data: bytes | None) -> None:
        if not data:
            return
        self._socket.settimeout(SEND_SECONDS)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ClosedError from error


def _head_too_large() -> ApiError:
    return problems.own("head-too-large", f"the head has more than {MAX_HEAD} bytes")


def _too_large() -> ApiError:
    return problems.own("body-too-large", f"the body has more than {MAX_BODY} bytes")


def _too_slow(what: str) -> ApiError:
    return problems.own("too-slow", f"the {what} was not there within {HEAD_SECONDS:g} s")
