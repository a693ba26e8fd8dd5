"""Endless answers where short ones are due: limited in time and bytes, in heads and between (D49, D50)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import HttpServer, plain
from tests.support.patience import took_less
from updog.errors import UnreachableError
from updog.transport import HttpTransport, TransportSettings
from updog.transport.deadline_socket import MAX_FRAMING_BYTES, MAX_HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.http_server import Exchange

NAME = "x"
STALL = 0.4
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def flowing(first: bytes, again: bytes, *, every: float = 0.0) -> Callable[[Exchange], None]:
    """Send ``first``, then ``again`` repeatedly, until the client hangs up."""

    def behave(exchange: Exchange) -> None:
        exchange.handler.wfile.write(first)
        while not exchange.closing.wait(every):
            exchange.handler.wfile.write(again)
            exchange.request.sent += len(again)
        exchange.hang_up()

    return behave


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer({NAME: b"content"}) as server:
        yield server


def refused(
    server: HttpServer, url: str | None = None, *, stall: float = STALL, **more: object
) -> tuple[str, float]:
    """Fetch with one try; return the error's text and when the fetch began."""
    settings = TransportSettings(
        tries=1,
        connect_timeout=5,
        stall_timeout=stall,
        minimum_rate=0,
        **more,  # type: ignore[arg-type]
    )
    began = time.monotonic()
    with HttpTransport(settings) as transport, pytest.raises(UnreachableError) as caught:
        b"".join(transport.stream(url or server.url(NAME), limit=1 << 30))
    return caught.value.message, began


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
    ],
    ids=["status", "header", "headers", "continue", "chunk size", "chunk extension", "trailers"],
)
def test_a_drip_where_no_content_comes_ends_with_the_stall_time_out(
    server: HttpServer, first: bytes, again: bytes
) -> None:
    """D50: each byte comes in time, and no rate is measured: these used to go on forever."""
    server.behave(NAME, flowing(first, again, every=0.05))
    complaint, began = refused(server)
    assert "timed out" in complaint
    assert time.monotonic() - began >= STALL
    assert took_less(began, 10 * STALL)


@pytest.mark.parametrize(
    ("first", "again", "most"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, MAX_HEAD_BYTES),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n", MAX_HEAD_BYTES),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 5000, MAX_FRAMING_BYTES),
        (CHUNKED + b"1;", b"x" * 10_000, MAX_FRAMING_BYTES),
    ],
    ids=["continue", "headers", "trailers", "chunk extension"],
)
def test_a_flood_where_no_content_comes_ends_after_so_many_bytes(
    server: HttpServer, first: bytes, again: bytes, most: int
) -> None:
    """D49: what the server could send beyond that is in the sockets' buffers."""
    server.behave(NAME, flowing(first, again))
    complaint, _ = refused(server, stall=60)  # bytes end it, not time
    assert "timed out" not in complaint
    assert server.log[0].sent < most + (8 << 20)


def test_what_comes_after_a_few_continues_is_taken(server: HttpServer) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 3)
        plain()(exchange)

    server.behave(NAME, behave)
    with HttpTransport(TransportSettings()) as transport:
        assert b"".join(transport.stream(server.url(NAME), limit=7)) == b"content"


def test_no_cookie_is_carried_around(server: HttpServer) -> None:
    server.behave(NAME, plain(headers={"Set-Cookie": "node=7; Path=/"}))
    with HttpTransport(TransportSettings()) as transport:
        for _ in range(2):
            assert b"".join(transport.stream(server.url(NAME), limit=7)) == b"content"
    assert "Cookie" not in server.log[1].headers
    assert server.connections == 1
