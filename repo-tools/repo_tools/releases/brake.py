"""The brake of a channel: a key of its own that can hold a release at once, and nothing else.

The engineer on duty, or the guard, cannot stop a channel that several holders sign. Its brake can: a role of
its own (:mod:`updog.update_metadata.holds`), signed by one key. Rules:

* a brake holds a release for the nodes of its channel, or releases what it holds itself; it cannot offer,
  open or withdraw anything, and a hold that the channel's holders have signed stays;
* adding and removing a brake needs the targets key; holding needs a key of the brake, and the online keys of
  snapshot and timestamp;
* it does not pause the waves: only the channel's keys can move those;
* it is valid as long as a root, because its key signs seldom; an expired brake holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import DelegatedRole

from repo_tools import config
from repo_tools.errors import ChannelError, RolloutUnchangedError
from repo_tools.keys.given import GivenKeys
from repo_tools.keys.holders import FIELD, holder_names
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.keys.signing import sign
from repo_tools.readable import readable_medium
from repo_tools.releases.release import reach_sentence, share
from repo_tools.releases.rollout import Decide, RolloutStep, new_hold
from repo_tools.repository import editor
from repo_tools.repository.change_log import HOLD
from repo_tools.repository.published import read_holds, read_manifest, require_complete
from repo_tools.repository.session import (
    BRAKE_EXPIRY,
    Committed,
    Session,
    reading,
    target_files,
    versions_of,
    writing,
)
from repo_tools.trust import channels
from repo_tools.trust.chain import walk
from repo_tools.trust.channels import TARGETS, role_of
from repo_tools.trust.source import FolderSource
from updog.update_metadata.holds import Holds, ReleaseHold, brake_role, holds_name
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Delegations, Targets

    from repo_tools.releases.release import ReleaseName
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update


@dataclass(frozen=True, kw_only=True, slots=True)
class NewBrake(GivenKeys):
    """A brake to add, and its keys, one of which is enough to hold. At least one must be available.

    Attributes:
        channel: the channel; None for the top-level releases.
    """

    channel: str | None


def add(
    folder: Path,
    wanted: NewBrake,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Committed:
    """Add a brake that holds nothing yet.

    Raises:
        ChannelError: there is no such channel, it has a brake, none of the keys is available, or a holder's
            name is not one.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or readable_medium(), secrets, now=now) as session:
        targets, role = session.published.targets.signed, brake_role(wanted.channel)
        session.published.targets_of(wanted.channel)
        if role in channels.brakes(targets):
            raise ChannelError(
                f"{role_of(wanted.channel)} already has a brake", next_step="See `repo-tools brake show`."
            )
        if not wanted.signers:
            raise ChannelError(
                "a brake needs a key that is available here", next_step="Name one with --signer URI."
            )
        holders = wanted.holders()
        signers = session.signers.with_uris({**session.signers.uris, **wanted.uris})
        session = replace(session, signers=signers)  # noqa: PLW2901 - the same one
        delegated = DelegatedRole(
            role,
            [key.keyid for key in wanted.keys],
            threshold=1,
            terminating=True,
            paths=[holds_name(wanted.channel)],
        )
        delegations = channels.with_brake(targets, delegated, wanted.keys)
        names = {holder.key.keyid: holder.name for holder in holders if holder.name}
        draft = _top_level(session, delegations, now, names)
        files = _files(wanted.channel, Holds())
        first = editor.targets_after(
            None,
            target_files(files),
            version=1 + session.store.highest_version(role),
            expires=session.expiry(BRAKE_EXPIRY, now),
        )
        signed = {
            role: session.signed_delegated(first, role, draft),
            TARGETS: (draft.version, sign(draft, session.signers, session.published.root.signed)),
        }
        return session.publish_signed(signed, files, [], now)


