"""Why an install or a restart must wait: gates, each open or closed with a reason. PURE.

Rules:

* gates compose: all are asked, all are listed, and the first closed one is the answer that an operator sees;
* a hard gate always counts. A soft gate no longer counts when the release has waited for ``max_wait``;
* a permit of an operator opens the gates of :data:`~updog.auto.policy.PASSABLE`; a release that its publisher
  marked urgent opens those of them that the policy names. Neither ever opens the others;
* what cannot be read is closed and reported, never taken as "nobody objects";
* a gate that is passed (by a permit, an urgent release, or after ``max_wait``) keeps its sentence: an
  operator sees what did not count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from signpost.text import counted
from updog.auto.policy import PASSABLE, SOFT, GateName, Mode
from updog.auto.windows import current_or_next, freeze_at
from updog.standing import Standing
from updog.update_metadata.times import readable_duration, readable_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.auto.policy import Policy
    from updog.update_metadata.version import Version


class Purpose(StrEnum):
    """What the gates are asked for."""

    INSTALL = "install"
    RESTART = "restart"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """The answer of one gate.

    Attributes:
        code: stable name of the reason; empty: open. sentence: the reason, for an operator; a gate that is
            passed has one too. until: when it opens at the latest, if that is known (UTC). hard: whether it
            counts for ever.
    """

    name: GateName
    code: str = ""
    sentence: str = ""
    until: datetime | None = None
    hard: bool = True

    @property
    def is_open(self) -> bool:
        """Whether it lets the action pass."""
        return not self.code

    @property
    def is_passed(self) -> bool:
        """Whether it would be closed, but does not count now."""
        return self.is_open and bool(self.sentence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inhibitor:
    """An objection to a restart: a file in ``inhibit.d``, or one of logind's locks.

    Attributes:
        source: the file, or the program. why: its reason. until: when it ends. soft: whether ``max_wait``
            overrides it.
    """

    source: str
    why: str
    until: datetime | None = None
    soft: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class UserSession:
    """Somebody who is logged in; ``terminal`` is empty for a session without one."""

    user: str
    terminal: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """A blocker that did not say 0: its name, and its last line or why it could not be asked."""

    name: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What operators asked of the agent; kept until it is over or taken back.

    Attributes:
        permit: until then restarts and installs may start at any time.
        even_frozen: the permit also opens a freeze. without_lock: and no fleet lock is asked for.
        postpone: no restart before it. hold: why nothing may start at all; None: no hold.
        held_since: when.
    """

    permit: datetime | None = None
    even_frozen: bool = False
    without_lock: bool = False
    postpone: datetime | None = None
    hold: str | None = None
    held_since: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The release that the last check chose for this node.

    Attributes:
        since: when it was first offered to anyone: its first wave, or its publication; None: unknown.
        urgent: why its publisher marked it urgent, as a sentence; empty: it did not.
    """

    version: Version
    since: datetime | None = None
    urgent: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What was read of the node and its operators, for the gates.

    Attributes:
        standing: of the pending update. offer: what the gates are asked for.
        waiting_since: when the offer was first ready for this node; None: it is not.
        confirmed_at: the last confirm. wishes: of the operators. seed: of the node.
        users_warned_at: when the users were told of the restart for which the gates are asked; None: not yet.
        sessions, inhibitors, objections: what the machine says. unread: gate → why it could not be read.
    """

    standing: Standing
    offer: Offer | None
    seed: int
    waiting_since: datetime | None = None
    confirmed_at: datetime | None = None
    wishes: Wishes = Wishes()
    users_warned_at: datetime | None = None
    sessions: tuple[UserSession, ...] = ()
    inhibitors: tuple[Inhibitor, ...] = ()
    objections: tuple[Objection, ...] = ()
    unread: tuple[tuple[GateName, str], ...] = ()


MAX_POSTPONE = timedelta(days=7)
"""The longest postponement that an operator may ask for at once."""

_SHOWN = 3  # users, inhibitors and blockers that a sentence names; the others are counted


class _Case(NamedTuple):
    """What a gate looks at."""

    purpose: Purpose
    readings: Readings
    policy: Policy
    now: datetime


class _Closed(NamedTuple):
    """Why a gate is closed. ``hard`` is None where the gate's name says it."""

    code: str
    sentence: str
    until: datetime | None = None
    hard: bool | None = None


