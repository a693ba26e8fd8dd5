"""Working ahead: everything arrives in order, errors in their place, and no thread is left behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from updog.image.prefetch import prefetched

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_items_arrive_in_order() -> None:
    assert list(prefetched(iter(range(1000)), limit=3)) == list(range(1000))


def test_an_error_comes_out_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    read = prefetched(items())
    assert next(read) == 1
    with pytest.raises(KeyError, match="two"):
        next(read)


def test_only_so_many_items_wait() -> None:
    taken = 0
    enough = threading.Event()

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken = number
            if number == 4:
                enough.set()
            yield number

    read = prefetched(items(), limit=3)
    assert next(read) == 0
    assert enough.wait(60)
    assert taken <= 5
    read.close()


def test_a_reader_that_goes_ends_the_thread_and_closes_the_items() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    read = prefetched(items(), limit=1)
    next(read)
    read.close()
    assert closed.is_set()
    assert threading.active_count() == before
