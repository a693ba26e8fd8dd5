"""HTTP connections on which no single step can last for ever or bring no end of bytes.

The standard library reads heads and chunk framing in loops: a socket time-out bounds each receive, not the
loop, and nothing bounds ``100 Continue`` answers or trailers. Here every step, the whole head of an answer or
one read of its body, has the socket's time-out as a deadline, and a number of bytes.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

MAX_HEAD_BYTES = 1 << 18  # a hundred headers of 2 KiB and more; real ones have one or two KiB in all
MAX_FRAMING_BYTES = 1 << 16  # chunk sizes and trailers between two pieces of a body
_SOON_SECONDS = 0.001  # zero would mean non-blocking


class _Guard(io.RawIOBase):
    """Reads a socket until a deadline, and no more than so many bytes, both set anew for each step."""

    def __init__(self, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._connection, self._raw = connection, raw
        self._seconds = connection.gettimeout()
        self._deadline, self._left = 0.0, 0

    def arm(self, most: int) -> None:
        """Begin a step that may bring ``most`` bytes."""
        self._left = most
        self._deadline = time.monotonic() + (self._seconds or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Receive what is there, as a socket's file does. Raises TimeoutError, or OSError for too much."""
        if self._left <= 0:
            raise OSError("an answer without end where it should be short")
        if self._seconds is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(max(left, _SOON_SECONDS))
        try:
            count = self._raw.readinto(buffer)
        finally:
            self._connection.settimeout(self._seconds)
        self._left -= count or 0
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that is read through a guard."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._guard = _Guard(sock, self.fp.detach())
        self._guard.arm(MAX_HEAD_BYTES)
        self.fp = io.BufferedReader(self._guard)

    def read1(self, n: int = -1) -> bytes:
        """Read once; the step's bounds are set anew."""
        self._guard.arm(max(n, 0) + MAX_FRAMING_BYTES)
        return super().read1(n)


class _Answering:
    """What both kinds of connections add: guarded answers, none of which stays open unless it is returned.

    urllib3 refuses some heads that http.client took (two lengths); nobody else could hang up then.
    """

    _answer: _Response | None = None

    def response_class(self, *args: Any, **kwargs: Any) -> _Response:
        """Make an answer, and remember it."""
        self._answer = _Response(*args, **kwargs)
        return self._answer

    def getresponse(self) -> HTTPResponse:
        """Return the answer to the request that was sent."""
        try:
            answer: HTTPResponse = super().getresponse()  # type: ignore[misc]  # the connection's
        except BaseException:
            if self._answer is not None:
                self._answer.close()
            raise
        finally:
            self._answer = None
        return answer


class _Plain(_Answering, HTTPConnection):  # type: ignore[misc]  # http.client has a class there, we a method
    """A guarded connection."""


class _Secured(_Answering, HTTPSConnection):  # type: ignore[misc]
    """A guarded connection in TLS."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecuredPool(HTTPSConnectionPool):
    ConnectionCls = _Secured


_POOLS = {"http": _PlainPool, "https": _SecuredPool}


class GuardedAdapter(HTTPAdapter):
    """What a requests session needs to use guarded connections, through a proxy as well."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools; theirs are ours."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pools of a proxy; theirs are ours."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
