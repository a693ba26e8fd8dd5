"""The table of the agent: each row, and what must hold on every way through it.

The walks are those of :mod:`tests.updog.auto.walks`. ``UPDOG_WALKS=N`` sets how many are taken; CI takes few,
and ``tools/random_walks.py`` any number of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.updog.auto.node_model import (
    HOUR,
    LOCK,
    MINUTE,
    NIGHTS,
    SEEN,
    SENTINEL,
    START,
    World,
    version,
)
from tests.updog.auto.walks import LONGEST, assert_at_peace, take, walk_of
from updog.auto.gates import Inhibitor, Wishes
from updog.auto.policy import AfterFallback, Apply, GateName, Mode, Policy
from updog.auto.table import (
    RETRY_LONGEST,
    ROWS,
    UNLOCK_LONGEST,
    Act,
    AutoState,
    Job,
    Lock,
    LockCall,
    Notice,
    Phase,
    TableError,
    restarted,
    step,
)
from updog.auto.windows import Freeze, Windows
from updog.daemon.memory import Memory
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

WALKS = int(os.environ.get("UPDOG_WALKS", "25"))
RESTART = Policy(mode=Mode.RESTART, fleet_lock=LOCK)
LOCKLESS = replace(RESTART, fleet_lock=None)


# -- walks


@settings(max_examples=WALKS)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(0, LONGEST))
def test_nothing_that_happens_breaks_a_rule_and_peace_brings_everything_to_its_end(
    seed: int, length: int
) -> None:
    """The events are drawn evenly, by a seed; a walk that breaks a rule is shortened to its beginning."""
    walk = walk_of(seed)
    take(replace(walk, events=walk.events[:length]))


# -- scenarios, which reach every row


def at_peace(policy: Policy = RESTART, *, published: int = 2) -> World:
    world = World(policy=policy, published=set(range(1, published + 1)))
    world.look()
    return world


def until(world: World, phase: Phase, *, most: int = 600) -> World:
    """Go on until the agent is in ``phase``; what it starts ends well."""
    for _ in range(most):
        if world.state.phase is phase and world.job is None:
            return world
        if world.state.phase is phase and phase in {
            Phase.LOCKING,
            Phase.GONE,
            Phase.CHECKING,
            Phase.INSTALLING,
        }:
            return world
        if world.job is not None:
            is_restart = world.job is Act.RESTART
            world.end_job(well=True)
            if is_restart:
                world.reboot()
        elif world.call is not None:
            world.end_call(0)
        else:
            world.now = max(world.wake or world.now, world.now + MINUTE)
        world.look()
    raise AssertionError(f"never {phase}: {world.state}")


def without_checks(world: World) -> World:
    """Let the next check be far away, so that it does not come between the steps of a test."""
    world.policy = replace(world.policy, check_every=999 * HOUR)
    world.state = replace(world.state, next_check=world.now + 999 * HOUR)
    return world


def test_a_release_is_installed_and_started_and_the_lock_is_released_after_the_confirm() -> None:
    world = until(at_peace(), Phase.TRIAL)
    assert world.restarts == ["1.2.0"]
    assert world.server.holder == "me"
    world.pass_time(30)
    assert world.server.holder == "me"
    world.confirm()
    until(world, Phase.IDLE)
    world.settle(1)
    assert world.server.holder is None
    assert world.state.lock is Lock.NO
    expected = "start check checking checked offered install installing installed lock locking locked leave"
    assert set(expected.split()) <= set(world.rows)
    assert {"applying", "leaving", "restart", "gone", "start-on-trial", "on-trial", "trial-over"} <= set(
        world.rows
    )
    assert {"unlock", "lock-released", "start", "idle"} <= set(world.rows)


def test_row_20_users_are_warned_and_have_the_grace_and_then_the_restart_goes_on() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.users = 1
    world.end_job(well=True)
    world.look()
    assert world.rows["warn-users"] == 1
    warned_at = world.state.users_warned_at
    assert warned_at == world.now
    world.pass_time(9)
    assert world.state.phase is Phase.STAGED
    assert world.call is None  # zincati #756: the lock is not held while users are waited for
    assert world.rows["staged-waits"] > 0
    world.pass_time(1)
    assert world.call is Act.LOCK
    world = until(world, Phase.GONE)
    assert world.now >= warned_at + timedelta(minutes=15)  # the grace, then `warn`


def test_row_20_users_who_come_long_after_the_warning_are_warned_again() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.users, world.server.holder = 1, "other"
    without_checks(world).end_job(well=True)
    world.look()
    first = world.state.users_warned_at
    for _ in range(90):
        world.end_call(0)
        world.pass_time(1)
    assert world.rows["window-over"] == 1
    assert world.rows["warn-users"] == 2
    assert world.state.users_warned_at != first


def test_row_20_max_wait_ends_the_waiting_for_soft_gates() -> None:
    world = until(at_peace(replace(RESTART, max_wait=8 * HOUR)), Phase.INSTALLING)
    world.objects, world.inhibitor = True, Inhibitor(source="backup", why="runs")
    without_checks(world).end_job(well=True)
    world.look()
    assert world.state.first_ready is not None
    world.now = world.state.first_ready + 8 * HOUR - MINUTE
    world.look()
    assert world.state.phase is Phase.STAGED
    world.pass_time(1)
    assert world.call is Act.LOCK


def test_row_20_a_hard_inhibitor_is_waited_for_beyond_max_wait() -> None:
    world = until(at_peace(replace(RESTART, max_wait=8 * HOUR)), Phase.INSTALLING)
    world.inhibitor = Inhibitor(source="raid", why="is being rebuilt", soft=False)
    without_checks(world).end_job(well=True)
    world.pass_time(48 * 60)
    assert world.state.phase is Phase.STAGED
    assert world.call is None


def test_an_urgent_release_restarts_outside_the_window_where_the_policy_says_so() -> None:
    policy = replace(RESTART, windows=NIGHTS, urgent=frozenset({GateName.WINDOW}))
    world = at_peace(policy)
    world.urgent = {2}
    assert until(world, Phase.GONE).now.hour == 12
    calm = until(at_peace(policy), Phase.GONE)
    assert calm.now.hour == 23


def in_the_window(world: World) -> World:
    """Bring a node with the windows of NIGHTS to the request for the lock: at 23:00."""
    until(world, Phase.STAGED)
    return until(world, Phase.LOCKING)


def test_row_25_a_lock_that_comes_after_the_window_is_given_back() -> None:
    """Bugs Flatcar #407, coreos/bugs #1886: it restarted at noon."""
    world = in_the_window(at_peace(replace(RESTART, windows=NIGHTS)))
    assert world.now.hour == 23
    world.pass_time(14 * 60)
    world.end_call(0)
    world.look()
    assert world.rows["closed-meanwhile"] == 1
    assert world.call is Act.UNLOCK
    assert world.restarts == []
    world.end_call(0)
    world.look()
    assert (world.server.holder, world.state.lock, world.boots_next) == (None, Lock.NO, False)


