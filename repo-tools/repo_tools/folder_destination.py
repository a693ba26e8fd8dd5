"""A folder as a destination: what a web server of this machine, or a mounted share, serves.

Rules:

* a file is copied beside its place, flushed, and renamed into it;
* conditions are checked and files are written under the lock ``.lock`` of the folder, held for one file.
"""

from __future__ import annotations

import hashlib
import stat
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from repo_tools.destination import Held, Tagged
from repo_tools.errors import DestinationError
from repo_tools.source import BLOCK_BYTES
from signpost.errors import DiskBusyError, MediumError
from signpost.medium import OsMedium
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
        folder: gets ``metadata`` and ``targets``; made when something is put there.
        medium: written through.
    """

    def __init__(self, folder: Path, medium: Medium | None = None) -> None:
        self._folder = folder
        self._medium = medium or OsMedium()

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def held(self, folder: str) -> Mapping[str, Held]:
        """Return every file below ``folder`` by its path."""
        with self._translated("look into", folder):
            found = ((path, _held(path)) for path in sorted((self._folder / folder).rglob("*")))
            return {str(path.relative_to(self._folder)): held for path, held in found if held}

    def read(self, path: str, most: int) -> Tagged | None:
        """Return a file of at most ``most`` bytes, None where there is none."""
        whole = self._folder / path
        with self._translated("read", path):
            if not whole.is_file():
                return None
            with whole.open("rb") as stream:
                data = stream.read(most + 1)
        if len(data) > most:
            raise DestinationError(f"{whole} is longer than {most} bytes")
        return Tagged(data=data, tag=_tag(data))

    def upload(self, path: str, file: Path, told: Callable[[int], None]) -> None:
        """Copy a file, whole or not at all."""
        whole = self._folder / path
        with self._translated("write", path):
            whole.parent.mkdir(parents=True, exist_ok=True)
            temporary = whole.with_name(whole.name + _TEMPORARY)
            self._medium.remove(str(temporary))
            self._copy(file, temporary, told)
            self._medium.rename(str(temporary), str(whole))
            self._medium.flush_folder(str(whole.parent))

    def _copy(self, file: Path, temporary: Path, told: Callable[[int], None]) -> None:
        descriptor = self._medium.create(str(temporary))
        try:
            offset = 0
            with file.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    self._medium.write_at(descriptor, block, offset)
                    offset += len(block)
                    told(len(block))
            self._medium.flush(descriptor)
        finally:
            self._medium.close(descriptor)

    def put(self, path: str, data: bytes, *, instead_of: Tagged | None) -> bool:
        """Write a small file if what is there is still ``instead_of``; say if it was."""
        whole = self._folder / path
        with self._translated("write", path), self._locked():
            now = whole.read_bytes() if whole.is_file() else None
            if (None if now is None else _tag(now)) != (instead_of.tag if instead_of else None):
                return False
            whole.parent.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(self._medium, whole, data)
            return True

    def remove(self, path: str) -> None:
        """Remove a file, if there."""
        with self._translated("remove", path):
            self._medium.remove(str(self._folder / path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
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


def _held(path: Path) -> Held | None:
    """Return what is known of a file; None for a folder, and for what another publisher renamed meanwhile."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return Held(size=facts.st_size, modified=datetime.fromtimestamp(facts.st_mtime, UTC))


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
