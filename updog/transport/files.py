"""``file:`` URLs: an unpacked bundle, a USB stick, a mounted share."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from signpost.errors import MediumError
from updog.errors import HttpStatusError, UnreachableError
from updog.transport.body import BODY_BLOCK_BYTES, Body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_NOT_FOUND = 404


def opened(url: str, start: int, end: int | None, *, count: Callable[[int], None]) -> Body:
    """Return the content of a ``file:`` URL from ``start`` to ``end``.

    Args:
        url: the file.
        start: the first byte.
        end: the byte after the last one; None: the end of the file.
        count: called with the length of every block.

    Raises:
        HttpStatusError: 404: it does not exist.
        UnreachableError: it cannot be read, or is not a regular file.
    """
    path = unquote(urlsplit(url).path)
    try:
        # O_NONBLOCK: opening a named pipe without a writer must not block; it has no effect on a file
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HttpStatusError(url, _NOT_FOUND) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise UnreachableError(f"cannot read {path}: not a file")
    file.seek(start)
    return Body(
        _blocks(file, path, None if end is None else end - start, count),
        url=url,
        position=start,
        total=status.st_size,
        whole=False,
        close=file.close,
    )


def _blocks(file: BinaryIO, path: str, limit: int | None, count: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the rest of the file, or at most ``limit`` bytes of it, and close it."""
    with file:
        try:
            while block := file.read(BODY_BLOCK_BYTES if limit is None else min(BODY_BLOCK_BYTES, limit)):
                limit = None if limit is None else limit - len(block)
                count(len(block))
                yield block
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UnreachableError:
    """Return the error for a file that cannot be read, with the machine's next step if it is the cause."""
    cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
    machine = MediumError.of_machine(error)
    return UnreachableError(f"cannot read {path}: {cause}", next_step=machine.next_step if machine else "")
