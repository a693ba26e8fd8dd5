"""The transport against a real web server that misbehaves in every way we could think of (D59 to D70)."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import time
from base64 import b64decode
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from signpost.errors import ExitStatus
from tests.support.http_server import (
    ForwardProxy,
    HttpServer,
    answer,
    endless,
    plain,
    raw,
    redirect,
    stalled,
    trickled,
    unused_port,
)
from tests.support.patience import slowness_of_this_run, took_less
from updog.errors import EndlessDataError, HttpStatusError, UnreachableError, WebPageError
from updog.image.index import Span
from updog.no_proxy import entries_of
from updog.transport import (
    BODY_BLOCK_BYTES,
    MAX_REDIRECTS,
    MAX_WAIT_SECONDS,
    HttpTransport,
    TransportSettings,
)
from updog.url import Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http_server import Behaviour, Exchange

CONTENT = random.Random(59).randbytes(40_000)
NAME = "targets/image.zst"


class Time:
    """Real time, in which sleeping takes none; with ``speed`` it runs that many times as fast.

    Attributes:
        slept: every sleep there would have been.
    """

    def __init__(self, speed: float = 1) -> None:
        self.slept: list[float] = []
        self._speed = speed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def monotonic(self) -> float:
        return time.monotonic() * self._speed + sum(self.slept)


def make_transport(
    clock: Time | None = None,
    *,
    tries: int = 3,
    stall_timeout: float = 5,
    minimum_rate: int = 256,
    proxy: str | None = None,
    no_proxy: tuple[str, ...] = (),
    query: dict[str, str] | None = None,
) -> HttpTransport:
    clock = clock or Time()
    settings = TransportSettings(
        connect_timeout=5,
        stall_timeout=stall_timeout,
        minimum_rate=minimum_rate,
        tries=tries,
        https_proxy=Url.parse(proxy, ("http",)) if proxy else None,
        no_proxy=entries_of(no_proxy),
        query=query or {},
    )
    return HttpTransport(settings, sleep=clock.sleep, monotonic=clock.monotonic, jitter=lambda: 1.0)


def fetched(transport: HttpTransport, url: str, *, limit: int = len(CONTENT), start: int = 0) -> bytes:
    return b"".join(transport.stream(url, limit=limit, start=start))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer({NAME: CONTENT}) as server:
        yield server


@pytest.fixture
def clock() -> Time:
    return Time()


# -- the normal case ----------------------------------------------------------------------------------


def test_a_whole_file_is_one_request_without_a_range_that_asks_for_identity(server: HttpServer) -> None:
    assert fetched(make_transport(), server.url(NAME)) == CONTENT
    (request,) = server.log
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"] == "updog"
    assert "Range" not in request.headers


def test_a_start_is_asked_for_by_range_and_only_the_rest_is_sent(server: HttpServer) -> None:
    """D70: a new process continues where an old one stopped."""
    assert fetched(make_transport(), server.url(NAME), start=12_345) == CONTENT[12_345:]
    (request,) = server.log
    assert request.headers["Range"] == "bytes=12345-"
    assert request.sent == len(CONTENT) - 12_345


def test_bytes_are_yielded_while_they_come_in_bounded_blocks(server: HttpServer) -> None:
    server.files[NAME] = bytes(5 * BODY_BLOCK_BYTES)
    blocks = list(make_transport().stream(server.url(NAME), limit=5 * BODY_BLOCK_BYTES))
    assert sum(map(len, blocks)) == 5 * BODY_BLOCK_BYTES
    assert max(map(len, blocks)) <= BODY_BLOCK_BYTES
    assert len(blocks) >= 5


def test_an_empty_file_is_no_bytes(server: HttpServer) -> None:
    server.files[NAME] = b""
    assert fetched(make_transport(), server.url(NAME)) == b""


def test_a_body_without_a_length_ends_with_the_connection(server: HttpServer) -> None:
    server.behave(NAME, plain(length=False))
    assert fetched(make_transport(), server.url(NAME)) == CONTENT


def test_a_chunked_body_is_read_to_its_last_chunk(server: HttpServer) -> None:
    server.behave(
        NAME, raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
    )
    assert fetched(make_transport(), server.url(NAME)) == b"hello!"


# -- query parameters ---------------------------------------------------------------------------------


def test_query_parameters_are_sent_with_every_request_when_configured(server: HttpServer) -> None:
    server.behave(NAME, plain(cut=10), plain())
    fetched(make_transport(query={"seed": "7", "version": "1.0.0"}), server.url(NAME))
    assert [request.query for request in server.log] == [{"seed": "7", "version": "1.0.0"}] * 2


def test_no_query_is_sent_when_none_is_configured(server: HttpServer) -> None:
    fetched(make_transport(), server.url(NAME))
    assert server.log[0].query == {}


# -- answers (D59) ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(server: HttpServer, clock: Time, status: int) -> None:
    """D59."""
    server.behave(NAME, answer(status), plain())
    assert fetched(make_transport(clock), server.url(NAME)) == CONTENT
    assert len(clock.slept) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 501])
def test_a_final_status_is_an_error_at_once_that_names_url_and_status(
    server: HttpServer, clock: Time, status: int
) -> None:
    """D59."""
    server.behave(NAME, answer(status))
    with pytest.raises(HttpStatusError, match=rf"{NAME} answered HTTP {status}") as caught:
        fetched(make_transport(clock), server.url(NAME))
    assert caught.value.http_status == status
    assert caught.value.status is ExitStatus.UNREACHABLE
    assert (len(server.log), clock.slept) == (1, [])


@pytest.mark.parametrize("status", [204, 205, 300, 304])
def test_an_answer_that_has_no_content_is_no_success(server: HttpServer, status: int) -> None:
    server.behave(NAME, answer(status))
    with pytest.raises(HttpStatusError, match=str(status)):
        fetched(make_transport(), server.url(NAME))


def test_a_server_that_is_down_for_good_is_given_up_after_the_configured_tries(
    server: HttpServer, clock: Time
) -> None:
    """D59."""
    server.behave(NAME, answer(503))
    with pytest.raises(UnreachableError, match=rf"{NAME}: HTTP 503 \(byte 0\)"):
        fetched(make_transport(clock, tries=4), server.url(NAME))
    assert len(server.log) == 4
    assert clock.slept == pytest.approx([0.4, 0.8, 1.6])


def test_one_try_means_no_second_one(server: HttpServer, clock: Time) -> None:
    server.behave(NAME, answer(503))
    with pytest.raises(UnreachableError):
        fetched(make_transport(clock, tries=1), server.url(NAME))
    assert (len(server.log), clock.slept) == (1, [])


def test_waits_have_jitter_and_a_longest(server: HttpServer) -> None:
    server.behave(NAME, answer(500))
    clock = Time()
    settings = TransportSettings(tries=20)
    low = HttpTransport(settings, sleep=clock.sleep, monotonic=clock.monotonic, jitter=lambda: 0.0)
    with pytest.raises(UnreachableError):
        fetched(low, server.url(NAME))
    assert clock.slept[:2] == pytest.approx([0.2, 0.4])
    assert clock.slept[-1] == MAX_WAIT_SECONDS / 2


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("86400", MAX_WAIT_SECONDS),
        ("9" * 400, MAX_WAIT_SECONDS),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.4),
        ("soon", 0.4),
        ("-5", 0.4),
        ("\u00b2", 0.4),
        ("", 0.4),
    ],
)
def test_retry_after_is_honoured_within_reason(
    server: HttpServer, clock: Time, value: str, wait: float
) -> None:
    """D59. A superscript two is a digit to Python, and was a crash."""
    server.behave(NAME, answer(429, {"Retry-After": value}), plain())
    assert fetched(make_transport(clock), server.url(NAME)) == CONTENT
    assert clock.slept == pytest.approx([wait])


# -- redirects (D59) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_without_the_counting_parameters(server: HttpServer, status: int) -> None:
    server.behave("moved", redirect(f"/{NAME}", status))
    assert fetched(make_transport(query={"seed": "1"}), server.url("moved")) == CONTENT
    assert [request.query for request in server.log] == [{"seed": "1"}, {}]


def test_a_redirect_is_relative_to_where_it_came_from(server: HttpServer) -> None:
    server.behave("targets/moved", redirect("image.zst"))
    assert fetched(make_transport(), server.url("targets/moved")) == CONTENT


def test_a_range_goes_along_with_a_redirect(server: HttpServer) -> None:
    server.behave("moved", redirect(f"/{NAME}"))
    assert fetched(make_transport(), server.url("moved"), start=39_000) == CONTENT[39_000:]
    assert server.log[1].sent == 1000


def test_a_redirect_to_another_mirror_is_followed(server: HttpServer) -> None:
    with HttpServer() as first:
        first.behave(NAME, redirect(server.url(NAME)))
        assert fetched(make_transport(), first.url(NAME)) == CONTENT


def test_a_redirect_loop_ends(server: HttpServer, clock: Time) -> None:
    """D59."""
    server.behave("a", redirect("/b"))
    server.behave("b", redirect("/a"))
    with pytest.raises(UnreachableError, match="redirects more than 5 times"):
        fetched(make_transport(clock), server.url("a"))
    assert len(server.log) == MAX_REDIRECTS + 1
    assert clock.slept == []


def test_as_many_redirects_as_allowed_arrive(server: HttpServer) -> None:
    for number in range(MAX_REDIRECTS):
        server.behave(str(number), redirect(f"/{number + 1}" if number < MAX_REDIRECTS - 1 else f"/{NAME}"))
    assert fetched(make_transport(), server.url("0")) == CONTENT


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "data:,x"])
def test_a_redirect_never_leads_out_of_http(server: HttpServer, location: str) -> None:
    server.behave(NAME, redirect(location))
    with pytest.raises(UnreachableError, match="which is not HTTP"):
        fetched(make_transport(), server.url(NAME))


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "http://",
        "//",
        "http://127.0.0.1:99999/x",
        "http://*.\u00ff\u00fe/x",
        f"http://{'a' * 300}.example/x",
    ],
)
def test_a_redirect_to_nowhere_is_one_clear_error(server: HttpServer, location: str) -> None:
    """D93: whatever a server writes into a header, only updog's own errors are raised."""
    server.behave(NAME, redirect(location))
    with pytest.raises(UnreachableError):
        fetched(make_transport(tries=1), server.url(NAME))


