"""Copy a repository, verified as a client verifies it: the common part of `mirror` and `bundle`.

Rules:

* trust starts at a root that the operator gives, or at the roots that the copy already has; the source's
  chain of roots must contain it, and everything else is verified by that chain. Older roots are copied if
  the source has them;
* all roles that a client can be led to are copied, with their targets: channels, and what other publishers
  delegate further down or to hashed bins. A role that does not verify ends the copy;
* nothing expired is copied, unless the operator accepts it until a given time; that is recorded;
* nothing older than what the copy has is copied (TUF specification §5.4.3, §5.5.5, §5.6.4);
* targets are compared with what was signed before they get their final name; an interrupted download is
  resumed, and repeated from the start if the result is not what was signed;
* metadata are written after all targets, ``timestamp.json`` last: readers of the copy see the old state or
  the new one. Every root is kept.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.errors import StaleSourceError, TargetError, UntrustedError
from repo_tools.readable import READABLE_FILE, add_mode, create_folder, readable_medium
from repo_tools.repository.published import (
    TIMESTAMP,
    PublishedTarget,
    expired_roles,
    numbered_files,
    published_targets,
    require_complete,
    require_unexpired,
    target_fault,
)
from repo_tools.repository.store import Store
from repo_tools.trust.chain import MAX_METADATA_BYTES, Chain, versions_among, walk
from repo_tools.trust.source import FolderSource, resumable_blocks
from signpost.medium import opened
from signpost.progress import Action, Progress, ProgressStep, silent
from updog import durable
from updog.tuf_dialects import malformed
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.trust.source import Source
    from updog.durable import Medium

PARTS = ".parts"
OVERRIDES = "overrides.jsonl"
_PARALLEL_DOWNLOADS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedSource:
    """A source that was verified for one copy.

    Attributes:
        source: where to read. chain: its verified metadata.
        accepted_expired: metadata files that have expired and were accepted.
        override: the record of that acceptance; empty if nothing was accepted.
    """

    source: Source
    chain: Chain
    accepted_expired: tuple[str, ...] = ()
    override: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """The result of a copy.

    Attributes:
        folder: of the copy. version: of its timestamp now. targets: paths of the new targets.
        length: their total size in bytes. kept: number of targets that the copy already had.
        removed: removed paths. accepted_expired: expired metadata files that were accepted.
    """

    folder: Path
    version: int
    targets: tuple[str, ...]
    length: int
    kept: int
    removed: tuple[str, ...] = ()
    accepted_expired: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "folder": str(self.folder),
            "timestamp": self.version,
            "targets": list(self.targets),
            "bytes": self.length,
            "kept": self.kept,
            "removed": list(self.removed),
            "accepted_expired": list(self.accepted_expired),
        }


def verify_source(
    source: Source,
    copy: Path,
    *,
    trusted_root: bytes | None,
    now: datetime,
    accept_expired_until: datetime | None = None,
) -> VerifiedSource:
    """Return the source if it verifies and its metadata can be copied to ``copy``.

    Args:
        source: is verified from its first root to its targets metadata.
        copy: the folder of the copy; what it has must be older, or the same.
        trusted_root: root metadata that the operator trusts; None if the copy has roots.
        now: the time that expiries are compared with.
        accept_expired_until: accept expired metadata until this time.

    Raises:
        UntrustedError: the chain does not contain a trusted root, or no root is trusted.
        StaleSourceError: the copy has newer metadata.
        ExpiredRepositoryError, BrokenRepositoryError, RepositoryUnreachableError: see
            :mod:`repo_tools.errors`.
    """
    before = _copied_before(copy)
    chain = _chain_from(source, before, trusted_root)
    require_complete(chain)
    _require_trusted_root(chain, before, trusted_root)
    _require_not_older(chain, before)
    expired = tuple(row.name for row in expired_roles(chain, now))
    if expired and (accept_expired_until is None or accept_expired_until <= now):
        next_step = "Use a newer source; or, if there is none, pass --accept-expired-until TIME."
        require_unexpired(chain, now, next_step=next_step)
    override = {
        "time": format_time(now.replace(microsecond=0)),
        "accepted_expired": list(expired),
        "until": format_time(accept_expired_until) if accept_expired_until else None,
        "timestamp_sha256": hashlib.sha256(chain.timestamp.data).hexdigest() if chain.timestamp else None,
    }
    return VerifiedSource(
        source=source, chain=chain, accepted_expired=expired, override=override if expired else {}
    )


def _copied_before(copy: Path) -> Chain:
    """Return what a copy has, from the oldest root that it has: its source may have lost the first ones."""
    source = FolderSource(copy)
    oldest = min(versions_among(source.names("metadata") or [], "root"), default=1)
    root = source.read(f"metadata/{oldest}.root.json", MAX_METADATA_BYTES) if oldest > 1 else None
    return walk(source, trusted_root=root)


def _chain_from(source: Source, before: Chain, trusted_root: bytes | None) -> Chain:
    """Return the source's chain: from root 1, or, if that does not verify, from a root that is trusted.

    A client starts at the root that it trusts (§5.3); roots before that may be gone, or in an old form that
    is no longer read. What the copy trusts takes precedence over what an operator names: the chain must
    continue from there.
    """
    chain = walk(source)
    start = before.roots[-1].data if before.roots else trusted_root
    if start is not None and any(finding.code.startswith("root-") for finding in chain.findings):
        later = walk(source, trusted_root=start)
        return later if later.roots else chain
    return chain


def _require_trusted_root(chain: Chain, before: Chain, trusted_root: bytes | None) -> None:
    trusted = [link.signed for link in before.roots]
    if trusted_root is not None:
        try:
            trusted.append(Metadata[Root].from_bytes(trusted_root).signed)
        except RepositoryError as error:
            raise UntrustedError(
                f"the trusted root cannot be read: {malformed(error, trusted_root)}"
            ) from error
    if not trusted:
        raise UntrustedError("there is no trusted root yet")
    roots = {link.signed.version: link.signed for link in chain.roots}
    for root in trusted:
        if root.version < min(roots):
            continue  # the source has lost it; a later one, which is trusted too, is there
        if root.version not in roots:
            raise StaleSourceError(
                f"root {root.version} is trusted, but the source's newest root is {max(roots)}"
            )
        if root != roots[root.version]:
            raise UntrustedError(f"root {root.version} of the source is not the trusted root {root.version}")


def _require_not_older(chain: Chain, before: Chain) -> None:
    known = {link.role: link.signed.version for link in before.verified()}
    for link in chain.verified():
        old = known.get(link.role, 0)
        if link.signed.version < old:
            raise StaleSourceError(f"{link.name} is version {link.signed.version}; the copy has {old}")


def copy(
    verified: VerifiedSource,
    folder: Path,
    targets: Sequence[PublishedTarget],
    *,
    delete: bool = False,
    medium: Medium | None = None,
    progress: Progress = silent,
) -> Copied:
    """Copy ``targets`` and all metadata of a verified source into ``folder``.

    Args:
        verified: the source.
        folder: of the copy; created if it does not exist.
        targets: which of the source's targets to copy.
        delete: then remove targets that neither the copy's old nor its new metadata list.
        medium: everything is written through it.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        TargetError: a target of the source is missing or is not what was signed; readers see no change.
        RepositoryUnreachableError, RepositoryBusyError, MediumError: see :mod:`repo_tools.errors`.
    """
    store = Store(folder, medium or readable_medium())
    store.create_folders()
    with store.writing():
        before = _copied_before(folder)
        missing = [item for item in targets if store.source.size(item.path) != item.length]
        downloader = _Downloader(verified.source, store, progress)
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
            for _done in pool.map(downloader.fetch, missing):
                pass
        for parent in {str((folder / item.path).parent) for item in missing}:
            store.medium.flush_folder(parent)
        if verified.override:
            record = store.folder / OVERRIDES
            old = durable.read_bytes(store.medium, record) if record.exists() else b""
            durable.write_bytes(store.medium, record, old + json.dumps(verified.override).encode() + b"\n")
        _write_metadata(store, verified.chain)
        downloader.remove_parts()
        removed = _unlisted(store, [before, verified.chain]) if delete else ()
        for path in removed:
            store.medium.remove(str(folder / path))
    return _copied(verified, folder, targets, missing, removed)


def plan_copy(
    verified: VerifiedSource, folder: Path, targets: Sequence[PublishedTarget], *, delete: bool = False
) -> Copied:
    """Return what :func:`copy` would do. Fetches no target, takes no lock, writes nothing."""
    store = Store(folder, readable_medium())
    missing = [item for item in targets if store.source.size(item.path) != item.length]
    removed = _unlisted(store, [_copied_before(folder), verified.chain]) if delete else ()
    return _copied(verified, folder, targets, missing, removed)


def _copied(
    verified: VerifiedSource,
    folder: Path,
    targets: Sequence[PublishedTarget],
    missing: Sequence[PublishedTarget],
    removed: tuple[str, ...],
) -> Copied:
    return Copied(
        folder=folder,
        version=verified.chain.timestamp.signed.version if verified.chain.timestamp else 0,
        targets=tuple(item.path for item in missing),
        length=sum(item.length for item in missing),
        kept=len(targets) - len(missing),
        removed=removed,
        accepted_expired=verified.accepted_expired,
    )


def _write_metadata(store: Store, chain: Chain) -> None:
    """Write the metadata that differ from the copy's, the timestamp last."""
    last = {TIMESTAMP: chain.timestamp.data} if chain.timestamp else {}
    for path, data in (numbered_files(chain) | last).items():
        file = store.folder / path
        if not file.is_file() or file.read_bytes() != data:
            durable.write_bytes(store.medium, file, data)


