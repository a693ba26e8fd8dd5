"""Channels of a repository in a folder: add one, describe them, sign channel proposals.

Rules:

* the top-level targets delegate to a new channel, so their key must be available;
* every given key is tested before anything is signed;
* signing a channel proposal needs no repository, only the file and a key of the channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools import config
from repo_tools.errors import ChannelError, ChannelProposalError, NothingToSignError
from repo_tools.keys.given import GivenKeys
from repo_tools.keys.signers import Secrets, SignerStore, no_secrets, require_usable
from repo_tools.keys.signing import add_signatures
from repo_tools.readable import readable_medium
from repo_tools.repository.change_log import Change
from repo_tools.repository.channel_session import (
    channel_holders,
    first_proposal,
    sign_or_publish,
    would_commit,
)
from repo_tools.repository.published import MANIFEST, read_manifest, require_complete
from repo_tools.repository.session import reading, writing
from repo_tools.trust import channels
from repo_tools.trust.chain import walk
from repo_tools.trust.channels import target_name
from repo_tools.trust.source import FolderSource
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from repo_tools.repository.channel_proposal import ChannelProposal
    from repo_tools.repository.published import Published
    from repo_tools.repository.session import Committed, Session
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class NewChannel(GivenKeys):
    """A channel to add, and its keys.

    Attributes:
        name: of the channel. threshold: how many of its keys must sign. reason: why, for the log of changes.
    """

    name: str
    threshold: int = 1
    reason: str = ""


def add(
    folder: Path,
    wanted: NewChannel,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Committed:
    """Add a channel that offers nothing yet; if signatures are missing, write a channel proposal.

    Raises:
        ChannelError: the name is in use or not allowed, or the threshold can never be met.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or readable_medium(), secrets, now=now) as session:
        session_with_keys, proposal = _new_channel(session, wanted, now)
        return sign_or_publish(session_with_keys, proposal, [], now)


def plan_add(folder: Path, wanted: NewChannel, *, now: datetime, secrets: Secrets = no_secrets) -> Committed:
    """Return what :func:`add` would do. Signs in memory, takes no lock, writes nothing.

    Raises what it raises, but never RepositoryBusyError.
    """
    session = reading(folder, readable_medium(), secrets, now=now)
    session_with_keys, proposal = _new_channel(session, wanted, now)
    return would_commit(session_with_keys, proposal, now)


def _new_channel(session: Session, wanted: NewChannel, now: datetime) -> tuple[Session, ChannelProposal]:
    """Return a session that also has the given keys, and the unsigned first metadata of the channel."""
    role = channels.delegation(wanted.name, wanted.keys, wanted.threshold, first_word=session.config.name)
    targets = session.published.targets.signed
    channels.with_channel(targets, role, wanted.keys)  # refuses a name in use
    signers = session.signers.with_uris({**session.signers.uris, **wanted.uris})
    session_with_keys = replace(session, signers=signers)
    effects = (
        f"its manifest is {target_name(wanted.name, MANIFEST)}",
        f"{role.threshold} of {len(wanted.keys)} keys sign it",
    )
    change = Change(action="channel add", subject=wanted.name, effects=effects, reason=wanted.reason)
    return session_with_keys, first_proposal(session_with_keys, role, wanted.holders(), change, now)


def require_same_role(published: Published, proposal: ChannelProposal, first_word: str) -> None:
    """Refuse a file with other keys, threshold or paths than the channel's. Raises ChannelProposalError."""
    if proposal.channel in published.channels:
        expected = channels.delegated_role(published.targets.signed, proposal.channel)
    else:
        by_id = {key.keyid: key for key in proposal.keys}
        keys = [by_id[keyid] for keyid in proposal.role.keyids if keyid in by_id]
        for key in keys:
            require_usable(key)
        expected = channels.delegation(proposal.channel, keys, proposal.role.threshold, first_word=first_word)
    if proposal.role != expected:
        raise ChannelProposalError(
            f"its keys, threshold or paths are not those of {proposal.channel} in this repository"
        )


def add_signature(proposal: ChannelProposal, signers: SignerStore) -> list[str]:
    """Sign a proposal with the available keys; return their keyids. Raises ToolError."""
    before = set(proposal.signed)
    available = [key for key in proposal.keys if signers.has(key.keyid)]
    if not available:
        raise ChannelError(
            f"none of the available keys is a key of {proposal.channel}",
            next_step="Name your key with --key URI.",
        )
    new = [key for key in available if key.keyid not in before]
    if not new:
        raise NothingToSignError(f"{proposal.channel} is already signed with every available key")
    add_signatures(proposal.metadata, signers, new)
    signers.raise_failed(new)
    return [key.keyid for key in new]


def describe_channels(folder: Path) -> list[dict[str, Any]]:
    """Return the channels of a repository as ``--json`` prints them, in the order in which clients search.

    Raises:
        NoRepositoryError, ConfigError, BrokenRepositoryError, ManifestError: see :mod:`repo_tools.errors`.
    """
    source = FolderSource(folder)
    published = require_complete(walk(source))
    signers = config.load(folder).signers
    rows = []
    for name, link in published.channels.items():
        role = channels.delegated_role(published.targets.signed, name)
        manifest = read_manifest(source, link.signed, name)
        names = channel_holders(published.targets.signed, role)
        rows.append(
            {
                "name": name,
                "threshold": role.threshold,
                "keys": [
                    {"keyid": keyid, "holder": names.get(keyid), "at_hand": keyid in signers}
                    for keyid in role.keyids
                ],
                "paths": role.paths,
                "version": link.signed.version,
                "expires": format_time(link.signed.expires),
                "offers": [str(update.version) for update in manifest.updates],
            }
        )
    return rows
