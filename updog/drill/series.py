"""A series of drills: each on its own machine, and none stops another."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING, Any

from signpost.errors import ToolError
from updog.drill.releases import older_root
from updog.drill.runner import run_drill
from updog.errors import DrillFailedError, DrillSkippedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from updog.drill.drill_file import Drill
    from updog.drill.machine import DrillReleases, Machine

    MachineMaker = Callable[[Drill, DrillReleases, Path], Machine]
    """Makes the machine for a drill, in a folder that it creates."""


class DrillVerdict(StrEnum):
    """How a drill ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of one drill.

    Attributes:
        drill: its name.
        boots: how many times a slot was taken.
        seconds: how long it took.
        verdict: how it ended.
        cause: why it failed or was skipped; if it passed, the node's last rollback.
        console: the console log, if there was a machine.
    """

    drill: str
    boots: int
    seconds: float
    verdict: DrillVerdict
    cause: str
    console: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "drill": self.drill,
            "boots": self.boots,
            "seconds": round(self.seconds, 1),
            "result": self.verdict.value,
            "cause": self.cause,
            "console": str(self.console) if self.console else None,
        }


@dataclass(frozen=True, kw_only=True)
class Series:
    """How drills are run.

    Attributes:
        releases: what they are run with.
        make: makes the machine for each.
        folder: gets a folder for each drill: its console log, and the node of a drill that failed.
        jobs: how many run at a time.
    """

    releases: DrillReleases
    make: MachineMaker
    folder: Path
    jobs: int = 1
    _machines: set[Machine] = field(default_factory=set, init=False)
    _stop: Event = field(default_factory=Event, init=False)

    def run(self, drills: Sequence[Drill]) -> Iterator[Result]:
        """Run drills and yield results in the order of ``drills``; an interrupt switches off all machines."""
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            results = [pool.submit(self._run_one, drill) for drill in drills]
            try:
                yield from (result.result() for result in results)
            finally:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for machine in tuple(self._machines):
                    machine.cut()

    def _require_running(self) -> None:
        """Raise DrillSkippedError once the series was interrupted."""
        if self._stop.is_set():
            raise DrillSkippedError("interrupted")

    def _run_one(self, drill: Drill) -> Result:
        """Run a drill, and return its result whatever happens in it."""
        started, machine, verdict = time.monotonic(), None, DrillVerdict.PASSED
        try:
            check_releases(drill, self.releases)
            releases = older_root(self.releases, drill.rotations)
            machine = self.make(drill, releases, self.folder / drill.name)
            self._machines.add(machine)
            self._require_running()
            cause = run_drill(drill, machine, releases)
        except DrillSkippedError as error:
            verdict, cause = DrillVerdict.SKIPPED, error.message
        except ToolError as error:
            verdict, cause = DrillVerdict.FAILED, error.message
        except OSError as error:  # a socket or a file of this machine: the other drills go on
            verdict, cause = DrillVerdict.FAILED, str(error)
        finally:
            if machine is not None:
                self._machines.discard(machine)
                machine.close()
        if machine is not None and verdict is DrillVerdict.PASSED:
            machine.disk.unlink(missing_ok=True)
        return Result(
            drill=drill.name,
            boots=machine.boots if machine else 0,
            seconds=time.monotonic() - started,
            verdict=verdict,
            cause=cause,
            console=machine.log if machine else None,
        )


def check_releases(drill: Drill, releases: DrillReleases) -> None:
    """Raise DrillSkippedError if the drill's releases were not given, or are not different ones."""
    if missing := sorted(drill.kinds - releases.versions.keys()):
        raise DrillSkippedError(f"no release of kind {', '.join(missing)} was given (--release KIND=VERSION)")
    versions = {releases.versions[kind] for kind in drill.kinds}
    if len(versions) < len(drill.kinds):
        raise DrillSkippedError(f"needs different releases for {', '.join(sorted(drill.kinds))}")


def require_passed(results: Sequence[Result]) -> None:
    """Raise DrillFailedError if a drill failed, DrillSkippedError if all were skipped."""
    failed = [result.drill for result in results if result.verdict is DrillVerdict.FAILED]
    if failed:
        raise DrillFailedError(f"{len(failed)} of {len(results)} drills failed: {', '.join(failed)}")
    if all(result.verdict is DrillVerdict.SKIPPED for result in results):
        raise DrillSkippedError("every drill was skipped")
