"""One change to a channel: published once enough holders have signed it; until then a pending proposal.

Rules:

* whether there are enough signatures is decided by the keys that the top-level targets delegate to, never by
  what a proposal file says; for a new channel, by the holder of the targets key who runs the command;
* a pending change changes nothing for readers: its images are in ``targets/``, not yet listed, and the
  proposal with the signatures is in ``pending/`` (:mod:`repo_tools.repository.pending_changes`). It fits only
  the channel's version that it starts from;
* every target that a channel's metadata newly list is read and compared before they are published.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuf.api.metadata import Metadata

from repo_tools.errors import ChannelProposalError, TargetError, ThresholdError
from repo_tools.keys.holders import FIELD, holder_names
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.keys.signing import add_signatures, sign
from repo_tools.repository import editor, pending_changes
from repo_tools.repository.change_log import LOG, ChangeLog
from repo_tools.repository.channel_proposal import ChannelProposal
from repo_tools.repository.published import MANIFEST, PublishedTarget, read_manifest, require_intact
from repo_tools.repository.session import Committed, Session, target_files, versions_of, writing
from repo_tools.trust import channels
from repo_tools.trust.chain import missing_signatures
from repo_tools.trust.channels import TARGETS, target_name
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import DelegatedRole, Targets

    from repo_tools.images.packing import Staged
    from repo_tools.keys.holders import Holder
    from repo_tools.repository.change_log import Change
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelSession(Session):
    """A repository that is locked for one change of a channel. Created by :func:`writing_channel`."""

    def publish(
        self, draft: Targets, files: Mapping[str, bytes], staged: Sequence[Staged], now: datetime
    ) -> Committed:
        """Sign a channel's next metadata; publish them, or keep them for the other holders to sign."""
        targets = self.published.targets.signed
        role = channels.delegated_role(targets, self.channel or "")
        return sign_or_publish(
            self,
            ChannelProposal(
                role=role,
                keys=channels.keys(targets, role.name),
                base=self.current_targets.version,
                metadata=Metadata(draft),
                files=files,
                holders=channel_holders(targets, role),
            ),
            staged,
            now,
        )


@contextmanager
def writing_channel(
    folder: Path,
    medium: Medium,
    secrets: Secrets = no_secrets,
    channel: str | None = None,
    *,
    now: datetime,
) -> Iterator[Session]:
    """Lock a repository for one change of a channel, or (None) of the top-level releases.

    Raises:
        ChannelError: there is no such channel.
        ToolError: the errors of :func:`repo_tools.repository.session.writing`.
    """
    with writing(folder, medium, secrets, now=now) as session:
        yield of_channel(session, channel)


def of_channel(session: Session, channel: str | None) -> Session:
    """Return the session for a change of a channel, or (None) of the top-level releases.

    Raises:
        ChannelError: there is no such channel. ManifestError, BrokenRepositoryError: of its manifest.
    """
    if channel is None:
        return session
    targets = session.published.targets_of(channel)
    return ChannelSession(
        store=session.store,
        config=session.config,
        signers=session.signers,
        published=session.published,
        manifest=read_manifest(session.store.source, targets, channel),
        channel=channel,
        last_signed=session.last_signed,
    )


def channel_holders(targets: Targets, role: DelegatedRole) -> dict[str, str]:
    """Return keyid → name of its holder, for the keys of a channel that have a name."""
    return {keyid: name for keyid, name in holder_names(targets).items() if keyid in role.keyids}


def first_proposal(
    session: Session, role: DelegatedRole, holders: Sequence[Holder], change: Change, now: datetime
) -> ChannelProposal:
    """Return the first metadata of a new channel, which offers no release yet."""
    keys = [holder.key for holder in holders]
    available = [key.keyid for key in keys if session.signers.has(key.keyid)]
    log = ChangeLog().with_change(change, at=now.replace(microsecond=0), keys=available)
    files = {
        target_name(role.name, MANIFEST): Manifest.empty().to_json(),
        target_name(role.name, LOG): log.to_json(),
    }
    draft = editor.targets_after(
        None,
        target_files(files),
        version=1 + session.store.highest_version(role.name),
        expires=session.expiry(TARGETS, now),
    )
    return ChannelProposal(
        role=role,
        keys=keys,
        base=0,
        metadata=Metadata(draft),
        files=files,
        holders={holder.key.keyid: holder.name for holder in holders if holder.name},
    )


def sign_or_publish(
    session: Session, proposal: ChannelProposal, staged: Sequence[Staged], now: datetime
) -> Committed:
    """Sign a channel's next metadata with the available keys; publish them if these are enough.

    Raises:
        ChannelProposalError: they start from another version of the channel, or have expired.
        ThresholdError: no key of the channel has signed.
        TargetError: a target that they list is missing or is not what was signed.
        SigningKeyError, MediumError: see :mod:`repo_tools.errors`.
    """
    missing, targets = _signed(session, proposal, now)
    if missing:
        return _keep_pending(session, proposal, staged)
    _require_targets(session, proposal, staged)
    return session.publish_signed(targets, proposal.files, staged, now)


