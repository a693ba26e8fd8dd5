"""One change to a repository, from lock to timestamp.

Rules:

* what is there is verified before anything is built on it, expiry apart (re-signing mends that);
* everything is signed and verified in memory before the first byte is moved where readers look;
* a role is signed anew when its content changes, when the caller asks, or when a killed writer spent
  version numbers that a reader may have seen (see :mod:`repo_tools.store`).
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repo_tools import config, editor
from repo_tools.chain import MAX_ROOTS, Verified, walk
from repo_tools.changes import LOG, MAX_LOG_BYTES, ChangeLog
from repo_tools.errors import BrokenRepositoryError
from repo_tools.images import Staged
from repo_tools.keys import Secrets, SignerStore, no_secrets
from repo_tools.signing import sign
from repo_tools.store import Store, file_of
from updog import durable
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

    from repo_tools.chain import Chain, Source
    from repo_tools.changes import Change
    from updog.durable import Medium

MANIFEST = "manifest.json"
ONLINE = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A repository as its readers see it: everything verified, expiry apart."""

    root: Verified[Root]
    timestamp: Verified[Timestamp]
    snapshot: Verified[Snapshot]
    targets: Verified[Targets]


def complete(chain: Chain) -> Published:
    """Return a walked chain that verified to its end. Raises BrokenRepositoryError."""
    if chain.findings or not (chain.timestamp and chain.snapshot and chain.targets):
        first = chain.findings[0]
        raise BrokenRepositoryError(
            f"{first.place}: {first.message} ({first.code})", next_step=first.next_step
        )
    return Published(
        root=chain.roots[-1], timestamp=chain.timestamp, snapshot=chain.snapshot, targets=chain.targets
    )


def read_manifest(source: Source, targets: Targets) -> Manifest:
    """Return the manifest that the signed targets list. Raises BrokenRepositoryError or ManifestError."""
    data = read_listed(source, targets, MANIFEST, MAX_MANIFEST_BYTES)
    if data is None:
        raise BrokenRepositoryError(f"the targets metadata list no {MANIFEST}")
    return Manifest.from_json(data)


def read_log(source: Source, targets: Targets, name: str = LOG) -> ChangeLog:
    """Return a file of the log of changes; an empty one where none is listed.

    Raises:
        BrokenRepositoryError, ManifestError: it is not what was signed, or has faults.
    """
    data = read_listed(source, targets, name, MAX_LOG_BYTES)
    return ChangeLog() if data is None else ChangeLog.from_json(data)


def read_listed(source: Source, targets: Targets, name: str, most: int) -> bytes | None:
    """Return a small target, verified; None where it is not listed. Raises BrokenRepositoryError."""
    listed = targets.targets.get(name)
    if listed is None:
        return None
    place = f"targets/{file_of(name, next(iter(listed.hashes.values())))}"
    data = source.read(place, most)
    if data is None or not _is(data, listed):
        raise BrokenRepositoryError(f"{place} {'is not there' if data is None else 'is not what was signed'}")
    return data


