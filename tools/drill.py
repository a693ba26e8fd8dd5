"""`make drill`: the drills in QEMU, on a node as in production, by `updog drill run`."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fixtures.node.drill_inputs import make_drill_inputs
from updog.drill.catalog import shipped

_UPDOG = Path(sys.executable).parent / "updog"
_COVERED_BY_OTHERS = {"cut-confirm-last-try", "cut-write", "rollback-on-trial", "tries-used-up"}
"""Left out unless they are named, to stay below 25 minutes: `make test` runs them simulated, and here
`cut-confirm`, `cut-anywhere`, `manual-rollback` and `kernel-panic` go through the same starts."""
_LONGEST = {"cut-anywhere", "power-cycles", "two-bad-releases"}


def _in_order(names: set[str]) -> list[str]:
    """Return the names of drills, the longest first, so that all jobs end at about the same time."""
    return sorted(names, key=lambda name: (name not in _LONGEST, name))


def main() -> int:
    """Build or find the releases, run the drills, and return the exit status of `updog drill run`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="DRILL", help="run these; without any, all but four")
    parser.add_argument("--results", default="drill-results", help="console logs and the report")
    parser.add_argument("--jobs", default="2", help="machines at the same time")
    options = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    names = options.names or _in_order({drill.name for drill in shipped()} - _COVERED_BY_OTHERS)
    inputs = make_drill_inputs(say)
    results = ["--results", options.results, "--junit", f"{options.results}/drills.xml"]
    words = ["drill", "run", "--qemu", *inputs.options(), *results, "--jobs", options.jobs, *names]
    say(f"$ updog {shlex.join(words)}")
    status = subprocess.run([str(_UPDOG), *words], check=False).returncode
    say("done")
    return status


if __name__ == "__main__":
    sys.exit(main())