def test_row_25_a_permit_without_the_lock_that_ends_before_the_restart_does_not_spare_the_lock() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.wishes = Wishes(permit=world.now + 3 * MINUTE, without_lock=True)
    world.end_job(well=True)
    world.look()
    assert (world.state.phase, world.rows["clear"], world.call) == (Phase.LEAVING, 1, None)
    world.end_job(well=True)
    world.pass_time(3)
    assert world.rows["turned-back"] == 1
    until(world, Phase.GONE)
    assert world.server.holder == "me"


@pytest.mark.parametrize("how", ["postpone", "hold", "window", "inhibitor", "withdrawn"])
def test_row_27_while_the_warning_runs_a_restart_is_turned_back(how: str) -> None:
    policy = replace(RESTART, windows=NIGHTS) if how == "window" else RESTART
    world = until(at_peace(policy), Phase.LEAVING)
    assert world.boots_next
    if how == "postpone":
        world.wishes = Wishes(postpone=world.now + 2 * HOUR)
    elif how == "hold":
        world.wishes = Wishes(hold="audit")
    elif how == "window":
        world.now += 3 * HOUR
    elif how == "inhibitor":
        world.inhibitor = Inhibitor(source="backup", why="runs")
    else:
        world.published.discard(2)
        world._check()
    world.look()
    assert (world.rows["turned-back"], world.job) == (1, Act.REVERT)
    world.end_job(well=True)
    world.look()
    assert not world.boots_next
    assert world.call is Act.UNLOCK
    world.end_call(0)
    world.look()
    assert world.server.holder is None
    assert world.restarts == []


def test_row_29_a_restart_that_does_not_happen_is_taken_back_and_tried_again_later() -> None:
    world = until(at_peace(), Phase.GONE)
    world.end_job(well=True)
    world.pass_time(119)
    assert world.state.phase is Phase.GONE
    world.pass_time(1)
    assert (world.rows["restart-failed"], world.job) == (1, Act.REVERT)
    without_checks(world).end_job(well=True)
    world.look()
    world.end_call(0)
    world.look()
    assert (world.boots_next, world.server.holder, world.state.lock) == (False, None, Lock.NO)
    world.pass_time(14)
    assert world.call is None
    world.pass_time(1)
    assert world.call is Act.LOCK


