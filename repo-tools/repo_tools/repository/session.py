"""One change to a repository, from taking the lock to writing the timestamp.

Rules:

* what is published is verified before anything is built on it, except expiry (re-signing fixes that);
* everything is signed and verified in memory before the first byte is moved to where readers look;
* a role is re-signed when its content changes, when the caller requests it, or when a killed writer used
  version numbers that a reader may have seen (see :mod:`repo_tools.repository.store`);
* a change is made to one role's targets metadata: the top-level role's here, a channel's in
  :mod:`repo_tools.repository.channel_session`.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import Metadata, Targets

from repo_tools import config
from repo_tools.config import ROLES
from repo_tools.errors import ExpiredRepositoryError
from repo_tools.images.packing import Staged
from repo_tools.keys.holders import holder_names
from repo_tools.keys.signers import Secrets, SignerStore, no_secrets
from repo_tools.keys.signing import add_signatures, require_signatures, sign
from repo_tools.repository import editor
from repo_tools.repository.change_log import LOG
from repo_tools.repository.published import (
    MANIFEST,
    Published,
    read_log,
    read_manifest,
    require_complete,
)
from repo_tools.repository.signing_clock import last_signed, require_clock
from repo_tools.repository.store import Store
from repo_tools.trust import channels
from repo_tools.trust.chain import MAX_ROOTS, Verified, missing_signatures, walk
from repo_tools.trust.channels import TARGETS, role_of, target_name
from updog import durable
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.times import format_time, readable_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import Key
    from tuf.api.metadata import Delegations, Root, TargetFile

    from repo_tools.keys.holders import Holder
    from repo_tools.repository.change_log import Change
    from updog.durable import Medium

SNAPSHOTS = ("snapshot", "timestamp")
"""The roles that are re-signed with every change of targets metadata."""


BRAKE_EXPIRY = "root"
"""The role that a brake is valid as long as: its key signs seldom, and an expired brake holds nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """The result of a change.

    Attributes:
        versions: role → its new version; empty while signatures are missing.
        pending: the file that waits for signatures; None if the change is published.
        threshold: number of signatures that a pending change needs. signed_by: holders who have signed it.
        not_signed_by: holders who can still sign it. others: files of other pending changes of the channel.
        finish_before: when the first wave that a pending change brings starts; None without one.
    """

    versions: Mapping[str, int]
    pending: Path | None = None
    threshold: int = 0
    signed_by: tuple[Holder, ...] = ()
    not_signed_by: tuple[Holder, ...] = ()
    others: tuple[Path, ...] = ()
    finish_before: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members that every command adds to its ``--json``."""
        document: dict[str, Any] = {"metadata": dict(self.versions)}
        if self.pending:
            document |= {
                "pending": str(self.pending),
                "threshold": self.threshold,
                "signed_by": [holder.to_json() for holder in self.signed_by],
                "not_signed_by": [holder.to_json() for holder in self.not_signed_by],
                "other_pending": [str(path) for path in self.others],
                "finish_before": format_time(self.finish_before) if self.finish_before else None,
            }
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A repository that is locked for one change. Created by :func:`writing`.

    ``manifest`` is the one to be changed: the channel's, or the top-level one. ``last_signed`` is the time
    that the next signature is not recorded before.
    """

    store: Store
    config: config.Config
    signers: SignerStore
    published: Published
    manifest: Manifest
    channel: str | None = None
    last_signed: datetime | None = None

    @property
    def current_targets(self) -> Targets:
        """The published targets metadata of the role that this session changes."""
        return self.published.targets_of(self.channel)

    def require_signers(self) -> None:
        """Try the available keys of the roles to be signed; fail before long work if too few can sign.

        One key of a channel is enough: what it signs waits for the others.

        Raises:
            SigningKeyError: a key that is needed cannot be used. ThresholdError: too few are available.
        """
        for role in (role_of(self.channel), *SNAPSHOTS):
            keys = self.keys_of(role)
            usable = sum([self.signers.prove(key) for key in keys])
            needed = 1 if role == self.channel else self.threshold_of(role)
            missing = f"needs {needed} of its keys to sign; available: {usable}" if usable < needed else ""
            require_signatures(
                self.signers, keys, role, missing, names=self._names_of(role), shown_by=_shown_by(role)
            )

    def require_live_root(self, now: datetime) -> None:
        """Refuse to publish under an expired root: no node would accept it. Raises ExpiredRepositoryError."""
        if self._root.is_expired(now):
            raise ExpiredRepositoryError(
                f"root {self._root.version} expired on {readable_time(self._root.expires)}: no node accepts "
                "what is signed under it; nothing was changed",
                next_step="Publish a new root first: `repo-tools root renew`, `root sign`, `root publish`.",
            )

    def _names_of(self, role: str) -> dict[str, str]:
        """Return keyid → name of its holder, from the metadata that delegate to a role."""
        return holder_names(self._root if role in self._root.roles else self.published.targets.signed)

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
        return channels.delegated_role(self.published.targets.signed, role).threshold

    def has_threshold(self, role: str) -> bool:
        """Return whether enough keys of a role are available to sign it. Raises ChannelError."""
        return self.available_keys(role) >= self.threshold_of(role)

    def available_keys(self, role: str) -> int:
        """Return how many keys of a role are available. Raises ChannelError."""
        return sum(self.signers.has(key.keyid) for key in self.keys_of(role))

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
            manifest: the new manifest.
            staged: new targets.
            now: when it is signed.
            change: the entry for the log.
            listed: targets that are in the repository already, to be listed by this role too.
            dropped: names of targets that are no longer listed; their files stay.

        Raises:
            ManifestError: the manifest is not valid.
            ThresholdError, SigningKeyError: signing failed; nothing was written.
            MediumError: writing failed; readers see the old release or the new one.
        """
        self.require_live_root(now)
        data = manifest.to_json()
        Manifest.from_json(data)
        files = {target_name(self.channel, MANIFEST): data, **self._log_files(change, now)}
        new = {
            **(listed or {}),
            **{
                item.name: editor.target_file(item.name, length=item.length, sha256=item.sha256)
                for item in staged
            },
            **target_files(files),
        }
        draft = self.next_targets(role_of(self.channel), now, new)
        for name in dropped:
            draft.targets.pop(name, None)
        return self.publish(draft, files, staged, now)

    def _log_files(self, change: Change, now: datetime) -> dict[str, bytes]:
        """Return the log with one more entry; also, if that starts a new file, the full one as an archive."""
        log = read_log(self.store.source, self.current_targets, target_name(self.channel, LOG))
        keys = [key.keyid for key in self.keys_of(role_of(self.channel)) if self.signers.has(key.keyid)]
        new = log.with_change(change, at=now.replace(microsecond=0), keys=keys)
        full = {target_name(self.channel, log.archive_name): log.to_json()} if log.full else {}
        return {**full, target_name(self.channel, LOG): new.to_json()}

    def publish(
        self, draft: Targets, files: Mapping[str, bytes], staged: Sequence[Staged], now: datetime
    ) -> Committed:
        """Sign the role's next targets metadata; publish them with the small files and staged targets."""
        signed = sign(draft, self.signers, self._root)
        return self.publish_signed({TARGETS: (draft.version, signed)}, files, staged, now)

    def publish_signed(
        self,
        targets: Mapping[str, tuple[int, bytes]],
        files: Mapping[str, bytes],
        staged: Sequence[Staged],
        now: datetime,
    ) -> Committed:
        """Publish signed targets metadata, role → version and content, and the targets that they list."""
        metadata = self.signed_with_snapshots(targets, now)
        small = []
        for name, data in files.items():
            path = self.store.staging / name.replace("/", ".")
            durable.write_bytes(self.store.medium, path, data)
            digest = hashlib.sha256(data).hexdigest()
            small.append(Staged(name=name, path=path, length=len(data), sha256=digest))
        self.store.place([*staged, *small])
        return Committed(versions=self._write(metadata))

    def signed_with_snapshots(
        self, targets: Mapping[str, tuple[int, bytes]], now: datetime
    ) -> dict[str, tuple[int, bytes]]:
        """Return signed targets metadata, and the snapshot and timestamp that list them. Writes nothing.

        Raises:
            ExpiredRepositoryError: the root has expired.
            ThresholdError, SigningKeyError: signing failed.
        """
        self.require_live_root(now)
        return self._sign_chain(SNAPSHOTS, now, targets)

    def re_sign(self, roles: Collection[str], now: datetime) -> dict[str, int]:
        """Re-sign these roles and all metadata that list them; return the new versions by role.

        Raises:
            ThresholdError, SigningKeyError: signing failed; nothing was written.
            MediumError: writing failed.
        """
        return self._write(self.signed_again(roles, now))

    def signed_again(self, roles: Collection[str], now: datetime) -> dict[str, tuple[int, bytes]]:
        """Return these roles re-signed, and all metadata that list them. Writes nothing.

        Raises:
            ThresholdError, SigningKeyError: signing failed.
        """
        files = {}
        if "root" in roles:
            old = self._root
            new = editor.root_after(old, expires=self.expiry("root", now))
            files["root"] = (new.version, sign(new, self.signers, old, new))
        return files | self._sign_chain(roles, now, {})

    def publish_root(self, root: Verified[Root], roles: Collection[str], now: datetime) -> dict[str, int]:
        """Publish the next root, and re-sign these roles with its keys; return the new versions by role.

        Raises:
            ThresholdError, SigningKeyError: signing failed; nothing was written.
            MediumError: writing failed.
        """
        return self._write(self.signed_with_root(root, roles, now))

    def signed_with_root(
        self, root: Verified[Root], roles: Collection[str], now: datetime
    ) -> dict[str, tuple[int, bytes]]:
        """Return the next root, and these roles re-signed with its keys. Writes nothing.

        Raises:
            ThresholdError, SigningKeyError: signing failed.
        """
        files = {"root": (root.signed.version, root.data)}
        if roles:
            with_new_root = replace(self, published=replace(self.published, root=root))
            files |= Session._sign_chain(with_new_root, roles, now, {})
        return files

    def _write(self, files: Mapping[str, tuple[int, bytes]]) -> dict[str, int]:
        self.store.write_metadata(files)
        return versions_of(files)

    def _sign_chain(
        self, roles: Collection[str], now: datetime, signed: Mapping[str, tuple[int, bytes]]
    ) -> dict[str, tuple[int, bytes]]:
        """Return the new metadata of all roles but root: the signed ones, and what must be re-signed."""
        files = dict(signed)
        for role in (TARGETS, *self.published.channels, *self.published.brakes):
            if role not in files and (role in roles or self._must_skip_versions(role)):
                files[role] = self._signed_targets(role, now)
        if files or "snapshot" in roles or self._used_versions("snapshot"):
            files["snapshot"] = self._next_snapshot(now, files)
        if files or "timestamp" in roles:
            files["timestamp"] = self._next_timestamp(now, files.get("snapshot"))
        return files

    def _must_skip_versions(self, role: str) -> bool:
        """Whether targets metadata must be re-signed because a killed writer used version numbers of them.

        A channel whose keys are not available is left: what a reader may have seen of it, after a power cut
        at the worst moment, the reader sees again with the channel's next version.
        """
        return self._used_versions(role) > 0 and (role == TARGETS or self.has_threshold(role))

    def _used_versions(self, role: str) -> int:
        """Return how many version numbers above the published one are used by files on disk."""
        published = self.published
        signed = published.snapshot.signed if role == "snapshot" else published.signed_of(role)
        return max(0, self.store.highest_version(role) - signed.version)

    def next_targets(
        self,
        role: str,
        now: datetime,
        changes: Mapping[str, TargetFile],
        delegations: Delegations | None = None,
    ) -> Targets:
        """Return the next version of a role's targets metadata, unsigned."""
        old = self.published.signed_of(role)
        return editor.targets_after(
            old,
            changes,
            version=old.version + self._used_versions(role) + 1,
            expires=self.expiry(BRAKE_EXPIRY if channels.is_brake(role) else TARGETS, now),
            delegations=delegations,
        )

    def _signed_targets(self, role: str, now: datetime) -> tuple[int, bytes]:
        draft = self.next_targets(role, now, {})
        if role == TARGETS:
            return draft.version, sign(draft, self.signers, self._root)
        return self.signed_delegated(draft, role, self.published.targets.signed)

    def signed_delegated(self, draft: Targets, role: str, delegator: Targets) -> tuple[int, bytes]:
        """Return version and content of a delegated role's metadata, signed by the keys that are available.

        Raises:
            SigningKeyError, ThresholdError: a key that is needed fails, or is not available.
        """
        metadata: Metadata[Targets] = Metadata(draft)
        keys = channels.keys(delegator, role)
        add_signatures(metadata, self.signers, keys)
        missing = missing_signatures(delegator, role, metadata)
        require_signatures(
            self.signers,
            keys,
            f"{role} version {draft.version}",
            missing,
            names=holder_names(delegator),
            shown_by=_shown_by(role),
        )
        return draft.version, metadata.to_bytes()

    def _next_snapshot(self, now: datetime, targets: Mapping[str, tuple[int, bytes]]) -> tuple[int, bytes]:
        old = self.published.snapshot.signed
        version = old.version + self._used_versions("snapshot") + 1
        metas = {role: editor.meta_file(data, number) for role, (number, data) in targets.items()}
        new = editor.snapshot_after(old, metas, version=version, expires=self.expiry("snapshot", now))
        return version, sign(new, self.signers, self._root)

    def _next_timestamp(self, now: datetime, snapshot: tuple[int, bytes] | None) -> tuple[int, bytes]:
        old = self.published.timestamp.signed
        version = old.version + self._used_versions("snapshot") + 1
        meta = editor.meta_file(snapshot[1], snapshot[0]) if snapshot else old.snapshot_meta
        expires = self.expiry("timestamp", now)
        signed_at = max(now, self.last_signed or now)
        new = editor.timestamp_after(old, meta, version=version, expires=expires, now=signed_at)
        return version, sign(new, self.signers, self._root)

    @property
    def _root(self) -> Root:
        return self.published.root.signed

    def expiry(self, role: str, now: datetime) -> datetime:
        """Return when a signature of a role made now expires."""
        return editor.expiry(now, self.config.expires[role])


