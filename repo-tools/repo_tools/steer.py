"""A release after publishing: other waves, hold, resume, open to all, take back.

Rules:

* every step is decided on the manifest alone, and says what it does to the fleet, before anything is
  written: a dry run and the change itself are one decision;
* a held release is invisible to the nodes that do not run it, and its clock stands still: on ``resume`` the
  waves that had not started by then, and what was left of the one under way, move by the length of the hold;
* the waves of a held release are not touched; it is resumed with others instead;
* taking back means lowering ``max_version`` to the release below: nodes above it go down to the highest
  one below that is not held. Only the newest release on offer can be taken back; an older one is passed
  over anyway;
* each step is recorded in the log of changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from repo_tools.changes import Change, one_line
from repo_tools.channel_session import writing_in
from repo_tools.effects import reach, share
from repo_tools.errors import NothingToSteerError, NothingToWithdrawError, ReleaseError
from repo_tools.keys import Secrets, no_secrets
from signpost.medium import OsMedium
from updog.update_metadata.manifest import Hold
from updog.update_metadata.times import format_time, spoken_duration, spoken_time
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from repo_tools.release import Which
    from repo_tools.session import Committed
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update

LOWEST_VERSION = Version.parse("0.0.0-0")
"""Below every version there can be (semver §11): as ``max_version`` it takes everything off offer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A decision about a release, not yet taken.

    Attributes:
        action: the command's name. manifest: as it will be.
        before: the release as it is. after: as it will be.
        effects: what that does to the fleet, a sentence each. reason: why, as it was given.
        facts: members of the JSON output that belong to this action alone.
    """

    action: str
    manifest: Manifest
    before: Update
    after: Update
    effects: tuple[str, ...]
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def change(self) -> Change:
        """The step as the log of changes has it."""
        return Change(action=self.action, subject=str(self.before), effects=self.effects, reason=self.reason)

    def to_json(self) -> dict[str, Any]:
        """Return the step as ``--json`` prints it."""
        hold = self.after.hold
        return {
            "action": self.action,
            "variant": self.after.variant,
            "arch": self.after.arch,
            "version": str(self.after.version),
            "max_version": str(self.after.max_version),
            "waves": self.after.waves.to_json(),
            "held_since": format_time(hold.since) if hold else None,
            "effects": list(self.effects),
            "reason": self.reason,
            **self.facts,
        }


Decide = Callable[["Manifest", "datetime"], Step]
"""Decide a step on a manifest at a moment. Raises ReleaseError, NothingToSteerError or ManifestError."""


def take(
    folder: Path,
    decide: Decide,
    *,
    now: datetime,
    channel: str | None = None,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[Step, Committed]:
    """Take a step in the repository in ``folder``; return it, and what came of it.

    Raises:
        ToolError: what ``decide`` raises, and ChannelError, SigningKeyError, ThresholdError,
            RepositoryBusyError, BrokenRepositoryError or MediumError.
    """
    with writing_in(folder, medium or OsMedium(), secrets, channel) as session:
        step = decide(session.manifest, now)
        return step, session.commit(step.manifest, [], now, step.change)


def hold(
    folder: Path,
    which: Which,
    *,
    now: datetime,
    reason: str = "",
    channel: str | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[Step, Committed]:
    """Hold a release back from every node that does not run it yet; see :func:`take`."""
    decide = holding(which, reason=reason)
    return take(folder, decide, now=now, channel=channel, secrets=secrets)


def holding(which: Which, *, reason: str = "") -> Decide:
    """Return the decision to hold a release back and to stop its clock."""

    def decide(manifest: Manifest, now: datetime) -> Step:
        update = which.of(manifest)
        if update.hold:
            raise NothingToSteerError(f"{update} is held already, since {spoken_time(update.hold.since)}")
        if update.version > update.max_version:
            raise NothingToSteerError(f"{update} is withdrawn: no node takes it")
        held = Hold(since=now.replace(microsecond=0), reason=one_line(reason))
        after = replace(update, hold=held)
        effects = (
            f"it was open to {share(update, now)} of the fleet: nodes that run it keep it",
            "no other node takes it until it is resumed, nodes that ignore waves included",
            _coming(update.waves, now),
        )
        return Step(
            action="hold",
            manifest=manifest.with_changed(after),
            before=update,
            after=after,
            effects=effects,
            reason=held.reason,
        )

    return decide


def _coming(waves: Waves, now: datetime) -> str:
    coming = sum(start.at > now for start in waves.starts)
    return f"{coming} of its {len(waves.starts)} waves have not started: their clock stands still"


def resuming(which: Which, *, waves: Waves | None = None, reason: str = "") -> Decide:
    """Return the decision to go on with a held release, on its shifted waves or on others."""

    def decide(manifest: Manifest, now: datetime) -> Step:
        update = which.of(manifest)
        if not update.hold:
            raise NothingToSteerError(f"{update} is not held")
        until = max(now.replace(microsecond=0), update.hold.since)
        chosen = update.waves.paused(update.hold.since, until) if waves is None else waves
        after = replace(update, hold=None, waves=chosen)
        paused = f"it was held for {spoken_duration(until - update.hold.since)}"
        clock = "its waves move by that" if waves is None else "it gets other waves"
        return Step(
            action="resume",
            manifest=manifest.with_changed(after),
            before=update,
            after=after,
            effects=(f"{paused}: {clock}", reach(after, now)),
            reason=one_line(reason),
        )

    return decide


def setting(which: Which, waves: Waves, *, reason: str = "") -> Decide:
    """Return the decision to give a release other waves."""
    return lambda manifest, now: _with_waves(
        "waves set", manifest, _not_held(which, manifest), waves, reason, now
    )


def opening(which: Which, *, reason: str = "") -> Decide:
    """Return the decision to open a release to the whole fleet at once."""

    def decide(manifest: Manifest, now: datetime) -> Step:
        update = _not_held(which, manifest)
        if update.waves.share_open(now) == 1:
            raise NothingToSteerError(f"{update} is open to the whole fleet already")
        return _with_waves("open", manifest, update, Waves(), reason, now)

    return decide


def _not_held(which: Which, manifest: Manifest) -> Update:
    update = which.of(manifest)
    if update.hold:
        raise ReleaseError(
            f"{update} is held since {spoken_time(update.hold.since)}: its waves stand still",
            next_step=f"`repo-tools waves resume {update.version} --policy …` goes on with other waves.",
        )
    return update


def _with_waves(
    action: str, manifest: Manifest, update: Update, waves: Waves, reason: str, now: datetime
) -> Step:
    after = replace(update, waves=waves)
    was = f"it was open to {share(update, now)} of the fleet: nodes that took it keep it"
    return Step(
        action=action,
        manifest=manifest.with_changed(after),
        before=update,
        after=after,
        effects=(was, reach(after, now)),
        reason=one_line(reason),
    )


def withdrawing(which: Which, *, reason: str = "") -> Decide:
    """Return the decision to take a release back.

    It raises ReleaseError where a newer release is on offer, NothingToWithdrawError where it is withdrawn.
    """

    def decide(manifest: Manifest, now: datetime) -> Step:
        del now
        update = which.of(manifest)
        _require_newest(manifest, update)
        below = [other for other in manifest.updates_of(*update.key[:2]) if other.version < update.version]
        limit = below[0].version if below else LOWEST_VERSION
        falls_to = next((other.version for other in below if not other.hold), None)
        after = replace(update, max_version=limit)
        return Step(
            action="withdraw",
            manifest=manifest.with_max_version(update.variant, update.arch, limit),
            before=update,
            after=after,
            effects=(
                f"max_version of {update.variant} on {update.arch}: {update.max_version} to {limit}",
                f"nodes above {limit} go down to {falls_to}"
                if falls_to
                else "no earlier release is on offer: nodes that run it keep it, no other node takes it",
            ),
            reason=one_line(reason),
            facts={
                "max_version": {"before": str(update.max_version), "after": str(limit)},
                "nodes_go_to": str(falls_to) if falls_to else None,
            },
        )

    return decide


def _require_newest(manifest: Manifest, update: Update) -> None:
    if update.version > update.max_version:
        raise NothingToWithdrawError(f"{update} is withdrawn already (max_version {update.max_version})")
    family = manifest.updates_of(update.variant, update.arch)
    newer = [other for other in family if update.version < other.version <= other.max_version]
    if newer:
        raise ReleaseError(
            f"{newer[0].version} is on offer above {update.version}, so nodes pass {update.version} over",
            next_step=f"If {newer[0].version} is bad as well, withdraw that first.",
        )
