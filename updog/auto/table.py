"""The table of the agent: the state and the facts give the next state and what to do. PURE.

Rules:

* the first row that matches decides; a pair that no row matches is an error, not a silent wait;
* the daemon saves the next state before it carries out the actions of a row, so that after a crash
  :func:`restarted` and the rows of ``start`` bring it to the same place;
* a lock that may be held is released unless a restart is under way, a release is on trial, or the lock is
  kept because this node fell back: in every mode, before anything else;
* what boots next is changed only by rows of ``installing`` (where the policy says so) and ``cleared``, and
  changed back on every way that does not lead to a restart;
* every gate is judged again after the lock was granted, and until the restart: the lock may have taken longer
  than the window;
* what cannot be true is not believed: an offer of a release that runs, that failed here, or that is no longer
  published (all from the last check, before a restart), and times of the state that lie too far ahead,
  where the clock was set back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from updog.auto.gates import first_closed
from updog.auto.policy import AfterFallback, Apply, GateName, Mode
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from updog.auto.gates import Gate, Offer
    from updog.auto.policy import Policy
    from updog.update_metadata.version import Version

FIRST_CHECK = timedelta(minutes=10)  # after a start, moved by up to a half: a whole fleet may start at once
RETRY_FIRST, RETRY_LONGEST = timedelta(minutes=5), timedelta(hours=6)  # of a failed install
UNLOCK_FIRST, UNLOCK_LONGEST = timedelta(minutes=1), timedelta(minutes=15)
LOOK_AGAIN = timedelta(minutes=5)  # at a gate that does not know when it opens
SOON = timedelta(minutes=1)  # at users, and at a busy lock inside a window
RESTART_AGAIN = timedelta(minutes=15)  # after a restart that failed
WARN_AGAIN = timedelta(hours=1)  # users who came since know of nothing
LONG_WAIT = timedelta(days=1)  # of a release, beyond what the policy makes it wait
WINDOWS_COME = timedelta(weeks=1)  # after a week each window was there once


class TableError(Exception):
    """No row of the table matches: a defect of the table. Carries the state and the facts."""


class Phase(StrEnum):
    """Where the agent is."""

    START = "start"
    OFF = "off"
    IDLE = "idle"
    CHECKING = "checking"
    READY = "ready"
    INSTALLING = "installing"
    STAGED = "staged"
    INSTALLED = "installed"
    LOCKING = "locking"
    CLEARED = "cleared"
    LEAVING = "leaving"
    GONE = "gone"
    TRIAL = "trial"


class Lock(StrEnum):
    """What is known of the fleet lock: ``asked`` may be held, ``kept`` is held on purpose."""

    NO = "no"
    ASKED = "asked"
    HELD = "held"
    KEPT = "kept"


class Job(StrEnum):
    """What became of the last action that takes time; busy: another updog was at work."""

    NONE = "none"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BUSY = "busy"


class LockCall(StrEnum):
    """What became of the last request to the lock server."""

    NONE = "none"
    RUNNING = "running"
    YES = "yes"
    NO = "no"
    FAILED = "failed"


class Act(StrEnum):
    """What the daemon does, in this order of the names in :attr:`Step.acts`."""

    REFRESH = "refresh"
    INSTALL = "install"
    APPLY = "apply"
    REVERT = "revert"
    LOCK = "lock"
    UNLOCK = "unlock"
    WARN = "warn"
    RESTART = "restart"
    WRITE_SENTINEL = "write-sentinel"
    REMOVE_SENTINEL = "remove-sentinel"
    POST_CONFIRM = "post-confirm"


class Notice(StrEnum):
    """What the agent records in the history."""

    LOCK_TAKEN = "lock-taken"
    LOCK_KEPT = "lock-kept"
    LOCK_RELEASED = "lock-released"
    GIVEN_UP = "given-up"
    RESTART_FAILED = "restart-failed"
    WAITS_LONG = "waits-long"


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoState:
    """What the agent remembers, also over a restart.

    Attributes:
        phase: where it is. since: from when. back: where a check returns to.
        version: the release in work. first_ready: when it was first ready for this node.
        long_wait_told: whether an operator was told that it waits too long.
        attempts: failed installs of it in a row. retry_at: not before.
        applied: the release that this agent made boot next, until it is known how that ended.
        revert_at: not before, where it could not be taken back.
        users_warned_at: when users were told of the restart that is prepared.
        lock: what is known of the fleet lock. kept_for: the release because of which it is kept.
        unlock_tries: failed requests in a row. unlock_at: not before.
        next_check: when the repository is asked next.
        given_up: the release that was given up.
    """

    phase: Phase
    since: datetime
    back: Phase = Phase.IDLE
    version: Version | None = None
    first_ready: datetime | None = None
    long_wait_told: bool = False
    attempts: int = 0
    retry_at: datetime | None = None
    applied: Version | None = None
    revert_at: datetime | None = None
    users_warned_at: datetime | None = None
    lock: Lock = Lock.NO
    kept_for: Version | None = None
    unlock_tries: int = 0
    unlock_at: datetime | None = None
    next_check: datetime | None = None
    given_up: Version | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is true now.

    Attributes:
        now: the time, UTC. jitter: a random number from -1 to 1.
        running: the version that runs. standing: of the pending update. staged: the version of it.
        confirmed_at: when the running version was confirmed; None: unknown.
        denied: versions that failed on this node.
        offer: what the last check chose.
        offered: what the publisher offers, neither held nor withdrawn; None: no check has ended yet.
        job: of the last action. lock_call: of the last request to the lock server.
        install_gates, restart_gates: the answers of the gates.
        without_lock: an operator permits a restart without the lock.
        release_lock: an operator wants the lock released, kept or not.
        check_now: an operator wants a check.
    """

    now: datetime
    running: Version
    standing: Standing
    jitter: float = 0.0
    staged: Version | None = None
    confirmed_at: datetime | None = None
    denied: frozenset[Version] = frozenset()
    offer: Offer | None = None
    offered: frozenset[Version] | None = None
    job: Job = Job.NONE
    lock_call: LockCall = LockCall.NONE
    install_gates: tuple[Gate, ...] = ()
    restart_gates: tuple[Gate, ...] = ()
    without_lock: bool = False
    release_lock: bool = False
    check_now: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The next state and what to do.

    Attributes:
        state: to be saved first. acts: then to be carried out, in order.
        wake: when to look again at the latest; None: only when something happens.
        notices: for the history.
        row: the name of the row that matched.
    """

    state: AutoState
    acts: tuple[Act, ...] = ()
    wake: datetime | None = None
    notices: tuple[Notice, ...] = ()
    row: str = ""


class _Case(NamedTuple):
    """What a row looks at."""

    state: AutoState
    facts: Facts
    policy: Policy

    def go(self, phase: Phase, *acts: Act, wake: timedelta | None = None, **changes: Any) -> Step:
        """Return the step to ``phase`` with ``changes`` of the state."""
        now = self.facts.now
        since = self.state.since if phase is self.state.phase else now
        state = replace(self.state, phase=phase, since=since, **changes)
        return Step(state=state, acts=acts, wake=None if wake is None else now + wake)

    def wait(self, gates: tuple[Gate, ...] = (), *, at_most: timedelta = LOOK_AGAIN) -> Step:
        """Return the step that stays: until the first closed gate opens, if it is hard; or ``at_most``."""
        latest, gate = self.facts.now + at_most, first_closed(gates)
        until = gate.until if gate else None
        if gate is None or until is None or until <= self.facts.now:
            return Step(state=self.state, wake=latest)
        return Step(state=self.state, wake=until if gate.hard else min(until, latest))

    # -- what the rows ask

    @property
    def may_install(self) -> bool:
        return first_closed(self.facts.install_gates) is None

    @property
    def may_restart(self) -> bool:
        return first_closed(self.facts.restart_gates) is None

    @property
    def hard_gate_closed(self) -> bool:
        return any(not gate.is_open and gate.hard for gate in self.facts.restart_gates)

    @property
    def needs_lock(self) -> bool:
        return self.policy.fleet_lock is not None and not self.facts.without_lock

    @property
    def lacks_lock(self) -> bool:
        return self.needs_lock and self.state.lock not in {Lock.HELD, Lock.KEPT}

    @property
    def applies_early(self) -> bool:
        """Whether any restart after the install takes the update, not only one of this agent."""
        policy = self.policy
        is_early = policy.apply is Apply.AT_ONCE or policy.sentinel is not None
        return is_early and policy.mode in {Mode.INSTALL, Mode.RESTART}

    @property
    def is_other_to_install(self) -> bool:
        """Whether another release is offered, has not been given up, and may be installed now."""
        offer = self.facts.offer
        is_other = offer is not None and offer.version not in {self.state.version, self.state.given_up}
        return is_other and self.may_install

    @property
    def is_installed(self) -> bool:
        """Whether the release in work is in the other slot, complete."""
        is_there = self.facts.standing in {Standing.STAGED, Standing.WAITING}
        return is_there and self.facts.staged == self.state.version

    @property
    def is_still_offered(self) -> bool:
        """Whether the publisher still offers the release in work, and it has not failed here."""
        facts, version = self.facts, self.state.version
        is_published = facts.offered is None or version in facts.offered
        return facts.offer is not None and is_published and version not in facts.denied

    @property
    def is_still_staged(self) -> bool:
        """Whether what this agent staged is there, and is still what is offered to this node."""
        return self.is_installed and self.is_still_offered

    @property
    def is_applied(self) -> bool:
        """Whether what boots next was set by this agent and not yet taken back."""
        facts = self.facts
        return facts.standing is Standing.WAITING and facts.staged == self.state.applied is not None

    @property
    def is_to_be_taken_back(self) -> bool:
        """Whether what boots next was set by this agent and must not stay so outside a restart."""
        is_wanted = self.applies_early and self.facts.staged == self.state.version and self.is_still_offered
        return self.is_applied and not is_wanted

    @property
    def is_waiting_to_try_again(self) -> bool:
        return self.state.retry_at is not None and self.state.retry_at > self.facts.now

    def waits_too_long(self, gates: tuple[Gate, ...]) -> bool:
        """Whether the release has waited for longer than an operator expects, and nobody was told.

        That is ``max_wait``; where there is none, a day longer than the policy makes it wait.
        """
        since, policy, gate = self.state.first_ready, self.policy, first_closed(gates)
        is_told = self.state.long_wait_told
        if since is None or is_told or (gate is not None and gate.name in _OPERATORS_KNOW):
            return False
        windows = WINDOWS_COME if policy.windows.windows else timedelta()
        expected = policy.min_age + policy.settle + windows + LONG_WAIT
        return self.facts.now >= since + (expected if policy.max_wait is None else policy.max_wait)

    def is_check_due(self) -> bool:
        next_check = self.state.next_check
        return self.facts.check_now or next_check is None or next_check <= self.facts.now

    def next_check(self) -> datetime:
        """Return when the check after this one is due."""
        return self.facts.now + self.policy.check_every * (1 + 0.1 * self.facts.jitter)

    def take_up(self, offer: Offer) -> Step:
        """Return the step to ``ready`` for ``offer``; what is known of the same version is kept."""
        if offer.version == self.state.version:
            return self.go(Phase.READY, first_ready=self.state.first_ready or self.facts.now)
        return self.go(
            Phase.READY,
            version=offer.version,
            first_ready=self.facts.now,
            long_wait_told=False,
            attempts=0,
            retry_at=None,
            users_warned_at=None,
        )


class Row(NamedTuple):
    """One row: in one of ``phases``, ``when`` (in words) holds, ``then`` is the step.

    ``leads_to`` are the phases that the step may have; the diagram in the documentation is drawn from them.
    """

    name: str
    phases: frozenset[Phase]
    when: str
    test: Callable[[_Case], bool]
    then: Callable[[_Case], Step]
    leads_to: tuple[Phase, ...]


_WAITING = frozenset({Phase.READY, Phase.INSTALLING, Phase.STAGED, Phase.INSTALLED})
_RESTARTING = frozenset({Phase.LOCKING, Phase.CLEARED, Phase.LEAVING, Phase.GONE})
_KEEP_THE_LOCK = _RESTARTING | {Phase.START, Phase.TRIAL}
_OPERATORS_KNOW = frozenset({GateName.FREEZE, GateName.POSTPONE})  # until when: they said so
_WITH_CHECKS = frozenset({Phase.IDLE, Phase.READY, Phase.STAGED, Phase.INSTALLED})


def _same(case: _Case, *acts: Act, wake: timedelta | None = None, **changes: Any) -> Step:
    return case.go(case.state.phase, *acts, wake=wake, **changes)


def _noting(step: Step, *notices: Notice) -> Step:
    return replace(step, notices=notices)


# -- the lock


def _is_lock_needless(case: _Case) -> bool:
    state, facts = case.state, case.facts
    may_be_held = state.lock in {Lock.ASKED, Lock.HELD}
    is_reverting = case.is_to_be_taken_back and facts.job is Job.RUNNING
    is_due = state.unlock_at is None or state.unlock_at <= facts.now
    return (
        may_be_held
        and is_due
        and facts.lock_call is LockCall.NONE
        and not is_reverting
        and not _will_ask_again(case)
    )


def _will_ask_again(case: _Case) -> bool:
    """Whether the restart is only waiting for the lock: then a lock that may be held is asked for again."""
    state = case.state
    may_go_on = state.phase is Phase.STAGED and case.may_restart and case.needs_lock and case.is_still_staged
    is_free = case.facts.job is not Job.RUNNING and not case.is_to_be_taken_back
    is_asking = state.lock is Lock.ASKED and not state.unlock_tries
    return may_go_on and is_free and (is_asking or not case.is_waiting_to_try_again)


def _reasons_to_keep(case: _Case) -> frozenset[Version]:
    """Return the releases that are offered and failed here: the next node that gets the lock would take them.

    There may be several: after the newest one failed, the node tries an older one under the same lock.
    """
    state, facts = case.state, case.facts
    if state.kept_for is None:
        return frozenset()
    failed = {version for version in facts.denied if version > facts.running} | {state.kept_for}
    return frozenset(failed if facts.offered is None else failed & facts.offered)


def _is_keeping_over(case: _Case) -> bool:
    state, facts = case.state, case.facts
    if state.lock is not Lock.KEPT:
        return False
    is_wanted = case.policy.after_fallback is AfterFallback.KEEP_LOCK and case.policy.mode is not Mode.OFF
    if facts.release_lock or not is_wanted or state.kept_for is None:
        return True
    is_newer_offered = facts.offer is not None and facts.offer.version > state.kept_for
    return is_newer_offered or facts.running >= state.kept_for or not _reasons_to_keep(case)


def _is_kept_for_another(case: _Case) -> bool:
    reasons = _reasons_to_keep(case)
    return case.state.lock is Lock.KEPT and bool(reasons) and case.state.kept_for not in reasons


def _unlock_failed(case: _Case) -> Step:
    tries = case.state.unlock_tries
    wait = min(UNLOCK_FIRST * 2 ** min(tries, 10), UNLOCK_LONGEST)
    return _same(case, wake=wait, unlock_tries=tries + 1, unlock_at=case.facts.now + wait)


def _unlocked(case: _Case) -> Step:
    step = _same(case, lock=Lock.NO, kept_for=None, unlock_tries=0, unlock_at=None)
    return _noting(step, Notice.LOCK_RELEASED)


_UNLOCKING = frozenset(Phase) - {
    Phase.LOCKING
}  # in locking, an answer is the one to the request for the lock

_OUTSIDE_A_RESTART = frozenset({Phase.OFF, Phase.IDLE, Phase.READY, Phase.STAGED, Phase.INSTALLED})


def _call_off(case: _Case) -> tuple[Act, ...]:
    """Return what tells the program that watches the sentinel that no restart is wanted."""
    return () if case.policy.sentinel is None else (Act.REMOVE_SENTINEL,)


def _call_off_if_over(case: _Case) -> tuple[Act, ...]:
    """Return the same where no restart is wanted: a sentinel may have outlived the one that was."""
    return () if case.state.applied is not None else _call_off(case)


def _take_back(case: _Case) -> Step:
    return _same(case, Act.REVERT, *_call_off(case), revert_at=case.facts.now + SOON)


FLAG_ROWS = (
    Row(
        "take-back",
        _OUTSIDE_A_RESTART,
        "a restart that is not under way, or a release that is no longer wanted, boots next",
        lambda case: (
            case.is_to_be_taken_back
            and case.facts.job is not Job.RUNNING
            and (case.state.revert_at is None or case.state.revert_at <= case.facts.now)
        ),
        _take_back,
        (),
    ),
    Row(
        "taken-back",
        _OUTSIDE_A_RESTART,
        "it no longer boots next",
        lambda case: (
            case.state.applied is not None and not case.is_applied and case.facts.job is not Job.RUNNING
        ),
        # also where a check or an operator took it back
        lambda case: _same(case, *_call_off(case), applied=None, revert_at=None),
        (),
    ),
)
"""Asked before all others: an update that boots next without a restart of this agent passes no gate."""

LOCK_ROWS = (
    Row(
        "lock-released",
        _UNLOCKING,
        "the server released the lock",
        lambda case: case.facts.lock_call in {LockCall.YES, LockCall.NO},  # no: it was not ours
        _unlocked,
        (),
    ),
    Row(
        "lock-not-released",
        _UNLOCKING,
        "the server could not be asked to release the lock",
        lambda case: case.facts.lock_call is LockCall.FAILED,
        _unlock_failed,
        (),
    ),
    Row(
        "lock-kept-no-more",
        frozenset(Phase) - _KEEP_THE_LOCK,
        "it is kept, and no release that failed here is offered any more, a newer one is, or mode is off",
        _is_keeping_over,
        lambda case: _same(case, lock=Lock.HELD, kept_for=None),
        (),
    ),
    Row(
        "lock-kept-for-another",
        frozenset(Phase) - _KEEP_THE_LOCK,
        "it is kept, and of the releases that failed here another one is still offered",
        _is_kept_for_another,
        lambda case: _same(case, kept_for=max(_reasons_to_keep(case))),
        (),
    ),
    Row(
        "lock-without-server",
        frozenset(Phase) - _KEEP_THE_LOCK,
        "a lock is held, and no server is configured any more",
        lambda case: case.state.lock is not Lock.NO and case.policy.fleet_lock is None,
        lambda case: _same(case, lock=Lock.NO, kept_for=None, unlock_at=None, unlock_tries=0),
        (),
    ),
    Row(
        "unlock",
        frozenset(Phase) - _KEEP_THE_LOCK,
        "the lock may be held, and no restart is under way",
        _is_lock_needless,
        lambda case: _same(case, Act.UNLOCK, lock=Lock.ASKED),  # an answer that gets lost may be a yes
        (),
    ),
)
"""Asked before any work, in every phase: a lock that nobody needs stops the whole fleet."""


# -- after a start


def _fell_back(case: _Case) -> bool:
    applied = case.state.applied
    return applied is not None and applied != case.facts.running and applied in case.facts.denied


def _keep(case: _Case) -> Step:
    """Keep the lock under which this node restarted; one that may be held was not needed any more by then."""
    state = case.state
    if state.lock is Lock.HELD and case.policy.after_fallback is AfterFallback.KEEP_LOCK:
        step = case.go(Phase.START, applied=None, lock=Lock.KEPT, kept_for=state.applied)
        return _noting(step, Notice.LOCK_KEPT)
    return case.go(Phase.START, applied=None)


def _is_settled_trial(case: _Case) -> bool:
    """Whether the trial is over, and the lock has been held for as long as the policy wants."""
    facts, lock = case.facts, case.policy.fleet_lock
    if facts.standing is Standing.TRIAL:
        return False
    delay = lock.release_delay if lock else timedelta()
    confirmed_at = facts.confirmed_at
    since = case.state.since if confirmed_at is None or confirmed_at > facts.now else confirmed_at
    return case.state.lock not in {Lock.ASKED, Lock.HELD} or facts.now >= since + delay


def _end_trial(case: _Case) -> Step:
    """End a trial; what was applied is forgotten only after the hooks have run, which a kill would lose."""
    if case.facts.running != case.state.version:
        return case.go(Phase.START, applied=None)
    return case.go(Phase.START, Act.POST_CONFIRM)


START_ROWS = (
    Row(
        "start-on-trial",
        frozenset({Phase.START}),
        "a release is on trial",
        lambda case: case.facts.standing is Standing.TRIAL,
        # a sentinel that outlived the restart would end the trial by another one
        lambda case: case.go(Phase.TRIAL, *_call_off(case)),
        (Phase.TRIAL,),
    ),
    Row(
        "start-confirmed",
        frozenset({Phase.START}),
        "the release that was applied runs, and the hooks after its confirm were not started yet",
        lambda case: case.state.applied == case.facts.running and case.facts.job is Job.NONE,
        lambda case: case.go(Phase.TRIAL, *_call_off(case)),
        (Phase.TRIAL,),
    ),
    Row(
        "start-fell-back",
        frozenset({Phase.START, Phase.TRIAL}),
        "the release that was applied fell back",
        _fell_back,
        _keep,
        (Phase.START,),
    ),
    Row(
        "start-off",
        frozenset({Phase.START}),
        "mode is off",
        lambda case: case.policy.mode is Mode.OFF,
        lambda case: case.go(Phase.OFF, *_call_off_if_over(case), users_warned_at=None),
        (Phase.OFF,),
    ),
    Row(
        "start",
        frozenset({Phase.START}),
        "nothing is to be ended",
        lambda _: True,
        lambda case: case.go(
            Phase.IDLE,
            *_call_off_if_over(case),
            users_warned_at=None,
            next_check=case.facts.now + FIRST_CHECK * (1 + 0.5 * case.facts.jitter),
        ),
        (Phase.IDLE,),
    ),
    Row(
        "off",
        frozenset({Phase.OFF}),
        "mode is off",
        lambda case: case.policy.mode is Mode.OFF,
        lambda case: case.go(Phase.OFF),
        (),
    ),
    Row(
        "on-trial",
        frozenset({Phase.TRIAL}),
        "not confirmed yet, or the lock is held a little longer",
        lambda case: not _is_settled_trial(case),
        lambda case: case.wait(at_most=SOON),
        (),
    ),
    Row(
        "trial-over",
        frozenset({Phase.TRIAL}),
        "confirmed, or left",
        lambda _: True,
        _end_trial,
        (Phase.START,),
    ),
)


# -- checking and installing


def _checked(case: _Case) -> Step:
    """Go back to where the check was asked for; the rows there judge what it found."""
    return case.go(case.state.back, next_check=case.next_check())


def _installed(case: _Case) -> Step:
    """Go on from a finished install, as far as the policy goes."""
    policy = case.policy
    acts: tuple[Act, ...] = (Act.APPLY,) if case.applies_early else ()
    if policy.sentinel is not None:
        acts = (*acts, Act.WRITE_SENTINEL)
    is_done = policy.mode is not Mode.RESTART or policy.sentinel is not None
    return case.go(
        Phase.INSTALLED if is_done else Phase.STAGED,
        *acts,
        attempts=0,
        retry_at=None,
        applied=case.state.version if acts else case.state.applied,
    )


def _install_failed(case: _Case) -> Step:
    attempts = case.state.attempts + 1
    wait = min(RETRY_FIRST * 2 ** min(attempts - 1, 10), RETRY_LONGEST)
    return case.go(Phase.READY, attempts=attempts, retry_at=case.facts.now + wait)


def _given_up(case: _Case) -> Step:
    state = case.state
    step = case.go(Phase.IDLE, given_up=state.version)
    return step if state.given_up == state.version else _noting(step, Notice.GIVEN_UP)


def _is_to_be_taken_up(case: _Case) -> bool:
    """Whether the offer is one that this agent has not given up."""
    return case.facts.offer is not None and case.facts.offer.version != case.state.given_up


def _is_in_the_way(case: _Case) -> bool:
    """Whether another release boots next: until an operator restarts or reverts, none can be installed."""
    return case.facts.standing is Standing.WAITING and case.facts.staged != case.state.version


def _waits_to_install(case: _Case) -> bool:
    return not case.may_install or case.is_waiting_to_try_again or _is_in_the_way(case)


def _told(case: _Case) -> Step:
    return _noting(_same(case, long_wait_told=True), Notice.WAITS_LONG)


WORK_ROWS = (
    Row(
        "check",
        _WITH_CHECKS,
        "a check is due",
        lambda case: case.is_check_due() and case.facts.job is not Job.RUNNING,
        lambda case: case.go(Phase.CHECKING, Act.REFRESH, back=case.state.phase),
        (Phase.CHECKING,),
    ),
    Row(
        "checking",
        frozenset({Phase.CHECKING}),
        "the check goes on",
        lambda case: case.facts.job is Job.RUNNING,
        lambda case: case.go(Phase.CHECKING),
        (),
    ),
    Row(
        "checked",
        frozenset({Phase.CHECKING}),
        "the check has ended; what is known stays, if it failed",
        lambda _: True,
        _checked,
        (Phase.IDLE, Phase.READY, Phase.STAGED, Phase.INSTALLED),
    ),
    Row(
        "idle-trial",
        frozenset({Phase.IDLE, Phase.READY}),
        "a release is on trial",
        lambda case: case.facts.standing is Standing.TRIAL,
        lambda case: case.go(Phase.TRIAL),
        (Phase.TRIAL,),
    ),
    Row(
        "offered",
        frozenset({Phase.IDLE}),
        "a release is offered",
        _is_to_be_taken_up,
        lambda case: case.take_up(case.facts.offer),  # type: ignore[arg-type]
        (Phase.READY,),
    ),
    Row(
        "idle",
        frozenset({Phase.IDLE}),
        "nothing is offered",
        lambda _: True,
        lambda case: Step(state=case.state),  # until the next check
        (),
    ),
    Row(
        "ready-dropped",
        frozenset({Phase.READY}),
        "it is no longer offered, or was given up",
        lambda case: not _is_to_be_taken_up(case),
        lambda case: case.go(Phase.IDLE),
        (Phase.IDLE,),
    ),
    Row(
        "ready-newer",
        frozenset({Phase.READY}),
        "another release is offered",
        lambda case: case.facts.offer is not None and case.facts.offer.version != case.state.version,
        lambda case: case.take_up(case.facts.offer),  # type: ignore[arg-type]
        (),
    ),
    Row(
        "ready-installed",
        frozenset({Phase.READY}),
        "it is installed already: before the agent was started again, or by an operator",
        lambda case: (
            case.is_installed
            and case.policy.mode in {Mode.INSTALL, Mode.RESTART}
            and case.facts.job is not Job.RUNNING
        ),
        _installed,
        (Phase.STAGED, Phase.INSTALLED),
    ),
    Row(
        "give-up",
        frozenset({Phase.READY}),
        "it could not be installed for max_attempts times",
        lambda case: case.state.attempts >= case.policy.max_attempts,
        _given_up,
        (Phase.IDLE,),
    ),
    Row(
        "ready-waits-long",
        frozenset({Phase.READY}),
        "it has waited too long to be installed, and nobody was told",
        lambda case: _waits_to_install(case) and case.waits_too_long(case.facts.install_gates),
        _told,
        (),
    ),
    Row(
        "ready-waits",
        frozenset({Phase.READY}),
        "a gate is closed, the last try was not long ago, or another release boots next",
        _waits_to_install,
        lambda case: case.wait(case.facts.install_gates),
        (),
    ),
    Row(
        "install",
        frozenset({Phase.READY}),
        "all gates are open",
        lambda case: case.facts.job is not Job.RUNNING,
        lambda case: case.go(Phase.INSTALLING, Act.INSTALL),
        (Phase.INSTALLING,),
    ),
    Row("ready", frozenset({Phase.READY}), "another job goes on", lambda _: True, _Case.wait, ()),
    Row(
        "installing",
        frozenset({Phase.INSTALLING}),
        "the install goes on",
        lambda case: case.facts.job is Job.RUNNING,
        lambda case: case.go(Phase.INSTALLING),
        (),
    ),
    Row(
        "installed",
        frozenset({Phase.INSTALLING}),
        "it is installed",
        lambda case: case.facts.job is Job.DONE and case.is_installed,
        _installed,
        (Phase.STAGED, Phase.INSTALLED),
    ),
    Row(
        "install-busy",
        frozenset({Phase.INSTALLING}),
        "another updog is at work",
        lambda case: case.facts.job is Job.BUSY,
        lambda case: case.go(Phase.READY, retry_at=case.facts.now + SOON),
        (Phase.READY,),
    ),
    Row(
        "install-failed",
        frozenset({Phase.INSTALLING}),
        "it could not be installed",
        lambda _: True,
        _install_failed,
        (Phase.READY,),
    ),
)


# -- the restart


def _asked(case: _Case, lock: Lock) -> Step:
    """Wait after the server did not give the lock."""
    wait = SOON * (2 + case.facts.jitter)
    return case.go(Phase.STAGED, wake=wait, lock=lock, retry_at=case.facts.now + wait)


def _locked(case: _Case) -> Step:
    return _noting(case.go(Phase.CLEARED, lock=Lock.HELD), Notice.LOCK_TAKEN)


def _turn_back(case: _Case, *notices: Notice, again: timedelta | None = None) -> Step:
    """Take back the restart that is prepared; the lock follows by its own row."""
    acts = () if case.applies_early else (Act.REVERT,)
    retry_at = case.facts.now + again if again else None
    revert_at = case.facts.now + SOON if acts else None
    step = case.go(Phase.STAGED, *acts, users_warned_at=None, retry_at=retry_at, revert_at=revert_at)
    return _noting(step, *notices)


def _is_too_long_ago(case: _Case) -> bool:
    warned_at, grace = case.state.users_warned_at, case.policy.sessions.grace
    return warned_at is not None and case.facts.now >= warned_at + grace + WARN_AGAIN


def _is_users_turn(case: _Case) -> bool:
    """Whether the users were not warned yet, and only they hold up the restart."""
    closed = {gate.name for gate in case.facts.restart_gates if not gate.is_open}
    return closed == {GateName.SESSIONS} and case.state.users_warned_at is None


def _leave_limit(case: _Case) -> datetime:
    return case.state.since + case.policy.restart_limit


def _waits_to_restart(case: _Case) -> bool:
    return (
        not case.may_restart
        or case.is_waiting_to_try_again
        or case.facts.lock_call is not LockCall.NONE
        or case.is_to_be_taken_back
    )


RESTART_ROWS = (
    Row(
        "busy",
        frozenset({Phase.STAGED, Phase.INSTALLED}),
        "the last action goes on",
        lambda case: case.facts.job is Job.RUNNING,
        lambda case: case.go(case.state.phase),
        (),
    ),
    Row(
        "applying",
        frozenset({Phase.LEAVING}),
        "it is being made to boot next",
        lambda case: case.facts.job is Job.RUNNING and case.facts.now < _leave_limit(case),
        lambda case: Step(state=case.state, wake=_leave_limit(case)),
        (),
    ),
    Row(
        "apply-hangs",
        frozenset({Phase.LEAVING}),
        "it could not be made to boot next within restart_limit",
        lambda case: case.facts.job is Job.RUNNING,
        lambda case: _noting(
            case.go(Phase.STAGED, users_warned_at=None, retry_at=case.facts.now + RESTART_AGAIN),
            Notice.RESTART_FAILED,
        ),
        (Phase.STAGED,),
    ),
    Row(
        "dropped",
        frozenset({Phase.STAGED, Phase.INSTALLED}),
        "it is no longer offered, or an operator changed it",
        lambda case: not case.is_still_staged,
        lambda case: case.go(Phase.IDLE, users_warned_at=None),
        (Phase.IDLE,),
    ),
    Row(
        "replaced",
        frozenset({Phase.STAGED, Phase.INSTALLED}),
        "another release is offered, and may be installed",
        lambda case: case.is_other_to_install,
        lambda case: case.take_up(case.facts.offer),  # type: ignore[arg-type]
        (Phase.READY,),
    ),
    Row(
        "installed-waits-long",
        frozenset({Phase.INSTALLED}),
        "it has waited too long for a restart by somebody else, and nobody was told",
        lambda case: case.waits_too_long(case.facts.restart_gates),
        _told,
        (),
    ),
    Row(
        "installed-waits",
        frozenset({Phase.INSTALLED}),
        "an operator, or the program that watches the sentinel, restarts",
        lambda _: True,
        _Case.wait,
        (),
    ),
    Row(
        "warn-users",
        frozenset({Phase.STAGED}),
        "only users who are logged in hold it up",
        _is_users_turn,
        lambda case: case.go(Phase.STAGED, Act.WARN, wake=SOON, users_warned_at=case.facts.now),
        (),
    ),
    Row(
        "window-over",
        frozenset({Phase.STAGED}),
        "the users were warned, and since then a hard gate closed or a long time passed",
        lambda case: (
            case.state.users_warned_at is not None and (case.hard_gate_closed or _is_too_long_ago(case))
        ),
        lambda case: case.go(Phase.STAGED, users_warned_at=None),
        (),
    ),
    Row(
        "staged-waits-long",
        frozenset({Phase.STAGED}),
        "it has waited too long for its restart, and nobody was told",
        lambda case: _waits_to_restart(case) and case.waits_too_long(case.facts.restart_gates),
        _told,
        (),
    ),
    Row(
        "staged-waits",
        frozenset({Phase.STAGED}),
        "a gate is closed, or the lock was refused a moment ago",
        _waits_to_restart,
        lambda case: case.wait(case.facts.restart_gates, at_most=SOON),
        (),
    ),
    Row(
        "lock",
        frozenset({Phase.STAGED}),
        "all gates are open, and there is a lock server",
        lambda case: case.lacks_lock,
        lambda case: case.go(
            Phase.LOCKING, Act.LOCK, lock=Lock.ASKED, unlock_tries=0, unlock_at=None, retry_at=None
        ),
        (Phase.LOCKING,),
    ),
    Row(
        "clear",
        frozenset({Phase.STAGED}),
        "all gates are open",
        lambda _: True,
        lambda case: case.go(Phase.CLEARED),
        (Phase.CLEARED,),
    ),
    Row(
        "locking",
        frozenset({Phase.LOCKING}),
        "the server has not answered yet",
        lambda case: case.facts.lock_call is LockCall.RUNNING,
        lambda case: case.go(Phase.LOCKING),
        (),
    ),
    Row(
        "locked",
        frozenset({Phase.LOCKING}),
        "the server gave the lock",
        lambda case: case.facts.lock_call is LockCall.YES,
        _locked,
        (Phase.CLEARED,),
    ),
    Row(
        "lock-refused",
        frozenset({Phase.LOCKING}),
        "the server did not give the lock",
        lambda case: case.facts.lock_call is LockCall.NO,
        lambda case: _asked(case, Lock.NO),
        (Phase.STAGED,),
    ),
    Row(
        "lock-unknown",
        frozenset({Phase.LOCKING}),
        "the server gave no answer: the lock may be held",
        lambda _: True,
        lambda case: _asked(case, Lock.ASKED),
        (Phase.STAGED,),
    ),
    Row(
        "closed-meanwhile",
        frozenset({Phase.CLEARED}),
        "a gate is closed now",
        lambda case: (
            not case.may_restart or not case.is_still_staged or case.is_other_to_install or case.lacks_lock
        ),
        lambda case: case.go(Phase.STAGED),
        (Phase.STAGED,),
    ),
    Row(
        "leave",
        frozenset({Phase.CLEARED}),
        "all gates are still open",
        lambda _: True,
        lambda case: case.go(Phase.LEAVING, Act.APPLY, Act.WARN, applied=case.state.version),
        (Phase.LEAVING,),
    ),
    Row(
        "leaving-failed",
        frozenset({Phase.LEAVING}),
        "it could not be made to boot next",
        lambda case: case.facts.job in {Job.FAILED, Job.BUSY} or not case.is_applied,
        lambda case: _turn_back(case, again=RESTART_AGAIN),
        (Phase.STAGED,),
    ),
    Row(
        "turned-back",
        frozenset({Phase.LEAVING}),
        "a gate closed (an operator may have closed it), or it is no longer offered",
        lambda case: not case.may_restart or not case.is_still_offered or case.lacks_lock,
        _turn_back,
        (Phase.STAGED,),
    ),
    Row(
        "leaving",
        frozenset({Phase.LEAVING}),
        "the users have a moment left",
        lambda case: case.facts.now < case.state.since + case.policy.warn,
        lambda case: Step(state=case.state, wake=case.state.since + case.policy.warn),
        (),
    ),
    Row(
        "restart",
        frozenset({Phase.LEAVING}),
        "the warning is over",
        lambda _: True,
        lambda case: case.go(Phase.GONE, Act.RESTART, wake=case.policy.restart_limit),
        (Phase.GONE,),
    ),
    Row(
        "restart-failed",
        frozenset({Phase.GONE}),
        "the restart failed, or did not happen within restart_limit",
        lambda case: (
            case.facts.job is Job.FAILED or case.facts.now >= case.state.since + case.policy.restart_limit
        ),
        lambda case: _turn_back(case, Notice.RESTART_FAILED, again=RESTART_AGAIN),
        (Phase.STAGED,),
    ),
    Row(
        "gone",
        frozenset({Phase.GONE}),
        "the machine is going down",
        lambda _: True,
        lambda case: Step(state=case.state, wake=case.state.since + case.policy.restart_limit),
        (),
    ),
)

ROWS = (*FLAG_ROWS, *LOCK_ROWS, *START_ROWS, *WORK_ROWS, *RESTART_ROWS)
"""All rows, in the order in which they are asked."""


def step(state: AutoState, facts: Facts, policy: Policy) -> Step:
    """Return the next state and what to do.

    Raises:
        TableError: no row matches.
    """
    case = _Case(_not_ahead(state, facts.now, policy), _believable(facts), policy)
    for row in ROWS:
        if state.phase in row.phases and row.test(case):
            taken = row.then(case)
            return replace(taken, row=row.name, wake=_wake(taken, facts.now))
    raise TableError(f"no row of the table matches {state} and {facts}")


def _not_ahead(state: AutoState, now: datetime, policy: Policy) -> AutoState:
    """Return the state without times that lie too far ahead: then the clock was set back since."""
    longest_retry = RESTART_AGAIN if state.phase is Phase.STAGED else RETRY_LONGEST
    latest = {
        "since": now,
        "first_ready": now,
        "users_warned_at": now,
        "retry_at": now + longest_retry,
        "revert_at": now + SOON,
        "unlock_at": now + UNLOCK_LONGEST,
        "next_check": now + 1.5 * max(policy.check_every, FIRST_CHECK),
    }
    ahead: dict[str, Any] = {
        name: time for name, time in latest.items() if (getattr(state, name) or now) > time
    }
    return replace(state, **ahead) if ahead else state


def _believable(facts: Facts) -> Facts:
    """Return the facts without an offer that the last check made and that is no longer true."""
    if facts.offer is None:
        return facts
    version = facts.offer.version
    is_published = facts.offered is None or version in facts.offered
    if is_published and version != facts.running and version not in facts.denied:
        return facts
    return replace(facts, offer=None)


def _wake(taken: Step, now: datetime) -> datetime | None:
    """Return when to look again: at the step's own time, or at an earlier one that the state has."""
    state = taken.state
    times = [taken.wake, state.retry_at, state.revert_at]
    if state.lock in {Lock.ASKED, Lock.HELD}:
        times.append(state.unlock_at)
    if state.phase in _WITH_CHECKS:
        times.append(state.next_check)
    return min((each for each in times if each is not None and each > now), default=taken.wake)


def is_waiting(state: AutoState) -> bool:
    """Return whether a release is ready for this node and does not run yet."""
    phase = state.back if state.phase is Phase.CHECKING else state.phase
    return phase in _WAITING | _RESTARTING


def restarted(state: AutoState) -> AutoState:
    """Return the state with which a daemon begins that finds ``state`` saved.

    The last request for the lock may have been granted, whatever was learned of it.
    """
    return replace(state, phase=Phase.START, back=Phase.IDLE, retry_at=None, unlock_at=None, revert_at=None)
