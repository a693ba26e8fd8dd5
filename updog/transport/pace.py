"""How fast is too slow, how fast is too fast, and how long to wait: arithmetic on seconds and bytes.

Only time spent waiting for a server counts against it: neither what the caller does between two blocks nor
what the limit of the rate makes us sleep.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from updog.transport.port import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAIT_SECONDS = 60.0  # a Retry-After beyond this is the next timer run's business
_FIRST_WAIT_SECONDS = 0.2
_BURST_SECONDS = 0.25  # what a line that was idle may make up for


class Pace:
    """Gives up on a server that stays below the minimum rate for a whole window (a drip, D50, D69).

    Args:
        rate: bytes per second at least.
        window: seconds.
    """

    def __init__(self, rate: int, window: float) -> None:
        self._rate, self._window = rate, window
        self._seconds = self._since = 0.0
        self._bytes = 0

    def began(self) -> None:
        """A new request has its own windows."""
        self._since, self._bytes = 0.0, 0

    def waited(self, seconds: float) -> None:
        """Count time without bytes: a connection being made, a wait between tries."""
        self._seconds += seconds

    def saw(self, length: int, seconds: float) -> None:
        """Count a block and the time it took; at each window's end compare with the minimum.

        Raises:
            BrokenError: too slow.
        """
        self._seconds += seconds
        self._since += seconds
        self._bytes += length
        if self._since < self._window:
            return
        if self._bytes < self._rate * self._since:
            raise BrokenError(f"only {self._bytes} bytes in {self._since:.0f} s")
        self.began()

    def was_worth_it(self, brought: int) -> bool:
        """Tell whether ``brought`` new bytes, in all the time since this was asked last, keep the rate."""
        seconds, self._seconds = self._seconds, 0.0
        return 0 < brought >= self._rate * seconds


class Bucket:
    """A rate that all threads share: whoever has received bytes sleeps until they are paid for.

    Args:
        rate: bytes per second; 0: no limit.
        monotonic: a clock.
        sleep: waits.
    """

    def __init__(self, rate: int, *, monotonic: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate, self._monotonic, self._sleep = rate, monotonic, sleep
        self._paid_until = monotonic()
        self._lock = Lock()

    def most(self, most: int) -> int:
        """Bytes to take at once, at most ``most``, so that a slow rate stays even."""
        return most if not self._rate else max(1, min(most, int(self._rate * _BURST_SECONDS)))

    def paid(self, length: int) -> None:
        """Return when ``length`` bytes more are within the rate."""
        if not self._rate:
            return
        with self._lock:
            now = self._monotonic()
            begin = max(self._paid_until, now - _BURST_SECONDS)
            self._paid_until = begin + length / self._rate
            wait = self._paid_until - now
        if wait > 0:
            self._sleep(wait)


def wait_seconds(failures: int, asked: float | None, jitter: float) -> float:
    """Seconds to wait before the next try.

    Args:
        failures: so far, in a row.
        asked: what the server asked for, if it did.
        jitter: 0 … 1.
    """
    if asked is not None:
        return min(asked, MAX_WAIT_SECONDS)
    longest = min(_FIRST_WAIT_SECONDS * 2.0**failures, MAX_WAIT_SECONDS)
    return longest * (0.5 + jitter / 2)
