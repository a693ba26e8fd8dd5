"""Decide on the flags of two slots: what a command does, and what the bootloader then takes."""

from signpost import gptprio, sets, state
from signpost.errors import TransitionRefusedError
from signpost.gpt import PartitionEntry
from signpost.gptprio import Flags
from signpost.state import Command, State


def boot_entry(flags: Flags) -> PartitionEntry:
    """Return the entry of a BOOT partition with these flags."""
    return PartitionEntry(type=sets.BOOT, attributes=gptprio.with_flags(0, flags))


now = State(active=Flags(priority=2, successful=True), inactive=Flags(), ever_booted=True)
try:
    state.transition(Command.UPGRADE_TO_INACTIVE, now)
except TransitionRefusedError as error:
    print(error.reason, int(error.status))
# → not_marked_valid 4

for command in (Command.MARK_INACTIVE_VALID, Command.UPGRADE_TO_INACTIVE):
    now = state.transition(command, now, tries=3)
assert now.inactive is not None
print(now.active)
print(now.inactive)
# → Flags(priority=1, tries=0, successful=True)
# → Flags(priority=2, tries=3, successful=False)

choice = state.next_boot([boot_entry(now.active), boot_entry(now.inactive)])
assert choice is not None
print(choice.entry_index, choice.after)
# → 1 Flags(priority=2, tries=2, successful=False)
