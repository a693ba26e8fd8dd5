"""Random walks through the table of the agent: whether its rules hold, whatever happens.

    .venv/bin/python tools/random_walks.py --walks 10000 [--seed 0] [--jobs 2]
    .venv/bin/python tools/random_walks.py --walks 1 --seed 4711    # take one of them again

A walk is the life of one simulated node: 20 to 200 events, which a seed draws (jobs and requests end well or
badly, daemons are killed, releases come and go, operators do what they may), and then peace, in which
everything has to come to its end. The node, what must never happen to it, and the events are those of the
tests (tests/updog/auto/node_model.py and walks.py); table, gates and windows are the agent's own.

The walks of --seed N are those with the seeds N, N + 1, … A walk that breaks a rule is printed with its seed
and with as few of its events as still break one; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.updog.auto.walks import problem_of, shortened, take, walk_of
from updog.auto.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AT_ONCE = 25  # walks that one process takes before it says how they went
MOST_SHOWN = 5  # walks that broke a rule


@dataclass(kw_only=True, slots=True)
class Count:
    """What some walks came to.

    Attributes:
        walks, events: how many. seconds: of processor time.
        rows: how often each row of the table was reached, by the walks that broke no rule.
        broken: the seeds of those that did.
    """

    walks: int = 0
    events: int = 0
    seconds: float = 0.0
    rows: Counter[str] = field(default_factory=Counter)
    broken: list[int] = field(default_factory=list)

    def add(self, other: Count) -> None:
        """Add ``other`` to this."""
        self.walks += other.walks
        self.events += other.events
        self.seconds += other.seconds
        self.rows += other.rows
        self.broken += other.broken


def count(seeds: Iterable[int]) -> Count:
    """Take the walks of ``seeds``, one after the other."""
    began, counted = time.process_time(), Count()
    for seed in seeds:
        walk = walk_of(seed)
        counted.walks += 1
        counted.events += len(walk.events)
        try:
            counted.rows += take(walk).rows
        except Exception:  # noqa: BLE001 (an error of any kind is a finding)
            counted.broken.append(seed)
    counted.seconds = time.process_time() - began
    return counted


def print_problem(seed: int) -> None:
    """Print what is wrong with the walk of ``seed``, and as few of its events as are needed for it."""
    walk = shortened(walk_of(seed))
    problem = problem_of(walk)
    print(f"\nseed {seed}, with {walk.policy}:")
    for event in walk.events:
        print(f"  {event.kind.name} ({event.number})")
    print("".join(traceback.format_exception(problem)).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Take walks, print what they came to, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--walks", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first one (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    given = parser.parse_args(arguments)
    seeds = range(given.seed, given.seed + given.walks)
    parts = [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]
    total = Count()
    with ExitStack() as stack:
        at_work = stack.enter_context(ProcessPoolExecutor(given.jobs)).map if given.jobs > 1 else map
        for part in at_work(count, parts):
            total.add(part)
            if total.walks % 1000 == 0:
                print(f"{total.walks} walks, broken: {len(total.broken)}", file=sys.stderr, flush=True)
    steps = total.rows.total()
    print(
        f"{total.walks} walks, {total.events} events, {steps} steps of the table, "
        f"{total.seconds:.0f} s of processor time"
    )
    for row in ROWS:
        print(f"  {row.name:20} {total.rows[row.name]:>10}")
    print(f"rows never reached: {', '.join(row.name for row in ROWS if not total.rows[row.name]) or 'none'}")
    print(f"walks that broke a rule: {len(total.broken)}")
    for seed in total.broken[:MOST_SHOWN]:
        print_problem(seed)
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
