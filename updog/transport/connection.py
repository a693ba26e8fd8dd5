"""One request and its response: redirects, status, ranges, TLS, proxies. Wraps requests and urllib3.

Logins and queries of the configured URLs are added here, to the request itself, and nowhere else; the texts
of the libraries' exceptions and their log lines are printed without them.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import ssl
from contextlib import closing, suppress
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from threading import Lock, local
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from signpost.errors import MediumError, innermost
from signpost.text import MESSAGE_CHARACTERS, foreign, line
from updog.errors import HttpStatusError, UnreachableError
from updog.no_proxy import entries_of, goes_round
from updog.transport import files
from updog.transport.api import HttpAnswer
from updog.transport.authorities import authorities
from updog.transport.body import BODY_BLOCK_BYTES, Body, BrokenError
from updog.transport.deadline_socket import DeadlineAdapter
from updog.transport.rate import MinimumRate
from updog.url import WEB, Url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from updog.no_proxy import NoProxyEntry
    from updog.transport.api import TransportSettings
    from updog.transport.rate import RateLimit

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5  # as many as mirror networks use; also ends a redirect loop
_NOT_VALID_NOW = frozenset({9, 10})  # of OpenSSL: a certificate that is not yet valid, or has expired
_OF_THIS_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_CLOCK_OR_CERTIFICATE = (
    "Set the node's clock if it is wrong; if it is right, the server needs a new certificate."
)
_AUTHORITY = "Name the server's certificate authority in `ca_file`, or add it to the system's store."
_PROXY_LOGIN = (
    "Check user and password in `https_proxy`, and whether the proxy lets this node reach the server."
)
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL = 206
_GOOD = frozenset({200, _PARTIAL})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: 4(?!08|29)")  # by the proxy: the login is wrong
_LENGTH = re.compile(r"[0-9]{1,18}")


def _hide(record: logging.LogRecord) -> bool:
    """Remove the secrets from a log line of urllib3, which has the path of each request with its query."""
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


urllib3.disable_warnings(urllib3.exceptions.SystemTimeWarning)  # we report the clock ourselves
logging.getLogger("urllib3.connectionpool").addFilter(_hide)


class _Session(requests.Session):
    """A session that follows no redirects: requests would read their bodies to the end, however long."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "updog"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # a node must not be tracked
        for scheme in ("http://", "https://"):
            self.mount(scheme, DeadlineAdapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the base's
        """Return None: nothing to follow."""
        return None


class Connection:
    """Sends requests and opens responses. Each thread has its own session, which keeps connections alive.

    Attributes:
        query: parameters that are sent with each request.
        received: bytes of response bodies so far.
    """

    def __init__(
        self, settings: TransportSettings, *, rate_limit: RateLimit, monotonic: Callable[[], float]
    ) -> None:
        self._settings, self._rate_limit, self._monotonic = settings, rate_limit, monotonic
        self._authorities = settings.ca_file or authorities()
        self._direct = settings.no_proxy + (_environment_entries() if settings.https_proxy is None else ())
        self._local = local()
        self._sessions: list[_Session] = []
        self._lock = Lock()
        self.query = dict(settings.query)
        self.received = 0

    def open(self, url: str, span: tuple[int, int | None], minimum_rate: MinimumRate) -> Body:
        """Request the bytes from the first number of ``span`` to before the second (None: the end).

        Raises:
            BrokenError: another attempt may succeed.
            UnreachableError: (or HttpStatusError) it will not.
        """
        start, end = span
        if url.startswith("file:"):
            return files.opened(url, start, end, count=self._count)
        byte_range = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"
        minimum_rate.start_window()
        began = self._monotonic()
        try:
            response = self._follow(url, {"Range": byte_range} if start or end is not None else {})
        finally:
            minimum_rate.count_head(self._monotonic() - began)
        try:
            _check_head(response, url)
            position, total = _extent(response, url, span)
            return Body(
                self._blocks(response, minimum_rate),
                url=url,
                position=position,
                total=total,
                whole=response.status_code != _PARTIAL,
                close=response.close,
            )
        except BaseException:
            response.close()
            raise

    def post(self, url: str, content: bytes, headers: Mapping[str, str], *, limit: int) -> HttpAnswer:
        """Send ``content`` once and return the answer, whatever its status; a redirect is not followed.

        The head must be there within ``stall_timeout``, and the body, of which ``limit`` bytes at most are
        read, within as much time again; a body that is cut off is returned as far as it was received.

        Raises:
            BrokenError: no head was received; another attempt may succeed.
            UnreachableError: it will not.
        """
        configured = self._configured(url)
        login = configured.credentials() if configured else None
        response = self._send(
            "POST",
            configured.with_query(url) if configured else url,
            headers,
            self.query,
            HTTPBasicAuth(*login) if login else None,
            content=content,
        )
        end = self._monotonic() + self._settings.stall_timeout
        body = b""
        blocks = self._blocks(response, MinimumRate(0, self._settings.stall_timeout))
        with closing(blocks), suppress(BrokenError):
            for block in blocks:
                body += block
                if len(body) >= limit or self._monotonic() >= end:
                    break
        location = response.headers.get("Location", "") if response.is_redirect else ""
        return HttpAnswer(status=response.status_code, body=body[:limit], location=location)

    def close(self) -> None:
        """Close all kept connections."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def _follow(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send one request and follow its redirects, which get no query parameters."""
        configured = self._configured(url)
        target, query = configured.with_query(url) if configured else url, self.query
        for _ in range(MAX_REDIRECTS + 1):
            same_host = _host(target) == _host(url)
            login = configured.credentials() if configured and same_host else None
            auth = HTTPBasicAuth(*login) if login else None
            response = self._send("GET", target, headers, query, auth, same_host=same_host)
            if not response.is_redirect:
                return response
            response.close()
            target, query = _redirect_target(target, response.headers["Location"]), {}
        raise UnreachableError(f"{url} redirects more than {MAX_REDIRECTS} times")

    def _configured(self, url: str) -> Url | None:
        """Return the configured URL that ``url`` is, or is below; the longest of several."""
        urls = (configured for configured in self._settings.urls if configured.covers(url))
        return max(urls, key=lambda configured: len(configured.address), default=None)

    def _send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        auth: HTTPBasicAuth | None,
        *,
        content: bytes | None = None,
        same_host: bool = True,
    ) -> requests.Response:
        """Send one request; the client certificate and the login go to the host of the original URL only.

        Raises:
            BrokenError: another attempt may succeed.
            UnreachableError: it will not.
        """
        settings = self._settings
        certificate = settings.client_certificate if same_host else None
        try:
            return self._session().request(
                method,
                url,
                data=content,
                headers=dict(headers),
                params=dict(query),
                auth=auth,
                proxies=self._proxies(url),
                stream=True,
                timeout=(settings.connect_timeout, settings.stall_timeout),
                verify=self._authorities,
                cert=(certificate, settings.client_key or certificate) if certificate else None,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = _reason(error)
            if _REFUSED_TUNNEL.search(reason):
                message = f"{without_secrets(url)}: {reason}"
                raise UnreachableError(message, next_step=_PROXY_LOGIN) from error
            raise BrokenError(reason, next_step=_advice(error)) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            message = f"{without_secrets(url)}: {_reason(error)}"
            raise UnreachableError(message, next_step=_advice(error)) from error

    def _session(self) -> _Session:
        """Return this thread's session."""
        session: _Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
            with self._lock:
                self._sessions.append(session)
        return session

    def _proxies(self, url: str) -> dict[str, str] | None:
        """Return the configured proxies for ``url``, or None to use those of the environment."""
        proxy = self._settings.https_proxy
        # no_proxy=* keeps requests from using the environment's proxies, which it prefers to those given here
        if goes_round(url, self._direct):
            return {"no_proxy": "*"}
        if proxy is None:
            return None
        if not proxy.scheme:
            raise UnreachableError(
                "https_proxy is malformed: it has a login, but no scheme",
                next_step="Write it as http://USER:PASSWORD@HOST:PORT.",
            )
        return {"no_proxy": "*", "http": proxy.with_login(), "https": proxy.with_login()}

    def _blocks(self, response: requests.Response, minimum_rate: MinimumRate) -> Generator[bytes]:
        """Yield raw blocks. Raises BrokenError if the body stalls, is too slow or is cut off."""
        block_size = self._rate_limit.block_size(BODY_BLOCK_BYTES)
        try:
            while True:
                began = self._monotonic()
                block: bytes = response.raw.read1(block_size, decode_content=False)
                if not block:
                    return
                self._count(len(block))
                minimum_rate.count_block(len(block), self._monotonic() - began)
                self._rate_limit.throttle(len(block))
                yield block
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BrokenError(_reason(error)) from error
        finally:
            response.close()

    def _count(self, length: int) -> None:
        with self._lock:
            self.received += length


def _environment_entries() -> tuple[NoProxyEntry, ...]:
    """Return the entries of the environment's ``no_proxy``, without those that cannot be read."""
    entries: list[NoProxyEntry] = []
    for text in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","):
        with suppress(ValueError):
            entries += entries_of((text,))
    return tuple(entries)