def test_the_body_of_a_redirect_is_not_read(server: HttpServer) -> None:
    """D49: the HTTP library would read it to the end, and it has none."""
    server.behave("moved", endless(302, {"Location": f"/{NAME}"}, first=b""))
    assert fetched(make_transport(), server.url("moved")) == CONTENT


def test_the_body_of_an_error_is_not_read(server: HttpServer) -> None:
    """D49."""
    server.behave(NAME, endless(404, first=b""))
    with pytest.raises(HttpStatusError):
        fetched(make_transport(), server.url(NAME))


# -- broken bodies (D60 to D64) --------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 2, 1459, 1460, 16_384, len(CONTENT) // 2, len(CONTENT) - 1])
def test_a_body_that_breaks_off_at_byte_k_is_continued_to_the_byte(
    server: HttpServer, clock: Time, cut: int
) -> None:
    """D60: the second request asks for exactly what is missing, and nothing is sent twice."""
    server.behave(NAME, plain(cut=cut), plain())
    assert fetched(make_transport(clock), server.url(NAME)) == CONTENT
    first, second = server.log
    assert (first.start, second.start) == (0, cut)
    assert first.sent + second.sent == len(CONTENT)
    assert len(clock.slept) == 1


def test_a_connection_that_is_reset_is_continued(server: HttpServer) -> None:
    """D60. A reset may throw away what was on its way, so more than the rest may be asked for."""
    server.behave(NAME, plain(cut=20_000, reset=True), plain())
    assert fetched(make_transport(), server.url(NAME)) == CONTENT
    assert server.log[1].start <= 20_000


