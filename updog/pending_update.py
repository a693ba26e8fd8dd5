"""How the last restart ended, derived from the pending update and what runs now. PURE.

The partition table takes precedence over the state file, because the bootloader changes only the former.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from updog.standing import Standing

if TYPE_CHECKING:
    from signpost.gptprio import Flags
    from updog.host import RunningSlot
    from updog.state import PendingUpdate


def diagnose(pending: PendingUpdate | None, running: RunningSlot, new: Flags | None, old: Flags) -> Standing:
    """Return the standing of the pending update.

    Args:
        pending: the update that was installed and not confirmed, if any.
        running: the slot and boot that run now.
        new: the flags of the pending update's slot; None without one.
        old: the flags of the other slot.
    """
    if pending is None or new is None:
        return Standing.NONE
    if running.slot is pending.slot:
        return Standing.CONFIRMED if new.successful else Standing.TRIAL
    if new.priority == 0:
        # Without tries, or if it has run before, it cannot be applied: its flags were cleared since.
        return Standing.STAGED if new.tries and not new.successful else Standing.NONE
    if running.boot_id == pending.boot_id:
        return Standing.WAITING  # applied during this boot
    if new.priority < old.priority:
        return Standing.ROLLED_BACK
    return Standing.WAITING if new.tries or new.successful else Standing.FELL_BACK
