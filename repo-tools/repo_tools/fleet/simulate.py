"""Simulate a rollout: when each node takes the release, the servers' traffic, and whom a bad release harms.

Rules:

* the waves are the real ones: :meth:`updog.update_metadata.waves.Waves.ready_at` says when a seed may update,
  once for each of the 2048 seeds; nodes look it up;
* a node has a random seed and checks every ``interval``, at its own phase, or all at the same time
  (``aligned``, as timers with ``OnCalendar=`` do); each check is delayed by a random part of ``jitter``;
* it takes the release at its first check at or after the time it may update, unless the release is held by
  then; nodes see a hold when the CDN's copies of the timestamp have expired;
* a node that takes it fails with probability ``bad_rate``; its outcome can be read ``report_after`` later;
* without a CDN the origin serves everything; with one, each of its ``edges`` requests each image once from
  the origin, and the timestamp once per ``cache``.

A download counts at the time it begins. The same plan with the same ``seed``, on the same NumPy, gives the
same rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from repo_tools.errors import FleetPlanError
from repo_tools.fleet.bounds import FailureCount, step_over
from repo_tools.fleet.verdict import Tally, is_bad
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.waves import STOPPED, Waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    from repo_tools.fleet.verdict import Rules

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Detector = Callable[["RolloutPlan", "Fleet"], float]
    """Returns when a release is held, in seconds since the start; ``inf`` for never."""

__all__ = ["Rollout", "RolloutPlan", "Runs", "Traffic", "by_delay", "by_guard", "over_seeds", "simulate"]

MAX_NODES = 20_000_000
"""Each takes about 60 bytes of memory: more would not fit on a small machine."""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What nodes fetch from the servers.

    Attributes:
        full: bytes that a node without a base image fetches.
        delta: bytes that a node fetches with a delta. delta_share: share of nodes that use deltas, 0 … 1.
        check: bytes of one check that finds nothing new.
        edges: number of servers of the CDN; 0 without one. cache: how long each keeps the timestamp.
    """

    full: int = 200 << 20
    delta: int = 50 << 20
    delta_share: float = 0.0
    check: int = 2 << 10
    edges: int = 0
    cache: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPlan:
    """The rollout to simulate.

    Attributes:
        waves: of the release. start: when the release is published and the rollout begins.
        nodes: number of nodes. interval: between two checks of a node. jitter: largest delay of a check.
        aligned: all nodes check at the same time, except for jitter.
        bad_rate: probability that the release fails on a node that takes it, 0 … 1.
        report_after: from taking the release to its outcome: download, restart, health checks.
        detection: from the first reported failure to the hold; None if the release is never held.
        traffic: what nodes fetch. seed: of the random numbers.
    """

    waves: Waves
    start: datetime
    nodes: int = 10_000
    interval: timedelta = timedelta(hours=1)
    jitter: timedelta = timedelta()
    aligned: bool = False
    bad_rate: float = 0.0
    report_after: timedelta = timedelta(minutes=10)
    detection: timedelta | None = None
    traffic: Traffic = field(default_factory=Traffic)
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse values outside their limits. Raises FleetPlanError."""
        if not 1 <= self.nodes <= MAX_NODES:
            raise FleetPlanError(f"{self.nodes} nodes; 1 to {MAX_NODES} can be simulated")
        if self.interval <= timedelta() or self.jitter > self.interval:
            raise FleetPlanError(f"a check every {self.interval} cannot be up to {self.jitter} late")
        for name, share in (("bad rate", self.bad_rate), ("delta share", self.traffic.delta_share)):
            if not 0 <= share <= 1:
                raise FleetPlanError(f"the {name} {share:g} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """The nodes, one array per property; times are seconds since the start.

    Attributes:
        wave: the node's wave, from 0. take: its first check at or after the time it may update.
        report: when its outcome can be read. fails: whether the release fails on it.
    """

    wave: NDArray[np.int64]
    take: Floats
    report: Floats
    fails: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A simulated rollout.

    Attributes:
        plan: what was simulated. step: between two points of the curves; the first is a step after the start.
        updated: share of the fleet that has taken the release. harmed: share on which it has failed.
        cdn: bytes per hour that nodes fetch in each step. origin: bytes per hour that the origin serves.
        held: when the release was held; None if never.
        reached: per cent → when this part of the fleet had taken the release; None if never.
        busiest_minute: most bytes fetched within one minute.
    """

    plan: RolloutPlan
    step: timedelta
    updated: Floats
    harmed: Floats
    cdn: Floats
    origin: Floats
    held: datetime | None
    reached: dict[int, datetime | None]
    busiest_minute: float

    @property
    def moments(self) -> list[datetime]:
        """The moments of the points of the curves: the end of each step."""
        return [self.plan.start + self.step * (index + 1) for index in range(len(self.updated))]

    def updated_at(self, moment: datetime) -> float:
        """Return the share that had taken the release at the last point of the curve up to ``moment``."""
        steps = (moment - self.plan.start) // self.step
        return 0.0 if steps < 1 else float(self.updated[min(steps, len(self.updated)) - 1])


