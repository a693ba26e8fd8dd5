"""Which mirror to ask first: the configured order, except that mirrors that failed recently come last.

A mirror that is slow over one window of waiting for it is left for one that may be faster: one that was not
measured yet, or was more than twice as fast. So each mirror costs at most one window, however slow it is, and
two slow ones do not alternate. Slow mirrors come after others for the rest of the run, the fastest first. The
windows are summed over all requests: small files add up.

A failure costs one point, wrong content several. Points halve every :data:`HALF_LIFE_SECONDS`; below half a
point they are dropped, so that a mirror that failed once is back in its place after one half-life. Points are
kept in memory only: the next run, minutes later, starts with the configured order and needs one timeout to
find a dead mirror.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

HALF_LIFE_SECONDS = 60.0
FAILURE_POINTS = 1.0
WRONG_CONTENT_POINTS = 8.0  # four half-lives behind the others, longer than one check takes
SLOW_FACTOR = 64  # "slow" is below so many times the minimum rate: 16 KiB/s by default
_MUCH_FASTER = 2.0
_REMEMBERED_FILES = 256  # files in use at a time are a dozen; a run may fetch any number
_MOST_POINTS = 16.0
_DROPPED_BELOW = 0.5


class Mirrors:
    """The configured mirrors of each base URL, their failures and rates. Safe to use from several threads.

    Args:
        mirrors: base URL → other base URLs that have the same files.
        monotonic: a clock, in seconds.
        slow_rate: below it, a mirror is left for another (bytes per second; 0: never).
        window: seconds of waiting for a mirror after which its rate is known.
    """

    def __init__(
        self,
        mirrors: Mapping[str, tuple[str, ...]],
        *,
        monotonic: Callable[[], float],
        slow_rate: float = 0,
        window: float = 30,
    ) -> None:
        self._bases = {base: tuple(dict.fromkeys((base, *others))) for base, others in mirrors.items()}
        self._monotonic = monotonic
        self._slow_rate, self._window = slow_rate, window
        self._measured: dict[str, tuple[int, float]] = {}  # bytes and seconds of the window that is not full
        self._slow: dict[str, float] = {}  # rates of the mirrors that were slow
        self._answered: OrderedDict[str, str] = OrderedDict()  # file → its URL at the mirror that answered
        self._points: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def order(self, url: str) -> tuple[str, ...]:
        """Return the URLs that serve the same file as ``url``, best first."""
        base = self._base(url)
        if base is None:
            return (url,)
        now, rest = self._monotonic(), url.removeprefix(base)
        with self._lock:
            ordered = sorted(
                self._bases[base],
                key=lambda mirror: (self._score(mirror, now), -self._slow.get(mirror, math.inf)),
            )
        return tuple(mirror + rest for mirror in ordered)

    def failed(self, url: str, mirror_url: str, points: float = FAILURE_POINTS) -> None:
        """Record a failure of ``mirror_url``, one of the URLs of ``url``."""
        base = self._base(url)
        if base is None:
            return
        mirror, now = mirror_url.removesuffix(url.removeprefix(base)), self._monotonic()
        with self._lock:
            self._points[mirror] = (min(self._score(mirror, now) + points, _MOST_POINTS), now)

    def answered(self, url: str, mirror_url: str) -> None:
        """Record which mirror answered a request for ``url``."""
        with self._lock:
            self._answered[url] = mirror_url
            self._answered.move_to_end(url)
            if len(self._answered) > _REMEMBERED_FILES:
                self._answered.popitem(last=False)

    def last_to_answer(self, url: str) -> str | None:
        """Return the URL at the mirror that answered the last request for ``url``."""
        with self._lock:
            return self._answered.get(url)

    def is_outrun(
        self, url: str, mirror_url: str, measured: tuple[int, float], refused: Container[str]
    ) -> bool:
        """Count what a mirror sent in some time of waiting for it; tell whether to leave it now.

        Args:
            url: the file under its configured base URL.
            mirror_url: the same file at the mirror.
            measured: bytes received since the last call, and seconds of waiting for them.
            refused: URLs of the file at mirrors that cannot be used for it.
        """
        base = self._base(url)
        if base is None or len(self._bases[base]) == 1:
            return False
        rest = url.removeprefix(base)
        mirror = mirror_url.removesuffix(rest)
        with self._lock:
            received, waited = self._measured.pop(mirror, (0, 0.0))
            received, waited = received + measured[0], waited + measured[1]
            if waited < self._window:
                self._measured[mirror] = received, waited
                return False
            rate = received / waited
            if rate >= self._slow_rate:
                self._slow.pop(mirror, None)
                return False
            self._slow[mirror] = rate
            now = self._monotonic()
            return any(
                other + rest not in refused
                and not self._score(other, now)
                and self._slow.get(other, math.inf) > _MUCH_FASTER * rate
                for other in self._bases[base]
                if other != mirror
            )

    def _base(self, url: str) -> str | None:
        """Return the longest configured base URL that ``url`` starts with."""
        return max((base for base in self._bases if url.startswith(base)), key=len, default=None)

    def _score(self, mirror: str, now: float) -> float:
        points, time = self._points.get(mirror, (0.0, now))
        left = points * 0.5 ** ((now - time) / HALF_LIFE_SECONDS)
        return left if left >= _DROPPED_BELOW else 0.0
