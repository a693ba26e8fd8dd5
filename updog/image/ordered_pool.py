"""Work on items in a pool of threads: a bounded number in flight, results in the order of the items.

Knows nothing of images: the node's pipeline uses it, and so do the publisher's packs and deltas. Rules:

* items in flight together weigh at most ``limit``, so that memory is bounded; a heavier item goes alone;
* results come out in the order of the items, in the reader's thread, as soon as the first one is done;
* when anything raises, or the reader closes the generator, items that no thread has begun are cancelled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Executor, Future

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_results(
    pool: Executor,
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    limit: int,
    weight: Callable[[_Item], int] = lambda _item: 1,
) -> Generator[_Result]:
    """Yield ``work(item)`` of each item, in order. Raises what taking an item or working on it raises.

    Args:
        pool: does the work; it may be shared.
        work: runs in a thread of the pool.
        items: taken one by one, in the reader's thread, and held until their result is.
        limit: weight that may be in flight.
        weight: of an item; without it each counts one.
    """
    flight: deque[tuple[Future[_Result], int]] = deque()
    weight_in_flight = 0
    try:
        for item in items:
            added = weight(item)
            while flight and (weight_in_flight + added > limit or flight[0][0].done()):
                future, landed = flight.popleft()
                weight_in_flight -= landed
                yield future.result()
            flight.append((pool.submit(work, item), added))
            weight_in_flight += added
        while flight:
            yield flight.popleft()[0].result()
    finally:
        for future, _ in flight:
            future.cancel()