def by_delay(plan: RolloutPlan, fleet: Fleet) -> float:
    """Hold the release ``plan.detection`` after the first failure could be read."""
    failures = fleet.report[fleet.fails]
    if plan.detection is None or not failures.size:
        return np.inf
    return float(failures.min()) + plan.detection / _SECOND


def simulate(plan: RolloutPlan, detector: Detector = by_delay) -> Rollout:
    """Simulate a rollout.

    Args:
        plan: the rollout.
        detector: returns when the release is held.
    """
    random = np.random.default_rng(plan.seed)
    fleet = make_fleet(plan, random)
    held = detector(plan, fleet)
    taken = fleet.take < hold_seen_at(plan, held)
    return _measure(plan, fleet, taken, held, random)


def hold_seen_at(plan: RolloutPlan, held: float) -> float:
    """Return when the last node sees a hold made at ``held``, in seconds since the start."""
    return held + (plan.traffic.cache / _SECOND if plan.traffic.edges else 0.0)


def ready_times(waves: Waves, start: datetime) -> Floats:
    """Return when each of the 2048 seeds may update, in seconds since ``start``."""
    moments = (waves.ready_at(seed) or start for seed in range(MAX_SEED))
    return np.fromiter(((moment - start) / _SECOND for moment in moments), np.float64, MAX_SEED)


def wave_numbers(waves: Waves) -> NDArray[np.int64]:
    """Return the number of each seed's wave, from 0; all 0 if the release is open at once."""
    positions = (waves.position(seed) for seed in range(MAX_SEED))
    return np.fromiter((wave.number - 1 if wave else 0 for wave in positions), np.int64, MAX_SEED)


def make_fleet(plan: RolloutPlan, random: np.random.Generator) -> Fleet:
    """Return the nodes of a plan."""
    seeds = random.integers(0, MAX_SEED, plan.nodes)
    ready = np.maximum(ready_times(plan.waves, plan.start)[seeds], 0.0)  # nothing is published earlier
    phase = np.zeros(plan.nodes) if plan.aligned else random.random(plan.nodes) * (plan.interval / _SECOND)
    take = first_checks(ready, phase, plan, random)
    return Fleet(
        wave=wave_numbers(plan.waves)[seeds],
        take=take,
        report=take + plan.report_after / _SECOND,
        fails=random.random(plan.nodes) < plan.bad_rate,
    )


def first_checks(ready: Floats, phase: Floats, plan: RolloutPlan, random: np.random.Generator) -> Floats:
    """Return each node's first check at or after the time it may update."""
    interval, jitter = plan.interval / _SECOND, plan.jitter / _SECOND
    tick = np.ceil((ready - phase - jitter) / interval)  # an earlier check is too early with any jitter
    checks = phase + tick * interval + random.random(ready.size) * jitter
    early = np.flatnonzero(checks < ready)
    while early.size:
        tick[early] += 1
        checks[early] = phase[early] + tick[early] * interval + random.random(early.size) * jitter
        early = early[checks[early] < ready[early]]
    return checks


def _measure(
    plan: RolloutPlan, fleet: Fleet, taken: Bools, held: float, random: np.random.Generator
) -> Rollout:
    taken = taken & (fleet.take < STOPPED / _SECOND)  # the others wait for other waves
    moments = np.sort(fleet.take[taken])
    last = min(
        float(fleet.take[taken].max(initial=1.0)), 2 * held + 3600
    )  # after a hold the curves go on as long again
    step = step_over(timedelta(seconds=last))
    count = int(last / (step / _SECOND)) + 1
    edges = np.arange(1, count + 1) * (step / _SECOND)
    harmed = np.sort(fleet.take[taken & fleet.fails])
    fetched, origin, busiest = _bytes(plan, fleet.take[taken], (step, count), random)
    return Rollout(
        plan=plan,
        step=step,
        updated=np.searchsorted(moments, edges, side="right") / plan.nodes,
        harmed=np.searchsorted(harmed, edges, side="right") / plan.nodes,
        cdn=fetched,
        origin=origin,
        held=plan.start + timedelta(seconds=held) if np.isfinite(held) else None,
        reached={percent: _reached(plan, moments, percent) for percent in (50, 90, 99)},
        busiest_minute=busiest,
    )


