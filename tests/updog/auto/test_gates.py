"""The gates: each one open, closed and with its end; what passes them, and what never does.

Tests that name a bug cite the issue trackers of other projects, where the fault was found.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.auto.gates import (
    Gate,
    Inhibitor,
    Objection,
    Offer,
    Purpose,
    Readings,
    UserSession,
    Wishes,
    first_closed,
    judge,
)
from updog.auto.policy import PASSABLE, SOFT, GateName, Mode, Policy, Sessions
from updog.auto.windows import Freeze, Window, Windows
from updog.standing import Standing
from updog.update_metadata.version import Version

NOW = datetime(2026, 12, 2, 12, 0, tzinfo=UTC)  # a Wednesday
V2 = Version.parse("1.2.0")
CET = timezone(timedelta(hours=1), "CET")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OFFER = Offer(version=V2, since=NOW - 10 * DAY)
READINGS = Readings(standing=Standing.STAGED, offer=OFFER, seed=0, waiting_since=NOW - DAY)
POLICY = Policy(mode=Mode.RESTART)
NIGHTS = Windows(
    windows=(Window(days=frozenset(range(7)), start=time(23, 30), length=HOUR),), zone=CET
)  # opens at 22:30 UTC
YEAR_END = Freeze(first=date(2026, 12, 1), last=date(2026, 12, 5), why="year end.")
ALICE, CRON = UserSession(user="alice", terminal="pts/0"), UserSession(user="root", terminal="")
SOFT_INHIBITOR = Inhibitor(source="backup", why="a backup runs.")
HARD_INHIBITOR = Inhibitor(source="raid", why="a disk is being rebuilt", soft=False)
OBJECTION = Objection(name="10-database", problem="2 replicas are behind.")

# For each gate: what closes it, as changes of the readings and of the policy.
CLOSING: dict[GateName, tuple[dict[str, Any], dict[str, Any]]] = {
    GateName.MODE: ({}, {"mode": Mode.CHECK}),
    GateName.HOLD: ({"wishes": Wishes(hold="the audit is on")}, {}),
    GateName.FREEZE: ({}, {"freezes": (YEAR_END,), "windows": Windows(zone=CET)}),
    GateName.UNCONFIRMED: ({"standing": Standing.TRIAL}, {}),
    GateName.MIN_AGE: ({}, {"min_age": 14 * DAY}),
    GateName.SETTLE: ({"confirmed_at": NOW - HOUR}, {"settle": DAY}),
    GateName.WINDOW: ({}, {"windows": replace(NIGHTS, install_in_window=True)}),
    GateName.POSTPONE: ({"wishes": Wishes(postpone=NOW + HOUR)}, {}),
    GateName.INHIBITORS: ({"inhibitors": (SOFT_INHIBITOR,)}, {}),
    GateName.SESSIONS: ({"sessions": (ALICE,)}, {}),
    GateName.BLOCKERS: ({"objections": (OBJECTION,)}, {}),
}
INSTALL_ONLY = {GateName.MIN_AGE, GateName.SETTLE}
ALL = tuple(CLOSING)


def purpose_of(name: GateName) -> Purpose:
    return Purpose.INSTALL if name in INSTALL_ONLY else Purpose.RESTART


def closing(*names: GateName) -> tuple[Readings, Policy]:
    """Return readings and a policy with which exactly these gates are closed."""
    readings: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    for name in names:
        of_readings, of_policy = CLOSING[name]
        if "wishes" in of_readings and "wishes" in readings:
            wishes = of_readings["wishes"]
            merged = replace(readings["wishes"], hold=wishes.hold or readings["wishes"].hold)
            of_readings = {"wishes": replace(merged, postpone=wishes.postpone or merged.postpone)}
        readings |= of_readings
        policy |= {key: value for key, value in of_policy.items() if not (key == "windows" and key in policy)}
        if name is GateName.WINDOW:
            policy |= of_policy
    return replace(READINGS, **readings), replace(POLICY, **policy)


def permitted(readings: Readings, *, even_frozen: bool = False) -> Readings:
    return replace(readings, wishes=replace(readings.wishes, permit=NOW + HOUR, even_frozen=even_frozen))


def ask(name: GateName, readings: Readings, policy: Policy, purpose: Purpose | None = None) -> Gate:
    gates = judge(purpose or purpose_of(name), readings, policy, NOW)
    return next(gate for gate in gates if gate.name is name)


def closed(readings: Readings, policy: Policy, purpose: Purpose = Purpose.RESTART) -> list[GateName]:
    return [gate.name for gate in judge(purpose, readings, policy, NOW) if not gate.is_open]


# -- open, closed, until when


@pytest.mark.parametrize("purpose", Purpose)
def test_every_gate_is_open_if_nothing_objects(purpose: Purpose) -> None:
    gates = judge(purpose, READINGS, POLICY, NOW)
    assert all(gate.is_open and not gate.sentence and gate.until is None for gate in gates)
    assert first_closed(gates) is None


def test_the_gates_are_asked_in_the_order_of_their_names() -> None:
    install = [gate.name for gate in judge(Purpose.INSTALL, READINGS, POLICY, NOW)]
    restart = [gate.name for gate in judge(Purpose.RESTART, READINGS, POLICY, NOW)]
    order = list(GateName)
    assert install == sorted(install, key=order.index)
    assert restart == sorted(restart, key=order.index)
    assert {*install, *restart} == {*GateName} - {GateName.FLEET_LOCK}
    assert set(install) - set(restart) == INSTALL_ONLY


@pytest.mark.parametrize("name", ALL)
def test_each_gate_closes_alone(name: GateName) -> None:
    readings, policy = closing(name)
    assert closed(readings, policy, purpose_of(name)) == [name]


EXPECTED: dict[GateName, tuple[str, str, datetime | None]] = {
    GateName.MODE: ("mode-check", 'The mode is "check": an operator restarts.', None),
    GateName.HOLD: ("held", "An operator holds updates of this node: the audit is on.", None),
    GateName.FREEZE: (
        "frozen",
        "Updates are frozen until Sun 2026-12-06 00:00 CET: year end.",
        datetime(2026, 12, 5, 23, 0, tzinfo=UTC),
    ),
    GateName.UNCONFIRMED: (
        "unconfirmed",
        "The release that runs is on trial and not confirmed yet.",
        None,
    ),
    GateName.MIN_AGE: (
        "too-young",
        "1.2.0 is offered since 2026-11-22 12:00 UTC; min_age is 14 days.",
        NOW + 4 * DAY,
    ),
    GateName.SETTLE: (
        "settling",
        "The release that runs was confirmed on 2026-12-02 11:00 UTC; settle is 1 day.",
        NOW + 23 * HOUR,
    ),
    GateName.WINDOW: (
        "outside-window",
        "The window opens Wed 2026-12-02 23:30 CET.",
        datetime(2026, 12, 2, 22, 30, tzinfo=UTC),
    ),
    GateName.POSTPONE: (
        "postponed",
        "An operator postponed the restart until Wed 2026-12-02 13:00 UTC.",
        NOW + HOUR,
    ),
    GateName.INHIBITORS: ("inhibited", "The restart is inhibited by backup (a backup runs).", None),
    GateName.SESSIONS: ("users-logged-in", "1 user is logged in: alice (pts/0).", None),
    GateName.BLOCKERS: ("blocked", "The restart is blocked by 10-database (2 replicas are behind).", None),
}


@pytest.mark.parametrize("name", ALL)
def test_a_closed_gate_says_why_and_until_when(name: GateName) -> None:
    readings, policy = closing(name)
    code, sentence, until = EXPECTED[name]
    assert ask(name, readings, policy) == Gate(
        name=name, code=code, sentence=sentence, until=until, hard=name not in SOFT
    )


def test_the_first_closed_gate_is_the_answer_and_all_are_listed() -> None:
    restart = [name for name in ALL if name not in INSTALL_ONLY]
    readings, policy = closing(*restart)
    gates = judge(Purpose.RESTART, readings, policy, NOW)
    assert [gate.name for gate in gates if not gate.is_open] == restart
    answer = first_closed(gates)
    assert answer is not None
    assert answer.name is GateName.MODE


@pytest.mark.parametrize(
    ("mode", "install", "restart"),
    [
        (Mode.OFF, "mode-off", "mode-off"),
        (Mode.CHECK, "mode-check", "mode-check"),
        (Mode.INSTALL, "", "mode-install"),
        (Mode.RESTART, "", ""),
    ],
)
def test_the_mode_says_how_far_the_agent_goes(mode: Mode, install: str, restart: str) -> None:
    policy = replace(POLICY, mode=mode)
    assert ask(GateName.MODE, READINGS, policy, Purpose.INSTALL).code == install
    assert ask(GateName.MODE, READINGS, policy, Purpose.RESTART).code == restart


def test_a_hold_says_since_when_it_holds() -> None:
    readings = replace(READINGS, wishes=Wishes(hold="broken.", held_since=NOW - DAY))
    told = ask(GateName.HOLD, readings, POLICY).sentence
    assert told == "An operator holds updates of this node since 2026-12-01 12:00 UTC: broken."


def test_a_hold_without_a_reason_holds() -> None:
    assert closed(replace(READINGS, wishes=Wishes(hold="")), POLICY) == [GateName.HOLD]


def test_a_release_that_does_not_say_its_age_is_too_young_where_that_matters() -> None:
    readings = replace(READINGS, offer=replace(OFFER, since=None))
    gate = ask(GateName.MIN_AGE, readings, replace(POLICY, min_age=DAY))
    assert gate.code == "age-unknown"
    assert gate.until is None
    assert ask(GateName.MIN_AGE, readings, POLICY).is_open


def test_a_release_is_old_enough_at_the_moment_itself() -> None:
    readings = replace(READINGS, offer=replace(OFFER, since=NOW - DAY))
    assert ask(GateName.MIN_AGE, readings, replace(POLICY, min_age=DAY)).is_open


def test_a_node_that_never_confirmed_anything_does_not_settle() -> None:
    assert ask(GateName.SETTLE, READINGS, replace(POLICY, settle=DAY)).is_open


def test_a_confirm_in_the_future_of_a_clock_that_was_corrected_stops_nothing() -> None:
    readings = replace(READINGS, confirmed_at=NOW + 400 * DAY)
    assert ask(GateName.SETTLE, readings, replace(POLICY, settle=DAY)).is_open


def test_a_window_is_open_from_its_start_to_before_its_end() -> None:
    policy = replace(POLICY, windows=NIGHTS)
    opens = datetime(2026, 12, 2, 22, 30, tzinfo=UTC)
    codes = {
        moment: next(
            gate.code
            for gate in judge(Purpose.RESTART, READINGS, policy, moment)
            if gate.name is GateName.WINDOW
        )
        for moment in (opens - timedelta(seconds=1), opens, opens + HOUR - timedelta(seconds=1), opens + HOUR)
    }
    assert list(codes.values()) == ["outside-window", "", "", "outside-window"]


def test_installs_wait_for_the_window_only_if_that_is_configured() -> None:
    policy = replace(POLICY, windows=NIGHTS)
    assert ask(GateName.WINDOW, READINGS, policy, Purpose.INSTALL).is_open
    policy = replace(POLICY, windows=replace(NIGHTS, install_in_window=True))
    assert ask(GateName.WINDOW, READINGS, policy, Purpose.INSTALL).code == "outside-window"


def test_a_window_that_never_opens_is_reported_as_that() -> None:
    policy = replace(POLICY, windows=replace(NIGHTS, margin=2 * HOUR))
    gate = ask(GateName.WINDOW, READINGS, policy)
    assert (gate.code, gate.until) == ("no-window", None)


def test_inhibitors_end_together_and_only_if_each_has_an_end() -> None:
    early, late = (replace(SOFT_INHIBITOR, until=NOW + hours * HOUR) for hours in (1, 3))
    over = replace(SOFT_INHIBITOR, until=NOW)
    assert closed(replace(READINGS, inhibitors=(over,)), POLICY) == []
    ended = ask(GateName.INHIBITORS, replace(READINGS, inhibitors=(late, early, over)), POLICY)
    assert ended.until == NOW + 3 * HOUR
    endless = replace(READINGS, inhibitors=(late, SOFT_INHIBITOR))
    assert ask(GateName.INHIBITORS, endless, POLICY).until is None


def test_a_long_list_names_the_first_three_with_the_hard_ones_first() -> None:
    others = tuple(replace(SOFT_INHIBITOR, source=f"job-{number}") for number in range(4))
    gate = ask(GateName.INHIBITORS, replace(READINGS, inhibitors=(*others, HARD_INHIBITOR)), POLICY)
    assert gate.sentence == (
        "The restart is inhibited by raid (a disk is being rebuilt), job-0 (a backup runs), "
        "job-1 (a backup runs) and 2 more."
    )


def test_sessions_without_a_terminal_count_only_if_that_is_configured() -> None:
    readings = replace(READINGS, sessions=(CRON,))
    assert closed(readings, POLICY) == []
    policy = replace(POLICY, sessions=Sessions(ttys_only=False))
    assert ask(GateName.SESSIONS, readings, policy).sentence == "1 user is logged in: root."


def test_users_hold_up_a_restart_for_the_grace_after_the_warning() -> None:
    readings = replace(READINGS, sessions=(ALICE, replace(ALICE, user="bob")), users_warned_at=NOW)
    gate = ask(GateName.SESSIONS, readings, POLICY)
    assert gate.sentence == "2 users are logged in: alice (pts/0), bob (pts/0)."
    assert gate.until == NOW + timedelta(minutes=10)
    over = replace(readings, users_warned_at=NOW - timedelta(minutes=10))
    assert ask(GateName.SESSIONS, over, POLICY).is_open


def test_users_never_hold_up_a_restart_with_a_grace_of_zero() -> None:
    policy = replace(POLICY, sessions=Sessions(grace=timedelta()))
    assert closed(replace(READINGS, sessions=(ALICE,)), policy) == []
    unread = replace(READINGS, unread=((GateName.SESSIONS, "utmp is damaged"),))
    assert closed(unread, policy) == []


@pytest.mark.parametrize("name", [GateName.INHIBITORS, GateName.SESSIONS, GateName.BLOCKERS])
def test_what_cannot_be_read_is_closed_and_reported(name: GateName) -> None:
    gate = ask(name, replace(READINGS, unread=((name, "permission denied."),)), POLICY)
    assert gate.code == "unreadable"
    assert gate.sentence.endswith(" cannot be read: permission denied.")


def test_inhibitors_that_cannot_be_read_count_for_ever() -> None:
    readings = replace(READINGS, unread=((GateName.INHIBITORS, "no permission"),))
    policy = replace(POLICY, max_wait=HOUR)
    assert closed(readings, policy) == [GateName.INHIBITORS]
    assert ask(GateName.INHIBITORS, readings, policy).hard


# -- what passes the gates


@pytest.mark.parametrize("name", ALL)
def test_a_permit_opens_the_passable_gates_and_no_other(name: GateName) -> None:
    readings, policy = closing(name)
    gate = ask(name, permitted(readings), policy)
    assert gate.is_open == (name in PASSABLE)
    assert ("Passed: an operator permits it." in gate.sentence) == gate.is_open


@pytest.mark.parametrize("name", ALL)
def test_a_permit_opens_a_freeze_only_if_it_says_so(name: GateName) -> None:
    readings, policy = closing(name)
    gate = ask(name, permitted(readings, even_frozen=True), policy)
    assert gate.is_open == (name in PASSABLE | {GateName.FREEZE})


@pytest.mark.parametrize("name", ALL)
def test_a_permit_that_is_over_opens_nothing(name: GateName) -> None:
    readings, policy = closing(name)
    wishes = replace(readings.wishes, permit=NOW, even_frozen=True)
    assert not ask(name, replace(readings, wishes=wishes), policy).is_open


@pytest.mark.parametrize("name", ALL)
def test_an_urgent_release_opens_the_gates_that_the_policy_names_and_that_are_passable(
    name: GateName,
) -> None:
    readings, policy = closing(name)
    urgent = replace(readings, offer=replace(OFFER, urgent="A hole is used in the wild."))
    assert not ask(name, urgent, policy).is_open  # the policy names none
    named = replace(policy, urgent=frozenset(GateName))
    gate = ask(name, urgent, named)
    assert gate.is_open == (name in PASSABLE)
    assert ("the release is urgent (A hole is used in the wild)" in gate.sentence) == gate.is_open
    assert not ask(name, readings, named).is_open  # a release that is not urgent


@pytest.mark.parametrize("name", ALL)
def test_after_max_wait_soft_gates_no_longer_count_and_hard_ones_do(name: GateName) -> None:
    readings, policy = closing(name)
    policy = replace(policy, max_wait=DAY)  # READINGS waits since then
    gate = ask(name, readings, policy)
    assert gate.is_open == (name in SOFT)
    assert ("Passed: the release has waited for max_wait." in gate.sentence) == gate.is_open
    assert gate.is_passed == gate.is_open
    assert not ask(name, READINGS, POLICY).is_passed


@pytest.mark.parametrize("name", sorted(SOFT))
def test_before_max_wait_soft_gates_count_and_say_when_they_will_not(name: GateName) -> None:
    readings, policy = closing(name)
    policy = replace(policy, max_wait=DAY + timedelta(minutes=30))
    gate = ask(name, readings, policy)
    assert gate.until == NOW + timedelta(minutes=30)
    assert not ask(name, replace(readings, waiting_since=None), policy).is_open


def test_a_hard_inhibitor_counts_after_max_wait_though_a_soft_one_is_there_too() -> None:
    readings = replace(READINGS, inhibitors=(SOFT_INHIBITOR, HARD_INHIBITOR))
    gate = ask(GateName.INHIBITORS, readings, replace(POLICY, max_wait=HOUR))
    assert gate.hard
    assert not gate.is_open


@given(
    names=st.sets(st.sampled_from([name for name in ALL if name is not GateName.UNCONFIRMED])),
    minutes=st.integers(0, 20_000),
)
def test_a_gate_that_says_until_when_is_open_then_and_not_before(names: set[GateName], minutes: int) -> None:
    readings, policy = closing(*sorted(names, key=list(GateName).index))
    for purpose in Purpose:
        for gate in judge(purpose, readings, policy, NOW):
            if gate.is_open or gate.until is None or gate.name is GateName.WINDOW:
                continue
            later = NOW + timedelta(minutes=minutes)
            then = next(each for each in judge(purpose, readings, policy, later) if each.name is gate.name)
            assert then.is_open == (later >= gate.until)


# -- bugs of other projects that gates answer (the table is in the design notes of automatic updates)


def test_bug_zincati_756_users_are_asked_before_the_lock() -> None:
    """Zincati #756. The lock is not a gate of this list: users hold up a restart before it is asked for."""
    readings, policy = closing(GateName.SESSIONS)
    gates = judge(Purpose.RESTART, readings, policy, NOW)
    assert GateName.FLEET_LOCK not in {gate.name for gate in gates}
    assert closed(readings, policy) == [GateName.SESSIONS]


