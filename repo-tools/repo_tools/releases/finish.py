"""Publish a channel change that its holders have signed, after checking again that it is still valid.

Days can pass between a change and its last signature. Rules:

* the change must start from the channel's current version (:mod:`repo_tools.repository.channel_session`);
  one that is published already is not a fault: there is nothing to do;
* a release whose waves have started meanwhile is refused: more nodes would take it at once than the holders
  saw when they signed. Only the operator can accept that, since a signed time cannot be moved;
* a promotion is refused for the same reasons as when it was made: the release is now held or withdrawn in
  the channel that it comes from, or no longer there, or one of its images has another digest elsewhere;
* a hold is never refused for its waves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ChannelProposalError, ElapsedWavesError, NothingToFinishError, ReleaseError
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.releases.release import share
from repo_tools.repository import pending_changes
from repo_tools.repository.change_log import PROMOTE_FROM
from repo_tools.repository.channel_files import require_same_role
from repo_tools.repository.channel_session import (
    channel_holders,
    manifest_before,
    sign_or_publish,
    would_commit,
)
from repo_tools.repository.published import read_offered, require_complete
from repo_tools.repository.session import reading, writing
from repo_tools.trust import channels
from repo_tools.trust.chain import walk
from repo_tools.trust.channels import TARGETS
from repo_tools.trust.source import FolderSource
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.repository.channel_proposal import ChannelProposal
    from repo_tools.repository.pending_changes import PendingChange
    from repo_tools.repository.session import Committed, Session
    from updog.durable import Medium
    from updog.update_metadata.manifest import Update

MOST_ELAPSED = 0.01
"""How much of the fleet, as a share, a wave in progress may have opened to while the change waited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The result of finishing a change.

    Attributes:
        proposal: with all signatures. committed: what was published, or that signatures are still missing.
        others: the channel's other changes that wait; they no longer fit if this one was published.
    """

    proposal: ChannelProposal
    committed: Committed
    others: tuple[PendingChange, ...] = ()


def finish(
    folder: Path,
    copies: Sequence[ChannelProposal],
    *,
    now: datetime,
    accept_elapsed: bool = False,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Finished:
    """Publish a change that the holders of a channel have signed; available keys sign it as well.

    Args:
        folder: of the repository.
        copies: the same change, each with the signatures of some holders.
        now: the time that its waves are judged at.
        accept_elapsed: publish it although its waves have started while it waited.
        medium: everything is written through it.
        secrets: gives the passphrases of keys.

    Raises:
        ChannelProposalError: it does not fit the repository's current state, or the copies differ.
        NothingToFinishError: it is published already; its file in ``pending/`` is removed.
        ElapsedWavesError: its waves have started meanwhile.
        ReleaseError: the release could not be promoted any more.
        TargetError: a target that it lists is missing or is not what was signed.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or readable_medium(), secrets, now=now) as session:
        try:
            proposal = _judged(session, copies, now, accept_elapsed=accept_elapsed)
        except NothingToFinishError:  # the one who published it was killed before removing the file
            pending_changes.remove(folder, copies[0], session.store.medium)
            raise
        done = sign_or_publish(session, proposal, [], now)
        others = () if done.pending else pending_changes.remove(folder, proposal, session.store.medium)
        return Finished(proposal=proposal, committed=done, others=tuple(others))


def plan_finish(
    folder: Path,
    copies: Sequence[ChannelProposal],
    *,
    now: datetime,
    accept_elapsed: bool = False,
    secrets: Secrets = no_secrets,
) -> Finished:
    """Return what :func:`finish` would do. Signs in memory, takes no lock, writes nothing.

    Raises what it raises, but never RepositoryBusyError.
    """
    session = reading(folder, readable_medium(), secrets, now=now)
    proposal = _judged(session, copies, now, accept_elapsed=accept_elapsed)
    done = would_commit(session, proposal, now)
    waiting_too = [
        item
        for item in pending_changes.changes_in(folder, proposal.channel)
        if not (item.proposal and item.proposal.is_same_change(proposal))
    ]
    return Finished(proposal=proposal, committed=done, others=() if done.pending else tuple(waiting_too))


def _judged(
    session: Session, copies: Sequence[ChannelProposal], now: datetime, *, accept_elapsed: bool
) -> ChannelProposal:
    """Return the change with the signatures of all its copies, if it still does what its holders signed."""
    proposal = copies[0]
    for other in copies[1:]:
        proposal.add_signatures_of(other)
    published = session.published.channels.get(proposal.channel)
    if published is not None and published.signed == proposal.metadata.signed:
        raise NothingToFinishError(
            f"this change is published already, as {proposal.channel} version {published.signed.version}"
        )
    require_same_role(session.published, proposal, session.config.name)
    if proposal.channel in session.published.channels:
        names = channel_holders(session.published.targets.signed, proposal.role)
        proposal = replace(proposal, holders=names)
    for item in pending_changes.changes_in(session.store.folder, proposal.channel):
        if item.proposal and item.proposal.is_same_change(proposal):
            proposal.add_signatures_of(item.proposal)
    _judge(session, proposal, now, accept_elapsed=accept_elapsed)
    return proposal


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingChange:
    """A file in ``pending/``, and what keeps it from being finished, "" if only signatures are missing."""

    file: PendingChange
    standing: str

    def to_json(self) -> dict[str, Any]:
        """Return the change as ``channel pending --json`` prints it."""
        proposal = self.file.proposal
        document = proposal.to_json() if proposal else {"channel": None}
        return {
            "file": str(self.file.path),
            "fault": self.file.fault or None,
            "standing": self.standing or None,
            **document,
        }


