"""What each command does to the flags, and which slot the bootloader takes. PURE.

Rules it enforces:

* the command and the condition of the inactive slot decide: :data:`TRANSITIONS` lists every pair with its
  effect or its refusal, and a pair that is not listed is a defect;
* a refusal has a name and changes nothing;
* :func:`next_boot` is the bootloader's rule, over all BOOT entries in table order; the prediction and the
  boot stage both use this function.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from signpost import gptprio
from signpost.errors import TransitionRefusedError, UsageError
from signpost.gptprio import Flags
from signpost.sets import BOOT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from signpost.gpt import PartitionEntry

    Effect = Callable[["State", Flags, int], "State"]  # state, the inactive slot's flags, tries to grant

__all__ = [
    "TRANSITIONS",
    "Choice",
    "Command",
    "Condition",
    "Refusal",
    "State",
    "condition",
    "next_boot",
    "rescue",
    "transition",
]

NEXT_PRIORITY = 2
"""Priority of the slot that boots next."""

FALLBACK_PRIORITY = 1
"""Priority of the slot that boots after the other one has used up its tries."""


class Command(StrEnum):
    """The commands that change flags."""

    CLEAR_INACTIVE = "clear-inactive"
    MARK_INACTIVE_VALID = "mark-inactive-valid"
    UPGRADE_TO_INACTIVE = "upgrade-to-inactive"
    CANCEL_UPGRADE = "cancel-upgrade"
    ROLLBACK_TO_INACTIVE = "rollback-to-inactive"
    MARK_SUCCESSFUL_BOOT = "mark-successful-boot"


class Condition(StrEnum):
    """What the inactive slot's flags mean."""

    ABSENT = "absent"  # the disk has one slot
    CLEARED = "cleared"  # priority 0, tries 0, not successful: being written, or never used
    STAGED = "staged"  # priority 0, tries left, not successful: completely written, not yet selected
    RETIRED = "retired"  # priority 0, successful: it ran once and is no longer in the boot order
    ARMED = "armed"  # priority above 0, tries left, not successful: it will be tried
    SPENT = "spent"  # priority above 0, tries 0, not successful: it was tried and failed
    GOOD = "good"  # priority above 0, successful: it ran and can run again


class Refusal(StrEnum):
    """Why a command is refused."""

    NO_INACTIVE_SLOT = "the disk has one slot only: there is no inactive slot"
    NOT_MARKED_VALID = "the inactive slot has not been marked valid for upgrade"
    ALREADY_UPGRADED = "the inactive slot is already marked for upgrade"
    NOT_CLEARED = "the inactive slot is still marked successful from an earlier boot"
    CANNOT_BOOT = "the inactive slot cannot boot: it has no tries left and never booted successfully"
    NOT_CHOSEN = "the inactive slot was never upgraded to"


_NEXT_STEPS = {
    Refusal.NO_INACTIVE_SLOT: "Updates in place need a disk with two slots.",
    Refusal.NOT_MARKED_VALID: "Write an image to it, then run `signpost mark-inactive-valid`.",
    Refusal.ALREADY_UPGRADED: "Reboot into it, or run `signpost cancel-upgrade` or `clear-inactive`.",
    Refusal.NOT_CLEARED: "Return to it with `signpost rollback-to-inactive`, or clear it to write it again.",
    Refusal.CANNOT_BOOT: "Write an image to it first.",
    Refusal.NOT_CHOSEN: "Use `signpost upgrade-to-inactive` for a slot that was just written.",
}


class State(NamedTuple):
    """The flags that the commands read and change. ``inactive`` is None on a disk with one slot."""

    active: Flags
    inactive: Flags | None
    ever_booted: bool = False


def condition(inactive: Flags | None) -> Condition:
    """Return the condition of an inactive slot with these flags."""
    if inactive is None:
        return Condition.ABSENT
    if inactive.successful:
        return Condition.GOOD if inactive.priority else Condition.RETIRED
    if inactive.tries:
        return Condition.ARMED if inactive.priority else Condition.STAGED
    return Condition.SPENT if inactive.priority else Condition.CLEARED


def _clear(state: State, _: Flags, __: int) -> State:
    """Clear all flags: a slot that is being written must not boot."""
    return state._replace(inactive=Flags())


def _mark_valid(state: State, inactive: Flags, tries: int) -> State:
    """Grant the written slot its tries."""
    marked = Flags(priority=inactive.priority, tries=tries, successful=inactive.successful)
    return state._replace(inactive=marked)


def _prefer_inactive(state: State, inactive: Flags, _: int) -> State:
    """Boot the inactive slot next, and the active one if that fails."""
    return state._replace(
        active=_with_priority(state.active, FALLBACK_PRIORITY),
        inactive=_with_priority(inactive, NEXT_PRIORITY),
    )


def _cancel(state: State, inactive: Flags, _: int) -> State:
    """Keep booting the active slot; the inactive one keeps its tries, so that it can be selected again."""
    return state._replace(
        active=_with_priority(state.active, NEXT_PRIORITY), inactive=_with_priority(inactive, 0)
    )


