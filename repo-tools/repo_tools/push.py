"""Bring a repository to where it is served from.

Rules:

* nothing is uploaded that a client would refuse: the chain verifies, nothing has expired, every target that
  has to be uploaded is here and is what was signed; all of that is known before the first byte goes;
* nothing is overwritten that another publisher wrote: what is there must be what this repository grew from.
  The timestamp there leads to a snapshot that is in ``metadata/`` here, the roots there are the roots here;
* order: targets, roots, targets metadata, snapshot, and ``timestamp.json`` last. The listing of targets is
  read again after uploading them, so that the timestamp leads to nothing that is not there;
* numbered metadata are written only where there is nothing (or the same), the timestamp only in place of the
  one that was read in the beginning. Of two publishers at once one wins; the other is told, and readers see
  nothing of it;
* what is deleted there is deleted last: targets that nothing here leads to and that do not lie in
  ``targets/`` here, and only when they are older than a grace, since others upload before they list;
* so a kill at any moment leaves readers with the old release or the new one; the next push completes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import DownloadLengthMismatchError, LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Timestamp

from repo_tools.chain import MAX_METADATA_BYTES, walk
from repo_tools.errors import DivergedError, NothingToPushError
from repo_tools.listing import (
    TIMESTAMP,
    Listed,
    current_files,
    listed_targets,
    numbered_files,
    require_fresh,
    require_whole,
)
from repo_tools.progress import Progress, Step, one_at_a_time, silent
from repo_tools.session import complete
from repo_tools.source import FolderSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.chain import Chain
    from repo_tools.destination import Destination, Held, Tagged

GRACE = timedelta(days=1)
"""Targets younger than this are not deleted: their publisher may not have listed them yet."""

_LINES = 4  # uploads at a time; more only queue on a usual line
_ROUNDS = 3  # of looking again for targets that somebody removed meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        destination: where. targets: paths that were not there. length: of those together, in bytes.
        metadata: paths that were not there, in their order. deleted: paths that are gone.
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
        destination: where readers read.
        now: what expiries are compared with.
        dry_run: only find out.
        delete: afterwards delete targets there that are not here and are older than this; None deletes none.
        progress: told after every block.

    Raises:
        NothingToPushError: all of it is there.
        BrokenRepositoryError, ExpiredRepositoryError, TargetError: it is not fit to be read; nothing was
            uploaded.
        DivergedError: another publisher was there; readers see nothing of this repository's change.
        DestinationError: the destination failed; readers see the old release or the new one.
    """
    chain = walk(FolderSource(folder))
    complete(chain)
    require_fresh(chain, now)
    there = destination.read(TIMESTAMP, MAX_METADATA_BYTES)
    _require_lineage(chain, destination, folder, there)
    wanted = listed_targets(chain)
    missing = _missing(wanted, destination.held("targets"))
    metadata = _new_metadata(chain, destination, there)
    surplus = () if delete is None else _surplus(folder, destination, wanted, now - delete)
    done = Pushed(
        destination=destination.name,
        targets=tuple(item.path for item in missing),
        length=sum(item.length for item in missing),
        metadata=tuple(metadata),
        deleted=surplus,
    )
    if not missing and not metadata and not surplus:
        raise NothingToPushError(f"{destination.name} has everything already")
    require_whole(folder, missing)
    if not dry_run:
        _upload(folder, destination, wanted, missing, progress)
        _write(destination, metadata, there)
        for path in surplus:
            destination.remove(path)
    return done


def _missing(wanted: Sequence[Listed], held: Mapping[str, Held]) -> list[Listed]:
    """Return the targets that are not there, or not with their length. PURE."""
    return [item for item in wanted if item.path not in held or held[item.path].size != item.length]


def _surplus(
    folder: Path, destination: Destination, wanted: Sequence[Listed], since: datetime
) -> tuple[str, ...]:
    """Return the targets there that are not here and have lain there since before ``since``."""
    needed = {item.path for item in wanted}
    return tuple(
        path
        for path, held in destination.held("targets").items()
        if held.modified < since and path not in needed and not (folder / path).exists()
    )


