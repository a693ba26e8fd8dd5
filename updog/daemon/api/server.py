"""The clients of the API: one thread for each connection, and one that accepts them.

Rules:

* a connection too many is answered with status 503 and never waits; the last one is kept for root, so that
  nobody who may only read, or not even that, keeps an operator out;
* threads end with the process: a client that hangs holds nobody up;
* the end waits a moment for answers: who ordered a restart of the machine is told so, though it ends us too.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from updog.daemon.api import problems
from updog.daemon.api.access import Peer
from updog.daemon.api.exchange import ClosedError, Exchange
from updog.daemon.api.problems import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from updog.daemon.api.routes import Router

log = logging.getLogger(__name__)

_LINGER_SECONDS = 1.0
_MAX_LINGERING = 64
_ACCEPT_AGAIN_SECONDS = 0.1
_FINISH_SECONDS = 5.0


@dataclass(kw_only=True)
class Listener:
    """A socket and what answers there."""

    socket: socket.socket
    router: Router


@dataclass(kw_only=True)
class Server:
    """Accepts clients and answers them.

    Attributes:
        listeners: where. max_clients: at the same time.
    """

    listeners: Sequence[Listener]
    max_clients: int
    _clients: int = field(default=0, init=False)
    _answering: int = field(default=0, init=False)
    _lock: threading.Condition = field(default_factory=threading.Condition, init=False)
    _idle_since: float = field(default_factory=time.monotonic, init=False)
    _ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._wakes, self._waker = os.pipe2(os.O_CLOEXEC)
        self._acceptor = threading.Thread(target=self._accept_all, name="api", daemon=True)

    @property
    def idle_seconds(self) -> float:
        """How long there has been no client."""
        with self._lock:
            return 0.0 if self._clients else time.monotonic() - self._idle_since

    def start(self) -> None:
        """Begin to accept clients, in a thread."""
        self._acceptor.start()

    def close(self) -> None:
        """Accept no more clients; those who come wait at the sockets until somebody else accepts them."""
        self._ended = True
        os.write(self._waker, b"\0")
        self._acceptor.join(_FINISH_SECONDS)
        os.close(self._wakes)  # not by the thread: it may end before the byte is written
        os.close(self._waker)

    def finish(self) -> None:
        """Wait until the requests that are here are answered, but not long."""
        with self._lock:
            self._lock.wait_for(lambda: not self._answering, _FINISH_SECONDS)

    def _accept_all(self) -> None:
        lingering: dict[socket.socket, float] = {}
        with selectors.DefaultSelector() as selector:
            for listener in self.listeners:
                listener.socket.setblocking(False)
                selector.register(listener.socket, selectors.EVENT_READ, listener)
            selector.register(self._wakes, selectors.EVENT_READ)
            while not self._ended:
                ready = selector.select(_LINGER_SECONDS if lingering else None)
                for key, _ in ready:
                    if self._ended:
                        break
                    if isinstance(key.data, Listener):
                        self._accept(key.data, selector, lingering)
                    elif not _drain(key.fileobj):  # type: ignore[arg-type]
                        lingering[key.fileobj] = 0.0  # type: ignore[index]
                now = time.monotonic()
                for connection in [each for each, end in lingering.items() if end <= now]:
                    del lingering[connection]
                    selector.unregister(connection)
                    connection.close()
        for connection in lingering:
            connection.close()

    def _accept(
        self, listener: Listener, selector: selectors.BaseSelector, lingering: dict[socket.socket, float]
    ) -> None:
        try:
            connection, _ = listener.socket.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no more descriptors
            log.warning("cannot accept a client: %s", error)
            time.sleep(_ACCEPT_AGAIN_SECONDS)
            return
        if self._is_admitted(connection):
            thread = threading.Thread(
                target=self._serve, args=(connection, listener.router), name="api-client", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the limit of threads, or of memory
                self._left()
            else:
                return
        _send_too_many(connection)
        if len(lingering) < _MAX_LINGERING:
            lingering[connection] = time.monotonic() + _LINGER_SECONDS
            selector.register(connection, selectors.EVENT_READ)
        else:
            connection.close()

    def _is_admitted(self, connection: socket.socket) -> bool:
        kept = 0 if self.max_clients == 1 or _is_root(connection) else 1
        with self._lock:
            if self._clients >= self.max_clients - kept:
                return False
            self._clients += 1
            return True

    def _left(self) -> None:
        with self._lock:
            self._clients -= 1
            self._idle_since = time.monotonic()

    def _serve(self, connection: socket.socket, router: Router) -> None:
        try:
            with connection:
                self._converse(connection, router)
                _linger(connection)
        except Exception:  # one client must not end the daemon
            log.exception("a client was left")
        finally:
            self._left()

    def _converse(self, connection: socket.socket, router: Router) -> None:
        """Answer requests until the client has gone, or cannot be followed."""
        try:
            exchange = Exchange(connection, Peer.of(connection))
        except OSError:
            return
        try:
            while True:
                request = exchange.next_request()
                if request is None:
                    return
                with self._being_answered():
                    goes_on = exchange.respond(router.answer(request))
                if not goes_on:
                    return
        except ApiError as error:
            with suppress(ClosedError):
                exchange.refuse(error)
        except ClosedError:
            pass

    @contextmanager
    def _being_answered(self) -> Iterator[None]:
        with self._lock:
            self._answering += 1
        try:
            yield
        finally:
            with self._lock:
                self._answering -= 1
                self._lock.notify_all()


def _linger(connection: socket.socket) -> None:
    """Let the client read the answer: to close with bytes unread would take it away."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_SECONDS)
        end = time.monotonic() + _LINGER_SECONDS
        while time.monotonic() < end and connection.recv(1 << 16):
            pass


def _is_root(connection: socket.socket) -> bool:
    try:
        return Peer.of(connection).uid == 0
    except OSError:
        return False


def _drain(connection: socket.socket) -> bool:
    """Throw away what a refused client sends; return False once it has ended."""
    try:
        return bool(connection.recv(1 << 16))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send_too_many(connection: socket.socket) -> None:
    """Tell a client that there are too many; nothing was sent before, so this never waits."""
    error = problems.own(
        "too-many-clients",
        "there are as many clients as api.max_clients allows",
        "Ask again later.",
        headers={"Retry-After": str(problems.BUSY_SECONDS)},
    )
    with suppress(ClosedError, OSError):
        Exchange(connection, Peer.of(connection)).refuse(error)
        connection.shutdown(socket.SHUT_WR)
    connection.setblocking(False)
