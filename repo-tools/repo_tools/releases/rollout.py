"""A release after publishing: set its waves, hold it, resume it, open it to all, mark it, withdraw it.

Rules:

* every step is decided on the manifest alone, and says what it does to the fleet before anything is written:
  a dry run and the change itself use the same decision;
* nodes that do not run a held release do not see it, and its wave schedule is paused: ``resume`` moves the
  waves that had not started, and the rest of the one in progress, by the length of the hold;
* the waves of a held release are not changed; ``resume`` can give it others instead;
* withdrawing lowers ``max_version`` to the release below: nodes above it go back to the highest release
  below that is not held. Only the newest release on offer can be withdrawn; nodes skip an older one anyway;
* a release that is marked urgent is not opened by that: its waves, a hold and its floor count as before;
* a release that loses its waves is as old as before: it counts as published when the first of them opened, if
  that is later than it was;
* a step for all variants and architectures of a version is one change: done for all of them, or for none;
* each step is recorded in the log of changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from repo_tools.errors import NothingToWithdrawError, ReleaseError, RolloutUnchangedError
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.releases.release import cautions, reach_sentence, share, urgent_sentence
from repo_tools.repository.change_log import HOLD, Change, checked_reason, checked_urgent
from repo_tools.repository.channel_session import writing_channel
from updog.update_metadata.manifest import Hold
from updog.update_metadata.times import format_time, readable_duration, readable_time
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from repo_tools.releases.release import ReleaseName
    from repo_tools.repository.session import Committed
    from signpost.errors import ToolError
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update

LOWEST_VERSION = Version.parse("0.0.0-0")
"""Lower than any other version (semver §11): as ``max_version`` it withdraws everything."""

TAKEN_BACK = "nodes that installed it and were not restarted yet take it back at their next check"
"""What a hold and a withdrawal do where the release is installed but has not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutStep:
    """A decision about a release that is not carried out yet.

    Attributes:
        action: the command's name. manifest: as it will be.
        before: the release as it is. after: as it will be.
        effects: what that does to the fleet, one sentence each. reason: why, as it was given.
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
    def releases(self) -> tuple[Update, ...]:
        """The release that changes, as it will be."""
        return (self.after,)

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
            "urgent": self.after.urgent or None,
            "effects": list(self.effects),
            "reason": self.reason,
            **self.facts,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSteps:
    """The same step for several releases of one version, carried out as one change.

    Attributes:
        steps: at least one, each on the manifest that the one before it leaves.
        unchanged: why the other releases of the version stay as they are, one sentence each.
    """

    steps: tuple[RolloutStep, ...]
    unchanged: tuple[str, ...] = ()

    @property
    def releases(self) -> tuple[Update, ...]:
        """The releases that change, as they will be."""
        return tuple(step.after for step in self.steps)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it will be."""
        return self.steps[-1].manifest

    @property
    def change(self) -> Change:
        """The steps as the log of changes has them: one entry."""
        effects = [
            f"{step.before.variant} on {step.before.arch}: {effect}"
            for step in self.steps
            for effect in step.effects
        ]
        first = self.steps[0]
        return Change(
            action=first.action,
            subject=", ".join(str(step.before) for step in self.steps),
            effects=tuple(effects),
            reason=first.reason,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the steps as ``--json`` prints them."""
        first = self.steps[0]
        return {
            "action": first.action,
            "version": str(first.after.version),
            "releases": [step.to_json() for step in self.steps],
            "unchanged": list(self.unchanged),
            "reason": first.reason,
        }


_StepT = TypeVar("_StepT", RolloutStep, RolloutSteps)
Decide = Callable[["Manifest", "datetime"], RolloutStep]
"""Decide a step on a manifest at a moment. Raises ReleaseError, NothingToSteerError or ManifestError."""


def for_all(which: ReleaseName, decision: Callable[[ReleaseName], Decide]) -> Callable[..., RolloutSteps]:
    """Return the decision to take a step for every variant and architecture that ``which`` matches.

    A release that is in the requested state already stays as it is. The decision raises UnpublishedError if
    nothing matches, and what a single decision raises: then nothing is done for any of them.
    """

    def decide(manifest: Manifest, now: datetime) -> RolloutSteps:
        names = which.matches(manifest)
        if not names:
            raise which.unpublished(manifest)
        steps: list[RolloutStep] = []
        unchanged: list[ToolError] = []
        for name in names:
            try:
                steps.append(decision(name)(steps[-1].manifest if steps else manifest, now))
            except (RolloutUnchangedError, NothingToWithdrawError) as error:
                unchanged.append(error)
        if not steps:
            raise unchanged[0]
        return RolloutSteps(steps=tuple(steps), unchanged=tuple(error.message for error in unchanged))

    return decide


def take(
    folder: Path,
    decide: Callable[[Manifest, datetime], _StepT],
    *,
    now: datetime,
    channel: str | None = None,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[_StepT, Committed]:
    """Carry out a step in the repository in ``folder``; return it, and what was committed.

    Raises:
        ToolError: what ``decide`` raises, and ChannelError, SigningKeyError, ThresholdError,
            RepositoryBusyError, BrokenRepositoryError or MediumError.
    """
    with writing_channel(folder, medium or readable_medium(), secrets, channel, now=now) as session:
        step = decide(session.manifest, now)
        return step, session.commit(step.manifest, [], now, step.change)


def hold(
    folder: Path,
    which: ReleaseName,
    *,
    now: datetime,
    reason: str = "",
    channel: str | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[RolloutStep, Committed]:
    """Hold a release back from every node that does not run it yet; see :func:`take`."""
    decide = holding(which, reason=reason)
    return take(folder, decide, now=now, channel=channel, secrets=secrets)


def new_hold(update: Update, now: datetime, reason: str) -> Hold:
    """Return the hold of a release from ``now`` on. Raises RolloutUnchangedError if no node takes it."""
    if update.hold:
        raise RolloutUnchangedError(f"{update} is held already, since {readable_time(update.hold.since)}")
    if update.version > update.max_version:
        raise RolloutUnchangedError(f"{update} is withdrawn: no node takes it")
    return Hold(since=now.replace(microsecond=0), reason=checked_reason(reason))


def holding(which: ReleaseName, *, reason: str = "") -> Decide:
    """Return the decision to hold a release back and to pause its wave schedule."""

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = which.of(manifest)
        held = new_hold(update, now, reason)
        after = replace(update, hold=held)
        paused = sum(start.at > now for start in update.waves.starts)
        effects = (
            f"it was open to {share(update, now)} of the fleet: nodes that run it keep it",
            "no other node takes it until it is resumed, not even nodes that ignore waves",
            TAKEN_BACK,
            f"{paused} of its {len(update.waves.starts)} waves have not started: they are paused",
        )
        return RolloutStep(
            action=HOLD,
            manifest=manifest.with_changed(after),
            before=update,
            after=after,
            effects=effects,
            reason=held.reason,
        )

    return decide


def resuming(which: ReleaseName, *, waves: Waves | None = None, reason: str = "") -> Decide:
    """Return the decision to resume a held release, with its waves moved or with others."""

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = which.of(manifest)
        if not update.hold:
            raise RolloutUnchangedError(f"{update} is not held")
        until = max(now.replace(microsecond=0), update.hold.since)
        chosen = update.waves.paused(update.hold.since, until) if waves is None else waves
        after = _with_other_waves(replace(update, hold=None), chosen, now)
        paused = f"it was held for {readable_duration(until - update.hold.since)}"
        clock = "its waves move by that" if waves is None else "it gets other waves"
        return RolloutStep(
            action="resume",
            manifest=manifest.with_changed(after),
            before=update,
            after=after,
            effects=(f"{paused}: {clock}", reach_sentence(after, now)),
            reason=checked_reason(reason),
        )

    return decide


def setting(which: ReleaseName, waves: Waves, *, reason: str = "") -> Decide:
    """Return the decision to give a release other waves."""
    return lambda manifest, now: _with_waves(
        "waves set", manifest, _not_held(which, manifest), waves, reason, now
    )


def opening(which: ReleaseName, *, reason: str = "") -> Decide:
    """Return the decision to open a release to the whole fleet at once."""

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = _not_held(which, manifest)
        if update.waves.share_open(now) == 1:
            raise RolloutUnchangedError(f"{update} is open to the whole fleet already")
        return _with_waves("open", manifest, update, Waves(), reason, now)

    return decide


def _not_held(which: ReleaseName, manifest: Manifest) -> Update:
    update = which.of(manifest)
    if update.hold:
        raise ReleaseError(
            f"{update} is held since {readable_time(update.hold.since)}: its waves are paused",
            next_step=f"`repo-tools waves resume {update.version} --waves …` goes on with other waves.",
        )
    return update


def _with_waves(
    action: str, manifest: Manifest, update: Update, waves: Waves, reason: str, now: datetime
) -> RolloutStep:
    after = _with_other_waves(update, waves, now)
    was = f"it was open to {share(update, now)} of the fleet: nodes that took it keep it"
    return RolloutStep(
        action=action,
        manifest=manifest.with_changed(after),
        before=update,
        after=after,
        effects=(was, reach_sentence(after, now), *cautions(after, now)),
        reason=checked_reason(reason),
    )


def _with_other_waves(update: Update, waves: Waves, now: datetime) -> Update:
    """Return a release with these waves; where it loses all of them, with the time of the first one."""
    if waves.starts or not update.waves.starts:
        return replace(update, waves=waves)
    opened = min(now.replace(microsecond=0), *(start.at for start in update.waves.starts))
    return replace(update, waves=waves, published=max(opened, update.published or opened))


def marking(which: ReleaseName, urgent: str, *, reason: str = "") -> Decide:
    """Return the decision to mark a release urgent because of ``urgent``; empty: not urgent any more.

    It raises UsageError where nodes would not accept the sentence.
    """

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        update = which.of(manifest)
        if update.urgent == urgent:
            raise RolloutUnchangedError(
                f"{update} is marked urgent for this reason already" if urgent else f"{update} is not urgent"
            )
        if urgent and update.version > update.max_version:
            raise RolloutUnchangedError(f"{update} is withdrawn: no node takes it")
        after = replace(update, urgent=checked_urgent(urgent) if urgent else "")
        effects = (
            urgent_sentence(after) if urgent else "nodes pass no gates for it any more",
            *((f"it was urgent: {update.urgent}",) if update.urgent else ()),
            reach_sentence(after, now),
        )
        return RolloutStep(
            action="mark urgent" if urgent else "mark not-urgent",
            manifest=manifest.with_changed(after),
            before=update,
            after=after,
            effects=effects,
            reason=checked_reason(reason),
        )

    return decide


def withdrawing(which: ReleaseName, *, reason: str = "") -> Decide:
    """Return the decision to withdraw a release.

    It raises ReleaseError where a newer release is on offer, NothingToWithdrawError where it is withdrawn.
    """

    def decide(manifest: Manifest, now: datetime) -> RolloutStep:
        del now
        update = which.of(manifest)
        _require_newest(manifest, update)
        below = [other for other in manifest.updates_of(*update.key[:2]) if other.version < update.version]
        limit = below[0].version if below else LOWEST_VERSION
        falls_to = next((other.version for other in below if not other.hold), None)
        after = replace(update, max_version=limit)
        return RolloutStep(
            action="withdraw",
            manifest=manifest.with_max_version(update.variant, update.arch, limit),
            before=update,
            after=after,
            effects=(
                f"max_version of {update.variant} on {update.arch}: {update.max_version} to {limit}",
                f"nodes above {limit} go back to {falls_to} at their next check, whatever its waves say"
                if falls_to
                else "no earlier release is on offer: nodes that run it keep it, no other node takes it",
                TAKEN_BACK,
            ),
            reason=checked_reason(reason),
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
            f"{newer[0].version} is on offer above {update.version}, so nodes skip {update.version}",
            next_step=f"If {newer[0].version} is bad as well, withdraw that first.",
        )