def would_commit(session: Session, proposal: ChannelProposal, now: datetime) -> Committed:
    """Return what :func:`sign_or_publish` would do without staged targets.

    Signs in memory and compares the targets; writes nothing. Raises what it raises, but not MediumError.
    """
    missing, targets = _signed(session, proposal, now)
    if missing:
        return _pending(session, pending_changes.where_kept(session.store.folder, proposal))
    _require_targets(session, proposal, [])
    return Committed(versions=versions_of(session.signed_with_snapshots(targets, now)))


def _signed(
    session: Session, proposal: ChannelProposal, now: datetime
) -> tuple[str, dict[str, tuple[int, bytes]]]:
    """Sign a proposal; return what is missing, "" for nothing, and the signed targets metadata by role."""
    _require_current(session, proposal, now)
    add_signatures(
        proposal.metadata,
        session.signers,
        [key for key in proposal.keys if key.keyid not in proposal.metadata.signatures],
    )
    delegator, targets = _delegator(session, proposal, now)
    missing = missing_signatures(delegator, proposal.channel, proposal.metadata)
    if missing and not proposal.signed:
        session.signers.raise_failed(proposal.keys)
        holders = ", ".join(map(str, proposal.not_signed_by))
        raise ThresholdError(
            f"{proposal.channel} {missing}: no private key of it is available here; its keys: {holders}",
            next_step=f"Say in repo.toml where one is: see `repo-tools channel show {proposal.channel}`.",
        )
    session.signers.report_failed(proposal.keys, proposal.channel)
    version = proposal.metadata.signed.version
    return missing, targets | {proposal.channel: (version, proposal.metadata.to_bytes())}


def _require_current(session: Session, proposal: ChannelProposal, now: datetime) -> None:
    published = session.published.channels.get(proposal.channel)
    version = published.signed.version if published else 0
    new = proposal.metadata.signed
    if proposal.base != version:
        raise ChannelProposalError(
            f"{proposal.channel} is now at version {version}; this proposal starts from {proposal.base}"
        )
    if new.version <= version:
        raise ChannelProposalError(f"its version {new.version} is not above the published version {version}")
    if new.expires <= now:
        raise ChannelProposalError(f"it expired on {new.expires:%Y-%m-%d %H:%M} UTC")


def _delegator(
    session: Session, proposal: ChannelProposal, now: datetime
) -> tuple[Targets, dict[str, tuple[int, bytes]]]:
    """Return the targets metadata that delegate to the channel; for a new channel also as signed metadata."""
    if proposal.channel in session.published.channels:
        return session.published.targets.signed, {}
    targets = session.published.targets.signed
    delegations = channels.with_channel(targets, proposal.role, proposal.keys)
    draft = session.next_targets(TARGETS, now, {}, delegations)
    if names := {**holder_names(targets), **proposal.holders}:
        draft.unrecognized_fields[FIELD] = names
    return draft, {TARGETS: (draft.version, sign(draft, session.signers, session.published.root.signed))}


def _keep_pending(session: Session, proposal: ChannelProposal, staged: Sequence[Staged]) -> Committed:
    """Keep the change until the other holders have signed it."""
    store = session.store
    if staged:
        store.place(staged)
    store.clear_staging()
    return _pending(session, pending_changes.keep(store.folder, proposal, store.medium))


def _pending(session: Session, kept: pending_changes.Kept) -> Committed:
    """Return the result of a change that waits for signatures."""
    return Committed(
        versions={},
        pending=kept.path,
        threshold=kept.proposal.role.threshold,
        signed_by=kept.proposal.signed_by,
        not_signed_by=kept.proposal.not_signed_by,
        others=tuple(item.path for item in kept.others),
        finish_before=_first_new_wave(session, kept.proposal),
    )


def manifest_before(session: Session, proposal: ChannelProposal) -> Manifest:
    """Return the manifest that a proposal's channel has now; an empty one for a new channel."""
    published = session.published.channels.get(proposal.channel)
    if published is None:
        return Manifest.empty()
    return read_manifest(session.store.source, published.signed, proposal.channel)


def _first_new_wave(session: Session, proposal: ChannelProposal) -> datetime | None:
    """Return when the first wave that a change brings starts, None if it brings none.

    A change that is finished later is refused (:mod:`repo_tools.releases.finish`).
    """
    before = manifest_before(session, proposal)
    made = proposal.log.entries[-1].at
    starts = [
        start.at
        for update in proposal.manifest.updates
        if not update.hold and ((old := before.find(*update.key)) is None or old.waves != update.waves)
        for start in update.waves.starts
        if start.at > made
    ]
    return min(starts, default=None)


def _require_targets(session: Session, proposal: ChannelProposal, staged: Sequence[Staged]) -> None:
    """Read and compare the newly listed targets that are in the repository already. Raises TargetError."""
    published = session.published.channels.get(proposal.channel)
    before = published.signed.targets if published else {}
    supplied = {item.name for item in staged} | set(proposal.files)
    new = [
        PublishedTarget.of(name, listed)
        for name, listed in proposal.metadata.signed.targets.items()
        if name not in supplied and before.get(name) != listed
    ]
    for item in new:
        if not proposal.role.is_delegated_path(item.name):
            raise TargetError(f"{item.name} is outside the delegation of the channel {proposal.channel}")
    require_intact(session.store.folder, new)
