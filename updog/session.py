"""What one command sees and remembers while it holds the node's lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.outcome import Outcome

if TYPE_CHECKING:
    from signpost.app import Signpost, View
    from signpost.sets import Slot
    from updog.host import Running
    from updog.memory import Memory
    from updog.state import NodeState
    from updog.update_metadata.manifest import Update

WRITE_ORDER = ("root", "hash", "boot")
"""The images of a slot as they are written: one that was cut off has no kernel yet."""


@dataclass(kw_only=True, slots=True)
class Session:
    """One command's view of the node. Made by the agent, once everything was looked at."""

    running: Running
    signpost: Signpost
    view: View
    outcome: Outcome
    memory: Memory
    state: NodeState

    @property
    def inactive(self) -> Slot:
        """The slot that does not run."""
        return self.view.active.other

    @property
    def is_leaving(self) -> bool:
        """Whether the running version was denied during this boot, so that a restart leaves it."""
        return self.running.version in self.state.denied and self.view.next is self.inactive

    def remember(self, state: NodeState) -> None:
        """Keep ``state``, durably, if anything is new."""
        if state != self.state:
            self.memory.save(state)
            self.state = state

    def holds(self, update: Update) -> bool:
        """Whether the inactive slot holds this very update already, proven and ready to be applied."""
        pending, record = self.state.pending, self.state.slots.get(self.inactive)
        if pending is None or record is None or update.contents is None or self.outcome is Outcome.TRIAL:
            return False
        wanted = {role: getattr(update.contents, role) for role in WRITE_ORDER}
        return pending.version == update.version and dict(record.images) == wanted
