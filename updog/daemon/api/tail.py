"""Follows the lines that a child writes, while it writes them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_MAX_READ = 1 << 20  # bytes that are read at once, and of one line


class Tail:
    """Reads the new whole lines of a file; where it is replaced by another, first the rest, then the new one.

    The file is kept open: the number of an inode is used again at once.

    Args:
        path: it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def lines(self) -> list[dict[str, Any]]:
        """Return the objects of the lines that were written since the last call."""
        found = self._new_lines()
        if self._is_replaced():
            if self._file is not None:
                self._file.close()
            self._file, self._rest = None, b""
            with suppress(OSError):
                self._file = self._path.open("rb", buffering=0)
            found += self._new_lines()
        return found

    def _is_replaced(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return False
        return self._file is None or os.fstat(self._file.fileno()).st_ino != there.st_ino

    def _new_lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while self._file is not None and (read := self._file.read(_MAX_READ)):
            whole, _, self._rest = (self._rest + read).rpartition(b"\n")
            self._rest = self._rest[-_MAX_READ:]
            for each in whole.splitlines():
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    found.append(msgspec.json.decode(each, type=dict[str, Any]))
        return found
