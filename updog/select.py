"""Which update a node takes now, and for every other one why not.

Rules:
* Only updates of the node's variant and architecture are looked at.
* An update is applicable unless it failed here (deny-list), is withdrawn (version above ``max_version``), is
  held, has a floor above the running version, or its wave has not opened for this node's seed. Waves can be
  ignored; nothing else can.
* ``forced`` takes exactly that applicable version, be it the running one. Otherwise a version lock takes
  exactly that one, up or down, and nothing once it runs. Otherwise the highest applicable version above the
  running one is taken; where the running one is withdrawn, the highest applicable one at all.
* A held update is invisible to nodes that do not run it, and changes nothing for those that do.

The verdict on an update is the first reason of :data:`_REASONS` that applies; the last things asked are those
that time alone will change.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from updog.update_metadata.times import spoken_duration, spoken_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version
    from updog.update_metadata.waves import Wave


class VerdictCode(StrEnum):
    """What became of one update; stable names for scripts."""

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
    """What the choice depends on, of the node that asks.

    Attributes:
        variant: flavour of the operating system. arch: machine architecture.
        running: the version that runs now.
        seed: the node's place in the fleet, 0 … 2047.
        version_lock: the only version to be on, or None to follow the latest.
        ignore_waves: take an update before its wave opens.
        forced: the version asked for by hand, or None; goes before the lock.
        denied: versions that failed on this node.
    """

    variant: str
    arch: str
    running: Version
    seed: int
    version_lock: Version | None = None
    ignore_waves: bool = False
    forced: Version | None = None
    denied: frozenset[Version] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of one update, and why, for a person.

    Attributes:
        ready_at: when its wave opens for this node (UTC); None where it has no waves.
    """

    update: Update
    code: VerdictCode
    sentence: str
    ready_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The update to take, or None; a verdict on every update of the node, newest first; and why in short."""

    update: Update | None
    verdicts: tuple[Verdict, ...]
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """One update before one node at one moment."""

    update: Update
    node: Node
    now: datetime
    wave: Wave | None


def decide(manifest: Manifest, node: Node, now: datetime) -> Decision:
    """Return which update ``node`` takes at ``now`` (aware), and why.

    Raises:
        SeedError: the seed is outside 0 … 2047.
    """
    verdicts = tuple(_verdict(update, node, now) for update in manifest.updates_of(node.variant, node.arch))
    chosen = next((verdict for verdict in verdicts if verdict.code is VerdictCode.CHOSEN), None)
    if chosen is None:
        return Decision(update=None, verdicts=verdicts, summary=_why_none(manifest, node, verdicts))
    verdicts = tuple(_passed_over(verdict, chosen) for verdict in verdicts)
    return Decision(update=chosen.update, verdicts=verdicts, summary=chosen.sentence)


def _verdict(update: Update, node: Node, now: datetime) -> Verdict:
    wave = update.waves.position(node.seed)
    ready_at = wave.ready_at(node.seed) if wave else None
    case = _Case(update=update, node=node, now=now, wave=wave)
    for code, reason in _REASONS:
        sentence = reason(case)
        if sentence:
            return Verdict(update=update, code=code, sentence=sentence, ready_at=ready_at)
    return Verdict(update=update, code=VerdictCode.CHOSEN, sentence=_why_chosen(case), ready_at=ready_at)


def _not_forced(case: _Case) -> str | None:
    forced = case.node.forced
    if forced is None or case.update.version == forced:
        return None
    return f"{case.update.version} is not {forced}, which was asked for by hand."


def _not_locked(case: _Case) -> str | None:
    lock = case.node.version_lock
    if case.node.forced is not None or lock is None or case.update.version == lock:
        return None
    return f"{case.update.version} is not {lock}, which this node is locked to."


def _running(case: _Case) -> str | None:
    if case.node.forced is not None or case.update.version != case.node.running:
        return None
    withdrawn = " and has been withdrawn" if _is_pulled(case) else ""
    return f"{case.update.version} is what this node runs{withdrawn}."


def _older(case: _Case) -> str | None:
    node = case.node
    asked = node.forced is not None or node.version_lock is not None
    if asked or case.update.version > node.running or _is_pulled(case):
        return None
    return f"{case.update.version} is older than {node.running}, which this node runs."


def _denied(case: _Case) -> str | None:
    if case.update.version not in case.node.denied:
        return None
    return f"{case.update.version} failed on this node before and is on its deny-list."


def _withdrawn(case: _Case) -> str | None:
    if case.update.version <= case.update.max_version:
        return None
    return f"{case.update.version} is withdrawn: the highest version on offer is {case.update.max_version}."


def _held(case: _Case) -> str | None:
    hold = case.update.hold
    if hold is None:
        return None
    because = f" because: {hold.reason}" if hold.reason else ""
    return f"{case.update.version} is held by its publisher since {spoken_time(hold.since)}{because}."


def _below_floor(case: _Case) -> str | None:
    floor, running = case.update.floor, case.node.running
    if floor is None or running >= floor:
        return None
    return f"{case.update.version} needs {floor} or later first; this node runs {running}."


def _waiting(case: _Case) -> str | None:
    wave, seed = case.wave, case.node.seed
    if wave is None or case.node.ignore_waves or wave.ready_at(seed) <= case.now:
        return None
    ready_at = wave.ready_at(seed)
    return (
        f"{case.update.version} opens for this node (seed {seed}, wave {wave.number} of {wave.count}) on "
        f"{spoken_time(ready_at)}, in {spoken_duration(ready_at - case.now)}."
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
"""Why not, in the order asked: what somebody wants, what can never be, what only time changes."""


def _is_pulled(case: _Case) -> bool:
    """Whether the running version is above what this update's variant still offers."""
    return case.node.running > case.update.max_version


