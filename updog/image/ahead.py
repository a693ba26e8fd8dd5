"""Work ahead: an iterator that runs in a thread of its own, a bounded number of items before its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_T = TypeVar("_T")

DEFAULT_ITEMS = 8  # of a block each: enough to bridge a slow moment, little beside the process itself
_POLL_SECONDS = 0.1  # how soon a thread notices that its reader has gone


class _End:
    """What comes behind the last item: why it is the last."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterator[_T], *, most: int = DEFAULT_ITEMS) -> Generator[_T]:
    """Yield ``items``, taken in another thread; whatever they raise comes out in its place.

    Args:
        items: closed in that thread, if they can be, once the reader is done or has gone.
        most: items that may wait.
    """
    waiting: queue.Queue[_T | _End] = queue.Queue(most)
    gone = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, waiting, gone), daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()
        thread.join()


def _fill(items: Iterator[_T], waiting: queue.Queue[_T | _End], gone: threading.Event) -> None:
    """Take items until they end or nobody wants them."""
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(waiting, item, gone):
                break
    except BaseException as raised:  # noqa: BLE001 - it is raised again where the items are read
        error = raised
    finally:
        if isinstance(items, Generator):
            items.close()
    _put(waiting, _End(error), gone)


def _put(waiting: queue.Queue[_T | _End], item: _T | _End, gone: threading.Event) -> bool:
    """Hand an item over; False if the reader has gone."""
    while not gone.is_set():
        try:
            waiting.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