def test_row_29_a_restart_command_that_fails_is_taken_back_at_once() -> None:
    world = until(at_peace(), Phase.GONE)
    world.end_job(well=False)
    taken = step(world.state, world.facts(), world.policy)
    assert taken.row == "restart-failed"
    assert taken.notices == (Notice.RESTART_FAILED,)
    assert taken.acts == (Act.REVERT,)


def test_an_update_that_cannot_be_applied_is_not_restarted_into() -> None:
    world = until(at_peace(), Phase.LOCKING)
    world.end_call(0)
    world.look()
    world.end_job(well=False)
    world.look()
    assert world.rows["leaving-failed"] == 1
    world.settle(1)
    assert world.restarts == ["1.2.0"]  # at the second try


def test_an_apply_that_hangs_does_not_keep_the_lock() -> None:
    world = until(at_peace(), Phase.LOCKING)
    world.end_call(0)
    world.look()
    assert world.job is Act.APPLY
    world.pass_time(120)
    assert world.rows["apply-hangs"] == 1
    assert world.rows["busy"] > 0
    assert world.call is Act.UNLOCK
    world.end_job(well=True)
    world.look()
    assert world.rows["take-back"] == 1
    world.end_job(well=True)
    world.look()
    assert world.rows["taken-back"] == 1
    assert not world.boots_next


def test_a_busy_lock_is_asked_for_again_and_a_lost_answer_too() -> None:
    world = until(at_peace(), Phase.LOCKING)
    world.server.holder = "other"
    world.end_call(0)
    world.look()
    assert (world.rows["lock-refused"], world.state.lock) == (1, Lock.NO)
    world.server.holder = None
    until(world, Phase.LOCKING)
    world.end_call(2)
    world.look()
    assert (world.rows["lock-unknown"], world.state.lock) == (1, Lock.ASKED)
    until(world, Phase.LOCKING)
    world.settle(1)
    assert world.restarts == ["1.2.0"]


def test_an_unlock_whose_answer_is_lost_is_not_taken_for_a_held_lock() -> None:
    world = in_the_window(at_peace(replace(RESTART, windows=NIGHTS)))
    world.pass_time(14 * 60)
    world.end_call(0)
    world.look()
    world.end_call(2)  # the server has released it
    world.server.holder = "other"
    world.wishes = Wishes(permit=world.now + 9 * HOUR)
    world.look()
    assert world.rows["lock-not-released"] == 1
    for _ in range(30):
        world.end_call(0)
        world.pass_time(5)
    assert world.restarts == []


@pytest.mark.parametrize("mode", Mode)
def test_bug_zincati_239_a_lock_is_released_in_every_mode(mode: Mode) -> None:
    """Zincati #239: an agent that was switched off kept its lock."""
    world = until(at_peace(), Phase.LOCKING)
    world.end_call(0)
    world.policy = replace(RESTART, mode=mode)
    world.start_daemon()
    world.look()
    world.settle(1)
    assert world.state.lock is Lock.NO
    assert world.server.holder is None


@pytest.mark.parametrize("mode", Mode)
def test_bug_flatcar_408_a_lock_is_released_after_a_restart_outside_the_window(mode: Mode) -> None:
    """Flatcar #408: a node that came back outside its window kept the lock, and the fleet stopped."""
    world = until(at_peace(replace(RESTART, windows=NIGHTS)), Phase.TRIAL)
    world.policy = replace(world.policy, mode=mode)
    world.now += 12 * HOUR
    world.start_daemon()
    world.confirm()
    world.look()
    assert world.call is Act.UNLOCK


def test_bug_kured_277_the_lock_is_held_for_the_release_delay_after_the_confirm() -> None:
    """Kured #277, kured #76, kured #874: the next node restarted before this one was of use again."""
    delayed = replace(RESTART, fleet_lock=replace(LOCK, release_delay=30 * MINUTE))
    world = until(at_peace(delayed), Phase.TRIAL)
    world.confirm()
    world.pass_time(29)
    assert world.call is None
    world.pass_time(1)
    assert world.call is Act.UNLOCK


def test_bug_kured_620_a_node_whose_turn_did_not_come_in_its_window_goes_on_in_the_next_one() -> None:
    """Kured #620: a fleet that was not done when the window closed began again from the start."""
    world = without_checks(in_the_window(at_peace(replace(RESTART, windows=NIGHTS))))
    world.server.holder = "other"
    tonight = world.now
    while world.now < tonight + 4 * HOUR:
        world.end_call(0)
        world.pass_time(1)
    assert (world.state.phase, world.call, world.restarts) == (Phase.STAGED, None, [])
    world.server.holder = None
    until(world, Phase.GONE)
    assert tonight + 23 * HOUR < world.now < tonight + 26 * HOUR
    assert (world.restarts, world.rows["install"]) == (["1.2.0"], 1)


