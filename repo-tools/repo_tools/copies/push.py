"""Upload a repository to the destination that readers fetch it from.

Rules:

* nothing is uploaded that a client would refuse: the chain verifies, nothing has expired, and every target to
  be uploaded exists and is what was signed; all of this is checked before the first byte is sent;
* nothing is overwritten that another publisher wrote: the destination must have an earlier state of this
  repository. Its timestamp leads to a snapshot in this repository, and its roots are this repository's roots;
* order: targets, roots, targets metadata, snapshot, and ``timestamp.json`` last. The targets are listed again
  after the upload, so that the timestamp never leads to a missing target;
* numbered metadata are written only where there is no file (or the same), and the timestamp only replaces the
  one that was read at the start. If two publishers push at once, one wins; the other gets an error, and
  readers do not notice;
* deletions come last: targets that no metadata of this repository list and that are not in its ``targets/``,
  and only if they are older than a grace period: other publishers upload targets before they list them;
* so if the command is killed, readers see the old release or the new one; the next push completes it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import DownloadLengthMismatchError, LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Timestamp

from repo_tools.errors import DivergedError, NothingToPushError
from repo_tools.repository.published import (
    TIMESTAMP,
    PublishedTarget,
    current_files,
    numbered_files,
    published_targets,
    require_complete,
    require_intact,
    require_unexpired,
)
from repo_tools.trust.chain import MAX_METADATA_BYTES, versions_among, walk
from repo_tools.trust.source import FolderSource
from signpost.progress import Action, Progress, ProgressStep, silent
from signpost.text import line
from updog.tuf_dialects import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.copies.destination import Destination, VersionedObject
    from repo_tools.trust.chain import Chain

GRACE = timedelta(days=1)
"""Targets younger than this are not deleted: their publisher may not have listed them yet."""

_PARALLEL_UPLOADS = 4  # more would only queue on a usual connection
_ROUNDS = 3  # of uploading targets that another program removed in the meantime


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """The result of a push, or of its dry run.

    Attributes:
        destination: its name. targets: uploaded paths. length: their total size in bytes.
        metadata: uploaded paths, in this order. deleted: deleted paths.
    """

    destination: str
    targets: tuple[str, ...]
    length: int
    metadata: tuple[str, ...]
    deleted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "destination": self.destination,
            "targets": list(self.targets),
            "bytes": self.length,
            "metadata": list(self.metadata),
            "deleted": list(self.deleted),
        }


def push(
    folder: Path,
    destination: Destination,
    *,
    now: datetime,
    dry_run: bool = False,
    delete: timedelta | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Upload what the repository in ``folder`` publishes and ``destination`` does not have yet.

    Args:
        folder: the repository; it is only read.
        destination: where readers fetch it from.
        now: the time that expiries are compared with.
        dry_run: upload nothing, only return what would be uploaded.
        delete: then delete targets that are not in the repository and are older than this; None deletes none.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        NothingToPushError: the destination has everything.
        BrokenRepositoryError, ExpiredRepositoryError, TargetError: clients would refuse it; nothing was
            uploaded.
        DivergedError: another publisher has published there; readers do not see this repository's change.
        DestinationError: the destination failed; readers see the old release or the new one.
    """
    chain = walk(FolderSource(folder))
    require_complete(chain)
    require_unexpired(chain, now)
    old_timestamp = destination.read(TIMESTAMP, MAX_METADATA_BYTES)
    _require_earlier_state(chain, destination, folder, old_timestamp)
    wanted = published_targets(chain)
    missing = _missing(wanted, destination)
    metadata = _new_metadata(chain, destination, old_timestamp)
    deletable = () if delete is None else _deletable(folder, destination, wanted, now - delete)
    if not missing and not metadata and not deletable:
        raise NothingToPushError(f"{destination.name} already has everything")
    require_intact(folder, missing)
    if not dry_run:
        _upload(folder, destination, wanted, missing, progress)
        _write_metadata(destination, metadata, old_timestamp)
        for path in deletable:
            destination.remove(path)
    return Pushed(
        destination=destination.name,
        targets=tuple(item.path for item in missing),
        length=sum(item.length for item in missing),
        metadata=tuple(metadata),
        deleted=deletable,
    )


def _missing(wanted: Sequence[PublishedTarget], destination: Destination) -> list[PublishedTarget]:
    """Return the targets that the destination does not have, or not with their length."""
    stored = destination.list_files("targets")
    return [item for item in wanted if item.path not in stored or stored[item.path].size != item.length]


