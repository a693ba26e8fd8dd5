"""A simulated machine: the disk, the bootloader's rule and the agent are real, the systems are not.

It needs no emulator and no privileges, and takes seconds for all drills. Whether a release comes up follows
from its kind (:data:`~updog.drill.drill_file.FAULTS`): it proves the decisions, not the images.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from signpost.app import Signpost
from signpost.errors import NothingBootableError, ToolError
from signpost.medium import OsMedium
from signpost.progress import SilentReporter
from signpost.sets import Slot
from signpost.state import Command as Transition
from updog.agent import Agent
from updog.config import load
from updog.drill import sparse
from updog.drill.drill_file import FAULTS, Kind, Until
from updog.drill.machine import NodeCommand
from updog.drill.node import DrillNode
from updog.drill.power_cuts import CuttingMedium, PowerCutError, cut_points
from updog.errors import DrillFailedError, HealthError
from updog.host import Host
from updog.render import status_document
from updog.views import UpdateRequest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium
    from updog.drill.drill_file import Drill, Moment
    from updog.drill.machine import DrillReleases, Order

MAX_STARTS = 40  # in a row without one that stays up: more than any number of tries
HEALTH_SECONDS = 5  # what a check that hangs costs; a busy host starts a shell in one second


@dataclass(eq=False)
class SimulatedMachine:
    """A node in ``folder``, switched off, with the first release in slot A.

    Attributes:
        folder: is created.
        releases: its disk, and the repository it updates from.
        drill: gives the kinds of releases, and how many tries they get.
        clock: the current time, UTC.
        dice: chooses where cuts happen.
    """

    folder: Path
    releases: DrillReleases
    drill: Drill
    clock: Callable[[], datetime]
    dice: random.Random
    boots: int = 0
    is_on: bool = False
    _node: DrillNode = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        faults = {self.releases.versions[kind]: FAULTS[kind] for kind in self.drill.kinds & FAULTS.keys()}
        self._node = DrillNode(self.folder, medium=OsMedium(), clock=self.clock, faults=faults)
        sparse.copy(self.releases.disk, self.disk)
        self._node.create(
            variant=self.releases.variant,
            version=self.releases.versions[Kind.FIRST],
            root=self.releases.root,
            settings={
                "metadata_base_url": self.releases.metadata_url,
                "targets_base_url": self.releases.targets_url,
                "arch": self.releases.arch,
                "tries": self.drill.tries,
                "seed": 0,
                "send_query": False,
                "health_timeout": HEALTH_SECONDS,
            },
        )
        self._agent().verify(Slot.A)

    @property
    def disk(self) -> Path:
        """The disk image file."""
        return self._node.disk

    @property
    def log(self) -> Path:
        """The console log."""
        return self.folder / "console.log"

    def start(self, until: Until) -> bool:
        """Switch on, and let failed starts be repeated; False when no slot is left to start."""
        for _ in range(MAX_STARTS):
            try:
                boot = self._node.boot()
            except NothingBootableError:
                break
            self.boots += 1
            if boot.down_at is None:
                self.is_on = True
                self._agent().record_boot()
                return self.judge() if until is Until.JUDGED else True
        self.is_on = False
        return False

    def restart(self, until: Until) -> bool:
        """Restart."""
        return self.start(until)

    def cut(self) -> None:
        """Cut the power."""
        self.is_on = False

    def order(self, order: Order) -> int | None:
        """Carry out an order and return its exit status; None when it was interrupted."""
        medium: Medium = OsMedium()
        if order.stop is not None:
            medium = CuttingMedium(self.disk, at=self._cut_point(order, order.stop))
        try:
            _carry_out(order, self.folder, medium, self.clock)
        except ToolError as error:
            return int(error.status)
        except PowerCutError:
            self.is_on = order.kill
            return None
        return 0

    def judge(self) -> bool:
        """Let `updog confirm` end, and restart if it says so."""
        try:
            self._agent().confirm()
        except HealthError:
            return self.restart(Until.JUDGED)
        return True

    def status(self) -> Mapping[str, Any]:
        """Return the document of `updog status --json`."""
        return status_document(self._agent().status())

    def close(self) -> None:
        """Nothing runs between two calls."""
        self.is_on = False

    def _agent(self, medium: Medium | None = None) -> Agent:
        return _agent(self.folder, medium or OsMedium(), self.clock)

    def _cut_point(self, order: Order, stop: Moment) -> int:
        """Return the call of the medium at which the order is interrupted, from a rehearsal on a copy."""
        copy = self.folder.with_name(f"{self.folder.name}.rehearsal")
        shutil.copytree(self.folder, copy, copy_function=sparse.copy)
        try:
            medium = CuttingMedium(copy / "disk.img")
            _carry_out(order, copy, medium, self.clock)
        finally:
            shutil.rmtree(copy)
        numbers = cut_points(medium.calls, stop, copy / "state" / "spool")
        if not numbers:
            raise DrillFailedError(f"{order.command} has no moment of {stop}")
        return self.dice.choice(numbers)


def _agent(folder: Path, medium: Medium, clock: Callable[[], datetime]) -> Agent:
    """Return the agent of the node in a folder."""
    config = load(folder / "updog.toml")
    return Agent(config, Host(config), clock=clock, reporter=SilentReporter(), medium=medium)


def _carry_out(order: Order, folder: Path, medium: Medium, clock: Callable[[], datetime]) -> None:
    """Carry out an order on the node in a folder. Raises ToolError where the command would fail."""
    agent = _agent(folder, medium, clock)
    request = UpdateRequest(version=order.version, ignore_waves=True)
    match order.command:
        case NodeCommand.UPDATE:
            agent.update(request)
        case NodeCommand.INSTALL:
            agent.update_image(request)
        case NodeCommand.APPLY:
            agent.apply()
        case NodeCommand.REVERT:
            agent.revert()
        case NodeCommand.CONFIRM:
            agent.confirm()
        case NodeCommand.ROLLBACK:
            running = agent.status().running
            Signpost(medium, running.disk, running.slot).apply(Transition.ROLLBACK_TO_INACTIVE)
