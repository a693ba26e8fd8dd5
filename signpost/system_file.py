"""Small text files that the system keeps, such as os-release or the machine-id."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_system_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return the text of a regular file.

    Raises:
        OSError: it cannot be read, or is not a regular file: a FIFO would block forever.
        UnicodeDecodeError: it has other bytes than the encoding, and ``errors`` is strict.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read().decode(encoding, errors)
    finally:
        os.close(descriptor)
