"""A share over time as a plot of block characters, for terminals and logs. PURE."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

WIDTH, HEIGHT = 60, 6
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def share_plot(share: Callable[[datetime], float], first: datetime, span: timedelta) -> list[str]:
    """Return the lines of a plot of a share, 0 … 1, from ``first`` on, with its axes."""
    levels = [round(share(moment) * HEIGHT * 8) for moment in _moments(first, span)]
    lines = [
        f"{100 * (row + 1) // HEIGHT:3d} % |"
        + "".join(_EIGHTHS[max(0, min(8, level - 8 * row))] for level in levels).rstrip()
        for row in reversed(range(HEIGHT))
    ]
    ends = f"{first:%m-%d %H:%M}", f"{first + span:%m-%d %H:%M}"
    return [*lines, "      +" + "-" * WIDTH, f"       {ends[0]}{ends[1]:>{WIDTH - len(ends[0])}}"]


def mark(at: datetime, word: str, first: datetime, span: timedelta) -> list[str]:
    """Return the line that points at a moment of the plot; none if it is outside."""
    for column, (left, right) in enumerate(pairwise(_moments(first, span))):
        if left <= at < right:
            return [" " * (7 + column) + f"^ {word}"]
    return []


def _moments(first: datetime, span: timedelta) -> list[datetime]:
    return [first + span * column / (WIDTH - 1) for column in range(WIDTH)]
