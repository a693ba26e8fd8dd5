"""Time limits of tests that hold on any machine: seconds are those of a quiet one, stretched on a busy one.

A limit that something else has to stay below is stretched by how slow the machine was when the limit was
exceeded; a time-out that a test gives the product is stretched beforehand.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from updog.drill.patience import Patience, slowness

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SECONDS = 0.01

slowness_of_this_run = cache(slowness)
"""How much slower this machine was when a test of this process first asked."""


def stretched(seconds: float) -> int:
    """Return a time-out in whole seconds: ``seconds`` of a quiet machine, as they are on this one."""
    return max(1, round(seconds * slowness_of_this_run()))


def took_less(began: float, seconds: float) -> bool:
    """Tell whether less than ``seconds`` of a quiet machine have passed since a moment of time.monotonic."""
    took = time.monotonic() - began
    return took < seconds or took < seconds * max(slowness_of_this_run(), slowness())


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until something is true, and tell whether it is after ``seconds`` of a quiet machine."""
    patience = Patience(silence=seconds)
    while not condition():
        if patience.is_over():
            return False
        time.sleep(_LOOK_SECONDS)
    return True
