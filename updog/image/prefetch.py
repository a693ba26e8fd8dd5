"""Work ahead: an iterator that runs in a thread of its own, a bounded number of items before its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_T = TypeVar("_T")

DEFAULT_ITEMS = 8  # of a block each: enough for a slow moment, little memory beside the process itself
_POLL_SECONDS = 0.1  # how soon a thread notices that its reader has stopped


class _End:
    """What follows the last item, and the error that made it the last, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(items: Iterator[_T], *, limit: int = DEFAULT_ITEMS) -> Generator[_T]:
    """Yield ``items``, taken in another thread; what they raise is raised in its place.

    Args:
        items: closed in that thread, if they can be, once the reader is done or has stopped.
        limit: items that may wait.
    """
    waiting: queue.Queue[_T | _End] = queue.Queue(limit)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, waiting, stopped), daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()


def _fill(items: Iterator[_T], waiting: queue.Queue[_T | _End], stopped: threading.Event) -> None:
    """Take items until they end or the reader has stopped."""
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(waiting, item, stopped):
                break
    except BaseException as raised:  # noqa: BLE001 - it is raised again where the items are read
        error = raised
    finally:
        if isinstance(items, Generator):
            items.close()
    _put(waiting, _End(error), stopped)


def _put(waiting: queue.Queue[_T | _End], item: _T | _End, stopped: threading.Event) -> bool:
    """Hand an item over; False if the reader has stopped."""
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
