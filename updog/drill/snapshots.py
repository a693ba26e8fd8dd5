"""Saved machines: what several drills begin with is done once, and each drill goes on from a copy.

Rules it enforces:

* a snapshot is used only when it is complete: a failure to make it leaves nothing, and the next drill tries
  again;
* a snapshot is identified by everything that led to it: the first release up and confirmed, and at most one
  command that was not interrupted, with the same number of tries. Nothing random is shared.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from updog.drill import sparse
from updog.drill.console import NodeConsole, wait_until_judged
from updog.drill.machine import NodeCommand
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from updog.drill.drill_file import Drill, Opening
    from updog.drill.qemu import Hardware

_USUAL_SECONDS = {
    NodeCommand.UPDATE: 25.0,
    NodeCommand.INSTALL: 25.0,
    NodeCommand.APPLY: 2.5,
    NodeCommand.REVERT: 2.5,
    NodeCommand.ROLLBACK: 1.0,
    NodeCommand.CONFIRM: 6.0,
}
"""How long commands take on two quiet cores, until measured: a random moment is within this time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A machine that was saved while it ran.

    Attributes:
        disk: its disk. memory: its memory and devices.
        status: its last `updog status`.
        exit_status: of the command that led to it.
    """

    disk: Path
    memory: Path
    status: Mapping[str, Any]
    exit_status: int

    @classmethod
    def take(
        cls, console: NodeConsole, disk: Path, folder: Path, *, status: Mapping[str, Any], exit_status: int
    ) -> Snapshot:
        """Save a machine to a folder, which is emptied first; the machine is then off. DrillFailedError."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = cls(disk=folder / "disk.img", memory=folder / "memory", status=status, exit_status=exit_status)
        console.ask("sync")
        console.emulator.save(made.memory)
        console.switch_off()
        sparse.copy(disk, made.disk)
        return made


@dataclass(kw_only=True, slots=True)
class _Entry:
    """A snapshot or the place for one; locked while it is made."""

    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    snapshot: Snapshot | None = None


@dataclass
class Emulation:
    """What the machines of one series share.

    Attributes:
        hardware: of each machine.
        folder: for the snapshots; emptied first.
        shared: openings that several drills of the series have.
        seconds: how long each command took when it last ran.
    """

    hardware: Hardware
    folder: Path
    shared: frozenset[Opening] = frozenset()
    seconds: dict[NodeCommand, float] = field(default_factory=lambda: dict(_USUAL_SECONDS))
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _entries: dict[Opening | None, _Entry] = field(default_factory=dict, init=False)

    def first(self, source: Path) -> Snapshot:
        """Return the snapshot with the first release up and confirmed, started from a copy of this disk."""
        return self._once(None, lambda folder: self._started(source, folder))

    def after(self, opening: Opening, make: Callable[[Path], Snapshot]) -> Snapshot:
        """Return the snapshot after an opening. The first caller makes it in a folder; others wait for it."""
        return self._once(opening, make)

    def close(self) -> None:
        """Remove the snapshots; the console log of the first start stays."""
        for entry in self._entries.values():
            shutil.rmtree(entry.folder, ignore_errors=True)

    def _once(self, opening: Opening | None, make: Callable[[Path], Snapshot]) -> Snapshot:
        with self._guard:
            entry = self._entries.setdefault(opening, _Entry(folder=self.folder / str(len(self._entries))))
        with entry.lock:
            if entry.snapshot is None:
                entry.snapshot = make(entry.folder)
            return entry.snapshot

    def _started(self, source: Path, folder: Path) -> Snapshot:
        """Start a copy of a disk and wait until it is confirmed. Raises DrillFailedError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        disk = self.folder / "disk.img"
        sparse.copy(source, disk)
        console = NodeConsole(self.hardware, disk, self.folder / "console.log")
        try:
            console.switch_on()
            status = wait_until_judged(console) if console.wait_until_up() else None
            if status is None:
                raise DrillFailedError("the first release does not start")
            return Snapshot.take(console, disk, folder, status=status, exit_status=0)
        finally:
            console.close()
            disk.unlink(missing_ok=True)


def shared_openings(drills: Sequence[Drill]) -> frozenset[Opening]:
    """Return the openings that more than one of these drills has. PURE."""
    counted = Counter(drill.opening for drill in drills)
    return frozenset(opening for opening, times in counted.items() if opening and times > 1)
