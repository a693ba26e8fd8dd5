"""A folder that is filled completely or not at all, even if the program is killed.

Rules:

* a marker file is written into the folder first and removed last; it is locked while the folder is filled;
* the file that makes the folder valid must be written last (``repo.toml`` of a repository);
* a folder with the marker and only known names is the remains of a killed run: the next run removes them and
  starts again. With any other content, that last file included, the folder is refused and left as it is.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from repo_tools.errors import RepositoryBusyError, RepositoryExistsError
from repo_tools.readable import create_folder
from signpost.errors import DiskBusyError, MediumError
from updog.durable import open_or_create

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from updog.durable import Medium

MARKER = ".new"
"""Name of the marker in a folder that is being filled."""


@contextmanager
def all_or_nothing(folder: Path, medium: Medium, known_names: frozenset[str]) -> Iterator[None]:
    """Fill ``folder`` inside a ``with`` block, or restore what was there before.

    Args:
        folder: is empty, does not exist, or contains the remains of a killed run.
        medium: the marker is written through it.
        known_names: the names that the block may leave behind if it is killed.

    Raises:
        RepositoryExistsError: the folder contains anything else.
        RepositoryBusyError: another program is filling it.
        MediumError: the folder cannot be created.
    """
    created = not folder.exists()
    marker = _locked_marker(folder, medium)
    try:
        require_empty(folder, known_names)
        _clear(folder, known_names)
        try:
            medium.flush_folder(str(folder))
            yield
        except Exception:
            with suppress(OSError, MediumError):  # report the first failure
                _clear(folder, known_names)
                medium.remove(str(folder / MARKER))
                if created:
                    folder.rmdir()
            raise
        medium.remove(str(folder / MARKER))
    finally:
        medium.close(marker)


def _locked_marker(folder: Path, medium: Medium) -> int:
    """Return the descriptor of the marker, locked so that no second `new` fills the same folder."""
    path = folder / MARKER
    try:
        create_folder(folder)
    except OSError as error:
        raise MediumError.of(f"cannot create {folder}: {error.strerror}", error) from error
    descriptor = open_or_create(medium, path)
    try:
        medium.lock(descriptor)
    except DiskBusyError as error:
        medium.close(descriptor)
        raise RepositoryBusyError(f"another `repo-tools new` is filling {folder}") from error
    return descriptor


def _clear(folder: Path, known_names: frozenset[str]) -> None:
    """Remove the remains of a killed run."""
    for name in known_names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def require_empty(folder: Path, known_names: frozenset[str]) -> None:
    """Refuse a folder that contains anything but a killed run's remains. Raises RepositoryExistsError."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise RepositoryExistsError(f"cannot list {folder}: {error.strerror}") from error
    if names and not (MARKER in names and names <= known_names | {MARKER}):
        raise RepositoryExistsError(f"{folder} is not empty")
