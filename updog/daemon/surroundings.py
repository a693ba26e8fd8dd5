"""What the machine says for and against a restart, and what the agent tells its users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from updog.auto.gates import Inhibitor, Objection, UserSession
    from updog.auto.policy import GateName


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineReadings:
    """What was read.

    Attributes:
        unread: gate → why it could not be read; such a gate is closed.
    """

    sessions: tuple[UserSession, ...] = ()
    inhibitors: tuple[Inhibitor, ...] = ()
    unread: tuple[tuple[GateName, str], ...] = ()


class Surroundings(Protocol):
    """The machine around the agent."""

    def read(self, now: datetime) -> MachineReadings:
        """Return who is logged in and who objects to a restart."""

    def objections(self) -> tuple[Objection, ...]:
        """Run the blockers, and return those that object. Takes as long as they do."""

    def warn(self, message: str) -> None:
        """Show a message to whoever is logged in. Never blocks for long, never fails."""

    def write_sentinel(self, message: str) -> None:
        """Tell the program that watches the sentinel to restart this node."""

    def remove_sentinel(self) -> None:
        """Take that back."""
