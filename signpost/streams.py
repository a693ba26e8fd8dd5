"""Standard streams on which nothing that a program prints can fail.

An update, a confirm or the restart after a failed health check must not depend on who listens: a log file on
a full disk, a pipe whose reader has left, a console in an 8-bit locale, or no open descriptors at all.

Rules it enforces:

* output that cannot be written is lost, and costs nothing else: neither an error nor the exit status;
* descriptors 0, 1 and 2 are open, so that no file or disk that is opened later is taken for one of them;
* a character that the stream's encoding lacks, or that a terminal would obey, is written as an escape
  sequence: whatever goes to the terminal or the journal passes here.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from signpost.text import printable

_STREAMS = {1: "stdout", 2: "stderr"}


class _LossyFile(io.RawIOBase):
    """A descriptor to which every write succeeds; once one is lost, so are all that follow."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._is_lost = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: Any, /) -> int:
        """Write ``data``; return its length in bytes, also when it is lost."""
        view = memoryview(data).cast("B")
        if not self._is_lost:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:
                pass  # the reader is slow: this piece is lost, not what follows
            except OSError:
                self._is_lost = True
        return len(view)


class _PrintableText(io.TextIOWrapper):
    """A text stream to which no control character is written."""

    def write(self, text: str, /) -> int:
        """Write ``text``; return its length in characters."""
        super().write(printable(text))
        return len(text)


def protect() -> None:
    """Make the process's standard streams such that nothing printed can fail; call it first."""
    _open_missing()
    for descriptor, name in _STREAMS.items():
        stream: TextIO | None = getattr(sys, name)
        encoding = stream.encoding if stream is not None else "utf-8"
        setattr(sys, name, _lossy(descriptor, encoding))


def _lossy(descriptor: int, encoding: str) -> TextIO:
    raw = _LossyFile(descriptor)
    buffered = io.BufferedWriter(raw)
    return _PrintableText(
        buffered, encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty() or descriptor != 1
    )


def _open_missing() -> None:
    """Open /dev/null for the standard descriptors that are closed: the lowest free number is taken."""
    for descriptor in (0, *_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
