"""An answer whose head was good: where in the file its bytes are, and the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from updog.errors import DigestError, EndlessDataError, UnreachableError
from updog.transport.port import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_BYTES = 1 << 18  # large enough that Python's cost per block is small beside SHA-256 of it


class Facts(NamedTuple):
    """What a server says about the file behind an answer.

    Attributes:
        etag: as sent. modified: Last-Modified as sent. total: bytes of the whole file.
    """

    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    def check_same(self, other: Facts, url: str) -> None:
        """Compare with what was said before, as far as it was said. Raises UnreachableError."""
        for name, before, now in zip(("ETag", "Last-Modified", "length"), other, self, strict=True):
            if before is not None and (now is not None or name == "ETag") and before != now:
                raise UnreachableError(f"{url} changed while it was downloaded (its {name} is another one)")


class Body:
    """Bytes of a file from ``position`` on, as they come.

    Args:
        blocks: what comes. It raises BrokenError and UnreachableError.
        position: of the first byte in the file.
        facts: about the file.
        whole: whether it goes to the end of the file although only a range was asked for.
        close: hang up; after the last block this is not needed.
    """

    def __init__(
        self,
        blocks: Iterator[bytes],
        *,
        url: str,
        position: int,
        facts: Facts,
        whole: bool,
        close: Callable[[], None],
    ) -> None:
        self.url, self.position, self.facts, self.whole, self.close = url, position, facts, whole, close
        self._blocks = blocks
        self._rest = b""

    def until(self, end: int | None) -> Iterator[bytes]:
        """Yield bytes until byte ``end``, or all there are; what comes behind ``end`` is kept.

        Raises:
            BrokenError: there were fewer.
        """
        while end is None or self.position < end:
            block = self._next()
            if not block:
                break
            if end is not None and len(block) > end - self.position:
                block, self._rest = block[: end - self.position], block[end - self.position :]
            self.position += len(block)
            yield block
        wanted = self.facts.total if end is None else end
        if wanted is not None and self.position < wanted:
            raise BrokenError(f"only a part of {wanted} bytes was sent")

    def skip_to(self, position: int) -> None:
        """Read past what is not wanted. Raises BrokenError."""
        for _ in self.until(position):
            pass

    def finish(self) -> None:
        """See to it that the answer ends here, which also frees its connection for the next request.

        Raises:
            EndlessDataError: it goes on.
        """
        if self._next():
            self.close()
            raise EndlessDataError(
                f"{self.url} goes on past byte {self.position}, though only so much was asked"
            )

    def check_length(self, length: int) -> None:
        """Compare what the server says with what was signed. Raises DigestError."""
        if self.facts.total not in {None, length}:
            raise DigestError(f"{self.url} has {self.facts.total} bytes there, signed are {length}")

    def _next(self) -> bytes:
        block, self._rest = self._rest or next(self._blocks, b""), b""
        return block