def _require_lineage(chain: Chain, destination: Destination, folder: Path, there: Tagged | None) -> None:
    """Refuse a destination that holds something this repository did not grow from."""
    if there is None:
        return
    known = [link.data for link in chain.roots]
    for number, path in _roots_there(destination).items():
        found = destination.read(path, MAX_METADATA_BYTES)
        if found and (number > len(known) or found.data != known[number - 1]):
            raise DivergedError(f"{destination.name}/{path} is not a root of this repository")
    if chain.timestamp and there.data == chain.timestamp.data:
        return
    old = _timestamp(there.data, destination)
    here = chain.timestamp.signed.version if chain.timestamp else 0
    if old.version >= here:
        raise DivergedError(
            f"{destination.name} holds timestamp {old.version}, signed elsewhere; here is {here}"
        )
    meta = old.snapshot_meta
    snapshot = folder / "metadata" / f"{meta.version}.snapshot.json"
    try:
        meta.verify_length_and_hashes(snapshot.read_bytes())
    except (OSError, LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise DivergedError(
            f"{destination.name} holds snapshot {meta.version}, which was not signed in {folder}"
        ) from error


def _roots_there(destination: Destination) -> dict[int, str]:
    from repo_tools.chain import numbered

    names = [path.removeprefix("metadata/") for path in destination.held("metadata")]
    return {version: f"metadata/{version}.root.json" for version in numbered(names, "root")}


def _timestamp(data: bytes, destination: Destination) -> Timestamp:
    try:
        return Metadata[Timestamp].from_bytes(data).signed
    except RepositoryError as error:
        raise DivergedError(
            f"{destination.name}/{TIMESTAMP} cannot be read: {error.__cause__ or error}",
            next_step="Look at it, and remove it if it is nobody's.",
        ) from error


def _new_metadata(chain: Chain, destination: Destination, there: Tagged | None) -> dict[str, bytes]:
    """Return the metadata that are not there, path → bytes, in the order in which they are to be written."""
    held = destination.held("metadata")
    files, current = numbered_files(chain), current_files(chain)
    new = {path: data for path, data in files.items() if path not in held or held[path].size != len(data)}
    if chain.timestamp and (there is None or there.data != chain.timestamp.data):
        # what it leads to goes with it: a file of the same length there may be another's
        new = {path: data for path, data in files.items() if path in new or path in current}
        new[TIMESTAMP] = chain.timestamp.data
    return new


def _upload(
    folder: Path,
    destination: Destination,
    wanted: Sequence[Listed],
    missing: Sequence[Listed],
    progress: Progress,
) -> None:
    """Upload targets until the destination lists every one of them."""
    told = one_at_a_time(progress)
    for _ in range(_ROUNDS):
        with ThreadPoolExecutor(_LINES) as pool:
            for _done in pool.map(lambda item: _upload_one(folder, destination, item, told), missing):
                pass
        missing = _missing(wanted, destination.held("targets"))
        if not missing:
            return
    raise DivergedError(
        f"{missing[0].path} vanishes from {destination.name} as soon as it is uploaded",
        next_step="Find out who removes it; is a `push --delete` running elsewhere?",
    )


def _upload_one(folder: Path, destination: Destination, item: Listed, progress: Progress) -> None:
    step, lock, sent = Step(action="upload", item=item.name, total=item.length), Lock(), 0

    def told(count: int) -> None:
        nonlocal sent
        with lock:  # a large file goes in parts, several at a time
            sent += count
            progress(step.at(min(sent, item.length)))

    destination.upload(item.path, folder / item.path, told)


def _write(destination: Destination, metadata: Mapping[str, bytes], there: Tagged | None) -> None:
    for path, data in metadata.items():
        before = there if path == TIMESTAMP else None
        if destination.put(path, data, instead_of=before):
            continue
        now = destination.read(path, MAX_METADATA_BYTES)
        if now is None or now.data != data:  # else it is ours: of a push that was killed, or asked twice
            raise _lost(destination, path)


def _lost(destination: Destination, path: str) -> DivergedError:
    message = f"another publisher has put another {path} to {destination.name}"
    if path == TIMESTAMP:
        return DivergedError(message)
    return DivergedError(
        message,
        next_step="Wait for it, then take its releases over with `repo-tools mirror`. If it was given up, "
        "sign anew here (`repo-tools refresh`), which takes the next version numbers, and push again.",
    )
