"""`make bench-fleet`: the figures of simulate, report and guard in docs/benchmarks.md.

Times are of complete processes. The guard is simulated over many seeds: the same fleets with different rules.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "repo-tools"),
]

from repo_tools.fleet.simulate import RolloutPlan, Runs, by_guard, by_polling, over_seeds
from repo_tools.fleet.verdict import HoldOn, Rules
from tests.support.access_logs import write_log
from tests.support.repositories import make_repository
from updog.update_metadata.waves import WavePolicy

if TYPE_CHECKING:
    from repo_tools.fleet.simulate import Detector
    from repo_tools.fleet.verdict import Tally

_TOOL = str(Path(sys.executable).parent / "repo-tools")
START = datetime(2026, 11, 2, 6, tzinfo=UTC)
EVERY = timedelta(minutes=15)
BUDGET = 0.01
ALPHA = 0.05
_Z = 1.96  # of a 95 % interval


def textbook(tally: Tally) -> bool:
    """Tell whether Wilson's lower bound, which is only valid for a single look, is above the budget."""
    count = tally.overall
    if not count.total:
        return False
    n, p = count.total, count.rate
    middle = p + _Z * _Z / (2 * n)
    spread = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
    return (middle - spread) / (1 + _Z * _Z / n) > BUDGET


RULES: dict[str, Detector] = {
    "proof": by_guard(Rules(budget=BUDGET, alpha=ALPHA), EVERY),
    "doubt": by_guard(Rules(budget=BUDGET, alpha=ALPHA, hold_on=HoldOn.DOUBT), EVERY),
    "textbook": by_polling(textbook, EVERY),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A fleet of 10,000 nodes: its wave policy, the release's failure rate, and the rule that holds it."""

    policy: str
    rate: float
    rule: str

    def play(self, runs: int) -> str:
        """Simulate it with many seeds; return one row of the table."""
        waves = WavePolicy.built_in(self.policy).waves(START)
        plan = RolloutPlan(
            waves=waves, start=START, nodes=10_000, jitter=timedelta(minutes=15), bad_rate=self.rate
        )
        found = over_seeds(plan, runs, RULES[self.rule])
        return (
            f"| {self.policy} | {100 * self.rate:g} % | {self.rule} | {100 * found.held / runs:.1f} %"
            f" | {100 * found.mean_harmed:.3f} % | {100 * found.worst_harmed:.2f} %"
            f" | {100 * found.mean_updated:.1f} % | {_hours(found)} |"
        )


def _hours(found: Runs) -> str:
    """Return the median time from the start to the hold, as text."""
    middle = sorted(found.held_after)[len(found.held_after) // 2]
    return f"{middle / 3600:.1f} h" if math.isfinite(middle) else "never"


CASES = [
    *(Case(policy="default", rate=rate, rule="proof") for rate in (1.0, 0.1, 0.05, 0.02, 0.01, 0.001)),
    *(Case(policy="default", rate=rate, rule="doubt") for rate in (0.05, 0.02, 0.001)),
    *(Case(policy="default", rate=rate, rule="textbook") for rate in (0.05, 0.01, 0.001)),
    *(Case(policy=policy, rate=0.05, rule="proof") for policy in ("accelerated", "ohno")),
]

_LINE = re.compile(
    r'^(\S+) \S+ \S+ \[([^\]]+)\] "[A-Z]+ ([^ "?]*)(?:\?([^ "]*))? [^"]*" ([0-9]{3}) ([0-9]+|-)'
)


def loop(path: Path) -> str:
    """Return the times of a plain Python loop that matches the lines and parses their times."""
    started, processor, nodes = time.perf_counter(), time.process_time(), set()
    with path.open() as lines:
        for line in lines:
            match = _LINE.match(line)
            if match:
                moment = datetime.strptime(match[2], "%d/%b/%Y:%H:%M:%S %z")
                nodes.add((match[1], match[4], moment.day))
    return f"{time.perf_counter() - started:.1f} s | {time.process_time() - processor:.1f} s"


def times(*words: str) -> str:
    """Return the lowest wall time and processor time of three runs of a repo-tools command."""
    walls, processor = [], []
    for _ in range(3):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([_TOOL, *words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - started)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return f"{min(walls):.1f} s | {min(processor):.1f} s"


def bench_speed(folder: Path) -> None:
    """Print the times for a million nodes, and for a million log lines."""
    print("| command | size | time | processor |\n|---|---|---|---|")
    words = ["simulate", "--nodes", "1000000", "--edges", "30", "--plot", str(folder / "rollout.svg")]
    print(
        f"| `repo-tools simulate --nodes 1000000 --edges 30 --plot …` | 1,000,000 nodes | {times(*words)} |"
    )
    repository = make_repository(folder / "repo", versions=["1.0.0"])
    repository.publish("1.1.0", waves="default", start_at=START)
    waves, log = WavePolicy.built_in("default").waves(START), folder / "access.log"
    plan = RolloutPlan(waves=waves, start=START, nodes=5900, bad_rate=0.005)
    written = write_log(log, plan, until=timedelta(days=7), hang=0.1)
    size = f"{written.lines:,} lines, {log.stat().st_size >> 20} MiB"
    repo = ["--repo", str(repository.folder)]
    report = times(*repo, "report", "1.1.0", str(log), "--page", str(folder / "rollout.html"))
    print(f"| `repo-tools report 1.1.0 access.log --page rollout.html` | {size} | {report} |")
    guard = times(*repo, "guard", str(log), "--version", "1.1.0", "--dry-run")
    print(f"| `repo-tools guard access.log --version 1.1.0` | {size} | {guard} |")
    print(f"| a Python loop that only matches lines and reads times | {size} | {loop(log)} |", flush=True)


def bench_guard(runs: int) -> None:
    """Print how many nodes each rule harms, and how often it holds a good release."""
    print(f"\n{runs} seeds a row, 10,000 nodes, budget 1 %, a look every 15 minutes, alpha 5 %\n")
    print("| waves | fails on | rule | held | harmed, mean | worst | updated | held after, median |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        print(case.play(runs), flush=True)


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="seeds of each row of the guard's table")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name:
        bench_speed(Path(name))
    bench_guard(options.runs)


if __name__ == "__main__":
    main()
