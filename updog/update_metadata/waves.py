"""Waves: at which time an update opens for which node, and the policies that waves are made from.

Rules:
* A node has a seed, 0 … 2047. A manifest maps each wave's first seed, its key, to the time it starts.
* Wave *i* has the seeds from its key to before the next key. They are spread evenly over the time to the next
  wave's start: seed *s* is ready at
  ``start_i + (start_{i+1} - start_i) * (s - key_i) / (key_{i+1} - key_i)``, cut to microseconds.
* The last wave has no end to spread towards: all of it opens at its start.
* Seeds below the first key belong to the first wave and open at its start, never earlier.
* A key of 2048 has no seeds; its time only ends the wave before it. Larger keys (old manifests count to
  2**32) are kept and ignored. A manifest with no other keys is open at once, like one without waves.
* Start times that do not rise with their keys are accepted when read (upstream accepts them): the earlier
  wave then opens as a whole at its start. They are refused when written, see :meth:`Waves.order_faults`.

Where this rule multiplies by *s - key*, upstream multiplies by *s*, which makes most of a large wave ready in
the same second; docs/explanation has the figures. The file format is the same.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from signpost.toml_file import parse_toml
from updog.update_metadata import fields
from updog.update_metadata.errors import Fault, FaultsError, PolicyError, SeedError, TimeError
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_duration, format_time, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["BUILT_IN_POLICIES", "PolicyStep", "Wave", "WavePolicy", "WaveStart", "Waves"]

MAX_WAVES = MAX_SEED + 1
"""Keys of one update: one for each seed, and one for the end."""

MAX_KEY = 2**32 - 1
"""The greatest key that upstream can read."""

MAX_POLICY_CHARACTERS = 65_536
"""Size of a policy file. The shipped ones have about 500; the limit bounds the parser's work."""

WHOLE_FLEET = 100
"""Per cent."""

STOP = timedelta(days=36_525)
"""From the last wave of a policy that stops below the whole fleet to the start of the rest: a century.

Upstream's reader multiplies it by a seed: with 8,000 years it would leave the range of its clock."""

STOPPED = STOP / 2
"""A wave that starts later than this after the one before never opens by itself."""

_LAST_SEED_LATER = timedelta(seconds=1)  # start times must rise: the last seed before a stop opens this late