def _is(data: bytes, listed: TargetFile) -> bool:
    return len(data) == listed.length and hashlib.sha256(data).hexdigest() == listed.hashes.get("sha256")


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A repository that is locked for one change. Made by :func:`writing`."""

    store: Store
    config: config.Config
    signers: SignerStore
    published: Published
    manifest: Manifest

    def require_signers(self, roles: Collection[str] = ONLINE) -> None:
        """Fail early, before long work, if a role's keys cannot be used. Raises SigningKeyError."""
        root = self.published.root.signed
        for role in roles:
            self.signers.of(root.keys[keyid] for keyid in root.roles[role].keyids)

    def commit(
        self, manifest: Manifest, staged: Sequence[Staged], now: datetime, change: Change
    ) -> dict[str, int]:
        """Publish ``manifest`` and the staged targets, and log the change; return the new versions by role.

        Raises:
            ManifestError: the manifest could not be read back. ThresholdError, SigningKeyError: signing.
            MediumError: writing; readers then still see the old release, or already the new one.
        """
        data = manifest.to_json()
        Manifest.from_json(data)
        everything = [*staged, self._stage(MANIFEST, data), *self._stage_log(change, now)]
        changes = {
            item.name: editor.target_file(item.name, length=item.length, sha256=item.sha256)
            for item in everything
        }
        files = self._sign_chain(ONLINE, now, changes)
        self.store.place(everything)
        return self._write(files)

    def resign(self, roles: Collection[str], now: datetime) -> dict[str, int]:
        """Sign these roles anew and whatever names them; return the new versions by role.

        Raises:
            ThresholdError, SigningKeyError: signing; nothing was written. MediumError: writing.
        """
        files = {}
        if "root" in roles:
            files["root"] = self._next_root(now)
        return self._write(files | self._sign_chain(roles, now, {}))

    def succeed(self, root: Verified[Root], roles: Collection[str], now: datetime) -> dict[str, int]:
        """Publish the next root and sign these roles anew by its keys; return the new versions by role.

        Raises:
            ThresholdError, SigningKeyError: signing; nothing was written. MediumError: writing.
        """
        files = {"root": (root.signed.version, root.data)}
        if roles:
            under_it = replace(self, published=replace(self.published, root=root))
            files |= Session._sign_chain(under_it, roles, now, {})
        return self._write(files)

    def _stage(self, name: str, data: bytes) -> Staged:
        path = self.store.staging / name
        durable.write_bytes(self.store.medium, path, data)
        return Staged(name=name, path=path, length=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _stage_log(self, change: Change, now: datetime) -> list[Staged]:
        """Stage the log with one more entry, and the file it was in under its own name once that is full."""
        log = read_log(self.store.source, self.published.targets.signed)
        keys = [keyid for keyid in self._root.roles["targets"].keyids if self.signers.has(keyid)]
        more = log.with_change(change, at=now.replace(microsecond=0), keys=keys)
        full = [self._stage(log.archive_name, log.to_json())] if log.full else []
        return [*full, self._stage(LOG, more.to_json())]

    def _write(self, files: Mapping[str, tuple[int, bytes]]) -> dict[str, int]:
        self.store.write_metadata(files)
        return {role: version for role, (version, _) in files.items()}

    def _next_root(self, now: datetime) -> tuple[int, bytes]:
        old = self.published.root.signed
        new = editor.root_after(old, expires=self._expiry("root", now))
        return new.version, sign(new, self.signers, old, new)

    def _sign_chain(
        self, roles: Collection[str], now: datetime, changes: Mapping[str, TargetFile]
    ) -> dict[str, tuple[int, bytes]]:
        """Return new targets, snapshot and timestamp, version and bytes; the first two only where needed."""
        files: dict[str, tuple[int, bytes]] = {}
        if "targets" in roles or self._spent("targets"):
            files["targets"] = self._next_targets(now, changes)
        if files or "snapshot" in roles or self._spent("snapshot"):
            files["snapshot"] = self._next_snapshot(now, files.get("targets"))
        if files or "timestamp" in roles:
            files["timestamp"] = self._next_timestamp(now, files.get("snapshot"))
        return files

    def _spent(self, role: str) -> int:
        """Return how many version numbers above the published one are taken by files on disk."""
        targets, snapshot = self.published.targets.signed, self.published.snapshot.signed
        published = targets.version if role == "targets" else snapshot.version
        return max(0, self.store.highest(role) - published)

    def _next_targets(self, now: datetime, changes: Mapping[str, TargetFile]) -> tuple[int, bytes]:
        old = self.published.targets.signed
        version = old.version + self._spent("targets") + 1
        new = editor.targets_after(old, changes, version=version, expires=self._expiry("targets", now))
        return version, sign(new, self.signers, self._root)

    def _next_snapshot(self, now: datetime, targets: tuple[int, bytes] | None) -> tuple[int, bytes]:
        old = self.published.snapshot.signed
        version = old.version + self._spent("snapshot") + 1
        meta = editor.meta_file(targets[1], targets[0]) if targets else old.meta["targets.json"]
        new = editor.snapshot_after(old, meta, version=version, expires=self._expiry("snapshot", now))
        return version, sign(new, self.signers, self._root)

    def _next_timestamp(self, now: datetime, snapshot: tuple[int, bytes] | None) -> tuple[int, bytes]:
        old = self.published.timestamp.signed
        version = old.version + self._spent("snapshot") + 1
        meta = editor.meta_file(snapshot[1], snapshot[0]) if snapshot else old.snapshot_meta
        new = editor.timestamp_after(old, meta, version=version, expires=self._expiry("timestamp", now))
        return version, sign(new, self.signers, self._root)

    @property
    def _root(self) -> Root:
        return self.published.root.signed

    def _expiry(self, role: str, now: datetime) -> datetime:
        return editor.expiry(now, self.config.expires[role])


@contextmanager
def writing(
    folder: Path, medium: Medium, secrets: Secrets = no_secrets, *, last_root: int = MAX_ROOTS
) -> Iterator[Session]:
    """Lock the repository in ``folder`` for one change, for the length of a ``with`` block.

    ``last_root`` is the newest root to go by: only a change of keys that was cut short looks back.

    Raises:
        NoRepositoryError, ConfigError: there is none, or its ``repo.toml`` has faults.
        RepositoryBusyError: another writer is at work.
        BrokenRepositoryError: what is published does not verify; see ``repo-tools validate``.
    """
    store = Store.existing(folder, medium)
    settings = config.load(folder)
    with store.writing():
        published = complete(walk(store.source, last_root=last_root))
        yield Session(
            store=store,
            config=settings,
            signers=SignerStore(uris=settings.signers, folder=folder, secrets=secrets),
            published=published,
            manifest=read_manifest(store.source, published.targets.signed),
        )
