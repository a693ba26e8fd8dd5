"""Run the QEMU drills of `make test` many times in a row; report how often they passed and how long it took.

A drill that fails once in fifty times is a defect of the drill or of its runner: this is how it is found, and
how a fix is verified. Each run leaves its output in a file, and stops nothing when it fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from updog.drill.patience import slowness

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRILLS = "tests/drills/test_node_drills.py"
_BUSY = "while True: pass"
_TRACES_KEPT = "3"  # pytest's folders of failed runs: console logs and disks


@contextmanager
def _load(processes: int) -> Iterator[None]:
    """Keep so many processes busy for the length of a ``with`` block."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> int:
    """Repeat the drills, and return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=20, help="how many runs (20)")
    parser.add_argument(
        "--load", type=int, metavar="N", default=0, help="busy processes for each core beside it (0)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("drill-results/repeat"), help="output of each run"
    )
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", _DRILLS]
    command += ["-o", f"tmp_path_retention_count={_TRACES_KEPT}", "-o", "tmp_path_retention_policy=failed"]
    passed, longest = 0, 0.0
    with _load(options.load * (os.cpu_count() or 1)):
        for number in range(1, options.times + 1):
            log = options.results / f"{number}.log"
            before, began = slowness(), time.monotonic()
            with log.open("w") as output:
                done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
            took, after = time.monotonic() - began, slowness()
            # pytest ends in status 0 when all tests were skipped, too: that is not a pass.
            is_good = done.returncode == 0 and "1 passed" in log.read_text(encoding="utf-8", errors="replace")
            passed, longest = passed + is_good, max(longest, took)
            print(
                f"{number:3}  {'passed' if is_good else 'FAILED'} in {took:6.1f} s, "
                f"work takes {before:.1f} to {after:.1f} times as long as on a quiet machine; {log}",
                flush=True,
            )
    print(f"{passed} of {options.times} runs passed; the longest took {longest:.1f} s")
    return 0 if passed == options.times else 1


if __name__ == "__main__":
    sys.exit(main())