def test_a_body_that_breaks_off_again_and_again_arrives_as_long_as_it_moves(
    server: HttpServer, clock: Time
) -> None:
    """D60: more breaks than tries, each after some progress."""
    server.behave(NAME, *[plain(cut=4000) for _ in range(9)], plain())
    assert fetched(make_transport(clock, tries=2), server.url(NAME)) == CONTENT
    assert [request.start for request in server.log] == list(range(0, 40_000, 4000))
    assert clock.slept == pytest.approx([0.4] * 9)


def test_failures_in_a_row_count_from_the_last_one_that_brought_something(
    server: HttpServer, clock: Time
) -> None:
    server.behave(NAME, answer(500), answer(500), plain(cut=9000), answer(500), answer(500), plain())
    assert fetched(make_transport(clock, tries=4), server.url(NAME)) == CONTENT
    assert clock.slept == pytest.approx([0.4, 0.8, 0.4, 0.8, 1.6])


def test_a_server_that_brings_nothing_more_is_given_up_and_the_byte_is_named(server: HttpServer) -> None:
    server.behave(NAME, plain(cut=7000), plain(cut=0))
    with pytest.raises(UnreachableError, match=r"\(byte 7000\)"):
        fetched(make_transport(tries=3), server.url(NAME))
    assert len(server.log) == 3


