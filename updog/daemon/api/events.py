"""What happened lately: a bounded number of events, for those who listen and those who come back.

An event's id is ``RUN-NUMBER``; after a restart of the daemon RUN differs, so a client that comes back with
an old id is told that events can be missing (``gap``).
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from updog.daemon.api.documents import EventName

KEPT = 256
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Happened:
    """One event: its number from 1 on, its name, and its document as JSON."""

    number: int
    name: EventName
    data: bytes


class Events:
    """The last :data:`KEPT` events. Any thread may add and wait."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)
        self._changed = threading.Condition()
        self._kept: deque[Happened] = deque(maxlen=KEPT)
        self._number = 0
        self._closed = False

    @property
    def last(self) -> int:
        """The number of the last event; 0: there was none."""
        return self._number

    def id_of(self, number: int) -> str:
        """Return the id of an event for clients."""
        return f"{self._run}-{number}"

    def number_of(self, event_id: str) -> int | None:
        """Return the number of an event by its id; None if it is not one of this run."""
        run, _, number = event_id.partition("-")
        is_known = run == self._run and _NUMBER.fullmatch(number) is not None
        return int(number) if is_known and int(number) <= self._number else None

    def add(self, name: EventName, document: object) -> None:
        """Add an event and wake those who wait."""
        data = msgspec.json.encode(document)
        with self._changed:
            self._number += 1
            self._kept.append(Happened(number=self._number, name=name, data=data))
            self._changed.notify_all()

    def close(self) -> None:
        """End all waits: the daemon ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def after(self, number: int, seconds: float) -> tuple[Sequence[Happened], bool] | None:
        """Return the events after ``number``, and whether some between are no longer kept.

        Waits at most ``seconds`` for one; none then. None: there will be no more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > number, seconds)
            if self._closed:
                return None
            found = [event for event in self._kept if event.number > number]
        return found, bool(found) and found[0].number > number + 1
