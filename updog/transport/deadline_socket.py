"""HTTP connections on which no single step can take forever or receive endless data.

The standard library reads response heads and chunk framing in loops: a socket timeout bounds each receive but
not the loop, and nothing bounds ``100 Continue`` responses or trailers. Here every step (the whole head of a
response, or one read of its body) has the socket's timeout as its deadline, and a limit of bytes.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from updog.url import Url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEAD_BYTES = 1 << 18  # more than a hundred headers of 2 KiB; real heads have one or two KiB in all
MAX_FRAMING_BYTES = 1 << 16  # chunk sizes and trailers between two pieces of a body
_MIN_TIMEOUT_SECONDS = 0.001  # zero would mean non-blocking


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until a deadline and up to a number of bytes; both are set for each step."""

    def __init__(self, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._connection, self._raw = connection, raw
        self._seconds = connection.gettimeout()
        self._deadline, self._left = 0.0, 0

    def start_step(self, limit: int) -> None:
        """Start a step that may receive up to ``limit`` bytes."""
        self._left = limit
        self._deadline = time.monotonic() + (self._seconds or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Receive into ``buffer``. Raises TimeoutError after the deadline, OSError above the limit."""
        if self._left <= 0:
            raise OSError("the response head or chunk framing has no end")
        if self._seconds is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(max(left, _MIN_TIMEOUT_SECONDS))
        try:
            count = self._raw.readinto(buffer)
        finally:
            self._connection.settimeout(self._seconds)
        self._left -= count or 0
        return count

    def close(self) -> None:
        """Close the socket's file."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that is read through a :class:`_DeadlineReader`."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _DeadlineReader(sock, self.fp.detach())
        self._reader.start_step(MAX_HEAD_BYTES)
        self.fp = io.BufferedReader(self._reader)

    def read1(self, n: int = -1) -> bytes:
        """Read once, as a step of its own."""
        self._reader.start_step(max(n, 0) + MAX_FRAMING_BYTES)
        return super().read1(n)


class _DeadlineMixin:
    """Makes a connection create responses with deadlines, and close each one that it does not return.

    urllib3 refuses some heads that http.client accepted (two lengths); then nothing else would close them.
    """

    _response: _Response | None = None

    def response_class(self, *args: Any, **kwargs: Any) -> _Response:
        """Create a response, and keep it until it is returned."""
        self._response = _Response(*args, **kwargs)
        return self._response

    def getresponse(self) -> HTTPResponse:
        """Return the response to the request that was sent."""
        try:
            response: HTTPResponse = super().getresponse()  # type: ignore[misc]  # the connection's
        except BaseException:
            if self._response is not None:
                self._response.close()
            raise
        finally:
            self._response = None
        return response


class _HTTPConnection(_DeadlineMixin, HTTPConnection):  # type: ignore[misc]  # a class there, a method here
    """A connection with deadlines."""


class _HTTPSConnection(_DeadlineMixin, HTTPSConnection):  # type: ignore[misc]
    """A TLS connection with deadlines."""


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_KEEPALIVE_SECONDS = 60  # routers and load balancers forget a silent connection, some after 350 seconds
_SOCKET_OPTIONS = (
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS),
)
"""A fleet lock server may drain a node for half an hour before it answers."""

_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class DeadlineAdapter(HTTPAdapter):
    """Makes a requests session use connections with deadlines, also through a proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool manager, with our pools."""
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the headers with the login of a proxy's URL, in UTF-8: requests takes only Latin-1."""
        credentials = Url(address="", login=urlsplit(proxy).netloc.rpartition("@")[0]).credentials()
        if credentials is None:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(b':'.join(credentials)).decode('ascii')}"}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool manager of a proxy, with our pools."""
        manager = super().proxy_manager_for(*args, socket_options=_SOCKET_OPTIONS, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