def remove(
    folder: Path,
    channel: str | None,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Committed:
    """Remove a brake, and with it all its holds, with the targets key.

    Raises:
        ChannelError: there is no such brake.
        ToolError: ThresholdError, SigningKeyError, RepositoryBusyError, BrokenRepositoryError, MediumError.
    """
    with writing(folder, medium or readable_medium(), secrets, now=now) as session:
        role = _require_brake(session, channel)
        draft = _top_level(session, channels.without_brake(session.published.targets.signed, role), now, {})
        signed = sign(draft, session.signers, session.published.root.signed)
        return session.publish_signed({TARGETS: (draft.version, signed)}, {}, [], now)


def hold(
    folder: Path,
    which: ReleaseName,
    *,
    channel: str | None,
    now: datetime,
    reason: str = "",
    secrets: Secrets = no_secrets,
) -> tuple[RolloutStep, Committed]:
    """Hold a release with the channel's brake; return the step, and what was committed.

    Raises:
        RolloutUnchangedError: it is held or withdrawn already.
        ToolError: ReleaseError, ChannelError, ThresholdError, SigningKeyError, RepositoryBusyError,
            BrokenRepositoryError or MediumError; nothing was changed.
    """
    with writing(folder, readable_medium(), secrets, now=now) as session:
        step, holds = _with_hold(session, which, channel, now, reason)
        return step, _change(session, channel, holds, now)


def plan_hold(
    folder: Path,
    which: ReleaseName,
    *,
    channel: str | None,
    now: datetime,
    reason: str = "",
    secrets: Secrets = no_secrets,
) -> tuple[RolloutStep, Committed]:
    """Return what :func:`hold` would do. Signs in memory, takes no lock, writes nothing.

    Raises what it raises, but never RepositoryBusyError.
    """
    session = reading(folder, readable_medium(), secrets, now=now)
    step, holds = _with_hold(session, which, channel, now, reason)
    return step, _would_change(session, channel, holds, now)


def _with_hold(
    session: Session, which: ReleaseName, channel: str | None, now: datetime, reason: str
) -> tuple[RolloutStep, Holds]:
    """Return the step that holds a release, and what the brake holds after it."""
    holds, manifest = _holds_and_manifest(session, channel)
    step = holding(which, reason=reason)(holds.applied_to(manifest), now)
    after = step.after
    if after.hold is None:  # never: it is what the step does
        raise RolloutUnchangedError(f"{after} is not held")
    held = ReleaseHold(variant=after.variant, arch=after.arch, version=after.version, hold=after.hold)
    return step, holds.with_hold(held)


def release(
    folder: Path,
    which: ReleaseName,
    *,
    channel: str | None,
    now: datetime,
    secrets: Secrets = no_secrets,
) -> tuple[RolloutStep, Committed]:
    """Release what the channel's brake holds; a hold of the channel's own keys stays.

    Raises:
        RolloutUnchangedError: the brake does not hold it.
        ToolError: as for :func:`hold`.
    """
    with writing(folder, readable_medium(), secrets, now=now) as session:
        step, holds = _without_hold(session, which, channel, now)
        return step, _change(session, channel, holds, now)


def plan_release(
    folder: Path,
    which: ReleaseName,
    *,
    channel: str | None,
    now: datetime,
    secrets: Secrets = no_secrets,
) -> tuple[RolloutStep, Committed]:
    """Return what :func:`release` would do. Signs in memory, takes no lock, writes nothing.

    Raises what it raises, but never RepositoryBusyError.
    """
    session = reading(folder, readable_medium(), secrets, now=now)
    step, holds = _without_hold(session, which, channel, now)
    return step, _would_change(session, channel, holds, now)


def _without_hold(
    session: Session, which: ReleaseName, channel: str | None, now: datetime
) -> tuple[RolloutStep, Holds]:
    """Return the step that releases what the brake holds, and what the brake holds after it."""
    holds, manifest = _holds_and_manifest(session, channel)
    step = releasing(which, holds)(manifest, now)
    return step, holds.without(step.after.key)


def holding(which: ReleaseName, *, reason: str = "") -> Decide:
    """Return the decision to hold a release with the brake; the manifest has the brake's holds already."""

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = which.of(manifest)
        after = replace(update, hold=new_hold(update, now, reason))
        effects = (
            f"it was open to {share(update, now)} of the fleet: nodes that run it keep it",
            "no other node takes it until it is released; Bottlerocket's own updog does not know brakes",
            "its waves go on: to go on slowly afterwards, let the channel's holders hold and resume it",
        )
        return _step(HOLD, manifest, update, after, effects, reason)

    return decide


def releasing(which: ReleaseName, holds: Holds) -> Decide:
    """Return the decision to release what the brake holds."""

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = which.of(manifest)
        held = holds.find(update.key)
        if held is None:
            by = "; its channel's own keys hold it" if update.hold else ""
            raise RolloutUnchangedError(f"the brake does not hold {update}{by}")
        before = replace(update, hold=update.hold or held.hold)
        own = "its channel's own keys still hold it" if update.hold else reach_sentence(update, now)
        return _step("release", manifest, before, update, (own,), "")

    return decide


def _step(
    action: str, manifest: Manifest, before: Update, after: Update, effects: tuple[str, ...], reason: str
) -> RolloutStep:
    return RolloutStep(
        action=f"brake {action}",
        manifest=manifest,
        before=before,
        after=after,
        effects=effects,
        reason=reason,
    )


def can_hold(folder: Path, channel: str | None) -> bool:
    """Return whether a hold needs the brake: it has a key here, and the channel lacks keys for its threshold.

    Without a channel: the brake of the top-level releases, which the targets role signs.

    Raises:
        ConfigError, ChannelError, BrokenRepositoryError, MediumError: see :mod:`repo_tools.errors`.
    """
    published = require_complete(walk(FolderSource(folder)))
    published.targets_of(channel)
    uris = config.load(folder).signers
    role = brake_role(channel)
    if role not in published.brakes:
        return False
    targets = published.targets.signed
    own = channels.delegated_role(targets, channel) if channel else published.root.signed.roles[TARGETS]
    available = sum(keyid in uris for keyid in own.keyids)
    brake = channels.delegated_role(targets, role)
    return available < own.threshold and any(keyid in uris for keyid in brake.keyids)


def describe_brakes(folder: Path) -> list[dict[str, Any]]:
    """Return the brakes of a repository as ``--json`` prints them.

    Raises:
        NoRepositoryError, ConfigError, BrokenRepositoryError, ManifestError: see :mod:`repo_tools.errors`.
    """
    source = FolderSource(folder)
    published = require_complete(walk(source))
    targets, uris = published.targets.signed, config.load(folder).signers
    names = holder_names(targets)
    rows = []
    for channel in (None, *channels.names(targets)):
        link = published.brakes.get(brake_role(channel))
        if link is None:
            continue
        rows.append(
            {
                "channel": channel,
                "role": link.role,
                "version": link.signed.version,
                "expires": format_time(link.signed.expires),
                "keys": [
                    {"keyid": key.keyid, "holder": names.get(key.keyid), "at_hand": key.keyid in uris}
                    for key in channels.keys(targets, link.role)
                ],
                "holds": [item.to_json() for item in read_holds(source, published, channel).releases],
            }
        )
    return rows


def _require_brake(session: Session, channel: str | None) -> str:
    session.published.targets_of(channel)
    role = brake_role(channel)
    if role not in session.published.brakes:
        option = f" --channel {channel}" if channel else ""
        raise ChannelError(
            f"{role_of(channel)} has no brake",
            next_step=f"Add one: `repo-tools brake add{option} --signer URI`.",
        )
    return role


def _holds_and_manifest(session: Session, channel: str | None) -> tuple[Holds, Manifest]:
    _require_brake(session, channel)
    source = session.store.source
    manifest = read_manifest(source, session.published.targets_of(channel), channel)
    return read_holds(source, session.published, channel), manifest


def _files(channel: str | None, holds: Holds) -> dict[str, bytes]:
    return {holds_name(channel): holds.to_json()}


def _top_level(
    session: Session, delegations: Delegations, now: datetime, names: Mapping[str, str]
) -> Targets:
    """Return the next top-level targets with these delegations and holders' names, unsigned."""
    draft = session.next_targets(TARGETS, now, {}, delegations)
    if all_names := {**holder_names(draft), **names}:
        draft.unrecognized_fields[FIELD] = all_names
    return draft


def _change(session: Session, channel: str | None, holds: Holds, now: datetime) -> Committed:
    """Publish what a brake holds from now on."""
    return session.publish_signed(_signed(session, channel, holds, now), _files(channel, holds), [], now)


def _would_change(session: Session, channel: str | None, holds: Holds, now: datetime) -> Committed:
    """Return what :func:`_change` would sign. Writes nothing."""
    signed = _signed(session, channel, holds, now)
    return Committed(versions=versions_of(session.signed_with_snapshots(signed, now)))


def _signed(
    session: Session, channel: str | None, holds: Holds, now: datetime
) -> dict[str, tuple[int, bytes]]:
    """Return the brake's next metadata, signed. Raises ThresholdError or SigningKeyError."""
    role = brake_role(channel)
    draft = session.next_targets(role, now, target_files(_files(channel, holds)))
    return {role: session.signed_delegated(draft, role, session.published.targets.signed)}
