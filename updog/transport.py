"""HTTP for metadata and images: bounded, resumable within a run, and never silently something else.

Rules it enforces:

* every request has a connect time-out, a stall time-out and a minimum rate, never a total one: a large
  image over a slow line is fine, a server that drips a byte a second is not;
* bodies are taken raw (``Accept-Encoding: identity``); an encoded answer is an error, because its length
  and hash would not be those that were signed;
* a broken body is continued by range; the 206, its Content-Range and the ETag are checked, and a server
  that ignores the range is read past the bytes already had, not asked twice;
* a failure counts against the tries unless its request kept the minimum rate, the wait before it included:
  a server that gives a byte and breaks off, again and again, is as useless as one that gives none; waits
  grow exponentially with jitter, and ``Retry-After`` is honoured up to :data:`MAX_WAIT_SECONDS`;
* whoever asks says the most bytes it will take; more is cut off as :class:`~updog.errors.EndlessDataError`;
* a redirect is followed without reading its body, which may have no end, and never out of HTTP(S);
* a configured proxy is used for every host but the listed ones, whatever the environment says.

Foreign exceptions (requests, urllib3) end here.
"""

from __future__ import annotations

import logging
import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3

from updog.errors import EndlessDataError, HttpStatusError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 18  # large enough that Python's cost per block is small beside SHA-256 of it
MAX_WAIT_SECONDS = 60.0  # a Retry-After beyond this is the next timer run's business
MAX_REDIRECTS = 5  # as many as a mirror network uses; a loop ends here
_FIRST_WAIT_SECONDS = 0.2
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL = 206
_GOOD = frozenset({200, _PARTIAL})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Transport(Protocol):
    """Where bytes come from."""

    def stream(self, url: str, *, limit: int, start: int = 0) -> Iterator[bytes]:
        """Yield the body of ``url`` from byte ``start``; at most ``limit`` bytes in all count as sane.

        Raises:
            UnreachableError: (or HttpStatusError) the bytes could not be had.
            EndlessDataError: the body goes beyond byte ``limit``.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How patient to be and whom to ask through. Times are seconds, rates bytes per second."""

    connect_timeout: float = 10
    stall_timeout: float = 30
    minimum_rate: int = 256
    tries: int = 4
    https_proxy: str | None = None
    no_proxy: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)


class _BrokenError(Exception):
    """This attempt ended early; another may do better after ``wait`` seconds (None: back off)."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(kw_only=True, slots=True)
class _Progress:
    """How far one download has come."""

    position: int
    etag: str | None = None


class _Session(requests.Session):
    """A session that leaves redirects to us: requests reads a redirect's body to the end, however long."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the base's
        """Say that there is nothing to follow."""
        return None


