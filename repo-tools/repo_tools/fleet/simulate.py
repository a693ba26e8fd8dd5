"""A roll-out on paper: which node takes the release when, what it costs the servers, whom a bad one harms.

Rules:

* the waves are the product's own: when a seed's turn comes is asked of
  :meth:`updog.update_metadata.waves.Waves.ready_at`, once for each of the 2048 seeds; nodes look it up;
* a node has a random seed and checks every ``interval``, at a phase of its own, or all at the same tick
  (``aligned``, as timers with ``OnCalendar=`` do); each check is late by a random part of ``jitter``;
* it takes the release at its first check at or after its turn, unless the release is held by then; a hold
  is seen when the copies that a CDN keeps of the timestamp have run out;
* a node that takes it fails with the chance ``bad_rate``; its outcome can be read ``report_after`` later;
* without a CDN the origin serves everything; with one, each of its ``edges`` asks the origin once for each
  image and once in ``cache`` for the timestamp.

A download is counted at the moment it begins. The same plan with the same ``seed``, on the same NumPy, is the
same roll-out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from repo_tools.errors import FleetPlanError
from repo_tools.fleet.bounds import Count
from repo_tools.fleet.steps import step_over
from repo_tools.fleet.verdict import Tally, is_bad
from updog.update_metadata.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    from repo_tools.fleet.verdict import Rules
    from updog.update_metadata.waves import Waves

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Detector = Callable[["Plan", "Fleet"], float]
    """Says when a release is held, in seconds since the start; ``inf`` for never."""

MAX_NODES = 20_000_000
"""Some 60 bytes of memory each: more would not fit a small machine."""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What nodes ask of the servers.

    Attributes:
        full: bytes of the images of a node that has nothing to build on.
        delta: bytes for a node that updates by difference. delta_share: part of the fleet that does, 0 … 1.
        check: bytes of one check that finds nothing new.
        edges: servers of the CDN; 0 without one. cache: how long each keeps the timestamp.
    """

    full: int = 200 << 20
    delta: int = 50 << 20
    delta_share: float = 0.0
    check: int = 2 << 10
    edges: int = 0
    cache: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to play.

    Attributes:
        waves: of the release. start: when it is published, and the roll-out's clock starts.
        nodes: of the fleet. interval: between two checks of a node. jitter: at most this much later.
        aligned: all nodes check at the same tick, jitter apart.
        bad_rate: chance of a node that takes the release to fail, 0 … 1.
        report_after: from taking it to its outcome being readable: download, restart, health checks.
        detection: from the first failure being readable to the release being held; None if nobody holds it.
        traffic: what it costs. seed: of the random numbers.
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
        """Refuse what makes no sense. Raises FleetPlanError."""
        if not 1 <= self.nodes <= MAX_NODES:
            raise FleetPlanError(f"{self.nodes} nodes; 1 to {MAX_NODES} can be played")
        if self.interval <= timedelta() or self.jitter > self.interval:
            raise FleetPlanError(f"a check every {self.interval} cannot be up to {self.jitter} late")
        for name, share in (("bad rate", self.bad_rate), ("delta share", self.traffic.delta_share)):
            if not 0 <= share <= 1:
                raise FleetPlanError(f"the {name} {share:g} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """The nodes, an array a fact; times are seconds since the start.

    Attributes:
        wave: which wave a node is in, from 0. take: its first check at or after its turn.
        report: when its outcome can be read. fails: whether the release fails there.
    """

    wave: NDArray[np.int64]
    take: Floats
    report: Floats
    fails: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What happened.

    Attributes:
        plan: what was played. step: between two points of the curves; the first is one step after the start.
        updated: share of the fleet that has taken the release. harmed: share it has failed on.
        cdn: bytes an hour that nodes fetch, in each step. origin: of these, what the origin serves.
        held: when the release was held; None if never. reached: per cent → when that much had taken it.
        busiest_minute: most bytes fetched within one minute.
    """

    plan: Plan
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
        """The moments that the points of the curves stand for: the end of each step."""
        return [self.plan.start + self.step * (index + 1) for index in range(len(self.updated))]

    def updated_at(self, moment: datetime) -> float:
        """Return the share that had taken the release at the last point of the curve up to ``moment``."""
        return _at(self.updated, (moment - self.plan.start) // self.step)


def by_delay(plan: Plan, fleet: Fleet) -> float:
    """Hold the release ``plan.detection`` after the first failure could be read."""
    failures = fleet.report[fleet.fails]
    if plan.detection is None or not failures.size:
        return np.inf
    return float(failures.min()) + plan.detection / _SECOND


def simulate(plan: Plan, detector: Detector = by_delay) -> Rollout:
    """Play a roll-out.

    Args:
        plan: what to play.
        detector: when it is held.
    """
    random = np.random.default_rng(plan.seed)
    fleet = people(plan, random)
    held = detector(plan, fleet)
    taken = fleet.take < seen(plan, held)
    return _measured(plan, fleet, taken, held, random)


def seen(plan: Plan, held: float) -> float:
    """Return when the last node sees a hold of this moment, in seconds since the start."""
    return held + (plan.traffic.cache / _SECOND if plan.traffic.edges else 0.0)


def turns(waves: Waves, start: datetime) -> Floats:
    """Return when each of the 2048 seeds may take the update, in seconds since ``start``."""
    moments = (waves.ready_at(seed) or start for seed in range(MAX_SEED))
    return np.fromiter(((moment - start) / _SECOND for moment in moments), np.float64, MAX_SEED)


def wave_numbers(waves: Waves) -> NDArray[np.int64]:
    """Return the number of each seed's wave, from 0; all 0 where the update is open at once."""
    positions = (waves.position(seed) for seed in range(MAX_SEED))
    return np.fromiter((wave.number - 1 if wave else 0 for wave in positions), np.int64, MAX_SEED)


def people(plan: Plan, random: np.random.Generator) -> Fleet:
    """Return the fleet of a plan."""
    seeds = random.integers(0, MAX_SEED, plan.nodes)
    ready = np.maximum(turns(plan.waves, plan.start)[seeds], 0.0)  # nothing is there before the start
    phase = np.zeros(plan.nodes) if plan.aligned else random.random(plan.nodes) * (plan.interval / _SECOND)
    take = first_checks(ready, phase, plan, random)
    return Fleet(
        wave=wave_numbers(plan.waves)[seeds],
        take=take,
        report=take + plan.report_after / _SECOND,
        fails=random.random(plan.nodes) < plan.bad_rate,
    )


def first_checks(ready: Floats, phase: Floats, plan: Plan, random: np.random.Generator) -> Floats:
    """Return each node's first check at or after its turn."""
    interval, jitter = plan.interval / _SECOND, plan.jitter / _SECOND
    tick = np.ceil((ready - phase - jitter) / interval)  # no earlier one can be late enough
    checks = phase + tick * interval + random.random(ready.size) * jitter
    early = np.flatnonzero(checks < ready)
    while early.size:
        tick[early] += 1
        checks[early] = phase[early] + tick[early] * interval + random.random(early.size) * jitter
        early = early[checks[early] < ready[early]]
    return checks


def _measured(plan: Plan, fleet: Fleet, taken: Bools, held: float, random: np.random.Generator) -> Rollout:
    moments = np.sort(fleet.take[taken])
    step, count = _step(float(fleet.take.max()), held)
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


def _step(last: float, held: float) -> tuple[timedelta, int]:
    """Return the length of a step, and how many reach the last node's turn or, after a hold, twice as far."""
    last = min(last, 2 * held + 3600)
    step = step_over(timedelta(seconds=last))
    return step, int(last / (step / _SECOND)) + 1


def _reached(plan: Plan, moments: Floats, percent: int) -> datetime | None:
    needed = -(-percent * plan.nodes // 100)
    return plan.start + timedelta(seconds=float(moments[needed - 1])) if needed <= moments.size else None


def _bytes(
    plan: Plan, take: Floats, steps: tuple[timedelta, int], random: np.random.Generator
) -> tuple[Floats, Floats, float]:
    """Return bytes an hour that nodes fetch and that the origin serves, and the busiest minute's bytes."""
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
    asked = np.concatenate(
        [_first_asked(take[kind], edge[kind], traffic.edges) for kind in (by_delta, ~by_delta)]
    )
    size = np.repeat([float(traffic.delta), float(traffic.full)], traffic.edges)
    there = np.isfinite(asked)
    stamps = min(traffic.edges / (traffic.cache / timedelta(hours=1)) * traffic.check, checks)
    return cdn, _sums(asked[there], size[there], seconds, count) / hours + stamps, busiest


def _first_asked(take: Floats, edge: NDArray[np.int64], edges: int) -> Floats:
    """Return when each edge is first asked; ``inf`` where it never is."""
    first = np.full(edges, np.inf)
    np.minimum.at(first, edge, take)
    return first


def _sums(take: Floats, sizes: Floats, seconds: float, count: int) -> Floats:
    bins = np.minimum((take / seconds).astype(np.int64), count - 1)
    return np.bincount(bins, weights=sizes, minlength=count).astype(np.float64)


def _at(curve: Floats, steps: int) -> float:
    return 0.0 if steps < 1 else float(curve[min(steps, len(curve)) - 1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Many roll-outs of one plan, a tuple an outcome, in the order of their seeds.

    Attributes:
        nodes: of the fleet. taken: how many took the release. harmed: on how many it failed.
        held_after: seconds from the start to the hold; ``inf`` where it was not held.
    """

    nodes: int
    taken: tuple[int, ...]
    harmed: tuple[int, ...]
    held_after: tuple[float, ...]

    @property
    def held(self) -> int:
        """How many of them were held."""
        return int(np.isfinite(self.held_after).sum())

    @property
    def mean_harmed(self) -> float:
        """Share of the fleet that was harmed, on average."""
        return float(np.mean(self.harmed)) / self.nodes

    @property
    def worst_harmed(self) -> float:
        """Share of the fleet that was harmed, at worst."""
        return max(self.harmed) / self.nodes

    @property
    def mean_updated(self) -> float:
        """Share of the fleet that took the release, on average."""
        return float(np.mean(self.taken)) / self.nodes


def over_seeds(plan: Plan, runs: int, detector: Detector = by_delay) -> Runs:
    """Play a plan with each of ``runs`` seeds, its own the first."""
    found = [_outcome(replace(plan, seed=plan.seed + run), detector) for run in range(runs)]
    taken, harmed, held = zip(*found, strict=True)
    return Runs(nodes=plan.nodes, taken=taken, harmed=harmed, held_after=held)


def _outcome(plan: Plan, detector: Detector) -> tuple[int, int, float]:
    fleet = people(plan, np.random.default_rng(plan.seed))
    held = detector(plan, fleet)
    taken = fleet.take < seen(plan, held)
    return int(taken.sum()), int((taken & fleet.fails).sum()), held


def by_guard(rules: Rules, every: timedelta) -> Detector:
    """Hold as `repo-tools guard` would, run ``every`` so often over the outcomes readable by then."""
    return by_looking(lambda tally: is_bad(tally, rules), every)


def by_looking(bad: Callable[[Tally], bool], every: timedelta) -> Detector:
    """Hold when ``bad`` says so of the outcomes readable by then, asked ``every`` so often."""
    return lambda plan, fleet: _first_bad_look(plan, fleet, bad, every / _SECOND)


def _first_bad_look(plan: Plan, fleet: Fleet, bad: Callable[[Tally], bool], every: float) -> float:
    looks: Floats = np.arange(1.0, int(fleet.report.max() / every) + 2.0) * every
    count = int(wave_numbers(plan.waves).max()) + 1
    seen_by = [_seen_by(looks, fleet.report[fleet.wave == wave]) for wave in range(count)]
    bad_by = [_seen_by(looks, fleet.report[(fleet.wave == wave) & fleet.fails]) for wave in range(count)]
    table = np.stack([*seen_by, *bad_by], axis=1)
    changed = np.flatnonzero(np.any(np.diff(table, axis=0, prepend=0) > 0, axis=1))
    for look in changed:
        totals, failed = table[look, :count].tolist(), table[look, count:].tolist()
        pairs = enumerate(zip(failed, totals, strict=True), start=1)
        if bad(Tally(waves={wave: Count(failed=fault, total=all_) for wave, (fault, all_) in pairs})):
            return float(looks[look])
    return np.inf


def _seen_by(looks: Floats, reports: Floats) -> NDArray[np.int64]:
    """Return how many of the reports can be read at each look."""
    return np.searchsorted(np.sort(reports), looks, side="right")
