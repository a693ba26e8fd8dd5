"""`make bench`: the ratios in docs/benchmarks.md, with both sides of each ratio measured in the same run.

The two commands run alternately, A B A B …, as complete processes. The table has the minimum, median and
maximum of the ratio A/B of each pair, so that a machine whose speed changes does not distort the result.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fixtures.os.build import build_releases

if TYPE_CHECKING:
    from collections.abc import Sequence

_BIN = Path(sys.executable).parent
VARIANT = "demo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two commands to compare: ours and another one."""

    name: str
    ours: Sequence[str]
    other: Sequence[str]
    runs: int = 41


def seconds(command: Sequence[str], *, accept: tuple[int, ...] = (0, 3)) -> float:
    """Return the wall time of a complete process, in seconds."""
    started = time.perf_counter()
    status = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode
    if status not in accept:
        raise SystemExit(f"{command[0]} ended with exit status {status}")
    return time.perf_counter() - started


def compare(pair: Pair) -> str:
    """Run a pair alternately and return one row of the table."""
    ratios, ours, others = [], [], []
    for number in range(pair.runs + 1):
        mine, theirs = seconds(pair.ours), seconds(pair.other)
        if number:  # the first pair warms up
            ours.append(mine)
            others.append(theirs)
            ratios.append(mine / theirs)
    middle = statistics.median
    spread = f"{min(ratios):.2f} / {middle(ratios):.2f} / {max(ratios):.2f}"
    return f"| {pair.name} | {middle(ours) * 1e3:.0f} ms | {middle(others) * 1e3:.0f} ms | {spread} |"


def run(*words: str) -> None:
    """Run a command that must succeed, without its output."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def prepare(folder: Path, cache: Path) -> None:
    """Create a repository with 1.0.0 and 1.1.0, and the disk of a node that runs 1.0.0."""
    releases = build_releases(cache, lambda line: print(line, file=sys.stderr))
    tool = [str(_BIN / "repo-tools"), "--repo", str(folder / "repo")]
    run(tool[0], "new", str(folder / "repo"))
    for version in ("1.0.0", "1.1.0"):
        images = [f"--{role}={path}" for role, path in releases[version].images().items()]
        named = ["--variant", VARIANT, "--arch", platform.machine(), "--version", version, "--waves", "none"]
        run(*tool, "publish", *named, *images)
    run(*tool, "disk", "create", str(folder / "disk.img"), "--version", "1.0.0")


def pairs(folder: Path) -> list[Pair]:
    """Return the pairs to compare."""
    signpost = [str(_BIN / "signpost"), "--disk", str(folder / "disk.img"), "--active", "A", "status"]
    targets = folder / "repo" / "targets"
    hashes = f"sha256sum {targets}/*; for f in {targets}/*.zst; do zstd -dcq $f | sha256sum; done"
    return [
        Pair(name="`signpost status` / `python3 -c 'import click'`", ours=signpost,
             other=[sys.executable, "-c", "import click"]),
        Pair(name="`validate` of two releases / `sha256sum` of every file and of every unpacked image",
             ours=[str(_BIN / "repo-tools"), "validate", str(folder / "repo")], other=["sh", "-c", hashes],
             runs=9),
    ]  # fmt: skip


def main() -> None:
    """Prepare, compare, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path(".cache/os"))
    parser.add_argument("--only", default="", metavar="WORD", help="only the rows that contain this word")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        prepare(folder, options.cache.resolve())
        print(f"{platform.machine()}, Python {platform.python_version()}")
        print("| ours / other | ours, median | other, median | ratio min / median / max |\n|---|---|---|---|")
        for pair in (pair for pair in pairs(folder) if options.only in pair.name):
            print(compare(pair), flush=True)


if __name__ == "__main__":
    main()