def test_bug_137_474_91_a_node_that_lost_its_memory_with_its_disk_releases_the_lock_that_it_held() -> None:
    """Kured #137, m-lab #474, CLUO #91: a lock was held for ever by a node that did not know of it.

    A node that never comes back cannot; its lock is the server's to free, and no other node restarts without.
    """
    world = until(at_peace(), Phase.TRIAL)
    assert world.server.holder == "me"
    world.running, world.standing = 1, Standing.NONE
    world.state = Memory.new(world.now).state
    world.start_daemon()
    world.look()
    assert world.call is Act.UNLOCK
    world.end_call(0)
    assert world.server.holder is None


def test_bug_137_474_91_without_the_lock_that_a_lost_node_holds_nobody_restarts_until_it_is_freed() -> None:
    """Kured #137, m-lab #474, CLUO #91."""
    world = without_checks(until(at_peace(), Phase.LOCKING))
    world.server.holder = "other"
    end = world.now + 24 * HOUR
    while world.now < end:
        world.end_call(0)
        world.pass_time(1)
    assert world.restarts == []
    assert world.rows["lock-refused"] > 24  # it goes on asking
    world.server.holder = None
    until(world, Phase.GONE)
    assert world.restarts == ["1.2.0"]


def test_bug_airlock_81_a_free_lock_opens_no_window() -> None:
    """Airlock #81: somebody configured a window and a lock, and the window did not count."""
    world = until(at_peace(replace(RESTART, windows=NIGHTS)), Phase.STAGED)
    assert (world.now.hour, world.server.holder) == (12, None)
    without_checks(world)
    while world.now.hour < 22:
        world.pass_time(30)
    assert (world.rows["lock"], world.restarts) == (0, [])
    until(world, Phase.GONE)
    assert world.now.hour == 23


def test_bug_flatcar_744_the_next_release_is_not_written_over_the_way_back_while_the_node_settles() -> None:
    """Flatcar #744: after a restart the next update was taken at once, and the old version was gone."""
    world = until(at_peace(replace(LOCKLESS, settle=48 * HOUR)), Phase.TRIAL)
    world.confirm()
    world.published.add(3)
    confirmed_at = world.now
    world.settle(47)
    assert world.other is None
    until(world, Phase.INSTALLING)
    assert world.now >= confirmed_at + 48 * HOUR


def test_a_lock_server_that_cannot_be_reached_is_asked_at_growing_intervals() -> None:
    world = until(at_peace(), Phase.TRIAL)
    without_checks(world).confirm()
    asked = []
    for _ in range(120):
        if world.call is Act.UNLOCK:
            asked.append(world.now)
            world.end_call(1)
            world.look()
        world.pass_time(1)
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert waits[:4] == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
    assert set(waits[4:]) == {UNLOCK_LONGEST}


def fallen_back(after: AfterFallback = AfterFallback.KEEP_LOCK) -> World:
    world = until(at_peace(replace(RESTART, after_fallback=after)), Phase.TRIAL)
    world.fall_back()
    return world


def test_bug_437_590_159_the_lock_is_kept_while_the_bad_release_is_offered() -> None:
    """BU #437, BU #590, bootc-operator #159: a bad release went through the fleet node by node."""
    world = fallen_back()
    assert (world.state.lock, world.rows["start-fell-back"]) == (Lock.KEPT, 1)
    world.settle(48)
    assert (world.state.lock, world.server.holder) == (Lock.KEPT, "me")


@pytest.mark.parametrize("why", ["withdrawn", "fixed", "operator", "policy", "off", "running"])
def test_a_kept_lock_is_released_once_there_is_no_reason_any_more(why: str) -> None:
    world = fallen_back()
    world.settle(1)
    if why == "withdrawn":
        world.published.discard(2)
    elif why == "fixed":
        world.published.add(3)
    elif why == "operator":
        world.release_lock = True
    elif why == "running":
        world.running, world.denied = 2, set()
        world.start_daemon()
    else:
        changes = {"after_fallback": AfterFallback.RELEASE} if why == "policy" else {"mode": Mode.OFF}
        world.policy = replace(RESTART, **changes)
        world.start_daemon()
    world.settle(6)
    assert world.rows["lock-kept-no-more"] == 1
    assert (world.state.lock, world.server.holder) == (Lock.NO, None)


def test_a_lock_is_kept_until_none_of_the_releases_that_failed_here_is_offered() -> None:
    """After the newest one failed, the one before is tried under the same lock."""
    world = until(at_peace(published=3), Phase.TRIAL)
    world.fall_back()
    until(world, Phase.TRIAL).fall_back()
    world.settle(3)
    assert (world.denied, world.state.lock, world.state.kept_for) == ({2, 3}, Lock.KEPT, version(3))
    world.published.discard(3)
    world.settle(3)
    assert (world.state.lock, world.state.kept_for, world.server.holder) == (Lock.KEPT, version(2), "me")
    assert world.rows["lock-kept-for-another"] == 1
    world.published.discard(2)
    world.settle(3)
    assert (world.state.lock, world.server.holder) == (Lock.NO, None)