_MICROSECOND = timedelta(microseconds=1)
_KEY = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveStart:
    """The first seed of a wave, and the time ``at`` which it starts (UTC)."""

    seed: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Wave:
    """One wave of an update.

    Attributes:
        number: from 1. count: the number of waves.
        first_seed: its key. end_seed: the first seed after it.
        start: when it starts. end: when the next one starts; None for the last.
    """

    number: int
    count: int
    first_seed: int
    end_seed: int
    start: datetime
    end: datetime | None

    def ready_at(self, seed: int) -> datetime:
        """Return when the update opens for ``seed`` of this wave; for a seed below its key: at its start."""
        if self.end is None or self.end <= self.start or seed <= self.first_seed:
            return self.start
        # Integers have no limit; a product of timedeltas could overflow.
        span = (self.end - self.start) // _MICROSECOND
        offset = span * (seed - self.first_seed) // (self.end_seed - self.first_seed)
        return self.start + timedelta(microseconds=offset)

    def opened(self, now: datetime) -> int:
        """Return how many seeds of this wave are ready at ``now``."""
        first = 0 if self.number == 1 else self.first_seed
        return bisect_right(range(first, self.end_seed), now, key=self.ready_at)

    def first_unopened(self, now: datetime) -> int:
        """Return the first seed, from this wave's key on, that is not ready at ``now``."""
        seeds = range(self.first_seed, self.end_seed)
        return self.first_seed + bisect_right(seeds, now, key=self.ready_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waves:
    """The waves of one update, ordered by seed. Without any, the update is open to all nodes at once."""

    starts: tuple[WaveStart, ...] = ()

    @classmethod
    def of(cls, starts: Mapping[int, datetime]) -> Waves:
        """Return the waves with these first seeds and start times."""
        return cls(starts=tuple(WaveStart(seed=seed, at=starts[seed]) for seed in sorted(starts)))

    @classmethod
    def from_json(cls, value: object) -> Waves:
        """Return the waves of a decoded ``waves`` object. Raises FaultsError; the paths are the keys."""
        return cls.of(dict(fields.pairs(value, _wave_start, limit=MAX_WAVES)))

    def to_json(self) -> dict[str, str]:
        """Return the ``waves`` object, keys in rising order; the inverse of :meth:`from_json`."""
        return {str(start.seed): format_time(start.at) for start in self.starts}

    def position(self, seed: int) -> Wave | None:
        """Return the wave that ``seed`` is in, or None if the update is open at once. Raises SeedError."""
        if not 0 <= seed < MAX_SEED:
            raise SeedError(f"seed {seed} is outside 0…{MAX_SEED - 1}")
        following = bisect_right(self.starts, seed, key=_seed_of)
        return self._wave(max(following - 1, 0))

    def ready_at(self, seed: int) -> datetime | None:
        """Return when the update opens for ``seed``, or None if it is open at once. Raises SeedError."""
        wave = self.position(seed)
        return None if wave is None else wave.ready_at(seed)

    def share_open(self, now: datetime) -> Fraction:
        """Return the share of all seeds, 0 … 1, for which the update is open at ``now``."""
        waves = self._waves()
        return Fraction(sum(wave.opened(now) for wave in waves), MAX_SEED) if waves else Fraction(1)

    def paused(self, since: datetime, until: datetime) -> Waves:
        """Return these waves with a pause: no seed becomes ready during it, and none is skipped.

        A seed that was ready at ``since`` stays ready; every other seed becomes ready ``until - since`` later
        than before (to within one seed's step of its wave). A wave that was in progress is split in two, the
        seeds that were ready and those that were not; otherwise stretching it would make some of the latter
        ready at once.

        Raises:
            PolicyError: a wave would start after the year 9999.
        """
        try:
            starts = {
                start.seed: start.at if start.at <= since else start.at + (until - since)
                for start in self.starts
            }
        except OverflowError as error:
            raise _after_year_9999() from error
        for wave in self._waves():
            if wave.first_seed < wave.first_unopened(since) < wave.end_seed:
                starts[wave.first_unopened(since)] = until
        return Waves.of(starts)

    @property
    def stop(self) -> WaveStart | None:
        """The first wave that never opens by itself: its seeds wait for other waves; None without one."""
        pairs = pairwise(self.starts)
        return next((later for earlier, later in pairs if later.at - earlier.at > STOPPED), None)

    def order_faults(self) -> tuple[Fault, ...]:
        """Return a fault for every wave that does not start after the one before it; its path is the key."""
        return tuple(
            Fault(
                path=str(later.seed),
                problem=f"starts {format_time(later.at)}, not after wave {earlier.seed}"
                f" ({format_time(earlier.at)})",
            )
            for earlier, later in pairwise(self.starts)
            if later.at <= earlier.at
        )

    def _waves(self) -> tuple[Wave, ...]:
        """Return all waves that have seeds."""
        count = bisect_right(self.starts, MAX_SEED - 1, key=_seed_of)
        return tuple(wave for index in range(count) if (wave := self._wave(index)))

    def _wave(self, index: int) -> Wave | None:
        count = bisect_right(self.starts, MAX_SEED - 1, key=_seed_of)
        if count == 0:
            return None
        start = self.starts[index]
        following = self.starts[index + 1] if index + 1 < len(self.starts) else None
        ends = following is not None and following.seed <= MAX_SEED
        return Wave(
            number=index + 1,
            count=count,
            first_seed=start.seed,
            end_seed=following.seed if following is not None and ends else MAX_SEED,
            start=start.at,
            end=following.at if following is not None and ends else None,
        )


def _after_year_9999() -> PolicyError:
    return PolicyError([Fault(path="", problem="a wave would start after the year 9999")])


def _seed_of(start: WaveStart) -> int:
    return start.seed


def _wave_start(member: tuple[str, object]) -> tuple[int, datetime]:
    key, value = member
    if not _KEY.fullmatch(key) or int(key) > MAX_KEY:
        raise fields.invalid(
            f"the key must be the wave's first seed, a whole number from 0 to {MAX_SEED - 1}"
        )
    return int(key), fields.time(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyStep:
    """One ``[[waves]]`` table of a policy.

    Attributes:
        start_after: from the start of the rollout to the start of this wave; whole minutes.
        fleet_percentage: share of the fleet, 1 … 100, when this wave ends, including the waves before it.
    """

    start_after: timedelta
    fleet_percentage: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WavePolicy:
    """How a rollout is spread over time: at least one step, times and percentages strictly rising.

    The first wave begins at seed 0, each other at the percentage where the one before it ends. A last
    percentage below 100 is a stop: the rest of the fleet waits until the release gets other waves.
    """

    steps: tuple[PolicyStep, ...]

    @classmethod
    def from_toml(cls, text: str) -> WavePolicy:
        """Return the policy in ``text``. Raises PolicyError with every fault."""
        try:
            if len(text) > MAX_POLICY_CHARACTERS:
                raise fields.invalid(f"{len(text)} characters; the limit is {MAX_POLICY_CHARACTERS}")
            table = fields.Fields(parse_toml(text, fields.invalid))
            steps = table.required("waves", _steps)
            table.refuse_unknown(["waves"])
            table.raise_faults()
        except FaultsError as error:
            raise PolicyError(error.faults) from error
        return cls(steps=steps)

    def to_toml(self) -> str:
        """Return the policy as TOML; the inverse of :meth:`from_toml`."""
        tables = (
            f'[[waves]]\nstart_after = "{format_duration(step.start_after)}"\n'
            f"fleet_percentage = {step.fleet_percentage}\n"
            for step in self.steps
        )
        return "\n".join(tables)

    @classmethod
    def built_in(cls, name: str) -> WavePolicy:
        """Return the built-in policy ``name``. Raises PolicyError, suggesting the nearest name."""
        if name not in BUILT_IN_POLICIES:
            suggestion = fields.did_you_mean(name, BUILT_IN_POLICIES)
            problem = f"{name!r} is not one of {', '.join(BUILT_IN_POLICIES)}{suggestion}"
            raise PolicyError([Fault(path="", problem=problem)])
        return BUILT_IN_POLICIES[name]

    def waves(self, start: datetime) -> Waves:
        """Return the waves of a rollout that starts at ``start``. Raises PolicyError after the year 9999."""
        *ends, last = (step.fleet_percentage * MAX_SEED // WHOLE_FLEET for step in self.steps)
        try:
            starts = {key: start + step.start_after for key, step in zip([0, *ends], self.steps, strict=True)}
            if last < MAX_SEED:
                opened = start + self.steps[-1].start_after
                starts |= {last - 1: opened + _LAST_SEED_LATER, last: opened + STOP}
        except OverflowError as error:
            raise _after_year_9999() from error
        return Waves.of(starts)


def _steps(value: object) -> tuple[PolicyStep, ...]:
    steps = fields.array(value, _step, limit=WHOLE_FLEET)
    if not steps:
        raise fields.invalid("empty; a policy has at least one wave")
    faults: list[Fault] = []
    for index, (earlier, later) in enumerate(pairwise(steps)):
        if later.start_after <= earlier.start_after:
            durations = format_duration(later.start_after), format_duration(earlier.start_after)
            faults.append(_not_rising(index, "start_after", *durations))
        if later.fleet_percentage <= earlier.fleet_percentage:
            percentages = str(later.fleet_percentage), str(earlier.fleet_percentage)
            faults.append(_not_rising(index, "fleet_percentage", *percentages))
    if faults:
        raise FaultsError(faults)
    return steps


def _not_rising(index: int, name: str, later: str, earlier: str) -> Fault:
    """Return the fault of the member ``name`` of the step after step ``index``."""
    return Fault(path=f"[{index + 1}].{name}", problem=f"{later} is not above {earlier} of waves[{index}]")


def _step(value: object) -> PolicyStep:
    table = fields.Fields(value)
    step = PolicyStep(
        start_after=table.required("start_after", _duration),
        fleet_percentage=table.required("fleet_percentage", fields.whole_number_in(1, WHOLE_FLEET)),
    )
    table.refuse_unknown(["start_after", "fleet_percentage"])
    table.raise_faults()
    return step


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(fields.text(value))
    except TimeError as error:
        raise fields.invalid(error.message) from error


def _built_in(*steps: tuple[str, int]) -> WavePolicy:
    return WavePolicy(
        steps=tuple(
            PolicyStep(start_after=parse_duration(start), fleet_percentage=percentage)
            for start, percentage in steps
        )
    )


BUILT_IN_POLICIES: Mapping[str, WavePolicy] = {
    "default": _built_in(
        ("1 hour", 1),
        ("4 hours", 5),
        ("1 day", 15),
        ("2 days", 40),
        ("4 days", 60),
        ("5 days", 90),
        ("6 days", 100),
    ),
    "accelerated": _built_in(
        ("1 hour", 3), ("4 hours", 12), ("8 hours", 40), ("16 hours", 80), ("1 day", 100)
    ),
    "slow-roll": _built_in(
        ("1 hour", 1),
        ("1 day", 5),
        ("3 days", 15),
        ("7 days", 40),
        ("9 days", 60),
        ("12 days", 90),
        ("13 days", 100),
    ),
    "ohno": _built_in(
        ("30 minutes", 5), ("60 minutes", 25), ("120 minutes", 50), ("150 minutes", 90), ("180 minutes", 100)
    ),
}
"""The policies shipped with Bottlerocket, by name: start → cumulative per cent (its ``waves/*.toml``).

``ohno`` is for emergencies; it uses minutes, which upstream's own reader refuses.
"""
