"""What one command works with while it holds the node's lock."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from signpost.sets import ImageKind
from updog.standing import Standing

if TYPE_CHECKING:
    from signpost.app import RunningDiskView, Signpost
    from signpost.sets import Slot
    from updog.host import RunningSlot
    from updog.state import NodeState
    from updog.state_store import StateStore
    from updog.update_metadata.manifest import Update

log = logging.getLogger(__name__)

WRITE_ORDER = (ImageKind.ROOT, ImageKind.HASH, ImageKind.BOOT)
"""The order in which the images of a slot are written: after an interruption, the slot has no kernel yet."""


@dataclass(kw_only=True, slots=True)
class Session:
    """One command's view of the node. Created by the agent after it has read disk and state.

    Attributes:
        running: the slot and version that run. signpost: changes the flags of the slots.
        view: the disk, as it was when the command started. standing: of the pending update.
        store: keeps the state. state: what is saved there now. loaded: what was there before this command.
        must_save: False where the partition table counts alone, so that a state folder that cannot be
            written is only logged (ADR 0004).
    """

    running: RunningSlot
    signpost: Signpost
    view: RunningDiskView
    standing: Standing
    store: StateStore
    state: NodeState
    loaded: NodeState
    must_save: bool = True

    @property
    def inactive(self) -> Slot:
        """The slot that is not running."""
        return self.view.active.other

    @property
    def is_leaving(self) -> bool:
        """Whether the running version has failed its health checks and the next boot leaves it."""
        return self.running.version in self.state.denied and self.view.next is self.inactive

    def save(self, state: NodeState) -> None:
        """Save ``state`` durably, if it has changed. Raises MediumError if it must be saved and cannot."""
        if state == self.state:
            return
        try:
            self.store.save(state)
        except MediumError as error:
            if self.must_save:
                raise
            log.warning("not recorded: %s", error)
            self.store.tell(state)
        self.state = state

    def holds(self, update: Update) -> bool:
        """Return whether the inactive slot already has exactly this update, verified and ready to apply."""
        pending, record = self.state.pending, self.state.slots.get(self.inactive)
        if pending is None or record is None or update.contents is None or self.standing is Standing.TRIAL:
            return False
        return pending.version == update.version and dict(record.images) == dict(update.contents.items())