def test_after_a_fallback_the_lock_is_released_if_the_policy_says_so() -> None:
    world = fallen_back(AfterFallback.RELEASE)
    assert world.call is Act.UNLOCK


def test_a_lock_that_was_being_released_is_not_kept_for_a_restart_that_did_not_need_it() -> None:
    """Else the next restart believes that it holds the lock, and two nodes are down at once."""
    world = until(at_peace(), Phase.LEAVING)
    world.wishes = Wishes(hold="audit")
    world.look()
    assert (world.rows["turned-back"], world.job) == (1, Act.REVERT)
    world.end_job(well=False)
    world.look()
    assert world.call is Act.UNLOCK
    world.end_call(2)  # the server has released it, and the answer is lost
    world.reboot()  # by somebody else
    world.fall_back()
    assert world.state.lock is Lock.ASKED
    world.settle(6)
    assert (world.state.lock, world.server.holder) == (Lock.NO, None)


def test_a_lock_without_a_server_is_forgotten() -> None:
    world = until(at_peace(), Phase.LOCKING)
    world.policy = LOCKLESS
    world.start_daemon()
    world.look()
    assert (world.rows["lock-without-server"], world.state.lock) == (1, Lock.NO)


def test_a_release_that_fails_to_install_is_tried_at_growing_intervals_and_given_up() -> None:
    world = at_peace(replace(RESTART, max_attempts=3))
    tried = []
    for _ in range(200):
        if world.job is Act.INSTALL:
            tried.append(world.now)
            world.end_job(well=False)
            world.look()
        elif world.job is not None:
            world.end_job(well=True)
        world.pass_time(1)
    assert [later - earlier for earlier, later in pairwise(tried)] == [
        5 * MINUTE,
        10 * MINUTE,
    ]
    assert (world.rows["install-failed"], world.rows["give-up"]) == (3, 1)
    assert world.state.given_up == version(2)
    world.published.add(3)
    until(world, Phase.GONE)
    assert world.state.version == version(3)


def test_an_install_beside_another_updog_is_tried_again_and_counts_for_nothing() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.end_job(well=True, busy=True)
    world.look()
    assert world.rows["install-busy"] == 1
    assert (world.state.phase, world.state.attempts) == (Phase.READY, 0)


def test_an_install_that_ends_well_without_an_update_counts_as_failed() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.job, world.last_job = None, Job.DONE  # `updog update-image`: nothing to do
    world.look()
    assert (world.rows["install-failed"], world.rows["installed"]) == (1, 0)
    assert world.state.attempts == 1


def test_a_release_that_is_withdrawn_before_it_is_installed_is_dropped() -> None:
    world = at_peace(replace(RESTART, windows=replace(NIGHTS, install_in_window=True)))
    until(world, Phase.READY)
    assert world.rows["ready-waits"] > 0
    world.published.discard(2)
    world.check_now = True
    world.look()
    until(world, Phase.IDLE)
    assert world.rows["ready-dropped"] == 1


def test_a_newer_release_replaces_one_that_waits_to_be_installed() -> None:
    world = at_peace(replace(RESTART, windows=replace(NIGHTS, install_in_window=True)))
    until(world, Phase.READY)
    world.published.add(3)
    world.check_now = True
    world.look()
    until(world, Phase.READY)
    assert (world.rows["ready-newer"], world.state.version) == (1, version(3))


def staged(policy: Policy = RESTART) -> World:
    world = at_peace(replace(policy, windows=NIGHTS))
    return until(world, Phase.INSTALLED if policy.mode is Mode.INSTALL else Phase.STAGED)


def test_a_newer_release_replaces_a_staged_one() -> None:
    world = staged()
    world.published.add(3)
    until(world, Phase.GONE)
    assert (world.rows["replaced"], world.restarts) == (1, ["1.3.0"])


def test_a_staged_release_that_is_withdrawn_is_never_started_though_a_newer_one_is_too_young() -> None:
    world = staged(replace(RESTART, min_age=9 * HOUR))
    world.published = {1, 3}
    world._check()
    assert world.offer is not None
    world.offer = replace(world.offer, since=world.now)
    world.look()
    assert world.rows["dropped"] == 1
    assert world.state.phase is Phase.READY


