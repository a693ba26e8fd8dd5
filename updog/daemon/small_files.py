"""Reading small files that other programs wrote, so that none of them can hold up or mislead the daemon.

Rules it enforces:

* a file is opened below the folder that was opened: nobody can put another folder in its place meanwhile;
* no link is followed, and nothing but a regular file is read: a named pipe or a device is refused, not waited
  for;
* a file that is larger than expected is refused: half of a document may say something else;
* a file that is removed between the list and its turn is not there. Everything else that cannot be read is
  reported.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.text import line

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILES = 1000  # sessions and locks of a busy machine; a folder with more is refused
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class UnreadError(Exception):
    """Something exists and cannot be read; the text says why, for an operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderContent:
    """What a folder has.

    Attributes:
        files: name → content, by name. problems: why others, or all of them, cannot be read; printable.
    """

    files: dict[str, bytes]
    problems: tuple[str, ...] = ()


def read_small(path: Path, limit: int) -> bytes | None:
    """Return the content of a file of at most ``limit`` bytes; None if there is none. Raises UnreadError."""
    try:
        return _read(str(path), None, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadError(line(f"{path}: {error.strerror}")) from error


def read_folder(folder: Path, limit: int, *, but: str = "/") -> FolderContent:
    """Return the files in a folder that are not hidden and whose names do not end with ``but``.

    Args:
        folder: it need not exist.
        limit: the largest size of a file, in bytes.
        but: ending of the names to leave out; default: none.
    """
    files: dict[str, bytes] = {}
    problems: list[str] = []
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return FolderContent(files=files)
    except OSError as error:
        return FolderContent(files=files, problems=(line(f"{folder}: {error.strerror}"),))
    try:
        names = sorted(name for name in os.listdir(descriptor) if not name.startswith("."))  # noqa: PTH208 - of a descriptor
        if len(names) > MAX_FILES:
            problems.append(line(f"{folder}: has more than {MAX_FILES} files"))
        for name in (name for name in names[:MAX_FILES] if not name.endswith(but)):
            try:
                files[name] = _read(name, descriptor, limit)
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(line(f"{folder / name}: {error.strerror}"))
    except OSError as error:
        problems.append(line(f"{folder}: {error.strerror}"))
    finally:
        os.close(descriptor)
    return FolderContent(files=files, problems=tuple(problems))


def _read(path: str, folder: int | None, limit: int) -> bytes:
    """Return the content of a file. Raises OSError, whose ``strerror`` is the reason."""
    is_link = stat.S_ISLNK(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    if is_link:  # O_NOFOLLOW enforces it; here it gets its name
        raise OSError(0, "is a link, which is not followed")
    descriptor = os.open(path, _FLAGS, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "is not a regular file")
        content = b""
        while len(content) <= limit and (block := os.read(descriptor, limit + 1 - len(content))):
            content += block
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(0, f"is larger than {limit} bytes")
    return content
