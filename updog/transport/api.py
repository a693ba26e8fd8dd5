"""The network as the rest of updog sees it, and the settings of its time limits, proxy, TLS and mirrors.

URLs are the addresses of :class:`~updog.url.Url`, which have no secrets: they may be printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from updog.image.index import Span
    from updog.no_proxy import NoProxyEntry
    from updog.transport.ranges import Ranges
    from updog.url import Url


class Transport(Protocol):
    """Fetches files. Safe to use from several threads."""

    @property
    def received(self) -> int:
        """Bytes of response bodies received so far, including those that were discarded."""
        ...

    def stream(
        self, url: str, *, limit: int, start: int = 0, absence_is_final: bool = False
    ) -> Iterator[bytes]:
        """Yield the body of ``url`` from byte ``start``.

        Args:
            url: a file under one of the configured base URLs, or anywhere else.
            limit: the largest size in bytes that the whole file may have.
            start: the first byte to yield.
            absence_is_final: take a status 403 or 404 as the result; ask no other mirror.

        Raises:
            UnreachableError: (or HttpStatusError) the bytes could not be fetched.
            EndlessDataError: the body goes beyond byte ``limit``.
        """
        ...

    def ranges(self, url: str, spans: Sequence[Span], *, length: int) -> Ranges:
        """Return the bytes of each of ``spans``, which must be in rising order and not overlap.

        Args:
            url: a file under one of the configured base URLs, or anywhere else.
            spans: byte ranges of the file.
            length: bytes of the whole file, as signed; a server that reports another length is refused.
        """
        ...

    def demote_mirror(self, url: str) -> None:
        """Put the mirror that served ``url`` last behind the others, because its content was wrong."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpAnswer:
    """The answer to a request that is not a download.

    Attributes:
        status: the HTTP status. body: its beginning, up to the limit of the request.
        location: where a redirect leads, as it was sent; else empty.
    """

    status: int
    body: bytes
    location: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportSettings:
    """Time limits, proxy, TLS and mirrors. Times are seconds, rates bytes per second.

    Attributes:
        limit_rate: the highest rate of all threads together; 0: no limit.
        tries: failures in a row, each below ``minimum_rate``, until a mirror is given up.
        ca_file: PEM certificates of the CAs to trust, instead of those that the system trusts.
        client_certificate: PEM file of this node's own certificate.
        client_key: PEM file of its key; None if the key is in ``client_certificate``.
        query: parameters that are sent with every request.
        mirrors: base URL → other base URLs that have the same files, in the order to try them.
        urls: the configured URLs; requests to one of them, or below one, are sent with its login and query.
    """

    connect_timeout: float = 10
    stall_timeout: float = 30
    minimum_rate: int = 256
    limit_rate: int = 0
    tries: int = 4
    https_proxy: Url | None = None
    no_proxy: tuple[NoProxyEntry, ...] = ()
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    urls: tuple[Url, ...] = ()
