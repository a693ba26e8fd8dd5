"""Waits that do not depend on how fast or how busy the host is.

Rules it enforces:

* a wait fails after a silence, not after a time: while something shows progress it goes on, up to a limit;
* before a wait fails, the host is measured: where a fixed piece of work takes N times as long as on the
  reference machine, silence and limit are N times as long.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_SECONDS = 3600.0
"""The longest wait on the reference machine, however much progress is seen: a drill takes minutes."""

MAX_SLOWNESS = 20.0
"""A slower host cannot run a node: the node's own time-outs, such as its watchdog's, are in real time."""

_WORK = 10_000_000
_WORK_SECONDS = 0.125
"""What it takes on the reference machine, two quiet cores of 2.5 GHz: there a node starts in 25 seconds."""


def slowness() -> float:
    """Return how many times longer work takes here and now than on the reference machine, at least 1.0."""
    began = time.monotonic()
    sum(range(_WORK))  # one call of the interpreter: as fast when the coverage of lines is measured
    return min(max(1.0, (time.monotonic() - began) / _WORK_SECONDS), MAX_SLOWNESS)


@dataclass(kw_only=True)
class Patience:
    """A wait for something that shows progress.

    Attributes:
        silence: seconds without progress after which the wait has failed, on the reference machine.
        limit: seconds after which it has failed in any case, on the reference machine.
        factor: how much slower the host was when it was last measured; not measured before it matters.
        measure: measures the host.
        clock: monotonic seconds.
    """

    silence: float
    limit: float = LIMIT_SECONDS
    factor: float = 1.0
    measure: Callable[[], float] = slowness
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _last: float = field(init=False)
    _seen: object = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._began = self._last = self.clock()

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return self.clock() - self._began

    def watch(self, progress: object) -> None:
        """Take a value that changes with progress, such as how much was printed; a new one ends a silence."""
        if progress != self._seen:
            self._seen, self._last = progress, self.clock()

    def is_over(self) -> bool:
        """Tell whether the wait has failed; measures the host before it does."""
        if not self._is_exceeded():
            return False
        self.factor = max(self.factor, self.measure())
        return self._is_exceeded()

    def _is_exceeded(self) -> bool:
        now = self.clock()
        return now - self._last > self.silence * self.factor or now - self._began > self.limit * self.factor