def _host(url: str) -> str:
    """Return host and port; empty for an invalid URL, which the request will report."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _redirect_target(url: str, location: str) -> str:
    """Return the target of a redirect from ``url``. Raises UnreachableError if it leaves HTTP(S) or TLS."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        shown = without_secrets(f"{url} redirects to {foreign(location)}: {error}")
        raise UnreachableError(shown) from error
    shown = without_secrets(f"{url} redirects to {foreign(target)}")
    if scheme not in WEB:
        raise UnreachableError(f"{shown}, which is not HTTP")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise UnreachableError(f"{shown}, which would leave TLS")
    return target


def _check_head(response: requests.Response, url: str) -> None:
    """Accept a status that is good, and a body that is not encoded.

    Raises:
        BrokenError: another attempt may succeed, after the seconds of Retry-After if there are any (its date
            form is not supported).
        UnreachableError: (or HttpStatusError) it will not.
    """
    status = response.status_code
    if status in _RETRYABLE:
        retry_after = response.headers.get("Retry-After", "")
        raise BrokenError(f"HTTP {status}", float(retry_after) if retry_after.isdecimal() else None)
    if status not in _GOOD:
        raise HttpStatusError(url, status)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding not in {"", "identity"}:
        message = f"{url} was sent with Content-Encoding {foreign(encoding)}, but identity was requested"
        raise UnreachableError(message, next_step="Turn off compression for this path on the server.")


