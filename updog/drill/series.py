"""A series of drills: each on a machine of its own, every one judged, none stopping another."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING, Any

from signpost.errors import ToolError
from updog.drill.player import play
from updog.drill.supply import older_root
from updog.errors import DrillFailedError, DrillSkippedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from updog.drill.machine import Machine, Supply
    from updog.drill.script import Drill

    MachineMaker = Callable[[Drill, Supply, Path], Machine]
    """Makes a machine for a drill, in a folder that it creates."""


class Verdict(StrEnum):
    """How a drill ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How one drill went.

    Attributes:
        drill: its name.
        boots: how many times a slot was taken.
        seconds: how long it took.
        verdict: how it ended.
        cause: why it failed or was skipped; of one that passed, the node's last rollback.
        console: the log of the console, if there was one.
    """

    drill: str
    boots: int
    seconds: float
    verdict: Verdict
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
    """How drills are played.

    Attributes:
        supply: what with.
        make: the machine for each.
        folder: one folder a drill is made in it; it keeps the console, and the node of a drill that failed.
        jobs: how many at a time.
    """

    supply: Supply
    make: MachineMaker
    folder: Path
    jobs: int = 1
    _machines: set[Machine] = field(default_factory=set, init=False)
    _stop: Event = field(default_factory=Event, init=False)

    def play(self, drills: Sequence[Drill]) -> Iterator[Result]:
        """Play drills and yield results in the order of ``drills``; what stops this stops the machines."""
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            results = [pool.submit(self._play_one, drill) for drill in drills]
            try:
                yield from (result.result() for result in results)
            finally:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for machine in tuple(self._machines):
                    machine.cut()

    def _require_wanted(self) -> None:
        """Raise DrillSkippedError once nobody waits for results any more."""
        if self._stop.is_set():
            raise DrillSkippedError("interrupted")

    def _play_one(self, drill: Drill) -> Result:
        """Play a drill, whatever happens in it."""
        started, machine, verdict = time.monotonic(), None, Verdict.PASSED
        try:
            check_releases(drill, self.supply)
            supply = older_root(self.supply, drill.rotations)
            machine = self.make(drill, supply, self.folder / drill.name)
            self._machines.add(machine)
            self._require_wanted()
            cause = play(drill, machine, supply)
        except DrillSkippedError as error:
            verdict, cause = Verdict.SKIPPED, error.message
        except ToolError as error:
            verdict, cause = Verdict.FAILED, error.message
        except OSError as error:  # of a socket or a file between us and the machine: the others go on
            verdict, cause = Verdict.FAILED, str(error)
        finally:
            if machine is not None:
                self._machines.discard(machine)
                machine.close()
        if machine is not None and verdict is Verdict.PASSED:
            machine.disk.unlink(missing_ok=True)
        return Result(
            drill=drill.name,
            boots=machine.boots if machine else 0,
            seconds=time.monotonic() - started,
            verdict=verdict,
            cause=cause,
            console=machine.console if machine else None,
        )


def check_releases(drill: Drill, supply: Supply) -> None:
    """Raise DrillSkippedError where the drill's releases are not there, or not different ones."""
    if missing := sorted(drill.kinds - supply.releases.keys()):
        raise DrillSkippedError(f"no release of kind {', '.join(missing)} was given (--release KIND=VERSION)")
    versions = {supply.releases[kind] for kind in drill.kinds}
    if len(versions) < len(drill.kinds):
        raise DrillSkippedError(f"needs different releases for {', '.join(sorted(drill.kinds))}")


def require_passed(results: Sequence[Result]) -> None:
    """Raise DrillFailedError if a drill failed, or none was played."""
    failed = [result.drill for result in results if result.verdict is Verdict.FAILED]
    if failed:
        raise DrillFailedError(f"{len(failed)} of {len(results)} drills failed: {', '.join(failed)}")
    if all(result.verdict is Verdict.SKIPPED for result in results):
        raise DrillSkippedError("no drill could be played")
