"""A node, its operators, a publisher and a lock server, as far as the table of the agent meets them.

The model carries out the actions of the table as the daemon does: it saves the next state, then acts; it may
be killed between the two, or before any action. What must never happen is asserted where it would happen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from updog.auto.gates import (
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
from updog.auto.policy import AfterFallback, Apply, FleetLock, GateName, Mode, Policy
from updog.auto.table import (
    ROWS,
    Act,
    AutoState,
    Facts,
    Job,
    Lock,
    LockCall,
    Phase,
    Step,
    restarted,
    step,
)
from updog.auto.windows import Window, Windows
from updog.standing import Standing
from updog.update_metadata.version import Version
from updog.url import Url

if TYPE_CHECKING:
    from updog.auto.gates import Gate

START = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MOST_STEPS = 32  # of one look, as in the daemon
LOCK = FleetLock(base_url=Url.parse("https://lock.example/", ("https",)))
SENTINEL = Policy(mode=Mode.RESTART, sentinel=Path("/run/reboot-required"))
NIGHTS = Windows(windows=(Window(days=frozenset(range(7)), start=time(23), length=3 * HOUR),))
HOLDS_LOCK = frozenset({Phase.LOCKING, Phase.CLEARED, Phase.LEAVING, Phase.GONE, Phase.TRIAL, Phase.START})
UNDER_WAY = HOLDS_LOCK - {Phase.START}
WAIT_FOR_SOMEBODY = frozenset({Phase.READY, Phase.INSTALLED})  # who in peace does not come
AT_ONCE = frozenset({Act.LOCK, Act.UNLOCK, Act.WARN, Act.WRITE_SENTINEL, Act.REMOVE_SENTINEL})
JOBS = frozenset(Act) - AT_ONCE
IN_MODE_OFF = frozenset({Act.UNLOCK, Act.REVERT, Act.REMOVE_SENTINEL, Act.POST_CONFIRM})
PHASE_OF_JOB = {Act.REFRESH: Phase.CHECKING, Act.INSTALL: Phase.INSTALLING}


@cache
def version(number: int) -> Version:
    return Version.parse(f"1.{number}.0")


SEEN: Counter[str] = Counter()
"""How often each row was reached by any model in this process."""


LEADS_TO = {row.name: row.leads_to for row in ROWS}


class KilledError(Exception):
    """The daemon was killed."""


@dataclass
class Server:
    """A FleetLock server with one slot. ``answers`` says what becomes of the next requests."""

    holder: str | None = None

    def request(self, act: Act) -> LockCall:
        if act is Act.LOCK:
            if self.holder in {None, "me"}:
                self.holder = "me"
                return LockCall.YES
            return LockCall.NO
        was_mine, self.holder = self.holder == "me", None if self.holder == "me" else self.holder
        return LockCall.YES if was_mine else LockCall.NO


@dataclass
class World:
    """The node and all around it. ``look`` is the daemon's; the other methods are what happens to it."""

    policy: Policy
    now: datetime = START
    server: Server = field(default_factory=Server)
    published: set[int] = field(default_factory=lambda: {1})
    urgent: set[int] = field(default_factory=set)  # as the publisher marks them
    urgent_offers: frozenset[int] = frozenset()  # as the last check found them
    running: int = 1
    previous: int = 1
    other: int | None = None  # what the other slot has, complete and not run yet
    boots_next: bool = False  # whether the other slot boots next
    standing: Standing = Standing.NONE
    denied: set[int] = field(default_factory=set)
    confirmed_at: datetime | None = None
    offer: Offer | None = None
    offered: frozenset[Version] | None = None
    wishes: Wishes = field(default_factory=Wishes)
    users: int = 0
    inhibitor: Inhibitor | None = None
    objects: bool = False
    release_lock: bool = False
    check_now: bool = False
    state: AutoState = field(default_factory=lambda: AutoState(phase=Phase.START, since=START))
    job: Act | None = None
    last_job: Job = Job.NONE
    call: Act | None = None
    last_call: LockCall = LockCall.NONE
    sentinel: bool = False
    wake: datetime | None = None
    rows: Counter[str] = field(default_factory=Counter)
    restarts: list[str] = field(default_factory=list)
    kill_in: int | None = None  # acts and saves until the daemon is killed
    fell_back_from: set[int] = field(default_factory=set)  # under the lock, which is kept for that
    hooks_due: int | None = None  # the release that was confirmed, if the agent restarted into it

    # -- what the daemon sees

    def readings(self, purpose: Purpose) -> Readings:
        return Readings(
            standing=self.standing,
            offer=self.offer if purpose is Purpose.INSTALL else self._in_work(),
            seed=0,
            waiting_since=self.state.first_ready,
            confirmed_at=self.confirmed_at,
            wishes=self.wishes,
            users_warned_at=self.state.users_warned_at,
            sessions=(UserSession(user="alice", terminal="tty1"),) * self.users,
            inhibitors=(self.inhibitor,) if self.inhibitor else (),
            objections=(Objection(name="raid", problem="is being rebuilt"),) if self.objects else (),
        )

    def gates(self, purpose: Purpose) -> tuple[Gate, ...]:
        return judge(purpose, self.readings(purpose), self.policy, self.now)

    def _in_work(self) -> Offer | None:
        return None if self.state.version is None else self._offer_of(self.state.version.minor)

    def _offer_of(self, number: int) -> Offer:
        why = "a hole is used" if number in self.urgent_offers else ""
        return Offer(version=version(number), since=START, urgent=why)

    @property
    def is_without_lock(self) -> bool:
        wishes = self.wishes
        return wishes.without_lock and wishes.permit is not None and self.now < wishes.permit

    def facts(self) -> Facts:
        return Facts(
            now=self.now,
            running=version(self.running),
            standing=self.standing,
            staged=None if self.other is None else version(self.other),
            confirmed_at=self.confirmed_at,
            denied=frozenset(map(version, self.denied)),
            offer=self.offer,
            offered=self.offered,
            job=Job.RUNNING if self.job else self.last_job,
            lock_call=LockCall.RUNNING if self.call else self.last_call,
            install_gates=self.gates(Purpose.INSTALL),
            restart_gates=self.gates(Purpose.RESTART),
            without_lock=self.is_without_lock,
            release_lock=self.release_lock,
            check_now=self.check_now,
        )

    # -- the daemon

    def look(self) -> None:
        """Take steps until the table waits; if the daemon is killed in between, start it again."""
        try:
            for _ in range(MOST_STEPS):
                facts = self.facts()
                taken = step(self.state, facts, self.policy)
                assert taken == step(self.state, facts, self.policy)
                assert taken.state.phase in {self.state.phase, *LEADS_TO[taken.row]}
                self.rows[taken.row] += 1
                SEEN[taken.row] += 1
                if not taken.acts and taken.state == self.state:
                    self._rests(taken)
                    return
                self._take(taken)
            raise AssertionError(f"the table does not come to rest: {self.state}")
        except KilledError:
            self.start_daemon()
            self.look()

    def _rests(self, taken: Step) -> None:
        """Every state has an exit, or a reason and a time at which to look again."""
        self.wake = taken.wake
        is_busy = self.job is not None or self.call is not None
        if taken.wake is None:
            assert is_busy or self.state.phase is Phase.OFF, self.state
        else:
            assert taken.wake > self.now, (taken, self.now)
        purposes = {Phase.READY: Purpose.INSTALL, Phase.STAGED: Purpose.RESTART}
        if self.state.phase in purposes:
            closed = [gate for gate in self.gates(purposes[self.state.phase]) if not gate.is_open]
            assert all(gate.sentence for gate in closed)
            if [gate.name for gate in closed] == [GateName.SESSIONS] and not is_busy:
                assert closed[0].until is not None, "users hold it up who were not warned"
        if self.job in PHASE_OF_JOB:
            assert self.state.phase is PHASE_OF_JOB[self.job], (self.job, self.state)
        if self.state.lock in {Lock.ASKED, Lock.HELD} and self.state.phase not in HOLDS_LOCK:
            is_next = self.state.phase is Phase.STAGED and first_closed(self.gates(Purpose.RESTART)) is None
            assert self.call or self.job or self.state.unlock_at or is_next, self.state

    def _maybe_die(self) -> None:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise KilledError

    def _take(self, taken: Step) -> None:
        if Act.RESTART in taken.acts:
            self._check_restart()
        self._check_lock(taken.state.lock)
        self.state = taken.state  # saved
        self.last_call = LockCall.NONE
        if Act.REFRESH in taken.acts:
            self.check_now = False
        if Act.UNLOCK in taken.acts:
            self.release_lock = False
        for act in taken.acts:
            self._maybe_die()
            self._act(act, taken)
        if taken.acts:
            self._maybe_die()

    def _act(self, act: Act, taken: Step) -> None:
        assert self.policy.mode is not Mode.OFF or act in IN_MODE_OFF, act
        if act in JOBS:
            if self.job is not None and act in {Act.REVERT, Act.RESTART}:
                self.end_job(well=True)
            assert self.job is None, (act, self.job)
            self.job = act
            if act is Act.INSTALL:
                self._check_install()
            if act is Act.APPLY:
                is_early = self.policy.apply is Apply.AT_ONCE or self.policy.sentinel is not None
                assert taken.row == "leave" or is_early
                assert is_early or first_closed(self.gates(Purpose.RESTART)) is None
            if act is Act.POST_CONFIRM:
                self.hooks_due = None
        elif act in {Act.LOCK, Act.UNLOCK}:
            assert self.policy.fleet_lock is not None
            assert self.call is None
            if act is Act.LOCK:
                assert first_closed(self.gates(Purpose.RESTART)) is None  # zincati #756
            else:
                assert self.standing is not Standing.TRIAL  # kured #277
            self.call = act
        elif act is Act.WRITE_SENTINEL:
            self.sentinel = True
        elif act is Act.REMOVE_SENTINEL:
            self.sentinel = False

    def _check_install(self) -> None:
        """No install with a closed gate, on trial, over what boots next, or of what is not wanted."""
        assert first_closed(self.gates(Purpose.INSTALL)) is None
        assert self.standing is not Standing.TRIAL
        assert not self.boots_next
        wanted = self.state.version
        assert wanted is not None
        assert self.offer is not None
        assert wanted == self.offer.version
        assert self.offered is None or wanted in self.offered
        assert wanted not in {self.state.given_up, *map(version, self.denied)}
        assert self.state.attempts < self.policy.max_attempts

    def _check_lock(self, lock: Lock) -> None:
        """While a release is offered from which this node fell back, the lock goes only for a reason."""
        is_kept = lock is Lock.KEPT or (lock is Lock.HELD and self.state.lock is not Lock.KEPT)
        if not self.fell_back_from or is_kept:
            return
        policy, offer, offered = self.policy, self.offer, self.offered
        is_wanted = policy.after_fallback is AfterFallback.KEEP_LOCK and policy.mode is not Mode.OFF
        if is_wanted and policy.fleet_lock is not None and not self.release_lock:
            for number in self.fell_back_from:
                is_offered = offered is None or version(number) in offered
                is_fixed = self.running >= number or (offer is not None and offer.version > version(number))
                assert is_fixed or not is_offered, f"the lock is not kept: {self}"
        self.fell_back_from = set()

    def _check_restart(self) -> None:
        """No restart with a closed gate, without the lock, or into something that is not wanted."""
        closed = first_closed(self.gates(Purpose.RESTART))
        assert closed is None, closed
        assert self.policy.mode is Mode.RESTART
        assert self.policy.sentinel is None
        assert self.wishes.hold is None
        assert self.inhibitor is None or self.inhibitor.soft
        is_permitted = self.wishes.permit is not None and self.now < self.wishes.permit
        is_passed = self.other in self.urgent_offers and GateName.WINDOW in self.policy.urgent
        if self.policy.windows is NIGHTS and not is_permitted and not is_passed:
            assert self.now.hour in {23, 0, 1}
        assert self.now >= self.state.since + self.policy.warn, (
            "the users were not given the time of the warning"
        )
        assert self.boots_next
        assert self.other is not None
        assert self.state.version == version(self.other)
        assert self.offered is None or version(self.other) in self.offered
        assert self.other not in self.denied
        if self.policy.fleet_lock is not None and not self.is_without_lock:
            assert self.state.lock in {Lock.HELD, Lock.KEPT}
            assert self.server.holder == "me"
        self.restarts.append(str(self.state.version))

    def start_daemon(self) -> None:
        """Start the daemon after it was killed. Its children end their work first."""
        if self.job is not None:
            self.end_job(well=True)
        if self.call is not None:
            self.server.request(self.call)
        self.call, self.kill_in = None, None
        self.last_job, self.last_call = Job.NONE, LockCall.NONE
        self.state = restarted(self.state)

    # -- what happens

    def pass_time(self, minutes: int) -> None:
        self.now += minutes * MINUTE
        self.look()

    def end_job(self, *, well: bool, busy: bool = False) -> None:
        """End the child that is at work; ``RESTART`` that ends well restarts the machine some time later."""
        job, self.job = self.job, None
        self.last_job = Job.BUSY if busy else Job.DONE if well else Job.FAILED
        if not well or busy or job is None:
            return
        if job is Act.REFRESH:
            self._check()
        elif job is Act.INSTALL and self.standing is not Standing.TRIAL:
            number = self.state.version.minor if self.state.version else 0
            if number in self.published - self.denied and number != self.running and not self.boots_next:
                self.other, self.standing = number, Standing.STAGED
        elif job is Act.APPLY and self.standing is Standing.STAGED:
            self.boots_next, self.standing = True, Standing.WAITING
        elif job is Act.REVERT and self.standing is Standing.WAITING:
            self.boots_next, self.standing = False, Standing.STAGED

    def _check(self) -> None:
        self.offered = frozenset(map(version, self.published))
        self.urgent_offers = frozenset(self.urgent & self.published)
        best = max(self.published - self.denied, default=0)
        self.offer = self._offer_of(best) if best > self.running else None

    def end_call(self, outcome: int) -> None:
        """Let a request to the lock server be answered (0), be lost (1), or its answer be lost (2)."""
        if self.call is None:
            return
        answer = LockCall.FAILED if outcome == 1 else self.server.request(self.call)
        self.call, self.last_call = None, answer if outcome == 0 else LockCall.FAILED

    def reboot(self) -> None:
        """Restart the machine, whoever wants it; what is under way does not come to its end."""
        self.job = None
        if self.call is not None and self.call is Act.UNLOCK:
            self.server.request(self.call)
        if self.boots_next and self.other is not None:
            self.previous, self.running, self.other = self.running, self.other, None
            self.boots_next, self.standing = False, Standing.TRIAL
        elif self.standing is Standing.TRIAL:
            self.fall_back()
        self.wishes = replace(self.wishes, permit=None)
        self.start_daemon()
        self.look()

    def fall_back(self) -> None:
        if self.standing is Standing.TRIAL:
            is_applied = self.state.applied == version(self.running)
            if is_applied and self.state.lock in {Lock.HELD, Lock.KEPT}:
                self.fell_back_from.add(self.running)
            self.denied.add(self.running)
            self.running, self.standing = self.previous, Standing.FELL_BACK
            self.start_daemon()
            self.look()

    def confirm(self) -> None:
        if self.standing is Standing.TRIAL:
            self.standing, self.confirmed_at = Standing.CONFIRMED, self.now
            if self.state.applied == self.state.version == version(self.running):
                self.hooks_due = self.running
            self.look()

    # -- peace

    def settle(self, hours: int = 27) -> None:
        """Let everybody be well for so long: all requests succeed, and nobody objects."""
        self.wishes, self.users, self.inhibitor, self.objects = Wishes(), 0, None, False
        if self.server.holder == "other":
            self.server.holder = None
        end = self.now + hours * HOUR
        self.look()
        for _ in range(5000):
            if self._end_what_goes_on():
                self.look()
            if self.now >= end and not (self.job or self.call or self.state.phase in UNDER_WAY):
                return
            self.now += self._time_until_the_next_look()
            self.look()
        raise AssertionError(f"no end of it: {self.state}")

    def _end_what_goes_on(self) -> bool:
        """End the job, the request and the trial that go on, all well; return whether one did."""
        goes_on = self.job is not None or self.call is not None or self.standing is Standing.TRIAL
        if self.job is not None:
            is_restart = self.job is Act.RESTART
            self.end_job(well=True)
            if is_restart:
                self.reboot()
        self.end_call(0)
        self.confirm()
        return goes_on

    def _time_until_the_next_look(self) -> timedelta:
        if self.job is not None or self.call is not None:
            return MINUTE
        if self.wake is None or self.state.phase in WAIT_FOR_SOMEBODY:
            return HOUR
        return min(HOUR, self.wake - self.now)


POLICIES: tuple[Policy, ...] = tuple(
    Policy(
        mode=mode,
        apply=apply,
        fleet_lock=lock,
        windows=windows,
        after_fallback=after,
        warn=warn,
        max_wait=max_wait,
        max_attempts=3,
        urgent=urgent,
    )
    for mode in (Mode.RESTART, Mode.RESTART, Mode.RESTART, Mode.INSTALL, Mode.CHECK, Mode.OFF)
    for apply in Apply
    for lock in (LOCK, None)
    for windows in (Windows(), NIGHTS)
    for after, warn, max_wait, urgent in (
        (AfterFallback.KEEP_LOCK, 5 * MINUTE, None, frozenset[GateName]()),
        (AfterFallback.RELEASE, timedelta(), 8 * HOUR, frozenset({GateName.WINDOW, GateName.SESSIONS})),
    )
)