def test_a_server_that_gives_one_byte_and_breaks_off_is_given_up(server: HttpServer, clock: Time) -> None:
    """D50: one byte for each request is too slow, even if every connection is new."""
    server.behave(NAME, plain(cut=1))
    with pytest.raises(UnreachableError, match=r"\(byte 3\)"):
        fetched(make_transport(clock, tries=3), server.url(NAME))
    assert len(server.log) == 3


def test_a_server_that_ignores_ranges_is_read_past_what_is_there(server: HttpServer) -> None:
    """D61."""
    server.behave(NAME, plain(cut=25_000), plain(ranges=False))
    assert fetched(make_transport(), server.url(NAME)) == CONTENT
    assert [request.sent for request in server.log] == [25_000, len(CONTENT)]


def test_a_server_that_ignores_ranges_and_breaks_off_at_the_same_byte_is_given_up(
    server: HttpServer,
) -> None:
    """D61 with D60: bytes that are already there are not progress."""
    server.behave(NAME, plain(cut=25_000, ranges=False))
    with pytest.raises(UnreachableError, match=r"\(byte 25000\)"):
        fetched(make_transport(tries=3), server.url(NAME))
    assert len(server.log) == 3


@pytest.mark.parametrize(
    "other",
    [
        plain(etag='"two"'),
        plain(etag=None),
        plain(etag='"two"', ranges=False),
        plain(headers={"Last-Modified": "Tue, 06 Oct 2026 07:00:00 GMT"}),
    ],
    ids=["another ETag", "no ETag", "ranges ignored", "another date"],
)
def test_a_download_goes_on_at_a_server_with_other_validators(
    server: HttpServer, clock: Time, other: Behaviour
) -> None:
    """D62: they are hints; what arrives is verified by its signed hash."""
    dated = {"Last-Modified": "Mon, 05 Oct 2026 07:00:00 GMT"}
    server.behave(NAME, plain(cut=100, etag='"one"', headers=dated), other)
    assert fetched(make_transport(clock), server.url(NAME)) == CONTENT
    assert len(clock.slept) == 1


def test_another_length_after_a_break_is_a_changed_file(server: HttpServer) -> None:
    """D62: no cache and no balancer makes a file longer."""

    def longer(exchange: Exchange) -> None:
        server.files[NAME] = CONTENT + b"!"
        plain()(replace(exchange, content=server.files[NAME]))

    server.behave(NAME, plain(cut=100), longer)
    with pytest.raises(UnreachableError, match="its length is different now"):
        fetched(make_transport(), server.url(NAME), limit=len(CONTENT) + 1)


