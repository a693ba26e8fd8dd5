"""Which update a node installs now, and why not each of the others.

Rules:
* Only updates for the node's variant and architecture are considered.
* An update is applicable unless it failed on this node (deny-list), is withdrawn (version above
  ``max_version``), is held, has a floor above the running version, or its wave has not opened for this node's
  seed. Waves can be ignored; nothing else can.
* With ``forced``, exactly that version is chosen if it is applicable, even if it is already running.
  Otherwise, with a version lock, exactly that version, newer or older, and none once it is running. Otherwise
  the highest applicable version above the running one; if the running one is withdrawn, the highest
  applicable one of all.
* A held update is not offered to nodes that do not run it, and changes nothing for those that do.

The verdict on an update is the first reason of :data:`_REASONS` that applies; reasons that only time changes
are checked last.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from updog.update_metadata.times import readable_duration, readable_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version
    from updog.update_metadata.waves import Wave

__all__ = ["Decision", "Node", "ReleaseVerdict", "VerdictCode", "decide"]


class VerdictCode(StrEnum):
    """The verdict on one update, as a stable name for scripts."""

    CHOSEN = "chosen"
    SUPERSEDED = "superseded"
    NOT_FORCED = "not-forced"
    NOT_LOCKED = "not-locked"
    RUNNING = "running"
    OLDER = "older"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    HELD = "held"
    FLOOR = "floor"
    WAITING = "waiting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The properties of a node that the choice depends on.

    Attributes:
        variant: flavour of the operating system. arch: machine architecture.
        running: the version that runs now.
        seed: the node's place in the waves, 0 … 2047.
        version_lock: the only version to run, or None to follow the latest.
        ignore_waves: install an update before its wave opens.
        forced: the version that an operator requested, or None; takes precedence over the lock.
        denied: versions that failed on this node → when and how, to show.
    """

    variant: str
    arch: str
    running: Version
    seed: int
    version_lock: Version | None = None
    ignore_waves: bool = False
    forced: Version | None = None
    denied: Mapping[Version, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseVerdict:
    """The verdict on one update.

    Attributes:
        code: the verdict. sentence: the reason, for operators.
        ready_at: when its wave opens for this node (UTC); None if it has no waves.
    """

    update: Update
    code: VerdictCode
    sentence: str
    ready_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The choice for one node.

    Attributes:
        update: the update to install, or None. summary: why this one, or why none.
        verdicts: on every update for the node, newest first.
    """

    update: Update | None
    verdicts: tuple[ReleaseVerdict, ...]
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What a reason is decided on: one update, one node, and the current time."""

    update: Update
    node: Node
    now: datetime
    wave: Wave | None


def decide(manifest: Manifest, node: Node, now: datetime) -> Decision:
    """Return which update ``node`` installs at ``now`` (a time with a time zone), and why.

    Raises:
        SeedError: the seed is outside 0 … 2047.
    """
    verdicts = tuple(_verdict(update, node, now) for update in manifest.updates_of(node.variant, node.arch))
    chosen = next((verdict for verdict in verdicts if verdict.code is VerdictCode.CHOSEN), None)
    if chosen is None:
        return Decision(update=None, verdicts=verdicts, summary=_why_none(manifest, node, verdicts))
    verdicts = tuple(_superseded(verdict, chosen) for verdict in verdicts)
    return Decision(update=chosen.update, verdicts=verdicts, summary=chosen.sentence)


def _verdict(update: Update, node: Node, now: datetime) -> ReleaseVerdict:
    wave = update.waves.position(node.seed)
    ready_at = wave.ready_at(node.seed) if wave else None
    case = _Case(update=update, node=node, now=now, wave=wave)
    for code, reason in _REASONS:
        sentence = reason(case)
        if sentence:
            return ReleaseVerdict(update=update, code=code, sentence=sentence, ready_at=ready_at)
    sentence = _why_chosen(case) + _why_urgent(update)
    return ReleaseVerdict(update=update, code=VerdictCode.CHOSEN, sentence=sentence, ready_at=ready_at)


def _not_forced(case: _Case) -> str | None:
    forced = case.node.forced
    if forced is None or forced.names(case.update.version):
        return None
    return f"{case.update.version} is not {forced}, the requested version."


def _not_locked(case: _Case) -> str | None:
    lock = case.node.version_lock
    if case.node.forced is not None or lock is None or lock.names(case.update.version):
        return None
    return f"{case.update.version} is not {lock}, to which this node is locked."


def _running(case: _Case) -> str | None:
    if case.node.forced is not None or case.update.version != case.node.running:
        return None
    withdrawn = " and has been withdrawn" if _is_running_withdrawn(case) else ""
    return f"{case.update.version} is running on this node{withdrawn}."


def _older(case: _Case) -> str | None:
    node = case.node
    is_version_given = node.forced is not None or node.version_lock is not None
    if is_version_given or case.update.version > node.running or _is_running_withdrawn(case):
        return None
    return f"{case.update.version} is older than {node.running}, which this node runs."


def _denied(case: _Case) -> str | None:
    if case.update.version not in case.node.denied:
        return None
    failure = case.node.denied[case.update.version]
    return f"{case.update.version} failed on this node before and is on its deny-list: {failure}"


def _withdrawn(case: _Case) -> str | None:
    if case.update.version <= case.update.max_version:
        return None
    return f"{case.update.version} is withdrawn: the highest offered version is {case.update.max_version}."


def _held(case: _Case) -> str | None:
    hold = case.update.hold
    if hold is None:
        return None
    reason = f": {hold.reason}" if hold.reason else ""
    return f"{case.update.version} has been held by its publisher since {readable_time(hold.since)}{reason}."


def _below_floor(case: _Case) -> str | None:
    floor, running = case.update.floor, case.node.running
    if floor is None or running >= floor:
        return None
    return f"{case.update.version} requires {floor} or later first; this node runs {running}."


def _waiting(case: _Case) -> str | None:
    wave, seed = case.wave, case.node.seed
    if wave is None or case.node.ignore_waves or wave.ready_at(seed) <= case.now:
        return None
    if _is_running_withdrawn(case):  # an emergency: the node leaves at once for what is on offer
        return None
    ready_at = wave.ready_at(seed)
    return (
        f"{case.update.version} opens for this node (seed {seed}, wave {wave.number} of {wave.count}) on "
        f"{readable_time(ready_at)}, in {readable_duration(ready_at - case.now)}."
        f"{_why_urgent(case.update)}"
    )


_REASONS: tuple[tuple[VerdictCode, Callable[[_Case], str | None]], ...] = (
    (VerdictCode.NOT_FORCED, _not_forced),
    (VerdictCode.NOT_LOCKED, _not_locked),
    (VerdictCode.RUNNING, _running),
    (VerdictCode.OLDER, _older),
    (VerdictCode.DENIED, _denied),
    (VerdictCode.WITHDRAWN, _withdrawn),
    (VerdictCode.HELD, _held),
    (VerdictCode.FLOOR, _below_floor),
    (VerdictCode.WAITING, _waiting),
)
"""Reasons against an update in the order they are checked: requests, obstacles, what only time changes."""


def _is_running_withdrawn(case: _Case) -> bool:
    """Return whether the running version is withdrawn: above the ``max_version`` of its variant."""
    return case.node.running > case.update.max_version


def recall_reason(manifest: Manifest, node: Node, version: Version, now: datetime) -> str | None:
    """Return why ``version``, which is installed but has not run, is no longer offered; None if it is.

    A release that is withdrawn or held, or that the manifest no longer has, must not be started.
    """
    update = manifest.find(node.variant, node.arch, version)
    if update is None:
        known = manifest.updates_of(node.variant, node.arch)
        return f"{version} is no longer published." if known else None
    case = _Case(update=update, node=node, now=now, wave=None)
    return _withdrawn(case) or _held(case)


def _why_chosen(case: _Case) -> str:
    version, node = case.update.version, case.node
    if node.forced is not None:
        return f"{version} is chosen: it is the requested version."
    if node.version_lock is not None:
        return f"{version} is chosen: this node is locked to it and runs {node.running}."
    if version < node.running:
        return f"{version} is chosen: {node.running}, which this node runs, has been withdrawn."
    return f"{version} is chosen: it is the highest version open to this node, which runs {node.running}."


def _why_urgent(update: Update) -> str:
    """Return a sentence to follow another: that the publisher marked the update urgent, and why."""
    return f" Its publisher marked it urgent: {update.urgent.rstrip('.')}." if update.urgent else ""


def _superseded(verdict: ReleaseVerdict, chosen: ReleaseVerdict) -> ReleaseVerdict:
    """Return the verdict in view of ``chosen``: of all applicable updates, only that one is chosen."""
    if verdict is chosen or verdict.code is not VerdictCode.CHOSEN:
        return verdict
    sentence = f"{verdict.update.version} is also open to this node, but {chosen.update.version} is higher."
    return replace(verdict, code=VerdictCode.SUPERSEDED, sentence=sentence)


_SETTLED = frozenset({VerdictCode.NOT_FORCED, VerdictCode.NOT_LOCKED, VerdictCode.RUNNING, VerdictCode.OLDER})
"""Verdicts that do not explain why there is no update: the node already has it, or is set not to take it."""


def _why_none(manifest: Manifest, node: Node, verdicts: tuple[ReleaseVerdict, ...]) -> str:
    flavour = f"{node.variant} on {node.arch}"
    if not verdicts:
        offered = sorted({f"{update.variant} on {update.arch}" for update in manifest.updates})
        near = difflib.get_close_matches(flavour, offered, n=1)
        return f"Nothing is published for {flavour}" + (f"; the nearest is {near[0]}." if near else ".")
    if node.forced is None and node.version_lock == node.running:
        runs = _it_or(node.running, node.version_lock)
        return f"This node is locked to {node.version_lock} and runs {runs}."
    blocked = [verdict for verdict in verdicts if verdict.code not in _SETTLED]
    if blocked:
        return min(blocked, key=lambda verdict: verdict.code is not VerdictCode.WAITING).sentence
    if node.forced is not None:
        other = _other_build(node.forced, verdicts)
        return f"The requested version {node.forced} is not published for {flavour}{other}."
    if node.version_lock is not None:
        other = _other_build(node.version_lock, verdicts)
        return f"{node.version_lock}, to which this node is locked, is not published for {flavour}{other}."
    return f"This node runs {node.running}; nothing newer is published for {flavour}."


def _it_or(running: Version, lock: Version) -> str:
    """Return how to name what runs, where it is the version that the node is locked to."""
    is_it = str(running) == str(lock)
    return "it" if is_it else f"{running}, which is the same version: what follows a + is not compared"


def _other_build(asked: Version, verdicts: tuple[ReleaseVerdict, ...]) -> str:
    """Return the published build of a version of which another one is asked for, as the end of a sentence."""
    found = [verdict.update.version for verdict in verdicts if verdict.update.version == asked]
    return f", but {found[0]} is, another build of this version" if found else ""
