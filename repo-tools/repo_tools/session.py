"""One change to a repository, from lock to timestamp.

Rules:

* what is there is verified before anything is built on it, expiry apart (re-signing mends that);
* everything is signed and verified in memory before the first byte is moved where readers look;
* a role is signed anew when its content changes, when the caller asks, or when a killed writer spent
  version numbers that a reader may have seen (see :mod:`repo_tools.store`);
* a change is about one list of targets: the top-level one here, a channel's in
  :mod:`repo_tools.channel_session`.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import Metadata, Targets

from repo_tools import channels, config, editor
from repo_tools.chain import MAX_ROOTS, Verified, walk
from repo_tools.changes import LOG, MAX_LOG_BYTES, ChangeLog
from repo_tools.channels import TARGETS, name_in, role_of
from repo_tools.errors import BrokenRepositoryError
from repo_tools.images import Staged
from repo_tools.keys import Secrets, SignerStore, no_secrets
from repo_tools.signing import add_signatures, require_signed, sign
from repo_tools.store import Store, file_of
from updog import durable
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import Key
    from tuf.api.metadata import Delegations, Root, Snapshot, TargetFile, Timestamp

    from repo_tools.chain import Chain, Source
    from repo_tools.changes import Change
    from updog.durable import Medium

MANIFEST = "manifest.json"
SNAPSHOTS = ("snapshot", "timestamp")
"""The roles that follow every change of a list of targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A repository as its readers see it: everything verified, expiry apart."""

    root: Verified[Root]
    timestamp: Verified[Timestamp]
    snapshot: Verified[Snapshot]
    targets: Verified[Targets]
    channels: Mapping[str, Verified[Targets]]

    def listing(self, channel: str | None) -> Targets:
        """Return what a channel lists, or what the top-level role does. Raises ChannelError."""
        if channel is None:
            return self.targets.signed
        channels.role(self.targets.signed, channel)
        return self.channels[channel].signed


def complete(chain: Chain) -> Published:
    """Return a walked chain that verified to its end. Raises BrokenRepositoryError."""
    if chain.findings or not (chain.timestamp and chain.snapshot and chain.targets):
        first = chain.findings[0]
        raise BrokenRepositoryError(
            f"{first.place}: {first.message} ({first.code})", next_step=first.next_step
        )
    return Published(
        root=chain.roots[-1],
        timestamp=chain.timestamp,
        snapshot=chain.snapshot,
        targets=chain.targets,
        channels=chain.channels,
    )


def read_manifest(source: Source, targets: Targets, channel: str | None = None) -> Manifest:
    """Return the manifest that signed targets list. Raises BrokenRepositoryError or ManifestError."""
    name = name_in(channel, MANIFEST)
    data = read_listed(source, targets, name, MAX_MANIFEST_BYTES)
    if data is None:
        raise BrokenRepositoryError(f"the {role_of(channel)} metadata list no {name}")
    return Manifest.from_json(data)


def read_log(source: Source, targets: Targets, name: str) -> ChangeLog:
    """Return a file of the log of changes, by its target name; an empty one where none is listed.

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
class Committed:
    """What came of a change.

    Attributes:
        versions: role → its new version; empty while signatures are missing.
        pending: the file that waits for them; None where the change is published.
    """

    versions: Mapping[str, int]
    pending: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members that every command adds to its ``--json``."""
        return {"metadata": dict(self.versions)} | ({"pending": str(self.pending)} if self.pending else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A repository that is locked for one change. Made by :func:`writing`.

    ``manifest`` is the one that the change is about: the channel's, or the top-level one.
    """

    store: Store
    config: config.Config
    signers: SignerStore
    published: Published
    manifest: Manifest
    channel: str | None = None

    @property
    def listing(self) -> Targets:
        """What is listed where this session writes."""
        return self.published.listing(self.channel)

    def require_signers(self) -> None:
        """Fail early, before long work, if a key at hand of what is to be signed cannot be used.

        Raises:
            SigningKeyError: as its name says.
        """
        for role in (role_of(self.channel), *SNAPSHOTS):
            self.signers.of(self.keys_of(role))

    def keys_of(self, role: str) -> list[Key]:
        """Return the public keys of a top-level role or a channel. Raises ChannelError."""
        root = self._root
        if role in root.roles:
            return [root.keys[keyid] for keyid in root.roles[role].keyids]
        return channels.keys(self.published.targets.signed, role)

    def threshold_of(self, role: str) -> int:
        """Return how many keys a top-level role or a channel needs. Raises ChannelError."""
        root = self._root
        if role in root.roles:
            return root.roles[role].threshold
        return channels.role(self.published.targets.signed, role).threshold

    def commit(
        self,
        manifest: Manifest,
        staged: Sequence[Staged],
        now: datetime,
        change: Change,
        *,
        listed: Mapping[str, TargetFile] | None = None,
        dropped: Collection[str] = (),
    ) -> Committed:
        """Publish ``manifest`` and targets, and log the change.

        Args:
            manifest: as it shall be.
            staged: new targets.
            now: when it is signed.
            change: for the log.
            listed: targets that are in the repository already, to be listed here too.
            dropped: names of targets that are to be listed no more; their files stay.

        Raises:
            ManifestError: the manifest could not be read back. ThresholdError, SigningKeyError: signing.
            MediumError: writing; readers then still see the old release, or already the new one.
        """
        data = manifest.to_json()
        Manifest.from_json(data)
        files = {name_in(self.channel, MANIFEST): data, **self._log_files(change, now)}
        new = {
            **(listed or {}),
            **{
                item.name: editor.target_file(item.name, length=item.length, sha256=item.sha256)
                for item in staged
            },
            **listed_files(files),
        }
        draft = self.next_list(role_of(self.channel), now, new)
        for name in dropped:
            draft.targets.pop(name, None)
        return self.publish(draft, files, staged, now)

    def publish(
        self, draft: Targets, files: Mapping[str, bytes], staged: Sequence[Staged], now: datetime
    ) -> Committed:
        """Sign the next list of targets, and publish it with the small files and staged targets in it."""
        signed = sign(draft, self.signers, self._root)
        return self.write({TARGETS: (draft.version, signed)}, files, staged, now)

    def write(
        self,
        lists: Mapping[str, tuple[int, bytes]],
        files: Mapping[str, bytes],
        staged: Sequence[Staged],
        now: datetime,
    ) -> Committed:
        """Publish signed lists of targets, role → version and bytes, and what they list."""
        chain = self._sign_chain(SNAPSHOTS, now, lists)
        self.store.place([*staged, *(self._stage(name, data) for name, data in files.items())])
        return Committed(versions=self._write(chain))

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
        path = self.store.staging / name.replace("/", ".")
        durable.write_bytes(self.store.medium, path, data)
        return Staged(name=name, path=path, length=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _log_files(self, change: Change, now: datetime) -> dict[str, bytes]:
        """Return the log with one more entry, and the file it was in under its own name once that is full."""
        log = read_log(self.store.source, self.listing, name_in(self.channel, LOG))
        more = log.with_change(change, at=now.replace(microsecond=0), keys=self.at_hand())
        full = {name_in(self.channel, log.archive_name): log.to_json()} if log.full else {}
        return {**full, name_in(self.channel, LOG): more.to_json()}

    def at_hand(self) -> list[str]:
        """Return the keyids that sign what this session writes, and whose private half is at hand."""
        return [key.keyid for key in self.keys_of(role_of(self.channel)) if self.signers.has(key.keyid)]

    def _write(self, files: Mapping[str, tuple[int, bytes]]) -> dict[str, int]:
        self.store.write_metadata(files)
        return {role: version for role, (version, _) in files.items()}

    def _next_root(self, now: datetime) -> tuple[int, bytes]:
        old = self.published.root.signed
        new = editor.root_after(old, expires=self.expiry("root", now))
        return new.version, sign(new, self.signers, old, new)

    def _sign_chain(
        self, roles: Collection[str], now: datetime, ready: Mapping[str, tuple[int, bytes]]
    ) -> dict[str, tuple[int, bytes]]:
        """Return what is new of all roles but root: lists that are signed already, and what has to follow."""
        files = dict(ready)
        for role in (TARGETS, *self.published.channels):
            if role not in files and (role in roles or self._to_be_mended(role)):
                files[role] = self._signed_list(role, now)
        if files or "snapshot" in roles or self._spent("snapshot"):
            files["snapshot"] = self._next_snapshot(now, files)
        if files or "timestamp" in roles:
            files["timestamp"] = self._next_timestamp(now, files.get("snapshot"))
        return files

    def _to_be_mended(self, role: str) -> bool:
        """Whether a list is to be signed anew because a killed writer spent version numbers of it.

        A channel whose keys are elsewhere is left: what a reader may have seen of it, after a power cut at
        the worst moment, it then sees again with the channel's next version.
        """
        return self._spent(role) > 0 and (role == TARGETS or self._can_sign(role))

    def _can_sign(self, channel: str) -> bool:
        at_hand = sum(self.signers.has(key.keyid) for key in self.keys_of(channel))
        return at_hand >= self.threshold_of(channel)

    def _spent(self, role: str) -> int:
        """Return how many version numbers above the published one are taken by files on disk."""
        signed = {
            TARGETS: self.published.targets.signed,
            "snapshot": self.published.snapshot.signed,
            **{name: link.signed for name, link in self.published.channels.items()},
        }
        return max(0, self.store.highest(role) - signed[role].version)

    def next_list(
        self,
        role: str,
        now: datetime,
        changes: Mapping[str, TargetFile],
        delegations: Delegations | None = None,
    ) -> Targets:
        """Return the next version of a list of targets, unsigned."""
        old = self.published.listing(None if role == TARGETS else role)
        return editor.targets_after(
            old,
            changes,
            version=old.version + self._spent(role) + 1,
            expires=self.expiry(TARGETS, now),
            delegations=delegations,
        )

    def _signed_list(self, role: str, now: datetime) -> tuple[int, bytes]:
        draft = self.next_list(role, now, {})
        if role == TARGETS:
            return draft.version, sign(draft, self.signers, self._root)
        metadata: Metadata[Targets] = Metadata(draft)
        add_signatures(metadata, self.signers, self.keys_of(role))
        require_signed(metadata, role, self.published.targets.signed)
        return draft.version, metadata.to_bytes()

    def _next_snapshot(self, now: datetime, lists: Mapping[str, tuple[int, bytes]]) -> tuple[int, bytes]:
        old = self.published.snapshot.signed
        version = old.version + self._spent("snapshot") + 1
        metas = {role: editor.meta_file(data, number) for role, (number, data) in lists.items()}
        new = editor.snapshot_after(old, metas, version=version, expires=self.expiry("snapshot", now))
        return version, sign(new, self.signers, self._root)

    def _next_timestamp(self, now: datetime, snapshot: tuple[int, bytes] | None) -> tuple[int, bytes]:
        old = self.published.timestamp.signed
        version = old.version + self._spent("snapshot") + 1
        meta = editor.meta_file(snapshot[1], snapshot[0]) if snapshot else old.snapshot_meta
        new = editor.timestamp_after(old, meta, version=version, expires=self.expiry("timestamp", now))
        return version, sign(new, self.signers, self._root)

    @property
    def _root(self) -> Root:
        return self.published.root.signed

    def expiry(self, role: str, now: datetime) -> datetime:
        """Return when a signature of a role made now runs out."""
        return editor.expiry(now, self.config.expires[role])


def listed_files(files: Mapping[str, bytes]) -> dict[str, TargetFile]:
    """Return how small files are listed, by target name."""
    return {
        name: editor.target_file(name, length=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }


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