class HttpTransport:
    """Bytes over HTTP(S), or from ``file:`` URLs (an unpacked bundle, a USB stick)."""

    def __init__(
        self,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._monotonic = monotonic
        self._jitter = jitter
        self._session = _Session()
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "updog"})

    def stream(self, url: str, *, limit: int, start: int = 0) -> Iterator[bytes]:
        """Yield the body from ``start``, continuing after breaks. See :class:`Transport`."""
        if url.startswith("file:"):
            yield from _capped(_file_blocks(url, start), url, limit, start)
            return
        progress = _Progress(position=start)
        failures = 0
        since = self._monotonic()
        while True:
            before = progress.position
            try:
                yield from self._attempt(url, progress, limit)
            except _BrokenError as error:
                came, since = self._was_worth_it(progress.position - before, since)
                failures = 1 if came else failures + 1
                if failures >= self._settings.tries:
                    raise UnreachableError(f"{url}: {error} (byte {progress.position})") from error
                log.info("%s: %s at byte %d, try %d", url, error, progress.position, failures)
                self._sleep(self._wait(failures, error.wait))
            else:
                return

    def _was_worth_it(self, brought: int, since: float) -> tuple[bool, float]:
        """Tell whether ``brought`` bytes since then keep the minimum rate; return this moment too."""
        now = self._monotonic()
        return 0 < brought >= self._settings.minimum_rate * (now - since), now

    def _wait(self, failures: int, asked: float | None) -> float:
        """Seconds to wait before the next try: what the server asked for, else exponential with jitter."""
        if asked is not None:
            return min(asked, MAX_WAIT_SECONDS)
        longest = min(_FIRST_WAIT_SECONDS * 2.0**failures, MAX_WAIT_SECONDS)
        return longest * (0.5 + self._jitter() / 2)

    def _attempt(self, url: str, progress: _Progress, limit: int) -> Iterator[bytes]:
        """Yield what one request brings, moving ``progress`` on. _BrokenError: retry."""
        with self._open(url, progress) as response:
            blocks = _continued(self._blocks(response, url), response, url, progress)
            yield from _moving(_capped(blocks, url, limit, progress.position), progress)
            _check_end(response, progress)

    def _open(self, url: str, progress: _Progress) -> requests.Response:
        """Send one request, again where redirects lead, and check the head of the answer."""
        headers = {"Range": f"bytes={progress.position}-"} if progress.position else {}
        where, query = url, dict(self._settings.query)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(where, headers, query)
            if not response.is_redirect:
                return _checked_head(response, url)
            response.close()
            where, query = _redirected(where, response.headers["Location"]), {}
        raise UnreachableError(f"{url} is redirected more than {MAX_REDIRECTS} times")

    def _get(self, url: str, headers: Mapping[str, str], query: Mapping[str, str]) -> requests.Response:
        """Send one request. _BrokenError: another try may do better."""
        times = (self._settings.connect_timeout, self._settings.stall_timeout)
        try:
            return self._session.get(
                url,
                headers=dict(headers),
                params=dict(query),
                proxies=self._proxies(url),
                stream=True,
                timeout=times,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _BrokenError(_reason(error)) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnreachableError(f"{url}: {_reason(error)}") from error

    def _proxies(self, url: str) -> dict[str, str] | None:
        """Return how to reach ``url``: as configured, or (None) as the environment says."""
        proxy = self._settings.https_proxy
        if proxy is None:
            return None
        listed = requests.utils.should_bypass_proxies(url, no_proxy=",".join(self._settings.no_proxy))
        # no_proxy=* here means: nothing from the environment; requests prefers that to what was configured
        return {"no_proxy": "*"} | ({} if listed else {"http": proxy, "https": proxy})

    def _blocks(self, response: requests.Response, url: str) -> Iterator[bytes]:
        """Yield raw blocks; a stall, a drip or a cut is a _BrokenError."""
        pace = _Pace(self._settings.minimum_rate, self._settings.stall_timeout, self._monotonic)
        try:
            while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
                pace.saw(len(block))
                yield block
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _BrokenError(_reason(error)) from error
        log.debug("%s: complete", url)


class _Pace:
    """Gives up on a server that stays below the minimum rate for a whole window (a drip, D50, D69)."""

    def __init__(self, rate: int, window: float, monotonic: Callable[[], float]) -> None:
        self._rate, self._window, self._monotonic = rate, window, monotonic
        self._since, self._got = monotonic(), 0

    def saw(self, length: int) -> None:
        """Count a block; at each window's end compare with the minimum."""
        self._got += length
        elapsed = self._monotonic() - self._since
        if elapsed < self._window:
            return
        if self._got < self._rate * elapsed:
            raise _BrokenError(f"only {self._got} bytes in {elapsed:.0f} s")
        self._since, self._got = self._monotonic(), 0


def _redirected(url: str, location: str) -> str:
    """Return where a redirect from ``url`` leads; only HTTP(S) is followed."""
    try:
        target = urljoin(url, location)
    except ValueError as error:
        raise UnreachableError(f"{url} is redirected to {location!r}: {error}") from error
    if not target.startswith(("http://", "https://")):
        raise UnreachableError(f"{url} is redirected to {target!r}, which is not HTTP")
    return target


def _checked_head(response: requests.Response, url: str) -> requests.Response:
    """Return the response if its head is good, else close it and raise."""
    try:
        _check_head(response, url)
    except Exception:
        response.close()
        raise
    return response


def _check_head(response: requests.Response, url: str) -> None:
    """Sort the answer: good, worth another try, or final."""
    status = response.status_code
    if status in _RETRYABLE:
        raise _BrokenError(f"HTTP {status}", _retry_after(response))
    if status not in _GOOD:
        raise HttpStatusError(url, status)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding not in {"", "identity"}:
        message = f"{url} came with Content-Encoding {encoding}, though identity was asked for"
        raise UnreachableError(message, next_step="Switch off compression on the server for this path.")


def _retry_after(response: requests.Response) -> float | None:
    """Seconds from a Retry-After header; a date form or nonsense is None (back off as usual)."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _continued(
    blocks: Iterator[bytes], response: requests.Response, url: str, progress: _Progress
) -> Iterator[bytes]:
    """Yield only what is new: check a 206, or read past what is there already when the range was ignored."""
    etag = response.headers.get("ETag")
    if progress.etag is not None and etag != progress.etag:
        raise UnreachableError(f"{url} changed while it was downloaded (its ETag is another one)")
    progress.etag = etag
    if not progress.position:
        return blocks
    if response.status_code != _PARTIAL:
        return _skipped(blocks, progress.position)
    content_range = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != progress.position:
        raise UnreachableError(f"{url}: asked from byte {progress.position}, got {content_range!r}")
    return blocks


def _check_end(response: requests.Response, progress: _Progress) -> None:
    """Notice a 206 that gives less than was asked for (RFC 9110, 15.3.7 allows it): the rest is asked for."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == _PARTIAL and match and match[3] != "*" and progress.position < int(match[3]):
        raise _BrokenError(f"only a part of {match[3]} bytes was sent")


def _skipped(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the blocks without their first ``count`` bytes."""
    for block in blocks:
        if count >= len(block):
            count -= len(block)
            continue
        yield block[count:]
        count = 0


def _capped(blocks: Iterator[bytes], url: str, limit: int, start: int) -> Iterator[bytes]:
    """Yield blocks until byte ``limit``; one byte more is an EndlessDataError."""
    for block in blocks:
        start += len(block)
        if start > limit:
            raise EndlessDataError(f"{url} goes on past its {limit} bytes")
        yield block


def _moving(blocks: Iterator[bytes], progress: _Progress) -> Iterator[bytes]:
    """Yield blocks and count them once they were taken."""
    for block in blocks:
        progress.position += len(block)
        yield block


def _file_blocks(url: str, start: int) -> Iterator[bytes]:
    """Yield the content of a ``file:`` URL from byte ``start``."""
    path = unquote(urlsplit(url).path)
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a URL's path, not ours
            file.seek(start)
            while block := file.read(BLOCK_BYTES):
                yield block
    except FileNotFoundError as error:
        raise HttpStatusError(url, 404) from error
    except OSError as error:
        raise UnreachableError(f"cannot read {path}: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """The innermost cause in words, without the client libraries' wrapping."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    text = str(inner) or type(inner).__name__
    return text if isinstance(inner, OSError) else f"{type(inner).__name__}: {text}"