def _succeed(state: State, _: Flags, __: int) -> State:
    """Confirm the running slot: it needs no more tries, and none may be left to count down."""
    active = Flags(priority=state.active.priority, tries=0, successful=True)
    return state._replace(active=active, ever_booted=True)


def _with_priority(flags: Flags, priority: int) -> Flags:
    """Return the flags with this priority."""
    return Flags(priority=priority, tries=flags.tries, successful=flags.successful)


def _refuse_all_but(effect: Effect, **refusals: Refusal) -> dict[Condition, Effect | Refusal]:
    """Return a command's row: the effect for all conditions but these refusals and an absent slot."""
    row: dict[Condition, Effect | Refusal] = dict.fromkeys(Condition, effect)
    row[Condition.ABSENT] = Refusal.NO_INACTIVE_SLOT
    return row | {Condition(name): refusal for name, refusal in refusals.items()}


TRANSITIONS: Mapping[Command, Mapping[Condition, Effect | Refusal]] = MappingProxyType(
    {
        Command.CLEAR_INACTIVE: _refuse_all_but(_clear),
        Command.MARK_INACTIVE_VALID: _refuse_all_but(_mark_valid),
        Command.UPGRADE_TO_INACTIVE: _refuse_all_but(
            _prefer_inactive,
            cleared=Refusal.NOT_MARKED_VALID,
            retired=Refusal.NOT_CLEARED,
            armed=Refusal.ALREADY_UPGRADED,
            spent=Refusal.ALREADY_UPGRADED,
            good=Refusal.ALREADY_UPGRADED,
        ),
        Command.CANCEL_UPGRADE: _refuse_all_but(_cancel),
        Command.ROLLBACK_TO_INACTIVE: _refuse_all_but(
            _prefer_inactive,
            cleared=Refusal.CANNOT_BOOT,
            staged=Refusal.NOT_CHOSEN,
            spent=Refusal.CANNOT_BOOT,
        ),
        Command.MARK_SUCCESSFUL_BOOT: dict.fromkeys(Condition, _succeed),
    }
)
"""The effect or the refusal of every command in every condition of the inactive slot."""


def transition(command: Command, state: State, *, tries: int = 1) -> State:
    """Return the flags after a command.

    Args:
        command: what to do.
        state: the current flags.
        tries: how many boots ``mark-inactive-valid`` grants, 1 to 15.

    Raises:
        TransitionRefusedError: the flags do not allow it; the error has the refusal's name.
        UsageError: the number of tries is out of range.
    """
    if not 1 <= tries <= gptprio.LIMIT:
        raise UsageError(f"tries must be 1 to {gptprio.LIMIT}, not {tries}")
    outcome = TRANSITIONS[command][condition(state.inactive)]
    if isinstance(outcome, Refusal):
        flags = f" ({describe(state.inactive)})" if state.inactive else ""
        raise TransitionRefusedError(
            f"{command} refused: {outcome}{flags}",
            next_step=_NEXT_STEPS[outcome],
            reason=outcome.name.lower(),
        )
    return outcome(state, state.inactive or Flags(), tries)


def describe(flags: Flags) -> str:
    """Return the flags in words."""
    return f"priority {flags.priority}, tries {flags.tries}, {'' if flags.successful else 'not '}successful"


def rescue(state: State, *, tries: int = 1) -> State:
    """Return the flags with which the inactive slot is tried next, whatever they are now.

    For an operator in a rescue system, who knows that the slot has an image. One that is successful needs no
    tries; another one is granted ``tries``, 1 to 15. The active slot boots if it does not come up.

    Raises:
        TransitionRefusedError: the disk has one slot.
        UsageError: the number of tries is out of range.
    """
    if state.inactive is None or not state.inactive.successful:
        state = transition(Command.MARK_INACTIVE_VALID, state, tries=tries)
    return _prefer_inactive(state, state.inactive or Flags(), tries)


class Choice(NamedTuple):
    """The BOOT partition to boot: its entry's index, and its flags before and after the try is counted."""

    entry_index: int
    before: Flags
    after: Flags

    @property
    def counted(self) -> bool:
        """Whether a try is used, so that the table must be written."""
        return self.before != self.after


def next_boot(entries: Sequence[PartitionEntry], without: Collection[int] = ()) -> Choice | None:
    """Return which of a table's entries the bootloader takes; None if nothing can boot.

    Of the BOOT entries with priority above 0 that have tries left or are successful, it takes the one with
    the highest priority, the first among equals. If that entry has tries left, one is counted, even if it is
    successful.

    ``without`` are indices of entries that were already tried without success at this start.
    """
    candidates = [
        (index, flags) for index, flags in boot_flags(entries) if flags.bootable and index not in without
    ]
    if not candidates:
        return None
    index, flags = max(candidates, key=lambda candidate: candidate[1].priority)  # the first of equals
    after = Flags(priority=flags.priority, tries=max(flags.tries - 1, 0), successful=flags.successful)
    return Choice(index, flags, after)


def boot_flags(entries: Sequence[PartitionEntry]) -> Iterable[tuple[int, Flags]]:
    """Return index and flags of every BOOT entry, in table order."""
    return (
        (index, gptprio.flags(entry.attributes)) for index, entry in enumerate(entries) if entry.type == BOOT
    )