def test_no_etag_at_all_is_fine(server: HttpServer) -> None:
    server.behave(NAME, plain(cut=100, etag=None), plain(etag=None))
    assert fetched(make_transport(), server.url(NAME)) == CONTENT


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-39999/40000",
        "bytes 99-39999/40000",
        "bytes 1000-39999/40000",
        "100-39999",
        "bytes */40000",
        "",
    ],
)
def test_a_range_that_was_not_asked_for_is_refused(server: HttpServer, content_range: str) -> None:
    """D63."""
    wrong = plain(headers={"Content-Range": content_range})
    server.behave(NAME, plain(cut=100), wrong)
    with pytest.raises(UnreachableError, match="requested bytes 100-, received"):
        fetched(make_transport(), server.url(NAME))


def test_a_server_that_gives_less_than_the_range_is_asked_for_the_rest(server: HttpServer) -> None:
    """D63: RFC 9110, 15.3.7 lets a server answer with a part of what was asked for."""
    server.behave(NAME, plain(cut=0), plain(most=15_000))
    assert fetched(make_transport(), server.url(NAME), start=1000) == CONTENT[1000:]
    assert [request.start for request in server.log] == [1000, 1000, 16_000, 31_000]


def test_a_range_of_unknown_whole_is_taken_at_its_word(server: HttpServer) -> None:
    server.behave(NAME, plain(headers={"Content-Range": "bytes 100-39999/*"}))
    assert fetched(make_transport(), server.url(NAME), start=100) == CONTENT[100:]


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity, gzip"])
def test_an_encoded_body_is_refused_and_the_next_step_is_reported(
    server: HttpServer, clock: Time, encoding: str
) -> None:
    """D64: length and hash of an encoded body are not those that were signed."""
    server.behave(NAME, plain(headers={"Content-Encoding": encoding}))
    with pytest.raises(UnreachableError, match=f'Content-Encoding "{encoding}"') as caught:
        fetched(make_transport(clock), server.url(NAME))
    assert "compression" in caught.value.next_step
    assert len(server.log) == 1


@pytest.mark.parametrize("encoding", ["identity", ""])
def test_an_identity_encoding_is_accepted(server: HttpServer, encoding: str) -> None:
    server.behave(NAME, plain(headers={"Content-Encoding": encoding}))
    assert fetched(make_transport(), server.url(NAME)) == CONTENT


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"\xff\xfe\x00\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
    ids=range(11),
)
def test_what_is_not_http_is_unreachable_and_nothing_else(server: HttpServer, line: bytes) -> None:
    """D93: no foreign exception comes out of the transport."""
    server.behave(NAME, raw(line))
    with pytest.raises(UnreachableError, match=NAME):
        fetched(make_transport(tries=2), server.url(NAME))


# -- limits (D49, D50, D69) ------------------------------------------------------------------------------


def test_a_body_of_exactly_the_limit_is_fine(server: HttpServer) -> None:
    assert fetched(make_transport(), server.url(NAME), limit=len(CONTENT)) == CONTENT


def test_a_body_one_byte_over_the_limit_is_endless_data(server: HttpServer) -> None:
    """D49."""
    server.files[NAME] = CONTENT + b"!"
    with pytest.raises(EndlessDataError, match=f"sent more than its {len(CONTENT)} bytes") as caught:
        fetched(make_transport(), server.url(NAME))
    assert caught.value.status is ExitStatus.REFUSED


def test_endless_data_is_cut_off_close_to_the_limit(server: HttpServer) -> None:
    """D49: what the server could send meanwhile is in the sockets' buffers, not in memory."""
    server.behave(NAME, endless())
    blocks: list[bytes] = []
    with pytest.raises(EndlessDataError):
        blocks.extend(make_transport().stream(server.url(NAME), limit=100_000))
    assert sum(map(len, blocks)) <= 100_000
    assert len(server.log) == 1