def waiting(folder: Path, channel: str | None = None, *, now: datetime) -> list[WaitingChange]:
    """Return the changes that wait for signatures, of one channel or of all.

    Raises:
        ChannelError: there is no such channel, and no change that creates it.
        BrokenRepositoryError, MediumError: see :mod:`repo_tools.errors`.
    """
    published = require_complete(walk(FolderSource(folder)))
    files = pending_changes.changes_in(folder, channel)
    if channel and not files:
        channels.delegated_role(published.targets.signed, channel)
    versions = {name: link.signed.version for name, link in published.channels.items()}
    return [WaitingChange(file=item, standing=_standing(item, versions, now)) for item in files]


def _standing(item: PendingChange, versions: Mapping[str, int], now: datetime) -> str:
    proposal = item.proposal
    if proposal is None:
        return ""
    version, expires = versions.get(proposal.channel, 0), proposal.metadata.signed.expires
    if proposal.base != version:
        return f"outdated: it starts from version {proposal.base}; {proposal.channel} is at version {version}"
    return f"expired on {readable_time(expires)}" if expires <= now else ""


def _judge(session: Session, proposal: ChannelProposal, now: datetime, *, accept_elapsed: bool) -> None:
    """Refuse a change that no longer does what its holders signed."""
    published = session.published.channels.get(proposal.channel)
    if published is not None and published.signed.version != proposal.base:
        return  # sign_or_publish reports this
    before = manifest_before(session, proposal)
    entry = proposal.log.entries[-1]
    for update in proposal.manifest.updates:
        old = before.find(*update.key)
        if old is None:
            _require_promotable(session, proposal, update, entry.change.action)
        has_changed = old is None or (old.waves, old.hold) != (update.waves, update.hold)
        if has_changed and not accept_elapsed:
            _require_same_reach(update, entry.at, now)


def _require_same_reach(update: Update, then: datetime, now: datetime) -> None:
    """Refuse waves that have started since the change was made. Raises ElapsedWavesError."""
    if update.hold or update.version > update.max_version:
        return
    reach = float(update.waves.share_open(now)) - float(update.waves.share_open(then))
    started = [start.at for start in update.waves.starts if then < start.at <= now]
    if started or reach > MOST_ELAPSED:
        first = min((start.at for start in update.waves.starts), default=now)
        raise ElapsedWavesError(
            f"{update} would be open to {share(update, now)} of the fleet at once, not to "
            f"{share(update, then)} as when the change was made on {readable_time(then)}: its waves started "
            f"on {readable_time(first)}, while it waited for signatures"
        )


def _require_promotable(session: Session, proposal: ChannelProposal, update: Update, action: str) -> None:
    """Refuse a new release that could not be promoted or published now. Raises ReleaseError."""
    listed = proposal.metadata.signed.targets
    if missing := [name for name in update.images.values() if name not in listed]:
        raise ChannelProposalError(f"it offers {update}, but does not list {missing[0]}")
    for link in (session.published.targets, *session.published.channels.values()):
        for name in update.images.values():
            known = link.signed.targets.get(name)
            if known is not None and known.hashes != listed[name].hashes:
                raise ReleaseError(
                    f"{link.role} lists another {name} than the one that was signed for {proposal.channel}",
                    next_step="One name must not mean two contents: publish under a new version number.",
                )
    if not action.startswith(PROMOTE_FROM):
        return
    role = action.removeprefix(PROMOTE_FROM)
    channel = None if role == TARGETS else role
    if channel is not None and channel not in channels.names(session.published.targets.signed):
        raise ChannelProposalError(f"it promotes from {role!r}, which is not a channel of this repository")
    offered = read_offered(session.store.source, session.published, channel).find(*update.key)
    again = "If that was lifted on purpose, promote it again."
    if offered is None:
        raise ReleaseError(f"{update} is no longer in {role}, where it was promoted from", next_step=again)
    if offered.hold:
        because = f": {offered.hold.reason}" if offered.hold.reason else ""
        raise ReleaseError(
            f"{update} is held in {role} since {readable_time(offered.hold.since)}{because}",
            next_step="Resume it there first, or remove the file of this change.",
        )
    if offered.version > offered.max_version:
        raise ReleaseError(
            f"{update} is withdrawn in {role}", next_step="Remove the file; promote another release."
        )
