"""Which mirror to ask next for one download, after what wait, and when to give up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.errors import UnreachableError
from updog.transport.pace import Pace, wait_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from signpost.errors import ToolError
    from updog.transport.mirrors import Mirrors
    from updog.transport.port import BrokenError, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """What deciding about another try needs: settings, mirrors, and time."""

    settings: Settings
    mirrors: Mirrors
    sleep: Callable[[float], None]
    jitter: Callable[[], float]


class Tries:
    """The tries of one stretch of one file.

    The mirror with the fewest failures in a row is next, the best one of equals. A mirror that has not failed
    is asked at once, another one after a wait. When each has failed so many times, it is over.

    Args:
        patience: how much.
        url: what is wanted.
        refused: mirror → why it is no good for this file; shared by all stretches of it.
    """

    def __init__(self, patience: Patience, url: str, refused: dict[str, ToolError]) -> None:
        self._patience, self._url, self._refused = patience, url, refused
        self._failures: dict[str, int] = {}
        self._asked: dict[str, float | None] = {}
        self.pace = Pace(patience.settings.minimum_rate, patience.settings.stall_timeout)

    def where(self) -> str:
        """Return the URL to ask now, after the wait that is due.

        Raises:
            ToolError: what the first mirror that was refused is refused for: none is left.
        """
        left = [where for where in self._patience.mirrors.order(self._url) if where not in self._refused]
        if not left:
            raise next(iter(self._refused.values()))
        where = min(left, key=lambda mirror: self._failures.get(mirror, 0))
        if (failures := self._failures.get(where, 0)) > 0:
            wait = wait_seconds(failures, self._asked.get(where), self._patience.jitter())
            self._patience.sleep(wait)
            self.pace.waited(wait)
        return where

    def broke(self, where: str, error: BrokenError, before: int, position: int) -> None:
        """Note that an answer took us only from ``before`` to ``position``.

        Raises:
            UnreachableError: that was the last try.
        """
        if self.pace.was_worth_it(position - before):
            self._failures.clear()
        self._failures[where] = self._failures.get(where, 0) + 1
        self._asked[where] = error.wait
        self._patience.mirrors.failed(self._url, where)
        log.info("%s: %s at byte %d, try %d", where, error, position, self._failures[where])
        if self._is_over():
            raise UnreachableError(f"{where}: {error} (byte {position})") from error

    def refuse(self, where: str, error: ToolError) -> None:
        """Note that a mirror is no good for this file."""
        self._refused.setdefault(where, error)
        self._patience.mirrors.failed(self._url, where)
        log.info("%s", error.message)

    def _is_over(self) -> bool:
        """Tell whether every mirror that is left has failed as often as it may."""
        mirrors = (where for where in self._patience.mirrors.order(self._url) if where not in self._refused)
        return all(self._failures.get(where, 0) >= self._patience.settings.tries for where in mirrors)