def _reached(plan: RolloutPlan, moments: Floats, percent: int) -> datetime | None:
    needed = -(-percent * plan.nodes // 100)
    return plan.start + timedelta(seconds=float(moments[needed - 1])) if needed <= moments.size else None


def _bytes(
    plan: RolloutPlan, take: Floats, steps: tuple[timedelta, int], random: np.random.Generator
) -> tuple[Floats, Floats, float]:
    """Return bytes per hour that nodes fetch and that the origin serves, and bytes in the busiest minute."""
    traffic, (step, count) = plan.traffic, steps
    hours, seconds = step / timedelta(hours=1), step / _SECOND
    by_delta = random.random(take.size) < traffic.delta_share
    sizes = np.where(by_delta, traffic.delta, traffic.full).astype(np.float64)
    checks = plan.nodes / (plan.interval / timedelta(hours=1)) * traffic.check
    cdn = _sums(take, sizes, seconds, count) / hours + checks
    minutes = _sums(take, sizes, 60.0, int(count * seconds / 60) + 1)
    busiest = float(minutes.max()) + checks / 60
    if not traffic.edges:
        return cdn, cdn, busiest
    edge = random.integers(0, traffic.edges, take.size)
    requested = np.concatenate(
        [_first_requests(take[kind], edge[kind], traffic.edges) for kind in (by_delta, ~by_delta)]
    )
    size = np.repeat([float(traffic.delta), float(traffic.full)], traffic.edges)
    ever = np.isfinite(requested)
    timestamps = min(traffic.edges / (traffic.cache / timedelta(hours=1)) * traffic.check, checks)
    return cdn, _sums(requested[ever], size[ever], seconds, count) / hours + timestamps, busiest


def _first_requests(take: Floats, edge: NDArray[np.int64], edges: int) -> Floats:
    """Return the time of each edge's first request; ``inf`` if it has none."""
    first = np.full(edges, np.inf)
    np.minimum.at(first, edge, take)
    return first


def _sums(take: Floats, sizes: Floats, seconds: float, count: int) -> Floats:
    bins = np.minimum((take / seconds).astype(np.int64), count - 1)
    return np.bincount(bins, weights=sizes, minlength=count).astype(np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Many rollouts of one plan; each tuple has one value per rollout, in the order of their seeds.

    Attributes:
        nodes: number of nodes. taken: how many took the release. harmed: on how many it failed.
        held_after: seconds from the start to the hold; ``inf`` if it was not held.
    """

    nodes: int
    taken: tuple[int, ...]
    harmed: tuple[int, ...]
    held_after: tuple[float, ...]

    @property
    def held(self) -> int:
        """How many rollouts were held."""
        return int(np.isfinite(self.held_after).sum())

    @property
    def mean_harmed(self) -> float:
        """Mean share of the fleet on which the release failed."""
        return float(np.mean(self.harmed)) / self.nodes

    @property
    def worst_harmed(self) -> float:
        """Largest share of the fleet on which the release failed."""
        return max(self.harmed) / self.nodes

    @property
    def mean_updated(self) -> float:
        """Mean share of the fleet that took the release."""
        return float(np.mean(self.taken)) / self.nodes


def over_seeds(plan: RolloutPlan, runs: int, detector: Detector = by_delay) -> Runs:
    """Simulate a plan with ``runs`` seeds, from the plan's own seed on."""
    found = [_outcome(replace(plan, seed=plan.seed + run), detector) for run in range(runs)]
    taken, harmed, held = zip(*found, strict=True)
    return Runs(nodes=plan.nodes, taken=taken, harmed=harmed, held_after=held)


def _outcome(plan: RolloutPlan, detector: Detector) -> tuple[int, int, float]:
    fleet = make_fleet(plan, np.random.default_rng(plan.seed))
    held = detector(plan, fleet)
    taken = fleet.take < hold_seen_at(plan, held)
    return int(taken.sum()), int((taken & fleet.fails).sum()), held


def by_guard(rules: Rules, every: timedelta) -> Detector:
    """Hold as `repo-tools guard` would if it ran at this interval."""
    return by_polling(lambda tally: is_bad(tally, rules), every)


def by_polling(bad: Callable[[Tally], bool], every: timedelta) -> Detector:
    """Hold when ``bad`` is true of the outcomes that can be read by then, checked at this interval."""
    return lambda plan, fleet: _first_bad_poll(plan, fleet, bad, every / _SECOND)


def _first_bad_poll(plan: RolloutPlan, fleet: Fleet, bad: Callable[[Tally], bool], every: float) -> float:
    polls: Floats = np.arange(1.0, int(fleet.report.max() / every) + 2.0) * every

    def readable(reports: Floats) -> NDArray[np.int64]:
        """Return how many of the reports can be read at each poll."""
        return np.searchsorted(np.sort(reports), polls, side="right")

    count = int(wave_numbers(plan.waves).max()) + 1
    reported = [readable(fleet.report[fleet.wave == wave]) for wave in range(count)]
    failed = [readable(fleet.report[(fleet.wave == wave) & fleet.fails]) for wave in range(count)]
    table = np.stack([*reported, *failed], axis=1)
    changed = np.flatnonzero(np.any(np.diff(table, axis=0, prepend=0) > 0, axis=1))
    for poll in changed:
        counts = zip(table[poll, count:].tolist(), table[poll, :count].tolist(), strict=True)
        waves = {wave: FailureCount(failed=bad_, total=all_) for wave, (bad_, all_) in enumerate(counts, 1)}
        if bad(Tally(waves=waves)):
            return float(polls[poll])
    return np.inf
