"""Too slow, too fast, and how long to wait."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.http_server import HttpServer, plain
from updog.image.index import Span
from updog.transport import BODY_BLOCK_BYTES, MAX_WAIT_SECONDS, HttpTransport, TransportSettings
from updog.transport.body import BrokenError
from updog.transport.rate import MinimumRate, RateLimit, wait_seconds


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_window_above_the_rate_is_fine_and_one_below_is_not() -> None:
    minimum = MinimumRate(10, 5.0)
    minimum.count_block(50, 5.0)
    with pytest.raises(BrokenError, match=r"only 49 bytes in 5 s"):
        minimum.count_block(49, 5.0)


def test_before_a_window_is_over_nothing_is_reported() -> None:
    MinimumRate(10, 5.0).count_block(0, 4.9)


def test_a_new_request_has_a_new_window() -> None:
    minimum = MinimumRate(10, 5.0)
    minimum.count_block(0, 4.9)
    minimum.start_window()
    minimum.count_block(0, 4.9)


@pytest.mark.parametrize(("brought", "worth"), [(0, False), (99, False), (100, True)])
def test_what_a_request_brought_is_worth_it_if_it_keeps_the_rate_with_the_wait_before_it(
    brought: int, *, worth: bool
) -> None:
    minimum = MinimumRate(10, 5.0)
    minimum.count_wait(9.0)
    minimum.count_block(brought, 1.0)
    assert minimum.was_kept(brought) is worth
    assert minimum.was_kept(1) is True


def test_without_a_rate_nothing_is_slowed() -> None:
    clock = Time()
    limit = RateLimit(0, monotonic=clock.monotonic, sleep=clock.sleep)
    limit.throttle(1 << 40)
    assert (clock.now, limit.block_size(BODY_BLOCK_BYTES)) == (100.0, BODY_BLOCK_BYTES)


def test_bytes_are_paid_for_in_time() -> None:
    clock = Time()
    limit = RateLimit(1000, monotonic=clock.monotonic, sleep=clock.sleep)
    assert limit.block_size(BODY_BLOCK_BYTES) == 250
    for _ in range(40):
        limit.throttle(250)
    assert clock.now - 100 == pytest.approx(10.0)


def test_an_idle_line_saves_up_no_more_than_a_burst() -> None:
    clock = Time()
    limit = RateLimit(1000, monotonic=clock.monotonic, sleep=clock.sleep)
    clock.now += 3600
    limit.throttle(1250)
    assert clock.now == pytest.approx(3700 + 1.0)


def test_a_rate_is_shared_by_all_threads() -> None:
    """Real time: two downloads at once take as long as both one after the other."""
    content = bytes(100_000)
    with HttpServer({"a": content, "b": content}) as server:
        with HttpTransport(TransportSettings(limit_rate=400_000)) as transport:
            threads = [
                threading.Thread(
                    target=lambda name=name: list(transport.stream(server.url(name), limit=100_000))
                )
                for name in ("a", "b")
            ]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - began
        assert transport.received == 200_000
    assert took >= 200_000 / 400_000 - 0.3


def test_a_limit_below_the_minimum_rate_is_no_drip() -> None:
    """Only time spent waiting for the server counts against it."""
    clock = Time()
    with HttpServer({"x": bytes(5000)}) as server:
        server.behave("x", plain())
        settings = TransportSettings(limit_rate=10, minimum_rate=1000, stall_timeout=5, tries=1)
        with HttpTransport(settings, sleep=clock.sleep, monotonic=clock.monotonic) as transport:
            assert len(b"".join(transport.stream(server.url("x"), limit=5000))) == 5000
    assert clock.now - 100 == pytest.approx(500, rel=0.01)


def test_a_caller_that_dawdles_is_not_held_against_the_server() -> None:
    """A slow disk between two blocks does not make the server slow."""
    clock = Time()
    spans = [Span(offset=0, length=10), Span(offset=20, length=10)]
    with HttpServer({"x": bytes(100)}) as server:
        settings = TransportSettings(minimum_rate=1000, stall_timeout=5, tries=1)
        with HttpTransport(settings, sleep=clock.sleep, monotonic=clock.monotonic) as transport:
            for _, blocks in transport.ranges(server.url("x"), spans, length=100):
                for _ in blocks:
                    clock.sleep(3600)


@pytest.mark.parametrize(
    ("failures", "asked", "jitter", "wait"),
    [
        (1, None, 1.0, 0.4),
        (1, None, 0.0, 0.2),
        (3, None, 1.0, 1.6),
        (50, None, 1.0, MAX_WAIT_SECONDS),
        (50, 7.0, 1.0, 7.0),
        (1, 1e9, 0.0, MAX_WAIT_SECONDS),
    ],
)
def test_waits_grow_and_are_bounded(failures: int, asked: float | None, jitter: float, wait: float) -> None:
    assert wait_seconds(failures, asked, jitter) == pytest.approx(wait)
