"""One request and its answer: redirects, status, ranges, TLS, proxies. The home of requests and urllib3."""

from __future__ import annotations

import logging
import re
from http.cookiejar import DefaultCookiePolicy
from threading import Lock, local
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from updog.errors import HttpStatusError, UnreachableError
from updog.transport import files
from updog.transport.body import BLOCK_BYTES, Body, Facts
from updog.transport.guard import GuardedAdapter
from updog.transport.port import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from updog.transport.pace import Bucket, Pace
    from updog.transport.port import Settings

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5  # as many as a mirror network uses; a loop ends here
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL = 206
_GOOD = frozenset({200, _PARTIAL})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")


class _Session(requests.Session):
    """A session that leaves redirects to us: requests reads a redirect's body to the end, however long."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "updog"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # nodes carry no marks around
        for scheme in ("http://", "https://"):
            self.mount(scheme, GuardedAdapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the base's
        """Say that there is nothing to follow."""
        return None


class Line:
    """Sends requests and opens answers; a session, with its kept connections, for each thread.

    Attributes:
        query: parameters that go with each request.
        received: bytes of bodies so far.
    """

    def __init__(self, settings: Settings, *, bucket: Bucket, monotonic: Callable[[], float]) -> None:
        self._settings, self._bucket, self._monotonic = settings, bucket, monotonic
        self._local = local()
        self._sessions: list[_Session] = []
        self._lock = Lock()
        self.query = dict(settings.query)
        self.received = 0

    def open(self, url: str, span: tuple[int, int | None], pace: Pace) -> Body:
        """Ask for the bytes from the first to before the second number (None: the end) of ``span``.

        Raises:
            BrokenError: another try may do better.
            UnreachableError: (or HttpStatusError) it will not.
        """
        start, end = span
        if url.startswith("file:"):
            return files.opened(url, start, end, count=self._count)
        pace.began()
        began = self._monotonic()
        try:
            response = self._follow(url, _range_headers(start, end))
        finally:
            pace.waited(self._monotonic() - began)
        try:
            return self._body(response, url, span, pace)
        except BaseException:
            response.close()
            raise

    def close(self) -> None:
        """Close all kept connections."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def _body(self, response: requests.Response, url: str, span: tuple[int, int | None], pace: Pace) -> Body:
        """Check the head of an answer and return its body."""
        _check_head(response, url)
        first, total = _extent(response, url, span)
        headers = response.headers
        return Body(
            self._blocks(response, pace),
            url=url,
            position=first,
            facts=Facts(headers.get("ETag"), headers.get("Last-Modified"), total),
            whole=response.status_code != _PARTIAL,
            close=response.close,
        )

    def _follow(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send one request, again where redirects lead; those get no query."""
        where, query = url, self.query
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(where, headers, query, home=_host(where) == _host(url))
            if not response.is_redirect:
                return response
            response.close()
            where, query = _redirected(where, response.headers["Location"]), {}
        raise UnreachableError(f"{url} is redirected more than {MAX_REDIRECTS} times")

    def _get(
        self, url: str, headers: Mapping[str, str], query: Mapping[str, str], *, home: bool
    ) -> requests.Response:
        """Send one request, to other hosts without the client certificate. BrokenError: try again."""
        settings = self._settings
        own = settings.client_certificate
        try:
            return self._session().get(
                url,
                headers=dict(headers),
                params=dict(query),
                proxies=self._proxies(url),
                stream=True,
                timeout=(settings.connect_timeout, settings.stall_timeout),
                verify=settings.ca_file,
                cert=(own, settings.client_key or own) if own and home else None,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise BrokenError(_reason(error)) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnreachableError(f"{url}: {_reason(error)}") from error

    def _session(self) -> _Session:
        """Return this thread's session."""
        session: _Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
            with self._lock:
                self._sessions.append(session)
        return session

    def _proxies(self, url: str) -> dict[str, str] | None:
        """Return how to reach ``url``: as configured, or (None) as the environment says."""
        proxy = self._settings.https_proxy
        if proxy is None:
            return None
        listed = requests.utils.should_bypass_proxies(url, no_proxy=",".join(self._settings.no_proxy))
        # no_proxy=* here means: nothing from the environment; requests prefers that to what was configured
        return {"no_proxy": "*"} | ({} if listed else {"http": proxy, "https": proxy})

    def _blocks(self, response: requests.Response, pace: Pace) -> Iterator[bytes]:
        """Yield raw blocks; a stall, a drip or a cut is a BrokenError."""
        most = self._bucket.most(BLOCK_BYTES)
        try:
            while True:
                began = self._monotonic()
                block: bytes = response.raw.read1(most, decode_content=False)
                if not block:
                    return
                self._count(len(block))
                pace.saw(len(block), self._monotonic() - began)
                self._bucket.paid(len(block))
                yield block
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BrokenError(_reason(error)) from error
        finally:
            response.close()

    def _count(self, length: int) -> None:
        with self._lock:
            self.received += length


def _range_headers(start: int, end: int | None) -> dict[str, str]:
    """Return the Range header, if one is needed."""
    if end is not None:
        return {"Range": f"bytes={start}-{end - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}


def _host(url: str) -> str:
    """Return host and port, or nothing where that is no URL; the request will say so."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _redirected(url: str, location: str) -> str:
    """Return where a redirect from ``url`` leads; only HTTP(S) is followed, and never out of TLS."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise UnreachableError(f"{url} is redirected to {location!r}: {error}") from error
    if scheme not in {"http", "https"}:
        raise UnreachableError(f"{url} is redirected to {target!r}, which is not HTTP")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise UnreachableError(f"{url} is redirected to {target!r}, which would leave TLS")
    return target


def _check_head(response: requests.Response, url: str) -> None:
    """Sort the answer: good, worth another try, or final."""
    status = response.status_code
    if status in _RETRYABLE:
        raise BrokenError(f"HTTP {status}", _retry_after(response))
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


def _extent(response: requests.Response, url: str, span: tuple[int, int | None]) -> tuple[int, int | None]:
    """Return where the body begins and how long the whole file is said to be; check a 206.

    RFC 9110, 15.3.7: a server may send less than was asked for; then the rest is asked for.
    """
    start, end = span
    if response.status_code != _PARTIAL:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if _LENGTH.fullmatch(length) else None
    content_range = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != start or (end is not None and int(match[2]) >= end):
        asked = f"from byte {start}" if end is None else f"for bytes {start}-{end - 1}"
        raise UnreachableError(f"{url}: asked {asked}, got {content_range!r}")
    return start, None if match[3] == "*" else int(match[3])


def _reason(error: Exception) -> str:
    """The innermost cause in words, without the client libraries' wrapping."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    text = str(inner) or type(inner).__name__
    return text if isinstance(inner, OSError) else f"{type(inner).__name__}: {text}"
