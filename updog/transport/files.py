"""``file:`` URLs: an unpacked bundle, a USB stick, a share that is mounted."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from updog.errors import HttpStatusError, UnreachableError
from updog.transport.body import BLOCK_BYTES, Body, Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_NOT_FOUND = 404


def opened(url: str, start: int, end: int | None, *, count: Callable[[int], None]) -> Body:
    """Return the content of a ``file:`` URL from ``start`` to ``end``; ``count`` is told of every block.

    Raises:
        HttpStatusError: 404: it is not there.
        UnreachableError: it cannot be read, or is no file.
    """
    path = unquote(urlsplit(url).path)
    try:
        # O_NONBLOCK: a named pipe without a writer must not hold us; it changes nothing for a file
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HttpStatusError(url, _NOT_FOUND) from error
    except (OSError, ValueError) as error:
        raise UnreachableError(f"cannot read {path}: {_words(error)}") from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise UnreachableError(f"cannot read {path}: not a file")
    file.seek(start)
    return Body(
        _blocks(file, path, None if end is None else end - start, count),
        url=url,
        position=start,
        facts=Facts(total=status.st_size),
        whole=False,
        close=file.close,
    )


def _blocks(file: BinaryIO, path: str, most: int | None, count: Callable[[int], None]) -> Iterator[bytes]:
    """Yield what is left of the file, or ``most`` bytes of it, and close it."""
    with file:
        try:
            while block := file.read(BLOCK_BYTES if most is None else min(BLOCK_BYTES, most)):
                most = None if most is None else most - len(block)
                count(len(block))
                yield block
        except OSError as error:
            raise UnreachableError(f"cannot read {path}: {_words(error)}") from error


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
