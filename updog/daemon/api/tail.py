"""Follows the lines that a child writes, while it writes them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_MAX_READ = 1 << 20  # bytes that are read at once, and of one line


class Tail:
    """Reads the new whole lines of a file; where it is replaced by another, those of the new one.

    Args:
        path: it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""

    def lines(self) -> list[dict[str, Any]]:
        """Return the objects of the lines that were written since the last call."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            inode = os.fstat(descriptor).st_ino
            if inode != self._inode:
                self._inode, self._offset, self._rest = inode, 0, b""
            read = os.pread(descriptor, _MAX_READ, self._offset)
        finally:
            os.close(descriptor)
        self._offset += len(read)
        whole, _, rest = (self._rest + read).rpartition(b"\n")
        self._rest = rest[-_MAX_READ:]
        found = []
        for each in whole.splitlines():
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found.append(msgspec.json.decode(each, type=dict[str, Any]))
        return found

    def skip(self) -> None:
        """Pass over what was written so far."""
        while self.lines() or self._is_behind():
            pass

    def _is_behind(self) -> bool:
        with suppress(OSError):
            return self._offset < self._path.stat().st_size
        return False