def _unlisted(store: Store, chains: Collection[Chain]) -> tuple[str, ...]:
    """Return the targets that no chain lists. The old one counts: a reader may still be fetching from it."""
    listed = {item.path for chain in chains for item in published_targets(chain)}
    files = [path for path in sorted(store.targets.rglob("*")) if path.is_file()]
    paths = [str(path.relative_to(store.folder)) for path in files]
    return tuple(path for path in paths if path not in listed)


class _Downloader:
    """Downloads targets into a copy; its methods are called from several threads."""

    def __init__(self, source: Source, store: Store, progress: Progress) -> None:
        self._source = source
        self._store = store
        self._parts = store.folder / PARTS
        self._progress = progress
        self._parts.mkdir(exist_ok=True)

    def fetch(self, item: PublishedTarget) -> None:
        """Download one target and verify it. Raises TargetError, RepositoryUnreachableError."""
        part = self._parts / quote(item.path.removeprefix("targets/"), safe="")  # names may share a content
        resumed = part.is_file() and part.stat().st_size > 0
        self._download_rest(part, item)
        fault = target_fault(part, item)
        if fault and resumed:  # the part may be from another version: repeat from the start
            part.unlink()
            self._download_rest(part, item)
            fault = target_fault(part, item)
        if fault:
            part.unlink()
            raise TargetError(
                f"the source's {fault}",
                next_step="Report this to its publisher, or use another source.",
            )
        file = self._store.folder / item.path
        create_folder(file.parent)
        self._store.medium.rename(str(part), str(file))

    def remove_parts(self) -> None:
        """Remove partial downloads that are no longer needed."""
        for part in self._parts.iterdir():
            self._store.medium.remove(str(part))
        with suppress(OSError):
            self._parts.rmdir()

    def _download_rest(self, part: Path, item: PublishedTarget) -> None:
        """Append to a part up to the signed length, or one byte more if the source's file is longer."""
        step = ProgressStep(action=Action.FETCH, item=item.name, total=item.length)
        part.touch()
        add_mode(part, READABLE_FILE)
        with opened(self._store.medium, str(part), write=True) as descriptor:
            position = self._store.medium.size(descriptor)
            self._progress(step.at(min(position, item.length)))
            for block in self._remaining_blocks(item, position):
                data = block[: item.length - position + 1]
                self._store.medium.write_at(descriptor, data, position)
                position += len(data)
                self._progress(step.at(min(position, item.length)))
                if position > item.length:
                    break
            self._store.medium.flush(descriptor)

    def _remaining_blocks(self, item: PublishedTarget, start: int) -> Iterator[bytes]:
        if start >= item.length:  # nothing to request, only to compare
            return iter(())
        blocks = resumable_blocks(self._source, item.path, item.length, start)
        if blocks is None:
            raise TargetError(
                f"the source does not have {item.path}",
                next_step="It is only partly uploaded, or was removed: try again later.",
            )
        return blocks