def versions_of(files: Mapping[str, tuple[int, bytes]]) -> dict[str, int]:
    """Return role → version of metadata, which are role → version and content."""
    return {role: version for role, (version, _) in files.items()}


def _shown_by(role: str) -> str:
    """Return the command that lists the keys of a role."""
    if role in ROLES:
        return "root show"
    return "brake show" if channels.is_brake(role) else f"channel show {role}"


def target_files(files: Mapping[str, bytes]) -> dict[str, TargetFile]:
    """Return the entries of small files in targets metadata, by target name."""
    return {
        name: editor.target_file(name, length=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }


@contextmanager
def writing(  # noqa: PLR0913 - what one change of a repository depends on
    folder: Path,
    medium: Medium,
    secrets: Secrets = no_secrets,
    *,
    now: datetime,
    last_root: int = MAX_ROOTS,
    clock_is_right: bool = False,
    needs_manifest: bool = True,
) -> Iterator[Session]:
    """Lock the repository in ``folder`` for one change at the time ``now``, during a ``with`` block.

    Args:
        folder: of the repository.
        medium: everything is written through it.
        secrets: gives passphrases and PINs.
        now: when the change is signed.
        last_root: the newest root to verify with: only the completion of an interrupted change of keys needs
            an older one.
        clock_is_right: sign although the last signature is of a later time: that clock was ahead.
        needs_manifest: False to re-sign only: the session's manifest is empty, and no target is read.

    Raises:
        ClockBehindError: the repository was last signed at a later time than ``now``.
        NoRepositoryError: there is no repository. ConfigError: its ``repo.toml`` has faults.
        RepositoryBusyError: another publisher is writing to it.
        BrokenRepositoryError: what is published does not verify; see ``repo-tools validate``.
    """
    store = Store.existing(folder, medium)
    with store.writing():
        yield _session(
            store,
            secrets,
            now,
            last_root=last_root,
            clock_is_right=clock_is_right,
            needs_manifest=needs_manifest,
        )


def reading(
    folder: Path,
    medium: Medium,
    secrets: Secrets = no_secrets,
    *,
    now: datetime,
    last_root: int = MAX_ROOTS,
    needs_manifest: bool = True,
) -> Session:
    """Return a session to plan a change with. Takes no lock, so nothing may be committed with it.

    Raises:
        ToolError: what :func:`writing` raises, but never RepositoryBusyError.
    """
    store = Store.existing(folder, medium)
    return _session(store, secrets, now, last_root=last_root, needs_manifest=needs_manifest)


def _session(
    store: Store,
    secrets: Secrets,
    now: datetime,
    *,
    last_root: int = MAX_ROOTS,
    clock_is_right: bool = False,
    needs_manifest: bool = True,
) -> Session:
    settings = config.load(store.folder)
    published = require_complete(walk(store.source, last_root=last_root))
    last = None if clock_is_right else last_signed(store.source, published)
    require_clock(last, now)
    return Session(
        store=store,
        config=settings,
        signers=SignerStore(uris=settings.signers, folder=store.folder, secrets=secrets),
        published=published,
        manifest=read_manifest(store.source, published.targets.signed)
        if needs_manifest
        else Manifest.empty(),
        last_signed=last,
    )