def test_bug_airlock_81_a_window_counts_beside_a_lock_and_everything_else() -> None:
    """Airlock #81."""
    readings, policy = closing(GateName.WINDOW, GateName.SESSIONS, GateName.INHIBITORS)
    assert closed(readings, policy) == [GateName.WINDOW, GateName.INHIBITORS, GateName.SESSIONS]


def test_bug_245_562_314_an_inhibitor_with_an_end_says_who_holds_it_back_and_until_when() -> None:
    """Zincati #245, zincati #562, kured #314."""
    inhibitor = replace(SOFT_INHIBITOR, until=NOW + HOUR)
    gate = ask(GateName.INHIBITORS, replace(READINGS, inhibitors=(inhibitor,)), POLICY)
    assert "backup (a backup runs)" in gate.sentence
    assert gate.until == NOW + HOUR


def test_bug_1072_498_4519_an_operator_permits_an_update_outside_the_window() -> None:
    """Zincati #1072, zincati #498, rpm-ostree #4519."""
    readings, policy = closing(GateName.WINDOW)
    assert closed(permitted(readings), policy) == []


def test_bug_1780_115_no_restart_under_a_user_who_was_not_warned() -> None:
    """Fcos-tracker #1780, fcos-tracker #115, and kured's users."""
    readings, policy = closing(GateName.SESSIONS)
    assert closed(readings, policy) == [GateName.SESSIONS]
    assert closed(replace(readings, users_warned_at=NOW - timedelta(minutes=9)), policy) == [
        GateName.SESSIONS
    ]


