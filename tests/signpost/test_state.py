"""Every command on every combination of flags, against the table of the reference (docs/reference)."""

from __future__ import annotations

import pytest

from signpost import state
from signpost.errors import ExitStatus, TransitionRefusedError, UsageError
from signpost.gptprio import Flags
from signpost.state import Command, Condition, Refusal, State
from tests.signpost.test_gptprio import ALL

ACTIVE = Flags(priority=3, tries=2, successful=True)


def outcome(
    command: Command, inactive: Flags | None, *, active: Flags = ACTIVE, tries: int = 1
) -> State | str:
    """Return the flags after a command, or the name of the refusal."""
    try:
        return state.transition(command, State(active, inactive), tries=tries)
    except TransitionRefusedError as error:
        return error.reason


def test_every_command_and_condition_is_listed() -> None:
    assert set(state.TRANSITIONS) == set(Command)
    assert all(set(row) == set(Condition) for row in state.TRANSITIONS.values())


def test_every_condition_is_met_and_every_flag_has_one() -> None:
    met = {state.condition(flags) for flags in ALL}
    assert met == set(Condition) - {Condition.ABSENT}
    assert state.condition(None) is Condition.ABSENT


def test_clear_inactive_zeroes_all_three() -> None:
    for flags in ALL:
        assert outcome(Command.CLEAR_INACTIVE, flags) == State(ACTIVE, Flags())


@pytest.mark.parametrize("tries", [1, 3, 15])
def test_mark_inactive_valid_sets_the_tries_alone(tries: int) -> None:
    for flags in ALL:
        marked = Flags(priority=flags.priority, tries=tries, successful=flags.successful)
        assert outcome(Command.MARK_INACTIVE_VALID, flags, tries=tries) == State(ACTIVE, marked)


@pytest.mark.parametrize("tries", [-1, 0, 16])
def test_tries_out_of_range_are_wrong_usage(tries: int) -> None:
    with pytest.raises(UsageError, match="tries must be 1 to 15"):
        outcome(Command.MARK_INACTIVE_VALID, Flags(), tries=tries)


def test_upgrade_needs_priority_0_no_success_and_tries() -> None:
    for flags in ALL:
        found = outcome(Command.UPGRADE_TO_INACTIVE, flags)
        if flags.priority == 0 and not flags.successful and flags.tries > 0:
            assert found == State(
                Flags(priority=1, tries=2, successful=True), Flags(priority=2, tries=flags.tries)
            )
        else:
            assert found in {"already_upgraded", "not_cleared", "not_marked_valid"}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (Flags(), Refusal.NOT_MARKED_VALID),
        (Flags(successful=True), Refusal.NOT_CLEARED),
        (Flags(tries=1, successful=True), Refusal.NOT_CLEARED),
        (Flags(priority=2, tries=1), Refusal.ALREADY_UPGRADED),
        (Flags(priority=2), Refusal.ALREADY_UPGRADED),
        (Flags(priority=1, successful=True), Refusal.ALREADY_UPGRADED),
    ],
)
def test_a_refused_upgrade_has_the_reason_and_the_next_step(flags: Flags, reason: Refusal) -> None:
    with pytest.raises(TransitionRefusedError) as caught:
        state.transition(Command.UPGRADE_TO_INACTIVE, State(ACTIVE, flags))
    assert caught.value.reason == reason.name.lower()
    assert str(caught.value) == f"upgrade-to-inactive refused: {reason} ({state.describe(flags)})"
    assert caught.value.next_step
    assert caught.value.status is ExitStatus.REFUSED


def test_cancel_keeps_the_tries() -> None:
    for flags in ALL:
        kept = Flags(priority=0, tries=flags.tries, successful=flags.successful)
        assert outcome(Command.CANCEL_UPGRADE, flags) == State(
            Flags(priority=2, tries=2, successful=True), kept
        )


def test_rollback_needs_a_slot_that_can_boot() -> None:
    """Priority 0 and successful is enough: the rollback sets the priority."""
    for flags in ALL:
        found = outcome(Command.ROLLBACK_TO_INACTIVE, flags)
        if flags.successful or (flags.priority > 0 and flags.tries > 0):
            preferred = Flags(priority=2, tries=flags.tries, successful=flags.successful)
            assert found == State(Flags(priority=1, tries=2, successful=True), preferred)
            assert preferred.bootable
        else:
            assert found in {"cannot_boot", "not_chosen"}


def test_a_rescued_slot_boots_next_whatever_its_flags_were_and_keeps_its_success() -> None:
    for flags in ALL:
        after = state.rescue(State(ACTIVE, flags), tries=3)
        assert after.inactive is not None
        assert after.inactive.bootable
        assert after.inactive.priority > after.active.priority > 0
        assert after.inactive.successful is flags.successful
        assert after.inactive.tries == (flags.tries if flags.successful else 3)
        assert after.active.tries == ACTIVE.tries


def test_a_single_slot_is_no_choice_to_rescue() -> None:
    with pytest.raises(TransitionRefusedError, match="one slot only"):
        state.rescue(State(ACTIVE, None))


def test_mark_successful_leaves_no_tries_to_count_down() -> None:
    """D36: a confirmed slot has nothing left that power cycles could use up."""
    for flags in ALL:
        for inactive in (None, Flags(priority=1, successful=True)):
            found = outcome(Command.MARK_SUCCESSFUL_BOOT, inactive, active=flags)
            active = Flags(priority=flags.priority, tries=0, successful=True)
            assert found == State(active, inactive, ever_booted=True)


@pytest.mark.parametrize("command", sorted(set(Command) - {Command.MARK_SUCCESSFUL_BOOT}))
def test_without_an_inactive_slot_its_commands_are_refused_by_name(command: Command) -> None:
    with pytest.raises(
        TransitionRefusedError, match=f"{command} refused: the disk has one slot only"
    ) as caught:
        state.transition(command, State(ACTIVE, None))
    assert caught.value.reason == "no_inactive_slot"


def test_ever_booted_is_never_cleared() -> None:
    for command in Command:
        for flags in (Flags(), Flags(tries=1), Flags(priority=1, successful=True)):
            try:
                assert state.transition(command, State(ACTIVE, flags, ever_booted=True)).ever_booted
            except TransitionRefusedError:
                continue