def judge(purpose: Purpose, readings: Readings, policy: Policy, now: datetime) -> tuple[Gate, ...]:
    """Return the answer of every gate that ``purpose`` has, in their order.

    The fleet lock is not among them: it is asked last, by the table, when all others are open.

    Args:
        purpose: an install or a restart.
        readings: what was read.
        policy: what is configured.
        now: the time, UTC.
    """
    case = _Case(purpose, readings, policy, now)
    return tuple(_gate(name, case) for name in _OF_PURPOSE[purpose])


def first_closed(gates: tuple[Gate, ...]) -> Gate | None:
    """Return the answer that an operator sees first; None if all are open."""
    return next((gate for gate in gates if not gate.is_open), None)


def _gate(name: GateName, case: _Case) -> Gate:
    closed = _unread(name, case) or _REASONS[name](case)
    if closed is None:
        return _OPEN[name]
    hard = name not in SOFT if closed.hard is None else closed.hard
    gate = Gate(name=name, code=closed.code, sentence=closed.sentence, until=closed.until, hard=hard)
    passed = _why_passed(gate, case)
    if passed:
        return replace(gate, code="", sentence=f"{gate.sentence} Passed: {passed}.", until=None)
    waits_until = _max_wait_over_at(case)
    if not hard and waits_until is not None:
        return replace(gate, until=min(gate.until or waits_until, waits_until))
    return gate


def _why_passed(gate: Gate, case: _Case) -> str | None:
    """Return why a closed gate does not count; None if it does."""
    readings, policy = case.readings, case.policy
    wishes, offer = readings.wishes, readings.offer
    is_permitted = wishes.permit is not None and case.now < wishes.permit
    is_for_permits = gate.name in PASSABLE or (gate.name is GateName.FREEZE and wishes.even_frozen)
    if is_permitted and is_for_permits:
        return "an operator permits it"
    if offer is not None and offer.urgent and gate.name in policy.urgent & PASSABLE:
        return f"the release is urgent ({offer.urgent.rstrip('.')})"
    waits_until = _max_wait_over_at(case)
    if not gate.hard and waits_until is not None and waits_until <= case.now:
        return "the release has waited for max_wait"
    return None


def _max_wait_over_at(case: _Case) -> datetime | None:
    since, max_wait = case.readings.waiting_since, case.policy.max_wait
    return None if since is None or max_wait is None else since + max_wait


def _unread(name: GateName, case: _Case) -> _Closed | None:
    problem = dict(case.readings.unread).get(name)
    if problem is None or (name is GateName.SESSIONS and not case.policy.sessions.grace):
        return None
    what = _READ_FOR.get(name, f"What the gate {name.value} looks at")
    hard = name is GateName.INHIBITORS or None  # one that is not soft may be among them
    return _Closed("unreadable", f"{what} cannot be read: {problem.rstrip('.')}.", hard=hard)


def _mode(case: _Case) -> _Closed | None:
    mode, purpose = case.policy.mode, case.purpose
    if mode is Mode.RESTART or (mode is Mode.INSTALL and purpose is Purpose.INSTALL):
        return None
    verb = "installs" if purpose is Purpose.INSTALL else "restarts"
    return _Closed(f"mode-{mode.value}", f'The mode is "{mode.value}": an operator {verb}.')


def _hold(case: _Case) -> _Closed | None:
    wishes = case.readings.wishes
    if wishes.hold is None:
        return None
    since = f" since {readable_time(wishes.held_since)}" if wishes.held_since else ""
    return _Closed("held", f"An operator holds updates of this node{since}: {wishes.hold.rstrip('.')}.")


def _freeze(case: _Case) -> _Closed | None:
    found = freeze_at(case.policy.freezes, case.policy.windows.zone, case.now)
    if found is None:
        return None
    freeze, end = found
    why = freeze.why.rstrip(".")
    return _Closed("frozen", f"Updates are frozen until {_local_time(end, case)}: {why}.", end)


def _unconfirmed(case: _Case) -> _Closed | None:
    if case.readings.standing is not Standing.TRIAL:
        return None
    return _Closed("unconfirmed", "The release that runs is on trial and not confirmed yet.")


def _min_age(case: _Case) -> _Closed | None:
    offer, min_age = case.readings.offer, case.policy.min_age
    if offer is None or not min_age:
        return None
    age = readable_duration(min_age)
    if offer.since is None:
        sentence = f"{offer.version} does not say since when it is offered; min_age is {age}."
        return _Closed("age-unknown", sentence)
    until = offer.since + min_age
    if until <= case.now:
        return None
    sentence = f"{offer.version} is offered since {readable_time(offer.since)}; min_age is {age}."
    return _Closed("too-young", sentence, until)


