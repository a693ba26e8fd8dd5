"""A folder as a destination: one that a web server of this machine, or a mounted share, serves.

Rules:

* a file is copied to a temporary file in the same folder, flushed, and renamed;
* for a conditional write the lock ``.lock`` of the folder is held, from the check to the write.
"""

from __future__ import annotations

import hashlib
import stat
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from repo_tools.copies.destination import StoredObject, VersionedObject
from repo_tools.errors import DestinationError
from repo_tools.readable import create_folder, readable_medium
from repo_tools.trust.source import READ_BYTES
from signpost.errors import DiskBusyError, MediumError
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from updog.durable import Medium

_LOCK = ".lock"
_TEMPORARY = ".tmp"


class FolderDestination:
    """A folder that is served.

    Args:
        folder: for ``metadata`` and ``targets``; created when a file is written.
        medium: everything is written through it.
    """

    def __init__(self, folder: Path, medium: Medium | None = None) -> None:
        self._folder = folder
        self._medium = medium or readable_medium()

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def list_files(self, folder: str) -> Mapping[str, StoredObject]:
        """Return every file below ``folder`` by its path."""
        with self._translated("list", folder):
            found = ((path, _stored_object(path)) for path in sorted((self._folder / folder).rglob("*")))
            return {str(path.relative_to(self._folder)): stored for path, stored in found if stored}

    def read(self, path: str, limit: int) -> VersionedObject | None:
        """Return a file of at most ``limit`` bytes, None if it does not exist."""
        place = self._folder / path
        with self._translated("read", path):
            if not place.is_file():
                return None
            with place.open("rb") as stream:
                data = stream.read(limit + 1)
        if len(data) > limit:
            raise DestinationError(f"{place} is longer than {limit} bytes")
        return VersionedObject(data=data, tag=_tag(data))

    def upload(self, path: str, file: Path, sent: Callable[[int], None]) -> None:
        """Copy a file, completely or not at all."""
        place = self._folder / path
        with self._translated("write", path):
            create_folder(place.parent)
            temporary = place.with_name(place.name + _TEMPORARY)
            self._medium.remove(str(temporary))
            descriptor = self._medium.create(str(temporary))
            try:
                offset = 0
                with file.open("rb") as stream:
                    while block := stream.read(READ_BYTES):
                        self._medium.write_at(descriptor, block, offset)
                        offset += len(block)
                        sent(len(block))
                self._medium.flush(descriptor)
            finally:
                self._medium.close(descriptor)
            self._medium.rename(str(temporary), str(place))
            self._medium.flush_folder(str(place.parent))

    def put(self, path: str, data: bytes, *, expected: VersionedObject | None) -> bool:
        """Write a small file if the stored one is still ``expected``; return whether it was."""
        place = self._folder / path
        with self._translated("write", path), self._locked():
            stored = place.read_bytes() if place.is_file() else None
            if (None if stored is None else _tag(stored)) != (expected.tag if expected else None):
                return False
            create_folder(place.parent)
            durable.write_bytes(self._medium, place, data)
            return True

    def remove(self, path: str) -> None:
        """Remove a file, if it exists."""
        with self._translated("remove", path):
            self._medium.remove(str(self._folder / path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        create_folder(self._folder)
        lock = self._folder / _LOCK
        lock.touch()
        with durable.opened(self._medium, str(lock), write=True) as descriptor:
            try:
                self._medium.lock(descriptor)
            except DiskBusyError as error:
                raise DestinationError(
                    f"another publisher is writing to {self._folder}", next_step="Push again."
                ) from error
            yield

    @contextmanager
    def _translated(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationError(f"cannot {action} {self._folder / path}: {error}") from error
        except MediumError as error:
            raise DestinationError(error.message) from error


def _stored_object(path: Path) -> StoredObject | None:
    """Return size and time of a file; None for a folder, and for a file that was renamed in the meantime."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return StoredObject(size=facts.st_size, modified=datetime.fromtimestamp(facts.st_mtime, UTC))


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
