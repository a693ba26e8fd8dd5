"""How the last restart ended, told from what was planned and what runs now. PURE.

The partition table is the witness, whatever the state file last said: the bootloader writes the one and
knows nothing of the other.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signpost.gptprio import Flags
    from updog.host import Running
    from updog.state import Pending


class Outcome(Enum):
    """Where an update stands."""

    NONE = "none"
    STAGED = "staged"
    WAITING = "waiting for a restart"
    TRIAL = "on trial"
    CONFIRMED = "confirmed"
    FELL_BACK = "fell back"
    ROLLED_BACK = "rolled back by hand"


def diagnose(pending: Pending | None, running: Running, new: Flags | None, old: Flags) -> Outcome:
    """Say where the pending update stands.

    Args:
        pending: what was installed and not confirmed.
        running: the slot and boot that run now.
        new: the flags of the pending update's slot (None without one).
        old: the flags of the other slot.
    """
    if pending is None or new is None:
        return Outcome.NONE
    if running.slot is pending.slot:
        return Outcome.CONFIRMED if new.successful else Outcome.TRIAL
    if new.priority == 0:
        # Without a try, or as one that ran before, it cannot be upgraded to: somebody cleared it.
        return Outcome.STAGED if new.tries and not new.successful else Outcome.NONE
    if running.boot_id == pending.boot_id:
        return Outcome.WAITING  # applied during this very boot
    if new.priority < old.priority:
        return Outcome.ROLLED_BACK
    return Outcome.WAITING if new.tries or new.successful else Outcome.FELL_BACK
