"""Channels of a repository in a folder: make one, look at them, sign and finish what waits.

Rules:

* a new channel is delegated to by the top-level targets, so their key has to be at hand;
* every key that is named is tried out before anything is signed;
* signing a file that waits needs no repository, only the file and a key of the channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools import channels, config
from repo_tools.chain import walk
from repo_tools.changes import Change
from repo_tools.channel_session import FOLDER, first_version, settle
from repo_tools.errors import ChannelError, NothingToSignError, PendingError
from repo_tools.keys import KeySource, Secrets, SignerStore, no_secrets, require_usable
from repo_tools.pending import MAX_PENDING_BYTES, Pending
from repo_tools.session import complete, read_manifest, writing
from repo_tools.signing import add_signatures
from repo_tools.source import FolderSource
from signpost.medium import OsMedium
from updog import durable
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import Key

    from repo_tools.session import Committed, Published
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class NewChannel:
    """A channel to make.

    Attributes:
        name: of it. signers: keys at hand. public_keys: of holders elsewhere.
        threshold: how many of all of them have to sign. reason: why, for the log of changes.
    """

    name: str
    signers: Sequence[KeySource] = ()
    public_keys: Sequence[Key] = ()
    threshold: int = 1
    reason: str = ""

    @property
    def keys(self) -> list[Key]:
        """All keys, none twice."""
        keys = [*(item.key for item in self.signers), *self.public_keys]
        return list({key.keyid: key for key in keys}.values())


def add(
    folder: Path,
    wanted: NewChannel,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Committed:
    """Add a channel, offering nothing yet; where signatures are missing it waits for them.

    Raises:
        ChannelError: the name is taken or none, or the threshold can never be met.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or OsMedium(), secrets) as session:
        role = channels.delegation(wanted.name, wanted.keys, wanted.threshold, first_word=session.config.name)
        targets = session.published.targets.signed
        channels.with_channel(targets, role, wanted.keys)  # refuses what can be refused
        uris = {**session.signers.uris, **{item.key.keyid: item.uri for item in wanted.signers}}
        at_hand = replace(session, signers=replace(session.signers, uris=uris))
        effects = (
            f"its manifest is {wanted.name}/manifest.json",
            f"{role.threshold} of {len(wanted.keys)} keys sign it",
        )
        change = Change(action="channel add", subject=wanted.name, effects=effects, reason=wanted.reason)
        return settle(at_hand, first_version(at_hand, role, wanted.keys, change, now), [], now)


def finish(
    folder: Path,
    pending: Pending,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Committed:
    """Publish what the holders of a channel have signed; keys at hand here sign as well.

    Raises:
        PendingError: it does not fit the repository as it is. TargetError: something it lists is not here.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or OsMedium(), secrets) as session:
        _require_own_role(session.published, pending, session.config.name)
        done = settle(session, pending, [], now)
        if done.pending is None:
            left = folder / FOLDER / pending.file_name
            if left.exists():
                session.store.medium.remove(str(left))
        return done


def _require_own_role(published: Published, pending: Pending, first_word: str) -> None:
    """Refuse a file whose keys, threshold or paths are not the channel's. Raises PendingError."""
    if pending.channel in published.channels:
        expected = channels.role(published.targets.signed, pending.channel)
    else:
        by_id = {key.keyid: key for key in pending.keys}
        keys = [by_id[keyid] for keyid in pending.role.keyids if keyid in by_id]
        for key in keys:
            require_usable(key)
        expected = channels.delegation(pending.channel, keys, pending.role.threshold, first_word=first_word)
    if pending.role != expected:
        raise PendingError(f"it speaks of other keys or paths than those {pending.channel} has here")


def load(path: Path) -> Pending:
    """Return what a file holds. Raises PendingError, ManifestError or MediumError."""
    if path.stat().st_size > MAX_PENDING_BYTES if path.is_file() else True:
        raise PendingError(f"{path} is no file of a channel's metadata")
    return Pending.from_bytes(durable.read_bytes(OsMedium(), path))


def add_signature(pending: Pending, signers: SignerStore) -> list[str]:
    """Sign what waits with the keys at hand; return their keyids. Raises ToolError."""
    before = set(pending.signed)
    mine = [key for key in pending.keys if signers.has(key.keyid)]
    if not mine:
        raise ChannelError(
            f"no key at hand is one of {pending.channel}", next_step="Name yours with --key URI."
        )
    new = [key for key in mine if key.keyid not in before]
    if not new:
        raise NothingToSignError(f"{pending.channel}: signed with every key at hand already")
    add_signatures(pending.metadata, signers, new)
    return [key.keyid for key in new]


def described(folder: Path) -> list[dict[str, Any]]:
    """Return the channels of a repository as ``--json`` prints them, the one asked first standing first.

    Raises:
        NoRepositoryError, ConfigError, BrokenRepositoryError, ManifestError: as their names say.
    """
    source = FolderSource(folder)
    published = complete(walk(source))
    signers = config.load(folder).signers
    rows = []
    for name, link in published.channels.items():
        role = channels.role(published.targets.signed, name)
        manifest = read_manifest(source, link.signed, name)
        rows.append(
            {
                "name": name,
                "threshold": role.threshold,
                "keys": [{"keyid": keyid, "at_hand": keyid in signers} for keyid in role.keyids],
                "paths": role.paths,
                "version": link.signed.version,
                "expires": format_time(link.signed.expires),
                "offers": [str(update.version) for update in manifest.updates],
            }
        )
    return rows
