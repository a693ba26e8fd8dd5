"""Bytes of a file in spite of everything: another try, another mirror, on from where an answer broke off."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from updog.errors import DigestError, EndlessDataError, HttpStatusError, UnreachableError
from updog.transport.line import Line
from updog.transport.mirrors import BLAME_POINTS, Mirrors
from updog.transport.pace import Bucket
from updog.transport.port import BrokenError
from updog.transport.ranges import Ranges, Stream
from updog.transport.tries import Patience, Tries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from signpost.errors import ToolError
    from updog.image.index import Span
    from updog.transport.body import Body, Facts
    from updog.transport.pace import Pace
    from updog.transport.port import Settings

log = logging.getLogger(__name__)

_ABSENT = frozenset({403, 404})  # buckets answer 403 for what is not there


class HttpTransport:
    """Bytes over HTTP(S), or from ``file:`` URLs. See :class:`~updog.transport.port.Transport`.

    Args:
        settings: how patient to be and whom to ask.
        sleep: waits so many seconds.
        monotonic: a clock in seconds.
        jitter: a number from 0 to 1, by chance.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        bucket = Bucket(settings.limit_rate, monotonic=monotonic, sleep=sleep)
        self._line = Line(settings, bucket=bucket, monotonic=monotonic)
        self._mirrors = Mirrors(settings.mirrors, monotonic=monotonic)
        self._patience = Patience(settings=settings, mirrors=self._mirrors, sleep=sleep, jitter=jitter)
        self._downloads: dict[str, _Download] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for further requests."""
        self._line.close()

    @property
    def received(self) -> int:
        """Bytes of bodies that have crossed so far, those included that were thrown away."""
        return self._line.received

    def announce(self, query: Mapping[str, str]) -> None:
        """Send these query parameters too from now on."""
        self._line.query = {**self._line.query, **query}

    def blame(self, url: str) -> None:
        """Put the mirror that served ``url`` last behind the others: what it sent was wrong."""
        download = self._downloads.get(url)
        if download is not None and download.served_by:
            log.warning("%s was wrong; other mirrors come first for a while", download.served_by)
            self._mirrors.failed(url, download.served_by, BLAME_POINTS)

    def stream(
        self, url: str, *, limit: int, start: int = 0, absence_counts: bool = False
    ) -> Iterator[bytes]:
        """Yield the body from ``start``, continuing after breaks."""
        download = _Download(self._line, self._patience, url, limit=limit)
        download.absence_counts = absence_counts
        self._downloads[url] = download
        return download.fetch(start, None, Stream())

    def ranges(self, url: str, spans: Sequence[Span], *, length: int) -> Ranges:
        """Return the bytes of each span of a file of ``length`` bytes."""
        download = _Download(self._line, self._patience, url, limit=length, length=length)
        self._downloads[url] = download
        return Ranges(download.fetch, spans, length=length)


class _Download:
    """One file being fetched, in one stretch or many, by one thread or several.

    Attributes:
        served_by: the URL that answered last.
        absence_counts: whether 403 and 404 are an answer rather than a mirror's fault.
    """

    def __init__(
        self, line: Line, patience: Patience, url: str, *, limit: int, length: int | None = None
    ) -> None:
        self._line, self._patience, self._url = line, patience, url
        self._limit, self._length = limit, length
        self._facts: dict[str, Facts] = {}
        self._refused: dict[str, ToolError] = {}
        self.served_by = ""
        self.absence_counts = False

    def fetch(self, start: int, end: int | None, stream: Stream) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``end`` (None: all there are)."""
        tries = Tries(self._patience, self._url, self._refused)
        position = start
        while True:
            before, where = position, tries.where()
            try:
                for block in self._attempt(where, (position, end), stream, tries.pace):
                    position += len(block)
                    yield block
            except BrokenError as error:
                tries.broke(where, error, before, position)
            except (DigestError, UnreachableError) as error:
                if self._is_answer(error):
                    raise
                tries.refuse(where, error)
            else:
                return

    def _is_answer(self, error: ToolError) -> bool:
        return self.absence_counts and isinstance(error, HttpStatusError) and error.http_status in _ABSENT

    def _attempt(
        self, where: str, span: tuple[int, int | None], stream: Stream, pace: Pace
    ) -> Iterator[bytes]:
        """Yield what one answer brings of a span: the open one's next bytes, or those of a new one."""
        start, end = span
        body = stream.taken(start) or self._opened(where, span, stream, pace)
        try:
            body.skip_to(start)
            for block in body.until(end):
                self._check_limit(body.position, where)
                yield block
            if end is not None and end != self._length and body.whole:
                stream.keep(body)
            else:
                body.finish()
        except BaseException:
            body.close()
            raise

    def _check_limit(self, position: int, where: str) -> None:
        if position > self._limit:
            raise EndlessDataError(f"{where} goes on past its {self._limit} bytes")

    def _opened(self, where: str, span: tuple[int, int | None], stream: Stream, pace: Pace) -> Body:
        """Ask one mirror, and compare what it says of the file with what it, and the signature, said."""
        start, end = span
        is_all = start == 0 and end in {None, self._length}
        body = self._line.open(where, (start, None if is_all else end), pace)
        try:
            body.facts.check_same(self._facts.setdefault(where, body.facts), where)
            if self._length is not None:
                body.check_length(self._length)
        except BaseException:
            body.close()
            raise
        self.served_by = where
        stream.ignored = body.whole and not is_all
        return body
