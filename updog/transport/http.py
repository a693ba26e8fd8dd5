"""Downloads of whole files and of ranges: retries, mirrors, and resuming where a response was cut off."""

from __future__ import annotations

import logging
import random
import time
from contextlib import closing
from typing import TYPE_CHECKING

from updog.errors import DigestError, EndlessDataError, HttpStatusError, UnreachableError
from updog.transport.body import BrokenError
from updog.transport.connection import Connection
from updog.transport.mirrors import SLOW_FACTOR, WRONG_CONTENT_POINTS, Mirrors
from updog.transport.ranges import Ranges, RangeStream
from updog.transport.rate import RateLimit
from updog.transport.retry import Retry, RetryContext

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from typing import Self

    from signpost.errors import ToolError
    from updog.image.index import Span
    from updog.transport.api import HttpAnswer, TransportSettings
    from updog.transport.body import Body
    from updog.transport.rate import MinimumRate

log = logging.getLogger(__name__)

_ABSENT = frozenset({403, 404})  # S3 buckets answer 403 for a missing object


class HttpTransport:
    """Fetches over HTTP(S) or from ``file:`` URLs. See :class:`~updog.transport.api.Transport`.

    Args:
        settings: time limits, proxy, TLS and mirrors.
        sleep: sleeps so many seconds.
        monotonic: a clock, in seconds.
        jitter: returns a random number from 0 to 1.
    """

    def __init__(
        self,
        settings: TransportSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        rate_limit = RateLimit(settings.limit_rate, monotonic=monotonic, sleep=sleep)
        self._connection = Connection(settings, rate_limit=rate_limit, monotonic=monotonic)
        self._mirrors = Mirrors(
            settings.mirrors,
            monotonic=monotonic,
            slow_rate=SLOW_FACTOR * settings.minimum_rate,
            window=settings.stall_timeout,
        )
        self._context = RetryContext(settings=settings, mirrors=self._mirrors, sleep=sleep, jitter=jitter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for further requests."""
        self._connection.close()

    @property
    def received(self) -> int:
        """Bytes of response bodies received so far, including those that were discarded."""
        return self._connection.received

    def post(self, url: str, content: bytes, headers: Mapping[str, str], *, limit: int) -> HttpAnswer:
        """Send ``content`` to ``url`` once; return the answer, whatever its status, redirects included.

        Args:
            url: of a service at or under one of the configured URLs.
            content: the body of the request.
            headers: besides the usual ones.
            limit: how many bytes of the answer's body are read at most.

        Raises:
            UnreachableError: there was no answer.
        """
        try:
            return self._connection.post(url, content, headers, limit=limit)
        except BrokenError as error:
            raise UnreachableError(f"{url}: {error}", next_step=error.next_step) from error

    def add_query(self, query: Mapping[str, str]) -> None:
        """Send these query parameters as well from now on."""
        self._connection.query = {**self._connection.query, **query}

    def demote_mirror(self, url: str) -> None:
        """Put the mirror that served ``url`` last behind the others, because its content was wrong."""
        if mirror := self._mirrors.last_to_answer(url):
            log.warning("%s sent wrong content; other mirrors come first for a while", mirror)
            self._mirrors.failed(url, mirror, WRONG_CONTENT_POINTS)

    def stream(
        self, url: str, *, limit: int, start: int = 0, absence_is_final: bool = False
    ) -> Iterator[bytes]:
        """Yield the body from byte ``start``, resuming where a response is cut off."""
        download = _Download(self._connection, self._context, url, limit=limit)
        download.absence_is_final = absence_is_final
        return download.fetch(start, None, RangeStream())

    def ranges(self, url: str, spans: Sequence[Span], *, length: int) -> Ranges:
        """Return the bytes of each span of a file of ``length`` bytes."""
        download = _Download(self._connection, self._context, url, limit=length, length=length)
        return Ranges(download.fetch, spans, length=length)


class _Download:
    """One file being fetched, in one range or many, by one thread or several.

    Attributes:
        absence_is_final: whether a status 403 or 404 is the result rather than a failure of the mirror.
    """

    def __init__(
        self,
        connection: Connection,
        context: RetryContext,
        url: str,
        *,
        limit: int,
        length: int | None = None,
    ) -> None:
        self._connection, self._context, self._url = connection, context, url
        self._limit, self._length = limit, length
        self._totals: dict[str, int] = {}
        self._refused: dict[str, ToolError] = {}
        self.absence_is_final = False

    def fetch(self, start: int, end: int | None, stream: RangeStream) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``end`` (None: the end of the file)."""
        retry = Retry(self._context, self._url, self._refused)
        position = start
        while True:
            before, url = position, retry.next_url()
            try:
                with closing(self._attempt(url, (position, end), stream, retry.minimum_rate)) as blocks:
                    for block in blocks:
                        position += len(block)
                        yield block
                        if retry.is_outrun(url) and self._is_unfinished(url, position, end):
                            break
                    else:
                        return
            except BrokenError as error:
                retry.failed(url, error, before, position)
            except (DigestError, UnreachableError) as error:
                is_absent = isinstance(error, HttpStatusError) and error.http_status in _ABSENT
                if self.absence_is_final and is_absent:
                    raise
                retry.refuse(url, error)

    def _is_unfinished(self, url: str, position: int, end: int | None) -> bool:
        """Whether there are bytes to fetch after ``position``; False if that is not known."""
        last = end if end is not None else self._length or self._totals.get(url)
        return last is not None and position < last

    def _attempt(
        self, url: str, span: tuple[int, int | None], stream: RangeStream, minimum_rate: MinimumRate
    ) -> Generator[bytes]:
        """Yield what one response has of a span: the next bytes of the open one, or those of a new one."""
        start, end = span
        body = stream.take(start) or self._open(url, span, stream, minimum_rate)
        try:
            body.skip_to(start)
            for block in body.until(end):
                self._check_limit(body.position, url)
                yield block
            if end is not None and end != self._length and body.whole:
                stream.keep(body)
            else:
                body.finish()
        except BaseException:
            body.close()
            raise

    def _check_limit(self, position: int, url: str) -> None:
        if position > self._limit:
            raise EndlessDataError(f"{url} sent more than its {self._limit} bytes")

    def _open(
        self, url: str, span: tuple[int, int | None], stream: RangeStream, minimum_rate: MinimumRate
    ) -> Body:
        """Ask one mirror, and check the length that it reports: the signed one, or the same as before.

        ETag and Last-Modified are hints for caches: two servers with the same bytes may send different ones.
        """
        start, end = span
        is_all = start == 0 and end in {None, self._length}
        body = self._connection.open(url, (start, None if is_all else end), minimum_rate)
        try:
            body.check_not_a_page()
            if self._length is not None:
                body.check_length(self._length)
            elif body.total is not None:
                body.check_unchanged(self._totals.setdefault(url, body.total))
        except BaseException:
            body.close()
            raise
        self._context.mirrors.answered(self._url, url)
        stream.ranges_ignored = body.whole and not is_all
        return body
