"""A folder that is filled whole or not at all, also by a program that is killed.

Rules:

* a mark is put into the folder first, and taken away last; while it is worked on, it is locked;
* the file that makes the folder what it is must be the last to be written (``repo.toml`` of a repository);
* a folder with the mark and nothing but names of our own is what a killed run left: the next run clears it
  away and begins again. Anything else in it, that file included, and the folder is refused as it is.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from repo_tools.errors import RepositoryBusyError, RepositoryExistsError
from signpost.errors import DiskBusyError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from updog.durable import Medium

MARK = ".new"
"""In a folder that is being filled."""


@contextmanager
def all_or_nothing(folder: Path, medium: Medium, ours: frozenset[str]) -> Iterator[None]:
    """Fill ``folder``, or leave what was there before, for the length of a ``with`` block.

    Args:
        folder: is empty, does not exist, or holds what a killed run left.
        medium: the mark is written through it.
        ours: the names that the block may leave behind if it is killed.

    Raises:
        RepositoryExistsError: the folder holds something else. RepositoryBusyError: another is filling it.
        MediumError: the folder cannot be made.
    """
    made = not folder.exists()
    mark = _locked_mark(folder, medium)
    try:
        require_empty(folder, ours)
        _clear(folder, ours)
        try:
            medium.flush_folder(str(folder))
            yield
        except Exception:
            with suppress(OSError, MediumError):  # the first failure is the one to tell
                _clear(folder, ours)
                medium.remove(str(folder / MARK))
                if made:
                    folder.rmdir()
            raise
        medium.remove(str(folder / MARK))
    finally:
        medium.close(mark)


def _locked_mark(folder: Path, medium: Medium) -> int:
    """Return the mark of a repository in the making, held so that no second `new` is at it."""
    path = folder / MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediumError(f"cannot make {folder}: {error.strerror}") from error
    descriptor = medium.open(str(path), write=True) if path.exists() else medium.create(str(path))
    try:
        medium.lock(descriptor)
    except DiskBusyError as error:
        medium.close(descriptor)
        raise RepositoryBusyError(f"another `new` is at work in {folder}") from error
    return descriptor


def _clear(folder: Path, ours: frozenset[str]) -> None:
    """Remove what a killed run left: nothing but names of our own."""
    for name in ours:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def require_empty(folder: Path, ours: frozenset[str]) -> None:
    """Refuse a folder that holds anything but what a killed run left. Raises RepositoryExistsError."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise RepositoryExistsError(f"cannot look into {folder}: {error.strerror}") from error
    if names and not (MARK in names and names <= ours | {MARK}):
        raise RepositoryExistsError(f"{folder} is not empty")
