"""A private folder in a repository, for files that take long to make and are not yet protected by a lock.

Rules:

* it is in the repository's folder, so that what is finished is moved to its place by a rename;
* its own lock file is locked (flock) as long as its publisher runs: any later writer removes the workspaces
  whose lock is free, and no others.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from repo_tools.errors import RepositoryBusyError
from signpost.errors import DiskBusyError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from updog.durable import Medium

PREFIX = ".publishing-"
"""The prefix of the names of workspaces."""

_LOCK = "lock"
_TRIES = 8  # a workspace is lost only if a writer removes it between its creation and its lock


@contextmanager
def workspace(folder: Path, medium: Medium) -> Iterator[Path]:
    """Create a workspace in a repository's folder for a ``with`` block, and remove it at the end.

    Raises:
        MediumError: it cannot be created. RepositoryBusyError: other writers removed every new one.
    """
    for _ in range(_TRIES):
        path = folder / f"{PREFIX}{secrets.token_hex(4)}"
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise MediumError.of(f"cannot create {path}: {error.strerror}", error) from error
        try:
            descriptor = medium.create(str(path / _LOCK))
        except MediumError:
            if path.exists():
                raise
            continue
        try:
            medium.lock(descriptor)
        except DiskBusyError:
            medium.close(descriptor)
            continue
        if (path / _LOCK).exists():
            break
        medium.close(descriptor)
    else:
        raise RepositoryBusyError(f"other writers remove every workspace in {folder}")
    try:
        yield path
    finally:
        try:
            with suppress(MediumError):  # the next writer removes what is left; report the first failure
                _remove(path, medium)
        finally:
            medium.close(descriptor)


def remove_abandoned(folder: Path, medium: Medium) -> None:
    """Remove the workspaces of publishers that were killed. Raises MediumError."""
    for path in sorted(folder.glob(f"{PREFIX}*")):
        lock = path / _LOCK
        if not lock.exists():  # it is empty: its publisher was killed, or has not created its lock yet
            with suppress(OSError):
                path.rmdir()
            continue
        try:
            descriptor = medium.open(str(lock), write=True)
        except MediumError:
            if lock.exists():
                raise
            continue  # its publisher, or another writer, has just removed it
        try:
            medium.lock(descriptor)
            _remove(path, medium)
        except DiskBusyError:  # its publisher is running
            continue
        finally:
            medium.close(descriptor)


def _remove(path: Path, medium: Medium) -> None:
    """Remove a workspace, its lock file last."""
    for file in sorted(path.glob("*"), key=lambda file: file.name == _LOCK):
        medium.remove(str(file))
    with suppress(OSError):  # another writer was faster, or something else was put into it
        path.rmdir()
