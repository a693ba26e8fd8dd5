"""The body of a response whose head was accepted: its bytes, and where in the file they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from updog.errors import DigestError, EndlessDataError, UnreachableError, WebPageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BODY_BLOCK_BYTES = 1 << 18  # large enough that Python's cost per block is small next to that of SHA-256


_WEB_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|meta|script|body|title|\?xml)\b", re.IGNORECASE
)


def is_web_page(first: bytes) -> bool:
    """Return whether a body that begins with these bytes is a web page."""
    return bool(_WEB_PAGE.match(first))


class Body:
    """The bytes of a file from ``position`` on, as they arrive.

    Args:
        blocks: the bytes. Raises BrokenError and UnreachableError.
        position: offset of the next byte in the file.
        total: bytes of the whole file, if the server says so.
        whole: whether it is the whole file, whatever range was requested.
        close: closes the response; not needed after the last block.
    """

    def __init__(
        self,
        blocks: Iterator[bytes],
        *,
        url: str,
        position: int,
        total: int | None,
        whole: bool,
        close: Callable[[], None],
    ) -> None:
        self.url, self.position, self.total, self.whole, self.close = url, position, total, whole, close
        self._blocks = blocks
        self._rest = b""

    def until(self, end: int | None) -> Iterator[bytes]:
        """Yield the bytes up to offset ``end`` (None: all); bytes received beyond ``end`` are kept.

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
        wanted = self.total if end is None else end
        if wanted is not None and self.position < wanted:
            raise BrokenError(f"only a part of {wanted} bytes was sent")

    def skip_to(self, position: int) -> None:
        """Read and discard the bytes before ``position``. Raises BrokenError."""
        for _ in self.until(position):
            pass

    def finish(self) -> None:
        """Check that the response ends here, which also frees its connection for the next request.

        Raises:
            EndlessDataError: it goes on.
        """
        if self._next():
            self.close()
            raise EndlessDataError(f"{self.url} sent data beyond byte {self.position}, where it should end")

    def check_length(self, length: int) -> None:
        """Compare the length that the server reports with the signed one. Raises DigestError."""
        if self.total not in {None, length}:
            raise DigestError(f"{self.url} has {self.total} bytes, but {length} were signed")

    def check_unchanged(self, length: int) -> None:
        """Compare the length that the server reports with an earlier one. Raises UnreachableError."""
        if self.total not in {None, length}:
            raise UnreachableError(f"{self.url} changed during the download: its length is different now")

    def check_not_a_page(self) -> None:
        """Check that it does not begin as a web page; no metadata and no image does.

        Raises:
            WebPageError: it does. BrokenError: nothing arrived.
        """
        if self.position == 0:
            self._rest = self._next()
            if is_web_page(self._rest):
                raise WebPageError(self.url)

    def _next(self) -> bytes:
        block, self._rest = self._rest or next(self._blocks, b""), b""
        return block


class BrokenError(Exception):
    """This request ended early; another one may succeed after ``wait`` seconds (None: back off as usual).

    ``next_step`` is what an operator can do if no other one succeeds; empty: the usual.
    """

    def __init__(self, reason: str, wait: float | None = None, *, next_step: str = "") -> None:
        super().__init__(reason)
        self.wait = wait
        self.next_step = next_step