def test_a_staged_release_is_started_while_a_newer_one_is_too_young() -> None:
    world = staged(replace(RESTART, min_age=9 * HOUR))
    world.published.add(3)
    world._check()
    assert world.offer is not None
    world.offer = replace(world.offer, since=world.now)
    world.now += timedelta(hours=(23 - world.now.hour) % 24)
    without_checks(world)
    world.look()
    until(world, Phase.GONE)
    assert world.restarts == ["1.2.0"]


def test_mode_install_leaves_the_restart_to_an_operator() -> None:
    world = staged(replace(RESTART, mode=Mode.INSTALL))
    world.settle(48)
    assert (world.state.phase, world.boots_next, world.restarts) == (Phase.INSTALLED, False, [])
    assert world.rows["installed-waits"] > 0


def test_at_once_makes_it_boot_next_and_takes_that_back_if_it_is_withdrawn() -> None:
    """Also where the daemon was killed before it could take it back."""
    world = staged(replace(RESTART, mode=Mode.INSTALL, apply=Apply.AT_ONCE))
    assert world.boots_next
    world.published.discard(2)
    world._check()
    world.kill_in = 0
    world.look()
    world.settle(1)
    assert not world.boots_next


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.CHECK])
@pytest.mark.parametrize("policy", [SENTINEL, replace(RESTART, mode=Mode.INSTALL, apply=Apply.AT_ONCE)])
def test_an_agent_that_is_switched_off_takes_back_what_boots_next_and_the_sentinel(
    policy: Policy, mode: Mode
) -> None:
    """Else the next restart of anybody takes a release that may have been withdrawn: off looks no more."""
    world = until(at_peace(policy), Phase.INSTALLED)
    world.policy = replace(policy, mode=mode)
    world.start_daemon()
    world.look()
    world.settle(1)
    assert (world.boots_next, world.sentinel, world.standing) == (False, False, Standing.STAGED)
    assert world.state.applied is None


def test_at_once_survives_a_new_start_of_the_daemon() -> None:
    world = staged(replace(RESTART, mode=Mode.INSTALL, apply=Apply.AT_ONCE))
    world.start_daemon()
    world.settle(3)
    assert world.boots_next
    assert world.state.phase is Phase.INSTALLED
    assert world.rows["ready-installed"] == 1
    assert world.rows["install"] == 1


def test_a_sentinel_is_written_and_removed() -> None:
    world = until(at_peace(SENTINEL), Phase.INSTALLED)
    assert world.sentinel
    assert world.boots_next
    world.published.discard(2)
    world.settle(3)
    assert not world.sentinel
    assert not world.boots_next


@pytest.mark.parametrize("standing", [Standing.TRIAL, Standing.CONFIRMED, Standing.FELL_BACK])
def test_a_sentinel_that_outlives_the_restart_is_removed_when_the_agent_starts(standing: Standing) -> None:
    """Else a file that is not in /run restarts the node again and again, and the trial fails by that."""
    world = until(at_peace(SENTINEL), Phase.INSTALLED)
    world.boots_next, world.other, world.standing = False, None, standing
    if standing is Standing.FELL_BACK:
        world.denied.add(2)
    else:
        world.running = 2
    world.start_daemon()
    world.look()
    assert not world.sentinel


def test_an_operators_own_choice_of_what_boots_next_is_left_alone() -> None:
    world = staged()
    world.boots_next, world.standing = True, Standing.WAITING
    world.published.add(3)
    world.settle(4)
    assert (world.boots_next, world.other) == (True, 2)
    assert world.job is None


def test_a_trial_that_was_started_by_hand_is_waited_for() -> None:
    world = staged()
    world.published.add(3)
    world.boots_next, world.standing = True, Standing.WAITING
    world.reboot()
    assert world.state.phase is Phase.TRIAL
    world.pass_time(600)
    assert world.job is None


def test_a_trial_that_begins_under_a_running_daemon_is_seen() -> None:
    world = at_peace()
    world.standing = Standing.TRIAL
    world.look()
    assert (world.rows["idle-trial"], world.state.phase) == (1, Phase.TRIAL)


def test_a_node_that_restarts_and_is_confirmed_before_the_daemon_starts_goes_on() -> None:
    world = until(at_peace(), Phase.GONE)
    world.job, world.running, world.other = None, 2, None
    world.standing, world.boots_next, world.confirmed_at = Standing.CONFIRMED, False, world.now
    world.start_daemon()
    world.look()
    assert world.rows["start-confirmed"] == 1
    assert world.call is Act.UNLOCK


def test_the_offer_of_the_last_check_is_not_installed_again_after_the_restart() -> None:
    world = until(at_peace(), Phase.TRIAL)
    world.confirm()
    world.end_call(0)
    world.look()
    assert world.offer is not None
    assert (world.state.phase, world.job) == (Phase.IDLE, Act.POST_CONFIRM)


