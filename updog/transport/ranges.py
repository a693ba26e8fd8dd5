"""Many ranges of one file in one call, which becomes a single stream if the server ignores ranges.

    ranges = transport.ranges(url, spans, length=target.length)
    for number, blocks in ranges:          # in one thread, or the same object in several
        data = b"".join(blocks)            # exactly spans[number]

Each span is one request, so adjacent spans should be joined beforehand. The first response shows whether the
server honours ranges; other threads wait for it. If it does, each thread uses its own connection. If it sends
the whole file instead, that response is read from span to span, by one thread at a time; the bytes between
spans are discarded, and nothing is requested twice.
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


class RangeStream:
    """Keeps a response that continues behind the requested span, for the next span.

    Attributes:
        ranges_ignored: whether the last response to a range was the whole file.
    """

    def __init__(self) -> None:
        self.ranges_ignored = False
        self._body: Body | None = None
        self._lock = Lock()

    def take(self, position: int) -> Body | None:
        """Return the kept response, which is then no longer kept, if it is not past ``position`` yet."""
        body = self._swap(None)
        if body is not None and body.position > position:
            body.close()
            return None
        return body

    def keep(self, body: Body) -> None:
        """Keep a response for the next span."""
        if (old := self._swap(body)) is not None:
            old.close()

    def close(self) -> None:
        """Close the kept response."""
        if (body := self._swap(None)) is not None:
            body.close()

    def _swap(self, body: Body | None) -> Body | None:
        with self._lock:
            body, self._body = self._body, body
            return body


class Ranges:
    """Yields (number of the span, its blocks), in order. Safe to iterate in several threads at once.

    A span's blocks must be read to the end or closed before the same thread (in a stream: any thread) gets
    the next span; an abandoned span is cut short when its thread asks for the next one. When not all spans
    are needed, end with :meth:`close` (or use ``with``): it wakes the waiting threads.

    The iteration and the blocks raise UnreachableError, HttpStatusError, DigestError (another length than
    signed) and EndlessDataError.
    """

    def __init__(
        self,
        fetch: Callable[[int, int | None, RangeStream], Iterator[bytes]],
        spans: Sequence[Span],
        *,
        length: int,
    ) -> None:
        rising = all(one.end <= other.offset for one, other in pairwise(spans))
        if not rising or not all(0 <= span.offset < span.end <= length for span in spans):
            raise ValueError(f"spans must be in rising order within {length} bytes and not overlap")
        self._fetch = fetch
        self._left = deque(enumerate(spans))
        self._stream = RangeStream()
        self._probed = False
        self._turn: tuple[int, int] | None = None
        self._free = Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the remaining spans."""
        with self._free:
            self._left.clear()
            if self._turn is None:
                self._stream.close()
            self._free.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Iterator[bytes]]:
        """Return the next span, when it is this thread's turn."""
        taken = self._take_turn()
        if taken is None:
            raise StopIteration
        number, span, alone = taken
        blocks = self._blocks(number, span)
        if not alone:
            return number, blocks
        first = next(blocks, b"")  # the response has begun: other threads may start, if ranges are honoured
        self._probed = True
        if not self._stream.ranges_ignored:
            self._release(number)
        return number, _prepended(first, blocks)

    def _take_turn(self) -> tuple[int, Span, bool] | None:
        """Take the next span; wait while another thread probes the server or reads the stream.

        Returns:
            The span's number, the span, and whether no other thread may fetch until its first block has
            arrived; None if no span is left.
        """
        me = get_ident()
        with self._free:
            while self._left and self._turn is not None and self._turn[0] != me:
                self._free.wait()
            if not self._left:
                return None
            number, span = self._left.popleft()
            alone = not self._probed or self._stream.ranges_ignored
            if alone:
                self._turn = (me, number)
            return number, span, alone

    def _blocks(self, number: int, span: Span) -> Iterator[bytes]:
        try:
            yield from self._fetch(span.offset, span.end, self._stream)
        finally:
            self._release(number)

    def _release(self, number: int) -> None:
        """Give the turn to the next thread, if it was this span's."""
        with self._free:
            if self._turn is not None and self._turn[1] == number:
                self._turn = None
            if not self._left and self._turn is None:
                self._stream.close()
            self._free.notify_all()


def _prepended(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the first block, which was read already, then the others."""
    if first:
        yield first
    yield from blocks
