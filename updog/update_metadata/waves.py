"""Waves: at which moment an update opens for which node, and the policies waves are made from.

Rules:
* A node has a seed, 0 … 2047. A manifest gives the seed each wave begins at and the time it starts.
* Wave *i* holds the seeds from its key up to, and without, the next key. Its hosts are spread evenly over
  the time up to the next wave's start: host *s* is ready at
  ``start_i + (start_{i+1} - start_i) * (s - key_i) / (key_{i+1} - key_i)``, cut to the microsecond.
* The last wave has no end to spread towards: all of it opens at its start.
* Seeds below the first key belong to the first wave and open at its start, never earlier.
* A key of 2048 holds nobody; its time only ends the wave before it. Larger keys (old manifests count in
  2**32) are kept and play no part. A manifest with none but such keys is open at once, as one without waves.
* Two starts that do not rise with their keys are read (upstream reads them): the earlier wave opens as a
  whole at its start. Writers refuse them, see :meth:`Waves.disorder`.

Upstream multiplies by *s* where this rule has *s - key*, which makes most of a large wave ready in the same
second; see docs/explanation for the figures. The wire format is the same.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from updog.update_metadata import fields
from updog.update_metadata.errors import Fault, FaultsError, PolicyError, SeedError, TimeError
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_duration, format_time, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

MAX_WAVES = MAX_SEED + 1
"""Keys of one update: one a seed, and the end. More cannot mean anything."""

MAX_KEY = 2**32 - 1
"""The greatest key upstream can read."""

MAX_POLICY_CHARACTERS = 65_536
"""Size of a policy file. The shipped ones have some 500; it bounds the parser's work."""

WHOLE_FLEET = 100
"""Per cent."""

