"""PURE: how finely a stretch of time is cut for a curve."""

from __future__ import annotations

from datetime import timedelta

MAX_STEPS = 200
"""Points of a curve: as many as a plot shows."""

_STEPS = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440))


def step_over(span: timedelta) -> timedelta:
    """Return a round step that cuts ``span`` into fewer than :data:`MAX_STEPS`."""
    days = timedelta(days=1 + int(span / timedelta(days=1) / MAX_STEPS))
    return next((step for step in _STEPS if span / step < MAX_STEPS), days)
