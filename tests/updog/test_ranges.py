"""Many ranges of one file in one call: what is asked, what crosses, and what a server may get wrong."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import HttpServer, answer, plain, stalled
from updog.errors import DigestError, EndlessDataError, HttpStatusError, UnreachableError
from updog.image.index import Span
from updog.transport import HttpTransport, TransportSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.http_server import Exchange

CONTENT = random.Random(61).randbytes(3_000_000)
NAME = "targets/image.zst"
SPANS = tuple(
    Span(offset=start, length=length)
    for start, length in ((5, 1), (1000, 50_000), (51_000, 9), (700_000, 600_000), (2_999_990, 10))
)
WANTED = [CONTENT[span.offset : span.end] for span in SPANS]
BYTES = sum(map(len, WANTED))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer({NAME: CONTENT}) as server:
        yield server


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with make_transport() as transport:
        yield transport


def make_transport(tries: int = 3) -> HttpTransport:
    settings = TransportSettings(tries=tries, connect_timeout=5, stall_timeout=5)
    return HttpTransport(settings, sleep=lambda _: None, jitter=lambda: 1.0)


def fetched(transport: HttpTransport, url: str, spans: Sequence[Span] = SPANS) -> list[bytes]:
    found = [
        (number, b"".join(blocks)) for number, blocks in transport.ranges(url, spans, length=len(CONTENT))
    ]
    assert [number for number, _ in found] == list(range(len(spans)))
    return [data for _, data in found]


def fetched_by_threads(transport: HttpTransport, url: str, threads: int) -> dict[int, bytes]:
    """Fetch in so many threads that share the iterator and all start before any may end."""
    ranges = transport.ranges(url, SPANS, length=len(CONTENT))
    barrier = Barrier(threads)

    def work() -> dict[int, bytes]:
        barrier.wait(60)
        return {number: b"".join(blocks) for number, blocks in ranges}

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work) for _ in range(threads)]
        return {number: data for future in futures for number, data in future.result().items()}


# -- a server that honours ranges --------------------------------------------------------------------------


def test_each_span_is_one_request_of_exactly_its_bytes_on_one_connection(
    server: HttpServer, transport: HttpTransport
) -> None:
    assert fetched(transport, server.url(NAME)) == WANTED
    assert [request.headers["Range"] for request in server.log] == [
        f"bytes={span.offset}-{span.end - 1}" for span in SPANS
    ]
    assert sum(request.sent for request in server.log) == transport.received == BYTES
    assert server.connections == 1


def test_a_span_that_is_the_whole_file_is_asked_for_without_a_range(
    server: HttpServer, transport: HttpTransport
) -> None:
    assert fetched(transport, server.url(NAME), [Span(offset=0, length=len(CONTENT))]) == [CONTENT]
    assert "Range" not in server.log[0].headers


def test_no_spans_are_no_requests(server: HttpServer, transport: HttpTransport) -> None:
    assert fetched(transport, server.url(NAME), []) == []
    assert server.log == []


@pytest.mark.parametrize(
    "spans",
    [
        [(5, 0)],
        [(10, 5), (0, 5)],
        [(0, 6), (5, 5)],
        [(len(CONTENT) - 1, 2)],
        [(-1, 5)],
    ],
    ids=["empty", "falling", "overlapping", "past the end", "before the start"],
)
def test_spans_that_make_no_sense_are_refused_before_anything_is_asked(
    server: HttpServer, transport: HttpTransport, spans: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match="spans"):
        transport.ranges(
            server.url(NAME),
            [Span(offset=start, length=length) for start, length in spans],
            length=len(CONTENT),
        )
    assert server.log == []


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_share_the_spans_and_nothing_crosses_twice(
    server: HttpServer, transport: HttpTransport, threads: int
) -> None:
    assert fetched_by_threads(transport, server.url(NAME), threads) == dict(enumerate(WANTED))
    assert sum(request.sent for request in server.log) == transport.received == BYTES
    assert server.connections <= threads


@pytest.mark.parametrize("cut", [0, 1, 599_999])
def test_a_range_that_breaks_off_is_continued_inside(
    server: HttpServer, transport: HttpTransport, cut: int
) -> None:
    """D60: from the byte that is missing, and no byte twice."""
    server.behave(NAME, plain(cut=cut), plain())
    span = Span(offset=700_000, length=600_000)
    assert fetched(transport, server.url(NAME), [span]) == [WANTED[3]]
    assert [request.headers["Range"] for request in server.log] == [
        "bytes=700000-1299999",
        f"bytes={700_000 + cut}-1299999",
    ]
    assert transport.received == sum(request.sent for request in server.log) == 600_000


def test_a_range_that_is_answered_in_part_is_asked_for_the_rest(
    server: HttpServer, transport: HttpTransport
) -> None:
    """D63."""
    server.behave(NAME, plain(most=250_000))
    assert fetched(transport, server.url(NAME), SPANS[3:4]) == WANTED[3:4]
    assert [request.start for request in server.log] == [700_000, 950_000, 1_200_000]


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 700001-1299999/3000000",
        "bytes 700000-1300000/3000000",
        "bytes 0-2999999/3000000",
        "bytes */3000000",
        "",
    ],
)
def test_another_range_than_the_one_asked_for_is_refused(
    server: HttpServer, transport: HttpTransport, content_range: str
) -> None:
    """D63."""
    server.behave(NAME, plain(headers={"Content-Range": content_range}))
    with pytest.raises(UnreachableError, match="requested bytes 700000-1299999, received"):
        fetched(transport, server.url(NAME), SPANS[3:4])


def test_a_range_that_goes_on_is_endless_data(server: HttpServer, transport: HttpTransport) -> None:
    """D49."""
    body = b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n"
    head = {"Content-Range": "bytes 5-5/3000000", "Transfer-Encoding": "chunked"}
    server.behave(NAME, answer(206, head, body))
    with pytest.raises(EndlessDataError, match="sent data beyond byte 6"):
        fetched(transport, server.url(NAME), SPANS[:1])


@pytest.mark.parametrize("ranges", [True, False], ids=["206", "200"])
def test_a_file_of_another_length_than_signed_is_refused_at_its_head(
    server: HttpServer, transport: HttpTransport, *, ranges: bool
) -> None:
    """D51: before a byte of its body is used."""
    server.files[NAME] = CONTENT + b"!"
    server.behave(NAME, plain(ranges=ranges))
    with pytest.raises(DigestError, match="has 3000001 bytes, but 3000000 were signed"):
        fetched(transport, server.url(NAME))
    assert len(server.log) == 1


def test_ranges_come_from_servers_with_different_validators(
    server: HttpServer, transport: HttpTransport
) -> None:
    """D62: several machines behind one address, whose copies of the file have other dates."""
    one = plain(etag='"a"', headers={"Last-Modified": "Mon, 05 Oct 2026 07:00:00 GMT"})
    two = plain(etag='"b"', headers={"Last-Modified": "Mon, 05 Oct 2026 07:05:00 GMT"})
    server.behave(NAME, one, two, plain(etag=None), one, two)
    assert fetched(transport, server.url(NAME)) == fetched(make_transport(), server.url(NAME))


def test_a_range_of_a_file_with_another_length_than_signed_is_refused_in_the_middle_too(
    server: HttpServer, transport: HttpTransport
) -> None:
    def shorter(exchange: Exchange) -> None:
        chosen = exchange.request.chosen(len(CONTENT)) or range(0)
        lies = f"bytes {chosen.start}-{chosen.stop - 1}/{len(CONTENT) - 1}"
        plain(headers={"Content-Range": lies})(exchange)

    server.behave(NAME, plain(), shorter)
    with pytest.raises(DigestError, match="2999999 bytes, but 3000000 were signed"):
        fetched(transport, server.url(NAME))


def test_a_server_that_limits_requests_by_address_is_only_slower(server: HttpServer) -> None:
    """As for many nodes behind one address: every second request is answered with 429."""
    asked = 0

    def limited(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        (answer(429) if asked % 2 else plain())(exchange)

    server.behave(NAME, limited)
    expected = [CONTENT[span.offset : span.end] for span in SPANS]
    assert fetched(make_transport(tries=2), server.url(NAME)) == expected
    assert asked == 2 * len(SPANS)


def test_an_error_comes_out_of_the_iteration_and_other_threads_do_not_hang(server: HttpServer) -> None:
    server.behave(NAME, answer(404))
    transport = make_transport()
    with pytest.raises(HttpStatusError):
        fetched_by_threads(transport, server.url(NAME), 3)


def test_spans_given_up_halfway_are_not_fetched(server: HttpServer, transport: HttpTransport) -> None:
    with transport.ranges(server.url(NAME), SPANS, length=len(CONTENT)) as ranges:
        number, blocks = next(ranges)
        assert (number, b"".join(blocks)) == (0, WANTED[0])
    assert list(ranges) == []
    assert len(server.log) == 1


# -- a server that ignores ranges (D61) ----------------------------------------------------------------------


def test_where_ranges_are_ignored_one_answer_serves_all_spans(
    server: HttpServer, transport: HttpTransport
) -> None:
    """D61: not asked twice, and nothing crosses twice."""
    server.behave(NAME, plain(ranges=False))
    assert fetched(transport, server.url(NAME)) == WANTED
    assert len(server.log) == 1
    assert transport.received == len(CONTENT)


def test_the_connection_is_closed_after_the_last_span(server: HttpServer, transport: HttpTransport) -> None:
    server.behave(NAME, stalled(after=1_500_000))
    assert fetched(transport, server.url(NAME), SPANS[:4]) == WANTED[:4]
    assert len(server.log) == 1


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_take_turns_at_the_one_answer(
    server: HttpServer, transport: HttpTransport, threads: int
) -> None:
    server.behave(NAME, plain(ranges=False))
    assert fetched_by_threads(transport, server.url(NAME), threads) == dict(enumerate(WANTED))
    assert len(server.log) == 1
    assert transport.received == len(CONTENT)


def test_a_stream_that_breaks_off_is_resumed_where_it_was(
    server: HttpServer, transport: HttpTransport
) -> None:
    """D60 with D61: what came before has to be read again, there is no other way; spans stay whole."""
    server.behave(NAME, plain(ranges=False, cut=900_000), plain(ranges=False))
    assert fetched(transport, server.url(NAME)) == WANTED
    assert [request.start for request in server.log] == [5, 900_000]


def test_a_server_that_stops_ignoring_ranges_is_asked_for_ranges_again(
    server: HttpServer, transport: HttpTransport
) -> None:
    server.behave(NAME, plain(ranges=False, cut=900_000), plain())
    assert fetched(transport, server.url(NAME)) == WANTED
    assert [request.headers["Range"] for request in server.log][1:] == [
        "bytes=900000-1299999",
        "bytes=2999990-2999999",
    ]
    assert transport.received == 900_000 + 400_000 + 10


def test_a_server_that_starts_to_ignore_ranges_is_streamed_from_there(
    server: HttpServer, transport: HttpTransport
) -> None:
    server.behave(NAME, plain(), plain(), plain(ranges=False))
    assert fetched(transport, server.url(NAME)) == WANTED
    assert len(server.log) == 3


@pytest.mark.parametrize("ranges", [True, False])
def test_an_abandoned_span_does_not_spoil_the_next(
    server: HttpServer, transport: HttpTransport, *, ranges: bool
) -> None:
    server.behave(NAME, plain(ranges=ranges))
    spans = transport.ranges(server.url(NAME), SPANS, length=len(CONTENT))
    for number, blocks in spans:
        if number == 3:
            next(blocks)
            continue
        assert b"".join(blocks) == WANTED[number]


def test_dropping_a_span_unread_frees_the_stream_for_other_threads(
    server: HttpServer, transport: HttpTransport
) -> None:
    server.behave(NAME, plain(ranges=False))
    ranges = transport.ranges(server.url(NAME), SPANS, length=len(CONTENT))

    def drop_one() -> int:
        number, _ = next(ranges)
        return number

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(drop_one).result(10) == 0
    assert {number: b"".join(blocks) for number, blocks in ranges} == dict(list(enumerate(WANTED))[1:])


# -- file: URLs ----------------------------------------------------------------------------------------------


def test_a_file_url_has_ranges_too(tmp_path: Path, transport: HttpTransport) -> None:
    path = tmp_path / "image.zst"
    path.write_bytes(CONTENT)
    assert fetched(transport, path.as_uri()) == WANTED
    assert transport.received == BYTES


def test_a_file_of_another_length_than_signed_is_refused(tmp_path: Path, transport: HttpTransport) -> None:
    path = tmp_path / "image.zst"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DigestError, match="has 2999999 bytes"):
        fetched(transport, path.as_uri())