def test_off_does_nothing_and_says_so_by_its_row() -> None:
    world = at_peace(Policy())
    world.pass_time(9999)
    assert (world.rows["start-off"], world.state.phase, world.job, world.wake) == (1, Phase.OFF, None, None)
    assert world.rows["off"] > 0


def test_check_only_knows() -> None:
    world = at_peace(replace(RESTART, mode=Mode.CHECK))
    world.settle(9)
    assert world.rows["install"] == 0
    assert world.state.phase is Phase.READY


def test_a_clock_that_is_set_back_does_not_keep_a_node_on_its_way_out() -> None:
    world = until(at_peace(), Phase.LEAVING)
    world.now -= 300 * HOUR
    world.look()
    world.pass_time(5)
    assert world.state.phase is Phase.GONE


def test_a_clock_that_is_set_back_does_not_stretch_what_is_waited_for() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.end_job(well=False)
    world.now -= 300 * HOUR
    world.look()
    assert world.wake is not None
    assert world.wake <= world.now + RETRY_LONGEST
    assert world.state.next_check is not None
    assert world.state.next_check <= world.now + 2 * HOUR


def test_a_pair_that_no_row_matches_is_an_error() -> None:
    world = at_peace(Policy())
    with pytest.raises(TableError, match="no row of the table matches"):
        step(world.state, world.facts(), RESTART)


def test_a_job_of_another_kind_is_waited_for() -> None:
    world = staged()
    world.job = Act.REVERT
    world.state = replace(world.state, phase=Phase.READY, version=version(3))
    world.offer = None if world.offer is None else replace(world.offer, version=version(3))
    world.offered = frozenset({version(3)})
    world.other, world.standing = None, Standing.NONE
    world.look()
    assert world.rows["ready"] == 1


# -- a wait that is too long

DAY = 24 * HOUR
LONG_WAITS = {"ready-waits-long", "installed-waits-long", "staged-waits-long"}


def told(world: World) -> int:
    """Return how often an operator was told that a release waits too long."""
    return sum(world.rows[name] for name in LONG_WAITS)


def wait(world: World, duration: timedelta) -> int:
    """Let time pass, hour by hour; return how often an operator was told of a wait by then."""
    end = world.now + duration
    without_checks(world)
    while world.now < end:
        world.now += min(HOUR, end - world.now)
        world.look()
        world.end_call(0)
        world.look()
    return told(world)


@pytest.mark.parametrize("mode", [Mode.CHECK, Mode.INSTALL])
def test_a_release_that_only_an_operator_takes_further_is_told_once_after_a_day(mode: Mode) -> None:
    world = until(
        at_peace(replace(RESTART, mode=mode)), Phase.READY if mode is Mode.CHECK else Phase.INSTALLED
    )
    assert wait(world, DAY - 2 * HOUR) == 0
    assert wait(world, 3 * HOUR) == 1
    world.start_daemon()
    assert wait(world, 20 * DAY) == 1


def test_a_staged_release_whose_wait_has_no_end_is_told_once_after_a_day() -> None:
    world = until(at_peace(), Phase.INSTALLING)
    world.inhibitor = Inhibitor(source="backup", why="runs")
    until(world, Phase.STAGED)
    assert wait(world, DAY - 2 * HOUR) == 0
    assert wait(world, 3 * HOUR) == 1
    assert wait(world, 3 * DAY) == 1
    world.inhibitor = None
    until(world, Phase.GONE)


def test_a_release_that_waits_for_its_window_is_told_a_day_after_each_window_was_there() -> None:
    """What waits as it is configured to is no warning, nor is waiting for the lock in the window."""
    one_night = replace(NIGHTS.windows[0], days=frozenset({(START.weekday() - 1) % 7}))
    world = until(at_peace(replace(RESTART, windows=Windows(windows=(one_night,)))), Phase.STAGED)
    world.server.holder = "other"
    assert wait(world, 8 * DAY - 2 * HOUR) == 0
    assert world.rows["lock-refused"] > 0
    assert wait(world, 3 * HOUR) == 1


def test_a_release_that_must_be_old_enough_is_told_a_day_after_that() -> None:
    world = until(at_peace(replace(RESTART, min_age=5 * DAY, mode=Mode.CHECK)), Phase.READY)
    assert wait(world, 6 * DAY - 2 * HOUR) == 0
    assert wait(world, 3 * HOUR) == 1


def test_what_an_operator_postponed_or_froze_is_not_told_before_that_ends() -> None:
    freeze = Freeze(first=START.date(), last=START.date() + 9 * DAY, why="year end")
    for world in (at_peace(replace(RESTART, freezes=(freeze,))), at_peace()):
        world.wishes = Wishes(postpone=START + 7 * DAY)
        until(world, Phase.READY if world.policy.freezes else Phase.STAGED)
        assert wait(world, 6 * DAY) == 0