def test_the_limit_counts_from_the_start_of_the_file(server: HttpServer) -> None:
    """D49 with D70: a resumed download has no more room than a whole one."""
    with pytest.raises(EndlessDataError):
        fetched(make_transport(), server.url(NAME), limit=39_999, start=39_000)
    server.behave(NAME, plain(ranges=False))
    with pytest.raises(EndlessDataError):
        fetched(make_transport(), server.url(NAME), limit=39_999, start=39_000)
    assert fetched(make_transport(), server.url(NAME), limit=40_000, start=39_000) == CONTENT[39_000:]


def test_a_stall_is_a_break_after_the_stall_timeout(server: HttpServer) -> None:
    """D69."""
    server.behave(NAME, stalled(after=15_000), plain())
    transport = make_transport(stall_timeout=0.5 * slowness_of_this_run())
    assert fetched(transport, server.url(NAME)) == CONTENT
    assert [request.start for request in server.log] == [0, 15_000]


def test_a_server_that_never_answers_is_given_up(server: HttpServer) -> None:
    """D69."""
    server.behave(NAME, stalled(head=False))
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="timed out"):
        fetched(make_transport(tries=2, stall_timeout=0.2), server.url(NAME))
    assert took_less(began, 5)
    assert len(server.log) == 2


def test_a_trickle_is_given_up_although_every_try_brings_bytes(server: HttpServer) -> None:
    """D50, D69: bytes below the minimum rate are not progress, or it would go on for months."""
    server.behave(NAME, trickled(size=1, every=0.01))
    with pytest.raises(UnreachableError, match=r"only [0-9]+ bytes in") as caught:
        fetched(make_transport(Time(speed=100), tries=2), server.url(NAME))
    assert len(server.log) == 2
    assert server.log[1].start > 0
    assert caught.value.status is ExitStatus.UNREACHABLE


def test_a_slow_line_above_the_minimum_rate_may_take_as_long_as_it_takes(server: HttpServer) -> None:
    """D69: there is no total time-out; many windows of the stall time-out pass."""
    server.files[NAME] = CONTENT[:4000]
    slow = slowness_of_this_run()  # bytes that should come in time come later by this factor here
    server.behave(NAME, trickled(size=100, every=0.01 * slow))
    clock = Time(speed=100 / slow)
    began = clock.monotonic()
    assert fetched(make_transport(clock, tries=1, minimum_rate=1), server.url(NAME)) == CONTENT[:4000]
    assert clock.monotonic() - began > 5 * 5
    assert len(server.log) == 1


def test_a_minimum_rate_of_zero_lets_a_trickle_be(server: HttpServer) -> None:
    server.files[NAME] = b"drip by drip"
    server.behave(NAME, trickled(size=1, every=0.01))
    transport = make_transport(Time(speed=1000), minimum_rate=0)
    assert fetched(transport, server.url(NAME)) == b"drip by drip"
    assert len(server.log) == 1


# -- servers that cannot be reached (D66 to D68) ----------------------------------------------------------


def test_a_port_where_nobody_listens_is_tried_and_given_up(clock: Time) -> None:
    with pytest.raises(UnreachableError, match="refused"):
        fetched(make_transport(clock), f"http://127.0.0.1:{unused_port()}/x")
    assert len(clock.slept) == 2


