"""Access logs of a simulated rollout to a fleet of nodes; for tests and for the benchmark.

    written = write_log(path, plan, until=timedelta(days=2))

Every node checks once in each interval, takes the release when :mod:`repo_tools.fleet.simulate` says,
restarts into it and reports. A node that fails reports that and goes back to the previous version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from repo_tools.fleet.simulate import make_fleet, wave_numbers
from updog.update_metadata.outcomes import NodeName, OutcomeLine
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from repo_tools.fleet.simulate import RolloutPlan

VARIANT, ARCH = "synthetic", "x86_64"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The contents of a log: its lines, and the nodes on which the release failed, hung and succeeded."""

    lines: int
    failed: int
    hung: int
    good: int


def combined(at: datetime, client: str, url: str, *, status: int = 200, size: int = 843) -> str:
    """Return one line in the combined log format of nginx and Apache."""
    return f'{client} - - [{at:%d/%b/%Y:%H:%M:%S} +0000] "GET {url} HTTP/1.1" {status} {size} "-" "updog"\n'


def outcome(
    at: datetime, number: int, seed: int, *, version: str = "1.1.0", code: str = "confirmed", cause: str = ""
) -> OutcomeLine:
    """Return the outcome line that node ``number`` reports."""
    return OutcomeLine(
        time=at.replace(microsecond=0),
        node=NodeName(hashlib.sha256(str(number).encode()).hexdigest()[:32]),
        variant=VARIANT,
        arch=ARCH,
        seed=seed,
        code=code,
        cause=cause or None,
        before=Version.parse("1.0.0"),
        to=Version.parse(version),
    )


def address(number: int) -> str:
    """Return the IP address of a node."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def write_log(path: Path, plan: RolloutPlan, *, until: timedelta, hang: float = 0.0) -> Written:
    """Write the access log of a rollout from 1.0.0 to 1.1.0, from its start.

    Args:
        path: the log.
        plan: the rollout, which is never held.
        until: the time after the start at which the log ends.
        hang: the share of failing nodes that send nothing more.
    """
    fleet, end = make_fleet(plan, np.random.default_rng(plan.seed)), until.total_seconds()
    seeds = np.random.default_rng(plan.seed).integers(0, MAX_SEED, plan.nodes)
    assert np.array_equal(wave_numbers(plan.waves)[seeds], fleet.wave)
    random = np.random.default_rng(plan.seed + 1)
    phases = random.random(plan.nodes) * plan.interval.total_seconds()
    hangs = fleet.fails & (random.random(plan.nodes) < hang)
    entries: list[tuple[float, str]] = []
    for number in range(plan.nodes):
        node = _Node(
            number=number,
            seed=int(seeds[number]),
            take=float(fleet.take[number]),
            report=float(fleet.report[number]),
            fails=bool(fleet.fails[number]),
            hangs=bool(hangs[number]),
        )
        checks = np.arange(phases[number], end, plan.interval.total_seconds()).tolist()
        entries += [entry for entry in node.requests(checks, plan.start) if entry[0] < end]
    entries.sort()
    path.write_text("".join(line for _, line in entries))
    said = ~hangs & (fleet.report < end)
    return Written(
        lines=len(entries),
        failed=int((said & fleet.fails).sum()),
        hung=int((hangs & (fleet.take < end)).sum()),
        good=int((said & ~fleet.fails).sum()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
    """One node; times are seconds since the start."""

    number: int
    seed: int
    take: float
    report: float
    fails: bool
    hangs: bool

    def requests(self, checks: list[float], start: datetime) -> Iterator[tuple[float, str]]:
        """Yield its requests with their times."""
        for at in checks:
            if not (self.hangs and at > self.take):
                runs = "1.1.0" if at > self.report and not self.fails else "1.0.0"
                yield at, self._line(start, at, f"/metadata/timestamp.json?seed={self.seed}&version={runs}")
        query = f"seed={self.seed}&version=1.0.0&target=1.1.0"
        yield self.take, self._line(start, self.take, f"/targets/os-root.zst?{query}", size=1 << 20)
        if not self.hangs:
            code, cause = ("boot-failed", "kernel panic") if self.fails else ("confirmed", "")
            moment = start + timedelta(seconds=self.report)
            said = outcome(moment, self.number, self.seed, code=code, cause=cause)
            yield self.report, self._line(start, self.report, f"/r?{said.to_query()}", status=204, size=0)

    def _line(self, start: datetime, at: float, url: str, *, status: int = 200, size: int = 843) -> str:
        moment = start + timedelta(seconds=at)
        return combined(moment, address(self.number), url, status=status, size=size)
