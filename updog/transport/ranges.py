"""Many ranges of one file in one call, which becomes a single stream where a server ignores ranges.

    ranges = transport.ranges(url, spans, length=target.length)
    for number, blocks in ranges:          # in one thread, or the same object in several
        data = b"".join(blocks)            # exactly spans[number]

Each span is one request; neighbours are worth joining beforehand. The first answer shows whether the server
honours ranges: other threads wait for it. If it does, each thread has its own connection. If it sends the
whole file instead, that answer is read on from span to span, by one thread at a time, what lies between is
thrown away, and nothing is asked for twice.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from threading import Condition, Lock, get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from updog.image.index import Span
    from updog.transport.body import Body


class Stream:
    """An answer that goes on behind the span it was asked for, kept for the next span.

    Attributes:
        ignored: whether the last answer to a range was the whole file.
    """

    def __init__(self) -> None:
        self.ignored = False
        self._body: Body | None = None
        self._lock = Lock()

    def taken(self, position: int) -> Body | None:
        """Hand over the open answer if it has not gone past ``position`` yet."""
        body = self._swapped(None)
        if body is not None and body.position > position:
            body.close()
            return None
        return body

    def keep(self, body: Body) -> None:
        """Keep an answer for the next span."""
        if (old := self._swapped(body)) is not None:
            old.close()

    def close(self) -> None:
        """Hang up; what is left is not wanted."""
        if (body := self._swapped(None)) is not None:
            body.close()

    def _swapped(self, body: Body | None) -> Body | None:
        with self._lock:
            body, self._body = self._body, body
            return body


class Ranges:
    """Yields (number of the span, its blocks), in order. Safe to iterate in several threads at once.

    A span's blocks have to be drained or closed before the same thread, and in a stream any thread, gets the
    next span; an abandoned span is cut short when its thread asks for the next one. Leave through
    :meth:`close` (or ``with``) when not all spans are wanted: it wakes threads that wait.

    Errors come out of the iteration or the blocks: UnreachableError, HttpStatusError, DigestError (another
    length than signed) and EndlessDataError.
    """

    def __init__(
        self,
        fetch: Callable[[int, int | None, Stream], Iterator[bytes]],
        spans: Sequence[Span],
        *,
        length: int,
    ) -> None:
        _check(spans, length)
        self._fetch = fetch
        self._left = deque(enumerate(spans))
        self._stream = Stream()
        self._probed = False
        self._turn: tuple[int, int] | None = None
        self._free = Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the remaining spans up."""
        with self._free:
            self._left.clear()
            if self._turn is None:
                self._stream.close()
            self._free.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Iterator[bytes]]:
        """Return the next span, when it is this thread's turn."""
        taken = self._taken()
        if taken is None:
            raise StopIteration
        number, span, alone = taken
        blocks = self._blocks(number, span)
        if not alone:
            return number, blocks
        first = next(blocks, b"")  # the head of the answer has come: others may go on, if ranges are honoured
        self._probed = True
        if not self._stream.ignored:
            self._release(number)
        return number, _led(first, blocks)

    def _taken(self) -> tuple[int, Span, bool] | None:
        """Take the next span, waiting while another thread probes or reads the stream.

        Returns:
            Its number, itself, and whether its first block is to be read at once; or None: none is left.
        """
        me = get_ident()
        with self._free:
            while self._left and self._turn is not None and self._turn[0] != me:
                self._free.wait()
            if not self._left:
                return None
            number, span = self._left.popleft()
            alone = not self._probed or self._stream.ignored
            if alone:
                self._turn = (me, number)
            return number, span, alone

    def _blocks(self, number: int, span: Span) -> Iterator[bytes]:
        try:
            yield from self._fetch(span.offset, span.end, self._stream)
        finally:
            self._release(number)

    def _release(self, number: int) -> None:
        """Let the next thread have its turn, if it was this span's."""
        with self._free:
            if self._turn is not None and self._turn[1] == number:
                self._turn = None
            if not self._left and self._turn is None:
                self._stream.close()
            self._free.notify_all()


def _check(spans: Sequence[Span], length: int) -> None:
    """Refuse spans that do not rise, overlap, are empty or leave the file. Raises ValueError."""
    inside = all(0 <= span.offset < span.end <= length for span in spans)
    if not inside or any(one.end > other.offset for one, other in pairwise(spans)):
        raise ValueError(f"spans have to rise within {length} bytes and not overlap")


def _led(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the first block, which was read already, and the others."""
    if first:
        yield first
    yield from blocks
