"""Machines stopped in time: what several drills begin with is waited for once, and each goes on from there.

Rules it enforces:

* a state is used only once it is whole: who fails to make it leaves nothing, and the next one tries again;
* what a state is of is its whole story: the first release up and confirmed, and at most one command that was
  not interrupted, with the same number of tries. Nothing that is left to chance is shared.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from updog.drill import sparse
from updog.drill.line import ANSWER_SECONDS, START_SECONDS, Line, wait_until_judged
from updog.drill.machine import Command
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from updog.drill.qemu import Hardware
    from updog.drill.script import Drill, Opening

_USUAL_SECONDS = {
    Command.UPDATE: 25.0,
    Command.INSTALL: 25.0,
    Command.APPLY: 2.5,
    Command.REVERT: 2.5,
    Command.ROLLBACK: 1.0,
    Command.CONFIRM: 6.0,
}
"""How long commands take where nobody measured it yet: the span in which a random moment lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A machine that was stopped while it ran.

    Attributes:
        disk: its disk. memory: all else.
        status: what `updog status` said last.
        answer: exit status of the command that led there.
    """

    disk: Path
    memory: Path
    status: Mapping[str, Any]
    answer: int

    @classmethod
    def of(cls, line: Line, disk: Path, folder: Path, *, status: Mapping[str, Any], answer: int) -> Prepared:
        """Stop a machine into a folder that is made anew; it is off then. Raises DrillFailedError."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = cls(disk=folder / "disk.img", memory=folder / "memory", status=status, answer=answer)
        line.run("sync", ANSWER_SECONDS)
        line.emulator.save(made.memory)
        line.switch_off()
        sparse.copy(disk, made.disk)
        return made


@dataclass(kw_only=True, slots=True)
class _Place:
    """Where a state is kept; locked by whoever makes it."""

    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    state: Prepared | None = None


@dataclass
class Emulation:
    """What the machines of one series share.

    Attributes:
        hardware: what each is made of.
        folder: where prepared states are kept; made anew.
        shared: openings that several of the series' drills have.
        seconds: how long each command took when it was last measured.
    """

    hardware: Hardware
    folder: Path
    shared: frozenset[Opening] = frozenset()
    seconds: dict[Command, float] = field(default_factory=lambda: dict(_USUAL_SECONDS))
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _places: dict[Opening | None, _Place] = field(default_factory=dict, init=False)

    def first(self, source: Path) -> Prepared:
        """Return the state with the first release up and confirmed, from a copy of this disk."""
        return self._once(None, lambda folder: self._started(source, folder))

    def after(self, opening: Opening, make: Callable[[Path], Prepared]) -> Prepared:
        """Return the state after an opening; who asks first makes it, in a folder, and others wait."""
        return self._once(opening, make)

    def close(self) -> None:
        """Remove the states; the console of the first start stays."""
        for place in self._places.values():
            shutil.rmtree(place.folder, ignore_errors=True)

    def _once(self, opening: Opening | None, make: Callable[[Path], Prepared]) -> Prepared:
        with self._guard:
            place = self._places.setdefault(opening, _Place(folder=self.folder / str(len(self._places))))
        with place.lock:
            if place.state is None:
                place.state = make(place.folder)
            return place.state

    def _started(self, source: Path, folder: Path) -> Prepared:
        """Start a copy of a disk and let it be judged. Raises DrillFailedError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        disk = self.folder / "disk.img"
        sparse.copy(source, disk)
        line = Line(self.hardware, disk, self.folder / "console.log")
        try:
            line.switch_on()
            line.wait_until_up(START_SECONDS)
            status = wait_until_judged(line)
            if status is None:
                raise DrillFailedError("the first release does not come up")
            return Prepared.of(line, disk, folder, status=status, answer=0)
        finally:
            line.close()
            disk.unlink(missing_ok=True)


def shared_openings(drills: Sequence[Drill]) -> frozenset[Opening]:
    """Return how more than one of some drills begins. PURE."""
    counted = Counter(drill.opening for drill in drills)
    return frozenset(opening for opening, times in counted.items() if opening and times > 1)
