"""What the agent is asked for and what it answers. The command line prints these values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signpost.app import RunningDiskView
    from signpost.sets import ImageKind, Slot
    from signpost.state import State
    from updog.host import RunningSlot
    from updog.installing.estimate import Estimate
    from updog.standing import Standing
    from updog.state import Event, NodeState
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateRequest:
    """What the command line asks for, in addition to the configuration.

    Attributes:
        version: take exactly this one; None lets the node choose.
        ignore_waves: do not wait for the wave.
        max_bytes: the most bytes that may be downloaded; None: no limit.
        accept_plan: the id of the only plan to carry out; None: any.
    """

    version: Version | None = None
    ignore_waves: bool = False
    max_bytes: int | None = None
    accept_plan: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePlan:
    """What `updog plan` prints: what an update takes, and the flags of the slots before and after it.

    Attributes:
        id: of what is installed: the same for the same release and bytes, 64 hexadecimal digits.
        update: the chosen one. running: the version that runs. slot: where the update goes.
        needs: what each image takes. before, after: the flags.
    """

    id: str
    update: Update
    running: Version
    slot: Slot
    needs: tuple[Estimate, ...]
    before: State
    after: State


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What `updog status` prints, and what the metrics and the login message are made of.

    Attributes:
        running: the slot and version that run. view: the disk. state: what is remembered between runs.
        standing: of the pending update.
    """

    running: RunningSlot
    view: RunningDiskView
    state: NodeState
    standing: Standing

    @property
    def confirmed(self) -> bool:
        """Whether the running slot was marked successful."""
        return self.view.slots[self.view.active].flags.successful


@dataclass(frozen=True, kw_only=True, slots=True)
class BootOutcome:
    """How the last restart ended: the standing of the pending update, and what was recorded about it now."""

    standing: Standing
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCheck:
    """Whether an image of a slot is still what was signed; ``size`` in bytes."""

    kind: ImageKind
    size: int
    good: bool
