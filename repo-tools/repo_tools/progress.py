"""How long work tells how far it is: values handed to a callback, printed by the command line only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One piece of long work and how far it is.

    Attributes:
        action: what is done, one word. item: to which file. total: bytes in all. done: bytes so far.
    """

    action: str
    item: str
    total: int
    done: int = 0

    def at(self, done: int) -> Step:
        """Return the same step, ``done`` bytes far."""
        return replace(self, done=done)

    def to_json(self) -> dict[str, Any]:
        """Return the event that ``--json`` prints."""
        return {
            "event": "progress",
            "action": self.action,
            "item": self.item,
            "done": self.done,
            "total": self.total,
        }


Progress = Callable[[Step], None]
"""Told after every block of long work, at least once a file."""


def silent(step: Step) -> None:
    """Tell nobody."""
    del step


def one_at_a_time(progress: Progress) -> Progress:
    """Return ``progress`` for work done by several threads: never called by two of them at once."""
    lock = Lock()

    def told(step: Step) -> None:
        with lock:
            progress(step)

    return told
