"""Which mirror to ask next for one download, after which wait, and when to give up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.errors import UnreachableError
from updog.transport.rate import MinimumRate, wait_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from signpost.errors import ToolError
    from updog.transport.api import TransportSettings
    from updog.transport.body import BrokenError
    from updog.transport.mirrors import Mirrors

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryContext:
    """What all downloads share: settings, mirrors, a way to sleep and a source of jitter (0 … 1)."""

    settings: TransportSettings
    mirrors: Mirrors
    sleep: Callable[[float], None]
    jitter: Callable[[], float]


class Retry:
    """The attempts to fetch one range of one file.

    The mirror with the fewest failures in a row is asked next, the best one among equals: at once if it has
    not failed, otherwise after a wait. When every mirror has failed ``tries`` times, the download fails.

    Args:
        context: settings, mirrors and time.
        url: the file under its configured base URL.
        refused: mirror URL → why it cannot be used for this file; shared by all ranges of it.

    Attributes:
        minimum_rate: measures the attempts.
    """

    def __init__(self, context: RetryContext, url: str, refused: dict[str, ToolError]) -> None:
        self._context, self._url, self._refused = context, url, refused
        self._failures: dict[str, int] = {}
        self._retry_after: dict[str, float | None] = {}
        self.minimum_rate = MinimumRate(context.settings.minimum_rate, context.settings.stall_timeout)

    def next_url(self) -> str:
        """Return the URL to ask next, after the wait that is due.

        Raises:
            ToolError: no mirror is left; the error is that of the first one refused.
        """
        left = self._mirrors_left()
        if not left:
            raise next(iter(self._refused.values()))
        url = min(left, key=lambda mirror: self._failures.get(mirror, 0))
        if (failures := self._failures.get(url, 0)) > 0:
            wait = wait_seconds(failures, self._retry_after.get(url), self._context.jitter())
            self._context.sleep(wait)
            self.minimum_rate.count_wait(wait)
        return url

    def failed(self, url: str, error: BrokenError, before: int, position: int) -> None:
        """Record that a response was cut off at ``position``; it began at ``before``.

        Raises:
            UnreachableError: that was the last attempt.
        """
        if self.minimum_rate.was_kept(position - before):
            self._failures.clear()
        self._failures[url] = self._failures.get(url, 0) + 1
        self._retry_after[url] = error.wait
        self._context.mirrors.failed(self._url, url)
        log.info("%s: %s at byte %d, attempt %d", url, error, position, self._failures[url])
        tries = self._context.settings.tries
        if all(self._failures.get(mirror, 0) >= tries for mirror in self._mirrors_left()):
            message = f"{url}: {error} (byte {position})"
            raise UnreachableError(message, next_step=error.next_step) from error

    def is_outrun(self, url: str) -> bool:
        """Tell whether a mirror is to be left, in the middle of a file, for one that may be faster."""
        measured = self.minimum_rate.take_measured()
        if not self._context.mirrors.is_outrun(self._url, url, measured, self._refused):
            return False
        log.info("%s is slow: asking another mirror from here on", url)
        return True

    def refuse(self, url: str, error: ToolError) -> None:
        """Record that a mirror cannot be used for this file."""
        self._refused.setdefault(url, error)
        self._context.mirrors.failed(self._url, url)
        log.info("%s", error.message)

    def _mirrors_left(self) -> list[str]:
        return [url for url in self._context.mirrors.order(self._url) if url not in self._refused]
