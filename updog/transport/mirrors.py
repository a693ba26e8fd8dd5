"""Which mirror to ask first: the configured order, and behind it those that failed lately.

A failure is a point, wrong content several. Points halve every :data:`HALF_LIFE_SECONDS`; below half a point
they are forgotten, so that a mirror that failed once is first again after one half-life. Scores live as long
as the process: the next run, minutes later, begins with the configured order and learns within one time-out.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HALF_LIFE_SECONDS = 60.0
FAILURE_POINTS = 1.0
BLAME_POINTS = 8.0  # four half-lives behind the others, longer than one check takes
_MOST_POINTS = 16.0
_FORGOTTEN_BELOW = 0.5


class Mirrors:
    """The configured mirrors of each base URL and how they have done. Safe to use from several threads."""

    def __init__(self, mirrors: Mapping[str, tuple[str, ...]], *, monotonic: Callable[[], float]) -> None:
        self._bases = {base: tuple(dict.fromkeys((base, *others))) for base, others in mirrors.items()}
        self._monotonic = monotonic
        self._points: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def order(self, url: str) -> tuple[str, ...]:
        """Return the URLs under which ``url`` can be had, best first."""
        base = self._base(url)
        if base is None:
            return (url,)
        now, rest = self._monotonic(), url.removeprefix(base)
        with self._lock:
            ordered = sorted(self._bases[base], key=lambda mirror: self._score(mirror, now))
        return tuple(mirror + rest for mirror in ordered)

    def failed(self, url: str, where: str, points: float = FAILURE_POINTS) -> None:
        """Note that ``url`` was not well served from ``where``, one of its URLs."""
        base = self._base(url)
        if base is None:
            return
        mirror, now = where.removesuffix(url.removeprefix(base)), self._monotonic()
        with self._lock:
            self._points[mirror] = (min(self._score(mirror, now) + points, _MOST_POINTS), now)

    def _base(self, url: str) -> str | None:
        """Return the longest configured base URL that ``url`` is under."""
        return max((base for base in self._bases if url.startswith(base)), key=len, default=None)

    def _score(self, mirror: str, now: float) -> float:
        points, when = self._points.get(mirror, (0.0, now))
        left = points * 0.5 ** ((now - when) / HALF_LIFE_SECONDS)
        return left if left >= _FORGOTTEN_BELOW else 0.0
