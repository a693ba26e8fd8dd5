"""What the rest of updog sees of the network, and how patient to be with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from updog.image.index import Span
    from updog.transport.ranges import Ranges


class Transport(Protocol):
    """Where bytes come from. Safe to use from several threads."""

    @property
    def received(self) -> int:
        """Bytes of bodies that have crossed so far, those included that were thrown away."""
        ...

    def stream(
        self, url: str, *, limit: int, start: int = 0, absence_counts: bool = False
    ) -> Iterator[bytes]:
        """Yield the body of ``url`` from byte ``start``; at most ``limit`` bytes in all count as sane.

        Args:
            url: what is wanted, under one of the configured base URLs or anywhere.
            limit: bytes of the whole file.
            start: the first byte wanted.
            absence_counts: an answer 403 or 404 is the answer; no other mirror is asked.

        Raises:
            UnreachableError: (or HttpStatusError) the bytes could not be had.
            EndlessDataError: the body goes beyond byte ``limit``.
        """
        ...

    def ranges(self, url: str, spans: Sequence[Span], *, length: int) -> Ranges:
        """Return the bytes of each of ``spans``, which rise and do not overlap. See :class:`Ranges`.

        Args:
            url: what is wanted.
            spans: of the file of ``length`` bytes.
            length: bytes of the whole file, as signed; a server with another length is refused.
        """
        ...

    def blame(self, url: str) -> None:
        """Put the mirror that served ``url`` behind the others: what it sent was wrong."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How patient to be and whom to ask through. Times are seconds, rates bytes per second.

    Attributes:
        limit_rate: no more than this in all, all threads together; 0: as fast as it goes.
        ca_file: PEM certificates that vouch for servers, in the place of the usual ones.
        client_certificate: PEM file this node shows to servers; ``client_key`` if the key is another file.
        mirrors: base URL → base URLs that have the same files, in the order to try them.
    """

    connect_timeout: float = 10
    stall_timeout: float = 30
    minimum_rate: int = 256
    limit_rate: int = 0
    tries: int = 4
    https_proxy: str | None = None
    no_proxy: tuple[str, ...] = ()
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class BrokenError(Exception):
    """This request ended early; another may do better after ``wait`` seconds (None: back off)."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