def test_a_name_that_does_not_resolve_is_tried_and_given_up(clock: Time) -> None:
    """D67: `.invalid` never resolves (RFC 6761)."""
    with pytest.raises(UnreachableError, match=r"http://mirror\.invalid/x: .+") as caught:
        fetched(make_transport(clock, tries=2), "http://mirror.invalid/x")
    assert "object at 0x" not in caught.value.message
    assert len(clock.slept) == 1


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[::1", "ftp://127.0.0.1/x", ""])
def test_what_is_not_a_url_is_an_error_of_ours(url: str) -> None:
    with pytest.raises(UnreachableError):
        fetched(make_transport(tries=1), url)


def test_requests_go_through_a_configured_proxy(server: HttpServer) -> None:
    """D66."""
    with ForwardProxy() as proxy:
        transport = make_transport(proxy=proxy.url, query={"seed": "1"})
        assert fetched(transport, server.url(NAME)) == CONTENT
        assert proxy.log == [f"{server.url(NAME)}?seed=1"]
    assert len(server.log) == 1


@pytest.mark.parametrize(
    ("login", "decoded"),
    [
        ("node:pwOrd", "node:pwOrd"),
        ("node:p%40ss%3A%2F", "node:p@ss:/"),
        ("node:%E2%82%AC", "node:€"),
        ("node:€", "node:€"),
        ("token", "token:"),
    ],
)
def test_a_proxy_gets_its_login_decoded(server: HttpServer, login: str, decoded: str) -> None:
    with ForwardProxy() as proxy:
        url = proxy.url.replace("//", f"//{login}@")
        assert fetched(make_transport(proxy=url), server.url(NAME)) == CONTENT
    (request,) = server.log  # this proxy passes all headers on
    scheme, _, token = request.headers["Proxy-Authorization"].partition(" ")
    assert (scheme, b64decode(token).decode()) == ("Basic", decoded)


def test_a_proxy_that_goes_midway_is_asked_again_for_the_rest(server: HttpServer) -> None:
    """D66."""
    with ForwardProxy() as proxy:
        proxy.cuts = [11_111]
        assert fetched(make_transport(proxy=proxy.url), server.url(NAME)) == CONTENT
        assert len(proxy.log) == 2
    assert [request.start for request in server.log] == [0, 11_111]


def test_a_proxy_that_is_gone_is_unreachable_and_not_gone_round(server: HttpServer) -> None:
    """D66: a proxy is configured for a reason."""
    with pytest.raises(UnreachableError):
        fetched(make_transport(proxy=f"http://127.0.0.1:{unused_port()}"), server.url(NAME))
    assert server.log == []


@pytest.mark.parametrize("listed", [("127.0.0.1",), ("example.com", "127.0.0.0/8")])
def test_a_listed_host_is_reached_without_the_proxy(server: HttpServer, listed: tuple[str, ...]) -> None:
    """D66: the HTTP library reads this list of a session, and ignores it."""
    with ForwardProxy() as proxy:
        assert fetched(make_transport(proxy=proxy.url, no_proxy=listed), server.url(NAME)) == CONTENT
        assert proxy.log == []


def test_a_configured_proxy_wins_over_the_environment(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ForwardProxy() as proxy:
        assert fetched(make_transport(proxy=proxy.url), server.url(NAME)) == CONTENT
        assert len(proxy.log) == 1


def test_a_listed_host_is_reached_directly_whatever_the_environment_says(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    with ForwardProxy() as proxy:
        transport = make_transport(proxy=proxy.url, no_proxy=("127.0.0.1",))
        assert fetched(transport, server.url(NAME)) == CONTENT


def test_without_a_configured_proxy_the_environment_speaks(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetched(make_transport(), server.url(NAME)) == CONTENT
        assert len(proxy.log) == 1


# -- a captive portal --------------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Log in</body></html>"


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        PAGE.lower(),
        b"\r\n\t " + PAGE,
        b"\xef\xbb\xbf" + PAGE,
        b'<?xml version="1.0"?>\n' + PAGE,
        b"<HTML>",
    ],
)
@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("start", [0, 100])
def test_a_web_page_in_place_of_a_file_is_the_network_s_fault(
    server: HttpServer, page: bytes, kind: str, start: int
) -> None:
    server.behave(NAME, answer(200, {"Content-Type": kind}, page))
    with pytest.raises(WebPageError, match="answered with a web page") as caught:
        fetched(make_transport(), server.url(NAME), start=start)
    assert "captive portal" in caught.value.next_step
    assert len(server.log) == 1


def test_a_web_page_in_place_of_a_range_is_the_network_s_fault_whatever_its_length(
    server: HttpServer,
) -> None:
    server.behave(NAME, plain(), answer(200, {"Content-Type": "text/html"}, PAGE))
    spans = [Span(offset=0, length=10), Span(offset=100, length=10)]
    found = make_transport().ranges(server.url(NAME), spans, length=len(CONTENT))
    with pytest.raises(WebPageError):
        _ = [b"".join(blocks) for _, blocks in found]


def test_a_portal_that_redirects_to_its_page_is_noticed(server: HttpServer) -> None:
    with HttpServer() as portal:
        portal.behave("login", answer(200, {"Content-Type": "text/html"}, PAGE))
        server.behave(NAME, redirect(portal.url("login"), 302))
        with pytest.raises(WebPageError, match=NAME):
            fetched(make_transport(), server.url(NAME))


def test_a_portal_that_says_so_gets_the_same_advice(server: HttpServer) -> None:
    server.behave(NAME, answer(511, {"Content-Type": "text/html"}, PAGE))
    with pytest.raises(HttpStatusError, match="HTTP 511") as caught:
        fetched(make_transport(), server.url(NAME))
    assert "captive portal" in caught.value.next_step


def test_a_file_is_taken_whatever_type_the_server_gives_it(server: HttpServer) -> None:
    server.behave(NAME, plain(headers={"Content-Type": "text/html"}))
    assert fetched(make_transport(), server.url(NAME)) == CONTENT


# -- file: URLs --------------------------------------------------------------------------------------------


def test_a_file_url_is_read_from_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "a stick" / "image.zst"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert fetched(make_transport(), path.as_uri()) == CONTENT
    assert fetched(make_transport(), path.as_uri(), start=39_990) == CONTENT[39_990:]


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_not_a_network_to_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    with pytest.raises(UnreachableError, match="refused"):
        fetched(make_transport(tries=1), "http://127.0.0.1:1/image")  # all modules are imported now
    for url in (path.as_uri(), "http://127.0.0.1:1/image"):
        with pytest.raises(UnreachableError) as caught, no_more_descriptors():
            fetched(make_transport(tries=1), url)
        assert "Too many open files" in caught.value.message
        assert "raise its limit" in caught.value.next_step


def test_a_file_url_has_the_same_limit(tmp_path: Path) -> None:
    """D49."""
    path = tmp_path / "image.zst"
    path.write_bytes(CONTENT)
    with pytest.raises(EndlessDataError):
        fetched(make_transport(), path.as_uri(), limit=len(CONTENT) - 1)


def test_a_file_that_is_not_there_is_as_404(tmp_path: Path) -> None:
    with pytest.raises(HttpStatusError) as caught:
        fetched(make_transport(), (tmp_path / "2.root.json").as_uri())
    assert caught.value.http_status == 404


@pytest.mark.parametrize("name", ["a named pipe", "a\0byte"])
def test_what_is_not_a_file_is_neither_waited_for_nor_a_crash(tmp_path: Path, name: str) -> None:
    """Opening a pipe without a writer would block until an operator notices."""
    if "\0" not in name:
        os.mkfifo(tmp_path / name)
    with pytest.raises(UnreachableError, match="cannot read"):
        fetched(make_transport(), f"file://{quote(str(tmp_path / name))}")


def test_a_folder_as_a_file_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=f"cannot read {tmp_path}"):
        fetched(make_transport(), tmp_path.as_uri())


# -- everything at once ------------------------------------------------------------------------------------


def _spoilt(chance: random.Random) -> Behaviour:
    """Return a behaviour that a retry survives."""
    return chance.choice(
        [
            answer(chance.choice([429, 500, 503])),
            plain(cut=chance.randrange(len(CONTENT))),
            plain(cut=chance.randrange(len(CONTENT)), ranges=False),
            plain(cut=chance.randrange(len(CONTENT)), reset=True),
            plain(most=chance.randrange(1, len(CONTENT)), cut=chance.randrange(len(CONTENT))),
            raw(b""),
        ]
    )


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_passing_faults_gives_the_same_bytes(server: HttpServer, seed: int) -> None:
    """D59 to D63, mixed at random: what arrives is what is served."""
    chance = random.Random(seed)
    server.behave(NAME, *[_spoilt(chance) for _ in range(8)], plain())
    whole = fetched(make_transport(tries=20), server.url(NAME))
    assert hashlib.sha256(whole).digest() == hashlib.sha256(CONTENT).digest()
