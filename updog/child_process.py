"""Starting a child process so that whoever has to end it knows of it, whatever signal arrives meanwhile.

A signal handler that raises, such as Ctrl-C's, can do so between the start of a process and the assignment
of it: the caller then unwinds without ending a child that runs, for example a health check.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELD_BACK = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end of the block; assign there what the block starts.

    The mask of signals is left alone: a child would inherit it. Only the main thread runs signal handlers, so
    other threads need nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    raising = [number for number in _HELD_BACK if callable(signal.getsignal(number))]
    before = [(number, signal.signal(number, lambda it, _frame: arrived.append(it))) for number in raising]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)
