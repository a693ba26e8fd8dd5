"""Work in a pool: results in order, no more in flight than allowed, nothing begun after an error."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from updog.image.ordered_pool import ordered_results

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_results_come_in_the_order_of_the_items_whichever_ends_first() -> None:
    def work(item: int) -> int:
        time.sleep(0.003 if item % 2 == 0 else 0)
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(ordered_results(pool, work, range(40), limit=7)) == list(range(40))


@pytest.mark.parametrize(("limit", "weights"), [(3, [1] * 20), (10, [4, 4, 4, 10, 1, 9, 2, 2, 2, 2, 2, 2])])
def test_what_is_in_flight_never_weighs_more_than_the_limit(limit: int, weights: list[int]) -> None:
    in_flight = most = 0

    def items() -> Iterator[int]:
        nonlocal in_flight, most
        for weight in weights:
            yield weight
            in_flight += weight  # the next item is asked for once this one is in flight
            most = max(most, in_flight)

    def work(weight: int) -> int:
        time.sleep(0.002)
        return weight

    with ThreadPoolExecutor(4) as pool:
        for weight in ordered_results(pool, work, items(), limit=limit, weight=lambda weight: weight):
            in_flight -= weight
    assert limit // 2 < most <= limit


def test_an_item_above_the_limit_is_in_flight_alone() -> None:
    lock = threading.Lock()
    at_work = 0
    beside: dict[int, int] = {}

    def work(weight: int) -> int:
        nonlocal at_work
        with lock:
            at_work += 1
        time.sleep(0.01)
        with lock:
            beside[weight] = at_work - 1
            at_work -= 1
        return weight

    with ThreadPoolExecutor(4) as pool:
        results = list(ordered_results(pool, work, [1, 2, 100, 3], limit=5, weight=lambda weight: weight))
    assert results == [1, 2, 100, 3]
    assert beside[100] == 0


def test_a_result_comes_out_while_there_is_still_room_for_more_items() -> None:
    """Its reader can use it at once, without waiting until the limit is reached."""
    done = threading.Event()
    seen: list[int] = []

    def items() -> Iterator[int]:
        yield 0
        assert done.wait(10)
        time.sleep(0.05)  # a future is done a moment after its work has ended
        yield 1
        assert seen == [0]
        yield 2

    def work(item: int) -> int:
        done.set()
        return item

    with ThreadPoolExecutor(1) as pool:
        for result in ordered_results(pool, work, items(), limit=100):
            seen.append(result)  # noqa: PERF402 - read while it grows
    assert seen == [0, 1, 2]


def test_what_work_raises_comes_out_in_its_place_and_cancels_what_has_not_begun() -> None:
    begun: list[int] = []
    go = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert go.wait(10)
        if item == 1:
            raise ValueError("one")
        time.sleep(0.01)
        return item

    seen: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        threading.Timer(0.05, go.set).start()
        with pytest.raises(ValueError, match="one"):
            seen.extend(ordered_results(pool, work, range(50), limit=50))
    assert len(begun) < 50


def test_what_taking_an_item_raises_comes_out() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the network failed")

    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="the network failed"):
        list(ordered_results(pool, abs, items(), limit=5))


def test_closing_it_cancels_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    with ThreadPoolExecutor(1) as pool, closing(ordered_results(pool, work, range(50), limit=50)) as results:
        assert next(results) == 0
    assert len(begun) < 50
