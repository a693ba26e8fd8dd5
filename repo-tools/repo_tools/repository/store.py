"""A repository's folder: where its files are, and in which order they are written.

What readers see:

* content is written first, under ``targets/<sha256>.<name>``, and flushed; then ``N.root.json`` if there is a
  new one, ``N.targets.json``, those of the channels, ``N.snapshot.json``, and ``timestamp.json`` last, each
  replaced durably. Until the last rename a reader finds the old release, after it the new one; nothing that
  either of them needs is removed.

What a killed writer leaves behind, and what the next writer does about it:

* files in ``.staging``, and the workspace of a publish (:mod:`repo_tools.repository.workspace`): the next
  writer removes them;
* content in ``targets/`` that no targets metadata on disk list: its names are in a journal, which is written
  before the first file is moved; the next writer removes these files, and no others;
* numbered metadata that the timestamp does not lead to: they stay, and their version numbers are *used*. A
  cache may have kept such a file, and after a power cut between a timestamp's rename and the flush of its
  folder a reader may even have seen the timestamp that names it. So the next versions are above every number
  on disk, the timestamp skips one version for each snapshot that it never named, and roles with used versions
  are re-signed with the next change: no reader is ever offered a lower version than it may have seen;
* a temporary file of a durable write: the next writer removes it.

One writer at a time: the lock file ``.lock`` is held (flock) from the first read to the last flush. Images
are compressed before that, in a workspace.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from repo_tools.config import FILE as CONFIG_FILE
from repo_tools.errors import NoRepositoryError, RepositoryBusyError
from repo_tools.readable import create_folder
from repo_tools.repository.workspace import remove_abandoned
from repo_tools.trust.chain import versions_among
from repo_tools.trust.source import FolderSource
from signpost.errors import DiskBusyError, MediumError
from updog import durable
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.target_path import target_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from repo_tools.images.packing import Staged
    from updog.durable import Medium

_NUMBERED_ROLE = re.compile(r"[1-9][0-9]*\.([^.]+)\.json")
LOCK = ".lock"
STAGING = ".staging"
_JOURNAL = "placing.json"
_ORDER = ("root", "targets", "", "snapshot", "timestamp")
"""The order of writing, "" for the channels; readers start from the last one."""


class Store:
    """The files of one repository.

    Args:
        folder: contains ``repo.toml``, ``metadata`` and ``targets``.
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
            raise NoRepositoryError(f"{folder} is not a repository: it lacks {CONFIG_FILE} or metadata/")
        return cls(folder, medium)

    def create_folders(self) -> None:
        """Create the folders of a new repository. Raises MediumError."""
        try:
            for folder in (self.metadata, self.targets):
                create_folder(folder)
            self.staging.mkdir(exist_ok=True)
        except OSError as error:
            message = f"cannot create the folders of {self.folder}: {error.strerror}"
            raise MediumError.of(message, error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock during a ``with`` block, and remove what a killed writer left before.

        When the block fails (a full disk, a missing key), what it left is removed at once.

        Raises:
            RepositoryBusyError: another writer holds the lock; nothing was changed.
        """
        lock = self.folder / LOCK
        descriptor = durable.open_or_create(self.medium, lock)
        try:
            try:
                self.medium.lock(descriptor)
            except DiskBusyError as error:
                raise RepositoryBusyError(f"another publisher is writing to {self.folder}") from error
            self.create_folders()
            self._clean_up()
            try:
                yield
            except Exception:
                with suppress(MediumError):  # report the first failure
                    self._clean_up()
                raise
        finally:
            self.medium.close(descriptor)

    def _clean_up(self) -> None:
        journal = self.staging / _JOURNAL
        if journal.exists():
            names = json.loads(durable.read_bytes(self.medium, journal))
            for name in set(names) - self.listed_files():
                self.medium.remove(str(self.targets / name))
            self.medium.flush_folder(str(self.targets))
        self._remove(self.staging.glob("*"))
        self._remove(self.metadata.glob("*.tmp"))
        remove_abandoned(self.folder, self.medium)

    def highest_version(self, role: str) -> int:
        """Return the highest version of a role in a file's name, 0 without such a file."""
        return max(versions_among(self.source.names("metadata") or [], role), default=0)

    def listed_files(self) -> set[str]:
        """Return the paths below ``targets/`` that any targets metadata on disk list.

        Old versions count too: a reader may have read them, and not yet the targets.
        """
        names = targets_metadata_among(self.source.names("metadata") or [])
        return {path for name in names for path in paths_listed_in((self.metadata / name).read_bytes())}

    def place(self, staged: Sequence[Staged]) -> None:
        """Move staged targets to where readers look for them, durably. Raises MediumError."""
        moves = [(item, self.targets / target_path(item.name, item.sha256)) for item in staged]
        new = [(item, place) for item, place in moves if not place.exists()]
        durable.write_json(
            self.medium, self.staging / _JOURNAL, [str(place.relative_to(self.targets)) for _, place in new]
        )
        for folder in {place.parent for _, place in new} - {self.targets}:
            create_folder(folder)  # a channel's
        for item, place in new:
            self.medium.rename(str(item.path), str(place))
        for folder in sorted({self.targets, *(place.parent for _, place in new)}, reverse=True):
            self.medium.flush_folder(str(folder))

    def write_metadata(self, files: Mapping[str, tuple[int, bytes]]) -> None:
        """Write new metadata, role → version and content, in the safe order. Raises MediumError."""
        for role in sorted(files, key=lambda role: _ORDER.index(role if role in _ORDER else "")):
            version, data = files[role]
            name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
            durable.write_bytes(self.medium, self.metadata / name, data)
        self.clear_staging()

    def clear_staging(self) -> None:
        """Remove staged files: they have been moved, or are not needed. Raises MediumError."""
        self._remove(self.staging.glob("*"))

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            self.medium.remove(str(path))


def targets_metadata_among(names: Iterable[str]) -> list[str]:
    """Return the file names of targets metadata, top-level and channels, of all versions."""
    matches = (_NUMBERED_ROLE.fullmatch(name) for name in names)
    return [match[0] for match in matches if match and match[1] not in {"root", "snapshot"}]


def paths_listed_in(data: bytes) -> set[str]:
    """Return the paths below ``targets/`` that one targets metadata file lists; none if it is unreadable.

    A name or hash that cannot be part of a path is left out: it cannot refer to any file.
    """
    try:
        targets = Metadata[Targets].from_bytes(data).signed.targets
    except RepositoryError:
        return set()
    paths = set()
    for name, target in targets.items():
        for digest in target.hashes.values():
            with suppress(FaultsError):
                paths.add(target_path(name, digest))
    return paths
