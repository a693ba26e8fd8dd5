"""Minimum rate, rate limit and waits between attempts: arithmetic on seconds and bytes.

Only time spent waiting for a server counts against it: neither the caller's work between two blocks nor the
sleep of the rate limit.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from updog.transport.body import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAIT_SECONDS = 60.0  # a longer Retry-After is left to the next run of the timer
_FIRST_WAIT_SECONDS = 0.2
_BURST_SECONDS = 0.25  # what may be caught up on after an idle time


class MinimumRate:
    """Gives up on a server that stays below the minimum rate for a whole window (D50, D69).

    Args:
        rate: the minimum in bytes per second.
        window: seconds.
    """

    def __init__(self, rate: int, window: float) -> None:
        self._rate, self._window = rate, window
        self._seconds = self._window_seconds = 0.0
        self._window_bytes = 0
        self._measured_bytes, self._measured_seconds = 0, 0.0

    def start_window(self) -> None:
        """Start a new window; every request has its own."""
        self._window_seconds, self._window_bytes = 0.0, 0

    def count_wait(self, seconds: float) -> None:
        """Count time without bytes between attempts."""
        self._seconds += seconds

    def count_head(self, seconds: float) -> None:
        """Count time without bytes for which a server is responsible: until the head of its response."""
        self._seconds += seconds
        self._measured_seconds += seconds

    def count_block(self, length: int, seconds: float) -> None:
        """Count a block of ``length`` bytes that took ``seconds``; check the rate at the end of each window.

        Raises:
            BrokenError: too slow.
        """
        self._seconds += seconds
        self._measured_seconds += seconds
        self._measured_bytes += length
        self._window_seconds += seconds
        self._window_bytes += length
        if self._window_seconds < self._window:
            return
        if self._window_bytes < self._rate * self._window_seconds:
            raise BrokenError(f"only {self._window_bytes} bytes in {self._window_seconds:.0f} s")
        self.start_window()

    def take_measured(self) -> tuple[int, float]:
        """Return the bytes and the seconds of waiting for the server since the last call."""
        measured = self._measured_bytes, self._measured_seconds
        self._measured_bytes, self._measured_seconds = 0, 0.0
        return measured

    def was_kept(self, length: int) -> bool:
        """Return whether ``length`` new bytes in all the time since the last call keep the rate."""
        seconds, self._seconds = self._seconds, 0.0
        return 0 < length >= self._rate * seconds


class RateLimit:
    """A maximum rate shared by all threads: after receiving bytes, a thread sleeps until they are within it.

    Args:
        rate: bytes per second; 0: no limit.
        monotonic: a clock, in seconds.
        sleep: sleeps so many seconds.
    """

    def __init__(self, rate: int, *, monotonic: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate, self._monotonic, self._sleep = rate, monotonic, sleep
        self._used_until = monotonic()
        self._lock = Lock()

    def block_size(self, largest: int) -> int:
        """Return how many bytes to read at once, at most ``largest``, so that a slow rate stays even."""
        return largest if not self._rate else max(1, min(largest, int(self._rate * _BURST_SECONDS)))

    def throttle(self, length: int) -> None:
        """Sleep until ``length`` more bytes are within the rate."""
        if not self._rate:
            return
        with self._lock:
            now = self._monotonic()
            begin = max(self._used_until, now - _BURST_SECONDS)
            self._used_until = begin + length / self._rate
            wait = self._used_until - now
        if wait > 0:
            self._sleep(wait)


def wait_seconds(failures: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds to wait before the next attempt.

    Args:
        failures: in a row so far.
        retry_after: what the server asked for, or None.
        jitter: 0 … 1.
    """
    if retry_after is not None:
        return min(retry_after, MAX_WAIT_SECONDS)
    longest = min(_FIRST_WAIT_SECONDS * 2.0**failures, MAX_WAIT_SECONDS)
    return longest * (0.5 + jitter / 2)