def _extent(response: requests.Response, url: str, span: tuple[int, int | None]) -> tuple[int, int | None]:
    """Return the offset of the body in the file, and the length of the file if the server reports it.

    RFC 9110, 15.3.7: a server may send less than requested; the rest is then requested again.

    Raises:
        UnreachableError: a 206 whose Content-Range does not match the request.
    """
    start, end = span
    if response.status_code != _PARTIAL:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if _LENGTH.fullmatch(length) else None
    content_range = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != start or (end is not None and int(match[2]) >= end):
        requested = f"bytes {start}-" if end is None else f"bytes {start}-{end - 1}"
        raise UnreachableError(
            f"{url}: requested {requested}, received Content-Range {foreign(content_range)}"
        )
    return start, None if match[3] == "*" else int(match[3])


def _advice(error: Exception) -> str:
    """Return the next step where it is not the network: a certificate, or this machine; else nothing."""
    cause = innermost(error)
    if isinstance(cause, OSError) and cause.errno in _OF_THIS_MACHINE:
        return MediumError.of("", cause).next_step
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return ""
    return _CLOCK_OR_CERTIFICATE if cause.verify_code in _NOT_VALID_NOW else _AUTHORITY


def _reason(error: Exception) -> str:
    """Return the text of the innermost cause, with the time if that is what a certificate fails for."""
    cause = innermost(error)
    text = without_secrets(str(cause)[:MESSAGE_CHARACTERS]) or type(cause).__name__
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _NOT_VALID_NOW:
        text += f"; the clock of this node says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return line(text if isinstance(cause, OSError) else f"{type(cause).__name__}: {text}")
