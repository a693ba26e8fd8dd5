"""A repository's folder: where its files are, and in which order they are written.

What readers see:

* content first, under ``targets/<sha256>.<name>``, flushed; then ``N.root.json`` when there is a new one,
  ``N.targets.json``, those of channels, ``N.snapshot.json``, and ``timestamp.json`` last, each replaced
  durably. Until the last rename a reader is led to the old release, from then on to the new one; nothing
  either needs is removed.

What a kill leaves, and what the next writer does about it:

* files in ``.staging``: the next writer removes them;
* content in ``targets/`` that no targets metadata on disk lists: its names are in a journal written before
  the first of them is moved; the next writer removes those, and only those;
* numbered metadata that the timestamp does not lead to: it stays, and its version numbers are *spent*. A
  cache may have kept the file, and a reader may even have seen the timestamp naming it if the power went
  between its rename and the flush of its folder. So the next versions are above every number on disk, the
  timestamp's skips one for each unnamed snapshot, and whatever was spent is signed anew with the next
  change: no reader is ever offered a lower version than it may have seen;
* a temporary file of a durable write: the next writer removes it.

One writer at a time: the lock file ``.lock`` is held (flock) from reading to the last flush.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from repo_tools.chain import numbered
from repo_tools.config import FILE as CONFIG_FILE
from repo_tools.errors import NoRepositoryError, RepositoryBusyError
from repo_tools.source import FolderSource
from signpost.errors import DiskBusyError, MediumError
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from repo_tools.images import Staged
    from updog.durable import Medium

_NUMBERED_ROLE = re.compile(r"[1-9][0-9]*\.([^.]+)\.json")
LOCK = ".lock"
STAGING = ".staging"
_JOURNAL = "placing.json"
_ORDER = ("root", "targets", "", "snapshot", "timestamp")
"""The order of writing, "" for the channels; readers start from the last."""


class Store:
    """The files of one repository.

    Args:
        folder: holds ``repo.toml``, ``metadata`` and ``targets``.
        medium: everything is written through it.
    """

    def __init__(self, folder: Path, medium: Medium) -> None:
        self.folder = folder
        self.medium = medium
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.staging = folder / STAGING
        self.source = FolderSource(folder)

    @classmethod
    def existing(cls, folder: Path, medium: Medium) -> Store:
        """Return the repository in ``folder``. Raises NoRepositoryError."""
        if not (folder / CONFIG_FILE).is_file() or not (folder / "metadata").is_dir():
            raise NoRepositoryError(f"{folder} holds no repository ({CONFIG_FILE} and metadata/)")
        return cls(folder, medium)

    def lay_out(self) -> None:
        """Make the folders of a new repository. Raises MediumError."""
        try:
            for folder in (self.metadata, self.targets, self.staging):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediumError(f"cannot make the folders of {self.folder}: {error.strerror}") from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock and clear up after a killed writer, for the length of a ``with`` block.

        A failure inside is cleared up after at once.

        Raises:
            RepositoryBusyError: another writer holds it; nothing was changed.
        """
        descriptor = self._lock_file()
        try:
            try:
                self.medium.lock(descriptor)
            except DiskBusyError as error:
                raise RepositoryBusyError(f"another publisher is at work in {self.folder}") from error
            self.lay_out()
            self._clear_up()
            with self._clean_after_failure():
                yield
        finally:
            self.medium.close(descriptor)

    @contextmanager
    def _clean_after_failure(self) -> Iterator[None]:
        """Leave nothing half-made behind a failure such as a full disk or a missing key."""
        try:
            yield
        except Exception:
            with suppress(MediumError):  # the first failure is the one to tell
                self._clear_up()
            raise

    def _lock_file(self) -> int:
        path = self.folder / LOCK
        return self.medium.open(str(path), write=True) if path.exists() else self.medium.create(str(path))

    def _clear_up(self) -> None:
        journal = self.staging / _JOURNAL
        if journal.exists():
            names = json.loads(durable.read_bytes(self.medium, journal))
            for name in set(names) - self.listed_files():
                self.medium.remove(str(self.targets / name))
            self.medium.flush_folder(str(self.targets))
        self._remove(self.staging.glob("*"))
        self._remove(self.metadata.glob("*.tmp"))

    def highest(self, role: str) -> int:
        """Return the highest version of a role with a numbered file, 0 where there is none."""
        return max(numbered(self.source.names("metadata") or [], role), default=0)

    def listed_files(self) -> set[str]:
        """Return the names in ``targets/`` that any targets metadata on disk leads to, old ones included.

        Old ones count: a reader in the middle of its way may still be led by them.
        """
        names = self.source.names("metadata") or []
        return {
            name for file in lists_among(names) for name in listed_in((self.metadata / file).read_bytes())
        }

    def place(self, staged: Sequence[Staged]) -> None:
        """Move staged targets to where readers look for them, durably. Raises MediumError."""
        moves = [(item, self.targets / file_of(item.name, item.sha256)) for item in staged]
        new = [(item, place) for item, place in moves if not place.exists()]
        durable.write_json(
            self.medium, self.staging / _JOURNAL, [str(place.relative_to(self.targets)) for _, place in new]
        )
        for folder in {place.parent for _, place in new} - {self.targets}:
            folder.mkdir(exist_ok=True)  # a channel's
        for item, place in new:
            self.medium.rename(str(item.path), str(place))
        for folder in sorted({self.targets, *(place.parent for _, place in new)}, reverse=True):
            self.medium.flush_folder(str(folder))

    def write_metadata(self, files: Mapping[str, tuple[int, bytes]]) -> None:
        """Write new metadata, role → version and bytes, in the order that is safe. Raises MediumError."""
        for role in sorted(files, key=lambda role: _ORDER.index(role if role in _ORDER else "")):
            version, data = files[role]
            name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
            durable.write_bytes(self.medium, self.metadata / name, data)
        self.tidy()

    def tidy(self) -> None:
        """Forget what was staged: it is in its place, or not needed. Raises MediumError."""
        self._remove(self.staging.glob("*"))

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            self.medium.remove(str(path))


def lists_among(names: Iterable[str]) -> list[str]:
    """Return the metadata files that list targets, of any version: the top-level role's and the channels'."""
    matches = (_NUMBERED_ROLE.fullmatch(name) for name in names)
    return [match[0] for match in matches if match and match[1] not in {"root", "snapshot"}]


def listed_in(data: bytes) -> set[str]:
    """Return the file names that one targets metadata leads to; none if it cannot be read."""
    try:
        targets = Metadata[Targets].from_bytes(data).signed.targets
    except RepositoryError:
        return set()
    return {file_of(name, digest) for name, target in targets.items() for digest in target.hashes.values()}


def file_of(name: str, digest: str) -> str:
    """Return where below ``targets/`` a target with this digest is (consistent snapshots)."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{digest}.{base}"
