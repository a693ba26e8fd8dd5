"""Promote a release from one channel to another: the second approves by signing what the first has tried.

Rules:

* no image is copied: the target channel's metadata list the same files by their present digests, and its
  manifest says what they unpack to. The holders of the first channel's keys can change neither afterwards;
* before that, every file is read and compared with what the first channel signed;
* a release that is held, withdrawn, or already in the target channel is refused;
* its waves in the target channel are its own; floor, images, deltas, the migrations that lead to it, its
  urgency and when it was first published are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ReleaseError, RolloutUnchangedError
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.releases.release import add_release, policy_named, waves_of
from repo_tools.repository.change_log import PROMOTE_FROM, Change, checked_reason
from repo_tools.repository.channel_session import writing_channel
from repo_tools.repository.published import PublishedTarget, read_offered, require_intact
from repo_tools.trust.channels import role_of

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import TargetFile, Targets

    from repo_tools.releases.release import ReleaseName
    from repo_tools.repository.session import Committed, Session
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What to promote, and how it starts.

    Attributes:
        which: the release. source: channel it is in. target: channel it goes to; None is the top level.
        waves: a policy as `publish` takes it; empty for the one in repo.toml.
        start_at: when the waves start; None for now. reason: why, for the log of changes.
    """

    which: ReleaseName
    source: str | None
    target: str | None
    waves: str = ""
    start_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What promoting does.

    Attributes:
        promotion: what was requested. update: the release as the target channel offers it.
        targets: name → what is listed there from now on. effects: on the fleet, one sentence each.
        manifest: of the target channel, as it will be.
    """

    promotion: Promotion
    update: Update
    targets: dict[str, TargetFile]
    effects: tuple[str, ...]
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "variant": self.update.variant,
            "arch": self.update.arch,
            "version": str(self.update.version),
            "from": role_of(self.promotion.source),
            "to": role_of(self.promotion.target),
            "waves": self.update.waves.to_json(),
            "urgent": self.update.urgent or None,
            "targets": [
                {"name": name, "length": item.length, "sha256": item.hashes["sha256"]}
                for name, item in sorted(self.targets.items())
            ],
            "effects": list(self.effects),
            "reason": self.promotion.reason,
        }


def promote(
    folder: Path,
    promotion: Promotion,
    *,
    now: datetime,
    dry_run: bool = False,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[Promoted, Committed | None]:
    """Promote a release; return what that does, and what was committed, None for a dry run.

    Raises:
        ToolError: ReleaseError, ChannelError, TargetError, PolicyError, SigningKeyError, ThresholdError,
            RepositoryBusyError, BrokenRepositoryError or MediumError; nothing was changed.
    """
    with writing_channel(folder, medium or readable_medium(), secrets, promotion.target, now=now) as session:
        promoted = _decided(session, promotion, now)
        files = [PublishedTarget.of(name, listed) for name, listed in promoted.targets.items()]
        require_intact(folder, files)
        if dry_run:
            return promoted, None
        change = Change(
            action=f"{PROMOTE_FROM}{role_of(promotion.source)}",
            subject=str(promoted.update),
            effects=promoted.effects,
            reason=checked_reason(promotion.reason),
        )
        return promoted, session.commit(promoted.manifest, [], now, change, listed=promoted.targets)


def _decided(session: Session, promotion: Promotion, now: datetime) -> Promoted:
    if promotion.source == promotion.target:
        raise ReleaseError("--from and --to are the same channel", next_step="Name two channels.")
    source_targets = session.published.targets_of(promotion.source)
    source = read_offered(session.store.source, session.published, promotion.source)
    update = _offered(promotion, source)
    old = session.manifest.find(*update.key)
    if old and old.version <= old.max_version:
        raise RolloutUnchangedError(
            f"{update} is already in {role_of(promotion.target)}",
            next_step="`repo-tools waves set` changes its waves.",
        )
    waves = waves_of(policy_named(promotion.waves or session.config.waves), promotion.start_at or now)
    added = add_release(session.manifest, replace(update, waves=waves, max_version=update.version))
    # The migrations that lead to the release, or to one below it, go with it.
    migrations = {pair: names for pair, names in source.migrations.items() if pair[1] <= update.version}
    manifest = replace(added.manifest, migrations={**added.manifest.migrations, **migrations})
    names = [
        *update.images.values(),
        *(update.packs.targets() if update.packs else ()),
        *(name for moved in migrations.values() for name in moved),
    ]
    return Promoted(
        promotion=promotion,
        update=added.update,
        targets=_listed(source_targets, session.current_targets, names, promotion),
        effects=added.effects(now, on=f"nodes of {role_of(promotion.target)}"),
        manifest=manifest,
    )


def _offered(promotion: Promotion, source: Manifest) -> Update:
    update = promotion.which.of(source)
    where = role_of(promotion.source)
    if update.hold:
        raise ReleaseError(f"{update} is held in {where}", next_step="Resume it there first.")
    if update.version > update.max_version:
        raise ReleaseError(f"{update} is withdrawn in {where}", next_step="Promote another release.")
    return update


def _listed(
    source: Targets, target: Targets, names: list[str], promotion: Promotion
) -> dict[str, TargetFile]:
    """Return how the source lists these names. Raises ReleaseError."""
    listed: dict[str, TargetFile] = {}
    for name in names:
        if name not in source.targets:
            raise ReleaseError(f"{role_of(promotion.source)} does not list {name}")
        known = target.targets.get(name)
        if known is not None and known.hashes != source.targets[name].hashes:
            raise ReleaseError(
                f"{role_of(promotion.target)} has approved another {name}: of SHA-256 "
                f"{known.hashes.get('sha256')}, not {source.targets[name].hashes.get('sha256')}",
                next_step="One name must not mean two contents: publish under a new version number.",
            )
        listed[name] = source.targets[name]
    return listed