def _why_chosen(case: _Case) -> str:
    version, node = case.update.version, case.node
    if node.forced is not None:
        return f"{version} is taken: it was asked for by hand."
    if node.version_lock is not None:
        return f"{version} is taken: this node is locked to it and runs {node.running}."
    if version < node.running:
        return f"{version} is taken: {node.running}, which this node runs, has been withdrawn."
    return f"{version} is taken: it is the highest version open to this node, which runs {node.running}."


def _passed_over(verdict: Verdict, chosen: Verdict) -> Verdict:
    """Return the verdict as it is once ``chosen`` is: of all that could be taken, only that one was."""
    if verdict is chosen or verdict.code is not VerdictCode.CHOSEN:
        return verdict
    sentence = f"{verdict.update.version} is open to this node too, but {chosen.update.version} is higher."
    return replace(verdict, code=VerdictCode.SUPERSEDED, sentence=sentence)


_SETTLED = frozenset({VerdictCode.NOT_FORCED, VerdictCode.NOT_LOCKED, VerdictCode.RUNNING, VerdictCode.OLDER})
"""Verdicts that explain no absence: the node is there already, or does not want to be."""


def _why_none(manifest: Manifest, node: Node, verdicts: tuple[Verdict, ...]) -> str:
    if not verdicts:
        return _nothing_published(manifest, node)
    if node.forced is None and node.version_lock == node.running:
        return f"This node is locked to {node.running} and runs it."
    blocked = [verdict for verdict in verdicts if verdict.code not in _SETTLED]
    if blocked:
        return min(blocked, key=lambda verdict: verdict.code is not VerdictCode.WAITING).sentence
    flavour = f"{node.variant} on {node.arch}"
    if node.forced is not None:
        return f"{node.forced}, asked for by hand, is not published for {flavour}."
    if node.version_lock is not None:
        return f"{node.version_lock}, which this node is locked to, is not published for {flavour}."
    return f"This node runs {node.running}; nothing newer is published for {flavour}."


def _nothing_published(manifest: Manifest, node: Node) -> str:
    offered = sorted({f"{update.variant} on {update.arch}" for update in manifest.updates})
    near = difflib.get_close_matches(f"{node.variant} on {node.arch}", offered, n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"Nothing is published for {node.variant} on {node.arch}{hint}."