def test_max_wait_is_what_an_operator_expects_where_it_is_set() -> None:
    world = until(at_peace(replace(RESTART, max_wait=8 * HOUR)), Phase.INSTALLING)
    world.inhibitor = Inhibitor(source="backup", why="runs", soft=False)
    until(world, Phase.STAGED)
    assert wait(world, 7 * HOUR) == 0
    assert wait(world, 2 * HOUR) == 1


def test_a_release_that_may_restart_when_max_wait_is_over_does_and_nobody_is_told() -> None:
    world = until(at_peace(replace(RESTART, max_wait=8 * HOUR)), Phase.INSTALLING)
    world.inhibitor = Inhibitor(source="backup", why="runs")
    until(world, Phase.GONE)
    assert told(world) == 0


def test_of_another_release_it_is_told_again() -> None:
    world = until(at_peace(replace(RESTART, mode=Mode.CHECK)), Phase.READY)
    assert wait(world, 2 * DAY) == 1
    world.published.add(3)
    world._check()
    assert wait(world, 2 * HOUR) == 1
    assert wait(world, DAY) == 2


# -- kills


@pytest.mark.parametrize("policy", [RESTART, LOCKLESS, replace(RESTART, apply=Apply.AT_ONCE)])
@pytest.mark.parametrize("kill_in", range(17))
def test_a_kill_between_saving_and_acting_or_after_it_ends_in_the_same_place(
    kill_in: int, policy: Policy
) -> None:
    calm = World(policy=policy, published={1, 2})
    calm.settle(24)
    world = World(policy=policy, published={1, 2}, kill_in=kill_in)
    world.settle(24)
    assert world.kill_in is None  # it was killed
    for each in (calm, world):
        assert_at_peace(each)
    end = ("running", "other", "boots_next", "standing", "denied")
    assert [getattr(world, name) for name in end] == [getattr(calm, name) for name in end]
    assert (world.state.phase, world.state.lock, world.state.applied) == (Phase.IDLE, Lock.NO, None)


def test_the_hooks_after_a_confirm_run_although_the_daemon_was_killed_before_it_started_them() -> None:
    """One that puts the node back to work would be missed until an operator looks."""
    world = until(at_peace(LOCKLESS), Phase.TRIAL)
    world.kill_in = 0
    world.confirm()
    assert world.kill_in is None
    assert world.job is Act.POST_CONFIRM
    world.end_job(well=True)
    world.look()
    assert (world.state.phase, world.state.applied, world.job) == (Phase.IDLE, None, None)
    world.start_daemon()
    world.look()
    assert world.job is None  # once


def test_hooks_after_a_confirm_that_cannot_be_started_are_not_tried_for_ever() -> None:
    world = until(at_peace(LOCKLESS), Phase.TRIAL)
    world.confirm()
    world.end_job(well=False)
    world.look()
    assert (world.state.phase, world.state.applied, world.job) == (Phase.IDLE, None, None)


def test_a_restarted_daemon_keeps_what_it_must_not_forget() -> None:
    state = AutoState(
        phase=Phase.LEAVING,
        since=START,
        version=version(2),
        applied=version(2),
        lock=Lock.HELD,
        retry_at=START,
        unlock_at=START,
    )
    found = restarted(state)
    assert found == replace(state, phase=Phase.START, retry_at=None, unlock_at=None)


def test_rows_have_their_own_names_and_every_phase_has_rows() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {phase for row in ROWS for phase in row.phases} == set(Phase)
    assert all(row.when for row in ROWS)
    assert {phase for row in ROWS for phase in row.leads_to} == set(Phase)


def test_every_call_of_the_lock_server_has_a_row_in_every_phase() -> None:
    world = at_peace()
    for phase in Phase:
        for call in LockCall:
            policy = Policy() if phase is Phase.OFF else RESTART
            state = replace(world.state, phase=phase, version=version(2))
            facts = replace(world.facts(), lock_call=call)
            assert step(state, facts, policy).row


def _arguments_of(scenario: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of every run of a test."""
    marks = [mark.args for mark in getattr(scenario, "pytestmark", ()) if mark.name == "parametrize"]
    for values in product(*(values for _, values in marks)):
        yield dict(zip((name for name, _ in marks), values, strict=True))


def test_every_row_is_reached() -> None:
    """By the tests above; those of them that did not run in this process are run now."""
    rows = {row.name for row in ROWS}
    for name, scenario in list(globals().items()):
        if rows <= SEEN.keys():
            break
        if name.startswith("test_") and name != "test_every_row_is_reached":
            for arguments in _arguments_of(scenario):
                scenario(**arguments)
    assert rows - SEEN.keys() == set()
    assert rows >= SEEN.keys()
