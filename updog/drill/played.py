"""A played machine: the disk, the bootloader's rule and the agent are real, the systems are not.

It needs no emulator and no privilege and takes seconds for all drills. Whether a release comes up is taken
from what the drill says it is (:data:`~updog.drill.script.FAULTS`): it proves the decisions, not the images.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from signpost.app import Signpost
from signpost.errors import NothingBootableError, ToolError
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command as Transition
from updog.agent import Agent, Wishes
from updog.config import load
from updog.drill import sparse
from updog.drill.cuts import CuttingMedium, PowerCutError, places
from updog.drill.machine import Command
from updog.drill.node import DrillNode
from updog.drill.script import FAULTS, Kind, Until
from updog.errors import DrillFailedError, HealthError
from updog.host import Host
from updog.progress import Silence
from updog.render import status_document

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium
    from updog.drill.machine import Order, Supply
    from updog.drill.script import Drill

MAX_STARTS = 40  # in a row without one that stays: more than any number of tries, so nothing will come up
HEALTH_SECONDS = 5  # a check that hangs is given up after this; a busy machine starts a shell in one second


@dataclass(eq=False)
class PlayedMachine:
    """A node in ``folder``, switched off, with the first release in slot A.

    Attributes:
        folder: is created.
        supply: what it is made of.
        drill: says which kinds of releases there are and how many tries they get.
        clock: this moment, UTC.
        dice: where cuts happen.
    """

    folder: Path
    supply: Supply
    drill: Drill
    clock: Callable[[], datetime]
    dice: random.Random
    boots: int = 0
    is_on: bool = False
    _node: DrillNode = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        faults = {self.supply.releases[kind]: FAULTS[kind] for kind in self.drill.kinds & FAULTS.keys()}
        self._node = DrillNode(self.folder, medium=OsMedium(), clock=self.clock, faults=faults)
        sparse.copy(self.supply.disk, self.disk)
        self._node.create(
            variant=self.supply.variant,
            version=self.supply.releases[Kind.FIRST],
            root=self.supply.root,
            settings={
                "metadata_base_url": self.supply.metadata_url,
                "targets_base_url": self.supply.targets_url,
                "arch": self.supply.arch,
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
    def console(self) -> Path:
        """The log of its console."""
        return self.folder / "console.log"

    def start(self, until: Until) -> bool:
        """Switch on, let starts fail and be repeated; False when nothing is left to start."""
        for _ in range(MAX_STARTS):
            try:
                boot = self._node.boot()
            except NothingBootableError:
                break
            self.boots += 1
            if boot.down_at is None:
                self.is_on = True
                self._agent().settle()
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
        """Carry an order out and return its exit status; None when it was stopped half way."""
        medium: Medium = OsMedium()
        if order.stop is not None:
            medium = CuttingMedium(self.disk, at=self._place(order))
        try:
            _carry_out(order, self.folder, medium, self.clock)
        except ToolError as error:
            return int(error.status)
        except PowerCutError:
            self.is_on = order.kill
            return None
        return 0

    def judge(self) -> bool:
        """Let `updog confirm` come to its end, restarting as it would have it."""
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

    def _place(self, order: Order) -> int:
        """Return at which call of the medium the order is stopped: rehearsed on a copy of the node."""
        if order.stop is None:
            raise DrillFailedError("an order that is not stopped has no place where it is")
        copy = self.folder.with_name(f"{self.folder.name}.rehearsal")
        shutil.copytree(self.folder, copy, copy_function=sparse.copy)
        try:
            medium = CuttingMedium(copy / "disk.img")
            _carry_out(order, copy, medium, self.clock)
        finally:
            shutil.rmtree(copy)
        numbers = places(medium.calls, order.stop, copy / "state" / "spool")
        if not numbers:
            raise DrillFailedError(f"{order.command} has no moment of {order.stop}")
        return self.dice.choice(numbers)


def _agent(folder: Path, medium: Medium, clock: Callable[[], datetime]) -> Agent:
    """Return the agent of the node in a folder."""
    config = load(folder / "updog.toml")
    return Agent(config, Host(config), clock=clock, teller=Silence(), medium=medium)


def _carry_out(order: Order, folder: Path, medium: Medium, clock: Callable[[], datetime]) -> None:
    """Do what an order says to the node in a folder. Raises ToolError as the command line would end."""
    agent = _agent(folder, medium, clock)
    wishes = Wishes(version=order.version, ignore_waves=True)
    match order.command:
        case Command.UPDATE:
            agent.update(wishes)
        case Command.INSTALL:
            agent.update_image(wishes)
        case Command.APPLY:
            agent.apply()
        case Command.REVERT:
            agent.revert()
        case Command.CONFIRM:
            agent.confirm()
        case Command.ROLLBACK:
            running = agent.status().running
            Signpost(medium, running.disk, running.slot).apply(Transition.ROLLBACK_TO_INACTIVE)