_MICROSECOND = timedelta(microseconds=1)
_KEY = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveStart:
    """Where a wave begins: at seed ``seed`` of the fleet, at time ``at`` (UTC)."""

    seed: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Wave:
    """One wave, as seen from a node in it.

    Attributes:
        number: counted from 1. count: of how many.
        first_seed: its key. end_seed: the first seed that is no longer in it.
        start: when it starts. end: when the next one starts; None for the last.
    """

    number: int
    count: int
    first_seed: int
    end_seed: int
    start: datetime
    end: datetime | None

    def ready_at(self, seed: int) -> datetime:
        """Return when the update opens for ``seed`` of this wave (below its first key: at its start)."""
        if self.end is None or self.end <= self.start or seed <= self.first_seed:
            return self.start
        # Whole numbers of any size: a timedelta itself could overflow on the way.
        span = (self.end - self.start) // _MICROSECOND
        offset = span * (seed - self.first_seed) // (self.end_seed - self.first_seed)
        return self.start + timedelta(microseconds=offset)

    def opened(self, now: datetime) -> int:
        """Return how many seeds of this wave are ready at ``now``."""
        first = 0 if self.number == 1 else self.first_seed
        return bisect_right(range(first, self.end_seed), now, key=self.ready_at)

    def reached(self, now: datetime) -> int:
        """Return the first seed, from this wave's key on, that is not ready at ``now``."""
        seeds = range(self.first_seed, self.end_seed)
        return self.first_seed + bisect_right(seeds, now, key=self.ready_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waves:
    """The waves of one update, ordered by seed. None at all: open to everybody at once."""

    starts: tuple[WaveStart, ...] = ()

    @classmethod
    def of(cls, starts: Mapping[int, datetime]) -> Waves:
        """Return the waves that begin at these seeds at these times."""
        return cls(starts=tuple(WaveStart(seed=seed, at=starts[seed]) for seed in sorted(starts)))

    @classmethod
    def from_json(cls, value: object) -> Waves:
        """Return the waves of a decoded ``waves`` object. Raises FaultsError, paths being the keys."""
        return cls.of(dict(fields.pairs(value, _wave_start, most=MAX_WAVES)))

    def to_json(self) -> dict[str, str]:
        """Return the ``waves`` object, keys rising; the inverse of :meth:`from_json`."""
        return {str(start.seed): format_time(start.at) for start in self.starts}

    def position(self, seed: int) -> Wave | None:
        """Return the wave that ``seed`` is in, or None where the update is open at once. Raises SeedError."""
        _check_seed(seed)
        following = bisect_right(self.starts, seed, key=_seed_of)
        return self._wave(max(following - 1, 0))

    def ready_at(self, seed: int) -> datetime | None:
        """Return when the update opens for ``seed``, or None where it is open at once. Raises SeedError."""
        wave = self.position(seed)
        return None if wave is None else wave.ready_at(seed)

    def share_open(self, now: datetime) -> Fraction:
        """Return which part of all seeds, 0 … 1, the update is open for at ``now``."""
        waves = [wave for index in range(self._count()) if (wave := self._wave(index))]
        return Fraction(sum(wave.opened(now) for wave in waves), MAX_SEED) if waves else Fraction(1)

    def paused(self, since: datetime, until: datetime) -> Waves:
        """Return these waves as they go on after a pause: nobody's turn comes in it, nobody loses one.

        A seed that was ready at ``since`` is ready at ``until``; every other one waits ``until - since``
        longer than it would have, to one seed's step of its wave. The wave that was under way is cut in two
        for it: the seeds that had their turn, and those whose turn comes; else stretching it would let some
        of these in at once.

        Raises:
            PolicyError: a wave would start after the calendar ends.
        """
        waves = [wave for index in range(self._count()) if (wave := self._wave(index))]
        starts = {start.seed: _shifted(start.at, since, until) for start in self.starts}
        for wave in waves:
            if wave.first_seed < wave.reached(since) < wave.end_seed:
                starts[wave.reached(since)] = until
        return Waves.of(starts)

    def disorder(self) -> tuple[Fault, ...]:
        """Return a fault for every wave that does not start after the one before it (path: its key)."""
        return tuple(
            Fault(
                path=str(later.seed),
                problem=f"starts {format_time(later.at)}, not after wave {earlier.seed}"
                f" ({format_time(earlier.at)})",
            )
            for earlier, later in pairwise(self.starts)
            if later.at <= earlier.at
        )

    def _count(self) -> int:
        return bisect_right(self.starts, MAX_SEED - 1, key=_seed_of)

    def _wave(self, index: int) -> Wave | None:
        count = self._count()
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


def _shifted(at: datetime, since: datetime, until: datetime) -> datetime:
    """Return a moment moved by the length of a pause if it lies after its beginning. Raises PolicyError."""
    try:
        return at if at <= since else at + (until - since)
    except OverflowError as error:
        raise PolicyError([Fault(path="", problem=f"it ends after the calendar: {error}")]) from error


def _seed_of(start: WaveStart) -> int:
    return start.seed


def _wave_start(member: tuple[str, object]) -> tuple[int, datetime]:
    key, value = member
    if not _KEY.fullmatch(key) or int(key) > MAX_KEY:
        raise fields.wrong(f"a wave begins at a seed: a whole number from 0 to {MAX_SEED - 1}")
    return int(key), fields.time(value)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < MAX_SEED:
        raise SeedError(f"seed {seed} is outside 0…{MAX_SEED - 1}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyStep:
    """One ``[[waves]]`` table of a policy.

    Attributes:
        start_after: from the start of the roll-out to the start of this wave; whole minutes.
        fleet_percentage: part of the fleet reached when this wave ends, 1 … 100, those before it included.
    """

    start_after: timedelta
    fleet_percentage: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WavePolicy:
    """How a roll-out is spread over time: at least one step, times and percentages strictly rising.

    The first wave begins at seed 0, each other where the percentage of the one before it ends; so the last
    percentage bounds nothing, and the last wave holds the rest of the fleet.
    """

    steps: tuple[PolicyStep, ...]

    @classmethod
    def from_toml(cls, text: str) -> WavePolicy:
        """Return the policy written in ``text``. Raises PolicyError with every fault."""
        try:
            return _policy(_toml(text))
        except FaultsError as error:
            raise PolicyError(error.faults) from error

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
        """Return the policy shipped as ``name``. Raises PolicyError, suggesting the nearest name."""
        if name not in BUILT_IN_POLICIES:
            problem = (
                f"{name!r} is none of {', '.join(BUILT_IN_POLICIES)}{fields.nearest(name, BUILT_IN_POLICIES)}"
            )
            raise PolicyError([Fault(path="", problem=problem)])
        return BUILT_IN_POLICIES[name]

    def waves(self, start: datetime) -> Waves:
        """Return the waves of a roll-out that starts at ``start``. Raises PolicyError past the year 9999."""
        keys = [0, *(step.fleet_percentage * MAX_SEED // WHOLE_FLEET for step in self.steps[:-1])]
        try:
            starts = {key: start + step.start_after for key, step in zip(keys, self.steps, strict=True)}
        except OverflowError as error:
            raise PolicyError([Fault(path="", problem=f"it ends after the calendar: {error}")]) from error
        return Waves.of(starts)


def _toml(text: str) -> object:
    if len(text) > MAX_POLICY_CHARACTERS:
        raise fields.wrong(f"{len(text)} characters; the limit is {MAX_POLICY_CHARACTERS}")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise fields.wrong(f"not TOML: {error}") from error


def _policy(document: object) -> WavePolicy:
    table = fields.Fields(document)
    steps = table.take("waves", _steps)
    table.refuse_rest(["waves"])
    table.done()
    return WavePolicy(steps=steps)


def _steps(value: object) -> tuple[PolicyStep, ...]:
    steps = fields.array(value, _step, most=WHOLE_FLEET)
    if not steps:
        raise fields.wrong("empty; a policy has at least one wave")
    faults = [fault for index in range(1, len(steps)) for fault in _not_rising(steps, index)]
    if faults:
        raise FaultsError(faults)
    return steps


def _step(value: object) -> PolicyStep:
    table = fields.Fields(value)
    step = PolicyStep(
        start_after=table.take("start_after", _duration),
        fleet_percentage=table.take("fleet_percentage", _percentage),
    )
    table.refuse_rest(["start_after", "fleet_percentage"])
    table.done()
    return step


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(fields.text(value))
    except TimeError as error:
        raise fields.wrong(error.message) from error


def _percentage(value: object) -> int:
    percentage = fields.whole_number(value)
    if not 1 <= percentage <= WHOLE_FLEET:
        raise fields.wrong(f"{percentage} is outside 1…{WHOLE_FLEET}")
    return percentage


def _not_rising(steps: tuple[PolicyStep, ...], index: int) -> list[Fault]:
    earlier, later = steps[index - 1], steps[index]
    faults = []
    if later.start_after <= earlier.start_after:
        spans = (format_duration(later.start_after), format_duration(earlier.start_after))
        faults.append(_flat(index, "start_after", *spans))
    if later.fleet_percentage <= earlier.fleet_percentage:
        faults.append(
            _flat(index, "fleet_percentage", str(later.fleet_percentage), str(earlier.fleet_percentage))
        )
    return faults


def _flat(index: int, name: str, later: str, earlier: str) -> Fault:
    problem = f"{later} does not rise above {earlier} of waves[{index - 1}]"
    return Fault(path=f"[{index}].{name}", problem=problem)


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

``ohno`` is for emergencies; it counts in minutes, which upstream's own reader refuses.
"""
