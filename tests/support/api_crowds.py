"""Many clients of one agent's API at the same time, who read, read slowly, or do not read.

with crowd_of(agent, readers=16, slow=8, mute=8) as crowd:
    crowd.readers[0].heard("history")
    crowd.mute.pop().leave()
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.api_clients import EventStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.api_clients import Connection, RunningAgent, StreamedEvent

MAX_CLIENTS = 32
"""`api.max_clients`, by default."""

HALF_A_HEAD = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: "
LARGE_HEAD = HALF_A_HEAD + b"y" * 1_000_000
_SLOW_SECONDS = 1.0
_ASK = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"


class Mute:
    """A client that asks for the events and reads nothing of them, not even the head."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(_ASK)

    def leave(self) -> None:
        """Close the connection."""
        self._connection.__exit__()


class Reader:
    """A client that reads the events in a thread of its own, until it leaves or is left.

    Args:
        connection: of its own.
        as_sse: whether it asks for server-sent events.
        seconds: for which it rests after each event.
    """

    def __init__(self, connection: Connection, *, as_sse: bool, seconds: float = 0.0) -> None:
        self._connection, self._seconds = connection, seconds
        self._stream = EventStream(connection, as_sse=as_sse, last_id=None)
        self._events: list[StreamedEvent] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def heard(self, name: str) -> Sequence[StreamedEvent]:
        """Return the events of a name that have come so far."""
        return [event for event in tuple(self._events) if event.name == name]

    def leave(self) -> None:
        """Close the connection."""
        self._is_over.set()
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)  # which ends the thread's wait
        self._thread.join()
        self._connection.__exit__()

    def _read(self) -> None:
        with suppress(http.client.HTTPException, OSError):
            for event in self._stream:
                self._events.append(event)
                if self._is_over.wait(self._seconds):
                    break


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Clients that are all there: the agent has accepted each of them before the next."""

    mute: list[Mute] = field(default_factory=list)
    slow: list[Reader] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


@contextmanager
def crowd_of(agent: RunningAgent, *, readers: int, slow: int, mute: int) -> Iterator[Crowd]:
    """Let so many clients of each kind listen; every second one that reads asks for server-sent events.

    Those that read come last: an agent that has answered them has accepted the others.
    """
    crowd = Crowd()
    with ExitStack() as stack:
        for _ in range(mute):
            crowd.mute.append(Mute(agent.connect()))
            stack.callback(crowd.mute[-1].leave)
        for group, count, seconds in ((crowd.slow, slow, _SLOW_SECONDS), (crowd.readers, readers, 0.0)):
            for number in range(count):
                group.append(Reader(agent.connect(), as_sse=bool(number % 2), seconds=seconds))
                stack.callback(group[-1].leave)
        yield crowd