def _settle(case: _Case) -> _Closed | None:
    confirmed_at, settle = case.readings.confirmed_at, case.policy.settle
    # A confirm in the future was recorded by a clock that has been corrected since.
    if confirmed_at is None or not confirmed_at <= case.now < confirmed_at + settle:
        return None
    sentence = (
        f"The release that runs was confirmed on {readable_time(confirmed_at)}; settle is "
        f"{readable_duration(settle)}."
    )
    return _Closed("settling", sentence, confirmed_at + settle)


def _window(case: _Case) -> _Closed | None:
    windows = case.policy.windows
    if not windows.windows or (case.purpose is Purpose.INSTALL and not windows.install_in_window):
        return None
    span = current_or_next(windows, case.now, case.readings.seed)
    if span is None:
        return _Closed("no-window", "No window opens within the next five weeks.")
    if span.start <= case.now < span.end:
        return None
    return _Closed("outside-window", f"The window opens {_local_time(span.start, case)}.", span.start)


def _postpone(case: _Case) -> _Closed | None:
    until = case.readings.wishes.postpone
    if until is None or until <= case.now:
        return None
    sentence = f"An operator postponed the restart until {_local_time(until, case)}."
    return _Closed("postponed", sentence, until)


def _inhibitors(case: _Case) -> _Closed | None:
    found = [each for each in case.readings.inhibitors if each.until is None or case.now < each.until]
    if not found:
        return None
    found.sort(key=lambda each: each.soft)
    ends = [each.until for each in found if each.until is not None]
    until = max(ends) if len(ends) == len(found) else None
    names = _listed([f"{each.source} ({each.why.rstrip('.')})" for each in found])
    return _Closed("inhibited", f"The restart is inhibited by {names}.", until, hard=not found[0].soft)


def _sessions(case: _Case) -> _Closed | None:
    rule, warned_at = case.policy.sessions, case.readings.users_warned_at
    users = [each for each in case.readings.sessions if each.terminal or not rule.ttys_only]
    if not users or not rule.grace:
        return None
    until = None if warned_at is None else warned_at + rule.grace
    if until is not None and until <= case.now:
        return None
    names = _listed([f"{each.user} ({each.terminal})" if each.terminal else each.user for each in users])
    verb = "is" if len(users) == 1 else "are"
    return _Closed("users-logged-in", f"{counted(len(users), 'user')} {verb} logged in: {names}.", until)


def _blockers(case: _Case) -> _Closed | None:
    objections = case.readings.objections
    if not objections:
        return None
    names = _listed([f"{each.name} ({each.problem.rstrip('.')})" for each in objections])
    return _Closed("blocked", f"The restart is blocked by {names}.")


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _local_time(moment: datetime, case: _Case) -> str:
    """Return a time as the operator configured the windows: ``Sat 2026-12-05 23:30 CET``."""
    return f"{moment.astimezone(case.policy.windows.zone):%a %Y-%m-%d %H:%M %Z}"


_REASONS: dict[GateName, Callable[[_Case], _Closed | None]] = {
    GateName.MODE: _mode,
    GateName.HOLD: _hold,
    GateName.FREEZE: _freeze,
    GateName.UNCONFIRMED: _unconfirmed,
    GateName.MIN_AGE: _min_age,
    GateName.SETTLE: _settle,
    GateName.WINDOW: _window,
    GateName.POSTPONE: _postpone,
    GateName.INHIBITORS: _inhibitors,
    GateName.SESSIONS: _sessions,
    GateName.BLOCKERS: _blockers,
}

_OPEN = {name: Gate(name=name, hard=name not in SOFT) for name in GateName}

_FOR_BOTH = (GateName.MODE, GateName.HOLD, GateName.FREEZE, GateName.UNCONFIRMED)
_OF_PURPOSE = {
    Purpose.INSTALL: (*_FOR_BOTH, GateName.MIN_AGE, GateName.SETTLE, GateName.WINDOW),
    Purpose.RESTART: (
        *_FOR_BOTH,
        GateName.WINDOW,
        GateName.POSTPONE,
        GateName.INHIBITORS,
        GateName.SESSIONS,
        GateName.BLOCKERS,
    ),
}

_READ_FOR = {
    GateName.INHIBITORS: "The list of inhibitors",
    GateName.SESSIONS: "The list of users who are logged in",
    GateName.BLOCKERS: "The folder of blockers",
}
"""What is read for a gate, as messages name it; the other gates look at nothing that can be unreadable."""