def test_bug_2805_4273_497_693_682_120_releases_can_be_left_to_others_for_some_days() -> None:
    """BR #2805, BR #4273, TW #497, BU #693, BU #682, ECS #120."""
    readings, policy = closing(GateName.MIN_AGE)
    assert closed(readings, policy, Purpose.INSTALL) == [GateName.MIN_AGE]
    old = replace(readings, offer=replace(OFFER, since=NOW - 14 * DAY))
    assert closed(old, policy, Purpose.INSTALL) == []


def test_bug_flatcar_744_the_way_back_stays_for_a_while_after_a_confirm() -> None:
    """Flatcar #744."""
    readings, policy = closing(GateName.SETTLE)
    assert closed(readings, policy, Purpose.INSTALL) == [GateName.SETTLE]


def test_bug_247_1938_1561_a_hold_keeps_what_an_operator_rolled_back() -> None:
    """Fcos #247, fcos #1938, Flatcar #1561."""
    readings, policy = closing(GateName.HOLD)
    for purpose in Purpose:
        assert closed(permitted(readings, even_frozen=True), policy, purpose) == [GateName.HOLD]


def test_bug_81_33_nothing_happens_by_default() -> None:
    """Vmware #81, knuckle #33."""
    for purpose in Purpose:
        assert closed(READINGS, Policy(), purpose) == [GateName.MODE]