def _deletable(
    folder: Path, destination: Destination, wanted: Sequence[PublishedTarget], since: datetime
) -> tuple[str, ...]:
    """Return the destination's targets that are not in the repository and were written before ``since``."""
    needed = {item.path for item in wanted}
    return tuple(
        path
        for path, stored in destination.list_files("targets").items()
        if stored.modified < since and path not in needed and not (folder / path).exists()
    )


def _require_earlier_state(
    chain: Chain, destination: Destination, folder: Path, old_timestamp: VersionedObject | None
) -> None:
    """Refuse a destination that does not have an earlier state of this repository. Raises DivergedError."""
    if old_timestamp is None:
        return
    roots = {link.signed.version: link.data for link in chain.roots}
    names = [path.removeprefix("metadata/") for path in destination.list_files("metadata")]
    for version in versions_among(names, "root"):
        path = f"metadata/{version}.root.json"
        stored = destination.read(path, MAX_METADATA_BYTES)
        if stored and version >= min(roots) and stored.data != roots.get(version):
            raise DivergedError(f"{destination.name}/{path} is not a root of this repository")
    if chain.timestamp and old_timestamp.data == chain.timestamp.data:
        return
    try:
        old = Metadata[Timestamp].from_bytes(old_timestamp.data).signed
    except RepositoryError as error:
        raise DivergedError(
            f"{destination.name}/{TIMESTAMP} cannot be read: {line(malformed(error, old_timestamp.data))}",
            next_step="Look at the file, and remove it if no publisher needs it.",
        ) from error
    own_version = chain.timestamp.signed.version if chain.timestamp else 0
    if old.version >= own_version:
        raise DivergedError(
            f"{destination.name} has timestamp {old.version}, signed elsewhere; here it is {own_version}"
        )
    meta = old.snapshot_meta
    snapshot = folder / "metadata" / f"{meta.version}.snapshot.json"
    try:
        meta.verify_length_and_hashes(snapshot.read_bytes())
    except (OSError, LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise DivergedError(
            f"{destination.name} has snapshot {meta.version}, which was not signed in {folder}"
        ) from error


def _new_metadata(
    chain: Chain, destination: Destination, old_timestamp: VersionedObject | None
) -> dict[str, bytes]:
    """Return the metadata that the destination lacks, path → content, in the order of writing."""
    stored = destination.list_files("metadata")
    files, current = numbered_files(chain), current_files(chain)
    new = {path: data for path, data in files.items() if path not in stored or stored[path].size != len(data)}
    if chain.timestamp and (old_timestamp is None or old_timestamp.data != chain.timestamp.data):
        # Everything that the timestamp leads to: a file of the same length may be another publisher's.
        new = {path: data for path, data in files.items() if path in new or path in current}
        new[TIMESTAMP] = chain.timestamp.data
    return new


def _upload(
    folder: Path,
    destination: Destination,
    wanted: Sequence[PublishedTarget],
    missing: Sequence[PublishedTarget],
    progress: Progress,
) -> None:
    """Upload targets until the destination lists all of them."""
    for _ in range(_ROUNDS):
        with ThreadPoolExecutor(_PARALLEL_UPLOADS) as pool:
            for _done in pool.map(lambda item: _upload_one(folder, destination, item, progress), missing):
                pass
        missing = _missing(wanted, destination)
        if not missing:
            return
    raise DivergedError(
        f"{missing[0].path} disappears from {destination.name} as soon as it is uploaded",
        next_step="Find out what removes it: is `repo-tools push --delete` running elsewhere?",
    )


def _upload_one(folder: Path, destination: Destination, item: PublishedTarget, progress: Progress) -> None:
    step, lock, done = ProgressStep(action=Action.UPLOAD, item=item.name, total=item.length), Lock(), 0
    progress(step)

    def sent(count: int) -> None:
        nonlocal done
        with lock:  # a large file is sent in parts, several at a time
            done += count
            progress(step.at(min(done, item.length)))

    destination.upload(item.path, folder / item.path, sent)


def _write_metadata(
    destination: Destination, metadata: Mapping[str, bytes], old_timestamp: VersionedObject | None
) -> None:
    """Write metadata on their conditions. Raises DivergedError if another publisher was faster."""
    for path, data in metadata.items():
        if destination.put(path, data, expected=old_timestamp if path == TIMESTAMP else None):
            continue
        stored = destination.read(path, MAX_METADATA_BYTES)
        if stored and stored.data == data:  # written by a killed push, or by a request that was retried
            continue
        raise DivergedError(
            f"another publisher has written another {path} to {destination.name}",
            next_step=""
            if path == TIMESTAMP
            else "Wait for its push to end, then copy its releases with `repo-tools mirror`. If its push was "
            "given up, re-sign here (`repo-tools refresh`) to get the next version numbers, and push again.",
        )
