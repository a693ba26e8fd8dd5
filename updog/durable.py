"""Files that survive a power cut: they have either the old content or the new one, never a mixture.

A file is replaced durably: a temporary file in the same folder is written, flushed and renamed over the
target, then the folder is flushed (POSIX ``rename`` with ``fsync``). All of it goes through a
:class:`~signpost.medium.Medium`, so that a test can record the calls and replay any prefix of them.

Files that a node keeps for itself lie in a *private* folder: neither it nor any folder above it can be
changed by another user, so that nobody can put a link, a pipe or another file in the place of one of them.
There, a link or anything else that is not a regular file is an error: it is neither followed nor waited for.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from signpost.errors import MediumError
from signpost.medium import Medium, OsMedium, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Medium",
    "OsMedium",
    "make_private",
    "open_or_create",
    "opened",
    "opened_own",
    "read_bytes",
    "read_own",
    "remove_files",
    "require_private",
    "stamp",
    "write_bytes",
    "write_json",
]

_NO_FOLDER = "Create or mount it, or remove the link that leads there."
_TEMPORARY_SUFFIX = ".tmp"


def write_bytes(medium: Medium, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the content of ``path`` by ``data``, durably and atomically.

    Raises:
        MediumError: the file still has its old content.
    """
    temporary = f"{path}{_TEMPORARY_SUFFIX}"
    medium.remove(temporary)  # left by a kill between create and rename
    descriptor = medium.create(temporary, mode)
    try:
        medium.write_at(descriptor, data, 0)
        medium.flush(descriptor)
    finally:
        medium.close(descriptor)
    medium.rename(temporary, str(path))
    medium.flush_folder(os.path.dirname(temporary) or ".")


def open_or_create(medium: Medium, path: Path) -> int:
    """Return the descriptor of a lock file, which is created if it is not there. Raises MediumError."""
    if path.exists():
        return medium.open(str(path), write=True)
    try:
        return medium.create(str(path))
    except MediumError:
        if not path.exists():
            raise
        return medium.open(str(path), write=True)  # another writer has just created it


def remove_files(medium: Medium, folder: Path, *, keep: frozenset[str] = frozenset()) -> None:
    """Remove the files of a folder but those in ``keep``; a folder in it (lost+found) is not ours.

    Raises:
        MediumError: one cannot be removed.
    """
    for path in folder.glob("*"):
        if path.name not in keep and not os.path.isdir(path):
            medium.remove(str(path))


def write_json(medium: Medium, path: Path, document: Any, *, mode: int = 0o644) -> None:
    """Replace the content of ``path`` by ``document`` as indented JSON. Raises MediumError."""
    write_bytes(medium, path, (json.dumps(document, indent=2) + "\n").encode(), mode=mode)


def read_bytes(medium: Medium, path: Path) -> bytes:
    """Return the whole content of a state file. Raises MediumError."""
    with opened(medium, str(path)) as descriptor:
        return medium.read_at(descriptor, medium.size(descriptor), 0)


def make_private(folder: Path) -> None:
    """Make a private folder, and those above it, if they are missing. Raises MediumError, as require_private.

    The modes do not depend on the umask: what a umask of 0 leaves open would be refused from then on.
    """
    try:
        missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
        for place in reversed(missing):
            place.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise MediumError.of(f"cannot create {folder}: {error.strerror}", error) from error
    require_private(folder)


def require_private(folder: Path) -> None:
    """Refuse an existing folder that another user can change, or put another one in the place of.

    Root and the user who runs this may change it, and nobody else; for a user other than root, their own
    primary group counts as themselves (a umask of 002 with a group for each user). In a folder above it,
    the sticky bit is enough: others cannot replace what is not theirs.

    Raises:
        MediumError: another user can, or it cannot be looked at.
    """
    try:
        real = type(folder)(os.path.realpath(folder, strict=True))
        places = {*folder.absolute().parents, *real.parents, real}
        for place in sorted(places):
            if not place.is_symlink() and not place.is_dir():
                raise MediumError(
                    f"{place} is not a folder", next_step="Move it away: a folder is made in its place."
                )
            if fault := _open_to_others(place, is_above=place != real):
                raise MediumError(
                    f"{place} {fault}, so files in {folder} are not safe",
                    next_step=f"chown root:root {place} && chmod go-w {place}; or use another folder.",
                )
    except OSError as error:
        message = f"cannot look at {error.filename or folder}: {error.strerror}"
        raise MediumError.of(message, error, otherwise=_NO_FOLDER) from error


def _open_to_others(place: Path, *, is_above: bool) -> str:
    """Return how another user could change a folder, "" if none can."""
    status = place.lstat()
    user = os.geteuid()
    own_groups = {0, os.getegid()} if user else {0}
    if status.st_uid not in {0, user}:
        return f"belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode) or (is_above and status.st_mode & stat.S_ISVTX):
        return ""  # what the link leads to is looked at as well
    if status.st_mode & stat.S_IWOTH:
        return "can be written by everyone"
    is_open = status.st_mode & stat.S_IWGRP and status.st_gid not in own_groups
    return f"can be written by group {status.st_gid}" if is_open else ""


@contextmanager
def opened_own(medium: Medium, path: Path, *, write: bool = False) -> Iterator[int]:
    """Open a file of a private folder for the duration of a ``with`` block; never through a link.

    Raises:
        MediumError: it is not a regular file, or cannot be opened.
    """
    try:
        is_other = not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        is_other = False  # the medium says in its words what is wrong
    if is_other:
        raise MediumError(f"{path} is not a regular file", next_step="Find out who put it there; remove it.")
    with opened(medium, str(path), write=write) as descriptor:
        yield descriptor


def read_own(medium: Medium, path: Path) -> bytes:
    """Return the whole content of a file of a private folder. Raises MediumError, as :func:`opened_own`."""
    with opened_own(medium, path) as descriptor:
        return medium.read_at(descriptor, medium.size(descriptor), 0)


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced; None if it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)
