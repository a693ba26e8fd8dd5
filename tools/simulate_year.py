"""A year of a fleet that updates itself: nodes, one window a week, a spread, and one slot of a fleet lock.

    .venv/bin/python tools/simulate_year.py [--nodes 1000] [--seed 1]

Every node is driven by the table, the gates and the windows of :mod:`updog.auto`; jobs, restarts, the lock
server and the clock are simulated. Installs fail, answers of the lock server are lost, daemons are killed
between a saved state and its actions, and restarts do not happen, each now and then. What must hold at every
moment of the year is checked where it happens, and raises :class:`BrokenRuleError`.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time as clock
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from updog.auto.gates import Gate, Offer, Purpose, Readings, first_closed, judge
from updog.auto.policy import FleetLock, Mode, Policy
from updog.auto.table import (
    Act,
    AutoState,
    Facts,
    Job,
    Lock,
    LockCall,
    Phase,
    restarted,
    step,
)
from updog.auto.windows import Window, Windows, current_or_next
from updog.standing import Standing
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.version import Version
from updog.url import Url

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
RELEASES = (
    (Version.parse("1.0.0"), START - timedelta(days=30)),
    (Version.parse("1.1.0"), datetime(2026, 1, 5, 9, tzinfo=UTC)),
    (Version.parse("1.2.0"), datetime(2026, 6, 29, 9, tzinfo=UTC)),
)
"""Versions, and when they are published; every node begins with the first."""

POLICY = Policy(
    mode=Mode.RESTART,
    check_every=timedelta(days=1),
    settle=timedelta(days=1),
    warn=timedelta(minutes=1),
    windows=Windows(
        windows=(Window(days=frozenset({5}), start=time(22, 0), length=timedelta(hours=6)),),
        zone=ZoneInfo("Europe/Berlin"),  # a Saturday's six hours are over both changes of the clock
        spread=timedelta(hours=5),
        margin=timedelta(minutes=15),
    ),
    fleet_lock=FleetLock(base_url=Url.parse("http://lock.example/", ("http",))),
)
DOWN, TRIAL, LOCK_TAKES = timedelta(seconds=60), timedelta(seconds=30), timedelta(seconds=1)
JOB_TAKES = {
    Act.REFRESH: timedelta(seconds=5),
    Act.INSTALL: timedelta(minutes=8),
    Act.APPLY: timedelta(seconds=1),
    Act.REVERT: timedelta(seconds=1),
    Act.POST_CONFIRM: timedelta(seconds=20),
}

MOST_STEPS_AT_ONCE = 20
_ASKS_FOR_RESTART = frozenset({Phase.STAGED, Phase.CLEARED, Phase.LEAVING})


class BrokenRuleError(AssertionError):
    """Something happened that must never happen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chances:
    """How often something goes wrong, from 0 to 1.

    Attributes:
        install_fails: of an install. answer_is_lost: of the lock server; it may have done what it was asked.
        daemon_is_killed: after a state is saved, before its actions.
        restart_fails: the machine is told to restart, and does not.
    """

    install_fails: float = 0.03
    answer_is_lost: float = 0.005
    daemon_is_killed: float = 0.001
    restart_fails: float = 0.005


AS_USUAL = Chances()


@dataclass(kw_only=True, slots=True)
class Node:
    """A simulated node: what the table is told of it, and when something happens to it next."""

    number: int
    seed: int
    state: AutoState
    running: Version = RELEASES[0][0]
    standing: Standing = Standing.CONFIRMED
    staged: Version | None = None
    confirmed_at: datetime | None = None
    offer: Offer | None = None
    offered: frozenset[Version] | None = None
    job: Job = Job.NONE
    act: Act | None = None
    job_ends: datetime | None = None
    lock_call: LockCall = LockCall.NONE
    lock_answer: LockCall = LockCall.NONE
    lock_ends: datetime | None = None
    boots: datetime | None = None
    trial_ends: datetime | None = None
    previous: Version = RELEASES[0][0]
    denied: frozenset[Version] = frozenset()
    wake: datetime | None = None
    due: datetime = START
    gates: tuple[Gate, ...] = ()  # of a restart, which change with what is in the next two
    gates_of: tuple[Standing, Offer | None, datetime | None] | None = None
    gates_until: datetime = START

    def next_event(self) -> datetime:
        """Return when something happens to this node next; the end of the year if nothing does."""
        times = (self.wake, self.job_ends, self.lock_ends, self.boots, self.trial_ends)
        return min((moment for moment in times if moment is not None), default=END)


@dataclass(kw_only=True, slots=True)
class Year:
    """The fleet, its lock server, and what is counted."""

    nodes: list[Node]
    chance: random.Random
    chances: Chances
    bad: frozenset[Version]
    now: datetime = START
    holder: int | None = None  # the one slot
    down: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    finished: dict[Version, datetime] = field(default_factory=dict)

    def run(self) -> None:
        """Let the year pass."""
        queue = [(node.due, node.number) for node in self.nodes]
        heapq.heapify(queue)
        while queue:
            moment, number = heapq.heappop(queue)
            node = self.nodes[number]
            if moment >= END:
                return
            self.now = moment
            self._happen(node)
            node.due = node.next_event()
            if node.due <= moment:
                raise BrokenRuleError(f"node {number} does not wait at {moment}: {node.state}")
            heapq.heappush(queue, (node.due, number))

    def _happen(self, node: Node) -> None:
        """Let what is due happen to ``node``, and let its daemon act on it."""
        now = self.now
        if node.boots is not None:
            if node.boots > now:
                return
            self._boot(node)
        if node.trial_ends is not None and node.trial_ends <= now:
            node.trial_ends = None
            if node.running in self.bad:
                self._go_down(node)
                return
            node.standing, node.confirmed_at = Standing.CONFIRMED, now
            self.counts[f"confirmed {node.running}"] += 1
            if all(each.running == node.running for each in self.nodes):
                self.finished[node.running] = now
        if node.job_ends is not None and node.job_ends <= now:
            self._end_job(node)
        if node.lock_ends is not None and node.lock_ends <= now:
            node.lock_ends, node.lock_call = None, node.lock_answer
        for _ in range(MOST_STEPS_AT_ONCE):
            if not self._step(node):
                return
        raise BrokenRuleError(f"node {node.number} does not come to rest at {now}: {node.state}")

    def _step(self, node: Node) -> bool:
        """Ask the table once; return whether it is to be asked again."""
        before = node.state
        facts = self._facts(node)
        answer = step(before, facts, POLICY)
        self.counts["steps"] += 1
        self.counts.update(notice.value for notice in answer.notices)
        node.state, node.wake = answer.state, answer.wake
        node.lock_call = LockCall.RUNNING if node.lock_ends is not None else LockCall.NONE
        if node.state.lock in {Lock.HELD, Lock.KEPT} and self.holder != node.number:
            raise BrokenRuleError(
                f"node {node.number} believes that it holds the lock, which {self.holder} holds"
            )
        if self.chance.random() < self.chances.daemon_is_killed:
            self.counts["killed"] += 1
            self._start_daemon(node)
            return True
        for act in answer.acts:
            self._carry_out(node, act)
        return node.boots is None and (bool(answer.acts) or node.state != before)

    def _facts(self, node: Node) -> Facts:
        phase = node.state.phase
        return Facts(
            now=self.now,
            jitter=self.chance.uniform(-1, 1),
            running=node.running,
            standing=node.standing,
            staged=node.staged,
            confirmed_at=node.confirmed_at,
            offer=node.offer,
            offered=node.offered,
            denied=node.denied,
            job=node.job,
            lock_call=node.lock_call,
            install_gates=self._judge(node, Purpose.INSTALL) if self._may_install_next(node) else (),
            restart_gates=self._restart_gates(node) if phase in _ASKS_FOR_RESTART else (),
        )

    @staticmethod
    def _may_install_next(node: Node) -> bool:
        is_newer = node.offer is not None and node.offer.version != node.state.version
        return node.state.phase is Phase.READY or (node.state.phase is Phase.STAGED and is_newer)

    def _judge(self, node: Node, purpose: Purpose) -> tuple[Gate, ...]:
        readings = Readings(
            standing=node.standing,
            offer=node.offer,
            seed=node.seed,
            waiting_since=node.state.first_ready,
            confirmed_at=node.confirmed_at,
        )
        return judge(purpose, readings, POLICY, self.now)

    def _restart_gates(self, node: Node) -> tuple[Gate, ...]:
        """Return the gates of a restart, judged anew when the node or its window changes."""
        shows = (node.standing, node.offer, node.state.first_ready)
        if node.gates_of != shows or self.now >= node.gates_until:
            span = current_or_next(POLICY.windows, self.now, node.seed)
            node.gates, node.gates_of = self._judge(node, Purpose.RESTART), shows
            node.gates_until = END if span is None else span.start if self.now < span.start else span.end
        return node.gates

    def _start_daemon(self, node: Node) -> None:
        """Begin again from what was saved; the child that works goes on."""
        node.state = restarted(node.state)
        node.job = Job.RUNNING if node.job_ends is not None else Job.NONE
        node.lock_call, node.lock_ends = LockCall.NONE, None

    def _carry_out(self, node: Node, act: Act) -> None:
        self.counts[act.value] += 1
        if act in JOB_TAKES:
            if node.job_ends is not None:
                raise BrokenRuleError(f"node {node.number} begins {act} while {node.act} goes on")
            node.act, node.job, node.job_ends = act, Job.RUNNING, self.now + JOB_TAKES[act]
        elif act in {Act.LOCK, Act.UNLOCK}:
            self._ask_lock_server(node, act)
        elif act is Act.RESTART:
            self._restart(node)

    def _ask_lock_server(self, node: Node, act: Act) -> None:
        if node.lock_ends is not None:
            raise BrokenRuleError(f"node {node.number} asks the lock server twice at once")
        node.lock_call, node.lock_ends = LockCall.RUNNING, self.now + LOCK_TAKES
        is_lost, arrives = self.chance.random() < self.chances.answer_is_lost, self.chance.random() < 0.5  # noqa: PLR2004 (evens)
        if not is_lost or arrives:
            if act is Act.UNLOCK and self.holder == node.number:
                self.holder = None
            elif act is Act.LOCK and self.holder is None:
                self.holder = node.number
        answer = LockCall.YES if act is Act.UNLOCK or self.holder == node.number else LockCall.NO
        node.lock_answer = LockCall.FAILED if is_lost else answer

    def _restart(self, node: Node) -> None:
        span = current_or_next(POLICY.windows, self.now, node.seed)
        if span is None or not span.start <= self.now < span.end:
            raise BrokenRuleError(f"node {node.number} restarts outside its window, at {self.now}")
        if self.holder != node.number:
            raise BrokenRuleError(f"node {node.number} restarts while {self.holder} holds the lock")
        if node.standing is not Standing.WAITING or node.staged != node.state.version:
            raise BrokenRuleError(f"node {node.number} restarts into the system that runs")
        if first_closed(self._judge(node, Purpose.RESTART)) is not None:
            raise BrokenRuleError(f"node {node.number} restarts with a closed gate")
        if self.chance.random() < self.chances.restart_fails:
            self.counts["restarts that did not happen"] += 1
            return
        self._go_down(node)

    def _go_down(self, node: Node) -> None:
        self.down.add(node.number)
        if len(self.down) > 1:
            raise BrokenRuleError(f"nodes {sorted(self.down)} are down at once, at {self.now}")
        node.boots, node.wake = self.now + DOWN, None

    def _boot(self, node: Node) -> None:
        """Come up: with the update that was applied, or with the system before a release that failed."""
        self.down.remove(node.number)
        node.boots, node.offer = None, None
        if node.standing is Standing.TRIAL:
            self.counts[f"fell back from {node.running}"] += 1
            node.denied |= {node.running}
            node.running, node.standing = node.previous, Standing.FELL_BACK
        elif node.staged is not None:
            node.previous, node.running, node.staged = node.running, node.staged, None
            node.standing, node.trial_ends = Standing.TRIAL, self.now + TRIAL
        self._start_daemon(node)

    def _end_job(self, node: Node) -> None:
        node.job, node.job_ends = Job.DONE, None
        if node.act is Act.REFRESH:
            node.offered = frozenset(version for version, published in RELEASES if published <= self.now)
            newest = max(node.offered - node.denied)
            node.offer = Offer(version=newest) if newest > node.running else None
        elif node.act is Act.INSTALL:
            if self.chance.random() < self.chances.install_fails:
                node.job = Job.FAILED
            else:
                node.standing, node.staged = Standing.STAGED, node.state.version
        elif node.act is Act.APPLY:
            node.standing = Standing.WAITING
        elif node.act is Act.REVERT:
            node.standing = Standing.STAGED


def simulate(
    nodes: int, seed: int, chances: Chances = AS_USUAL, bad: frozenset[Version] = frozenset()
) -> Year:
    """Return the year that has passed over a fleet of ``nodes``.

    Args:
        nodes: how many.
        seed: of everything that happens by chance.
        chances: how often something goes wrong.
        bad: releases that fail on every node, and from which it falls back.

    Raises:
        BrokenRuleError: two nodes were down at once, or one restarted where it must not.
        TableError: the table does not know what to do.
    """
    chance = random.Random(seed)  # noqa: S311 (a reproducible year)
    fleet = [
        Node(
            number=number,
            seed=chance.randrange(MAX_SEED),
            state=AutoState(phase=Phase.START, since=START),
            due=START + timedelta(seconds=chance.randrange(3600)),
        )
        for number in range(nodes)
    ]
    year = Year(nodes=fleet, chance=chance, chances=chances, bad=bad)
    year.run()
    return year


def main() -> None:
    """Run the year of the command line and print what happened in it."""
    parser = argparse.ArgumentParser(description="Simulate a year of a fleet that updates itself.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began, cpu_began = clock.monotonic(), clock.process_time()
    year = simulate(arguments.nodes, arguments.seed)
    print(f"{arguments.nodes} nodes, {(END - START).days} days: {clock.monotonic() - began:.1f} s, "
          f"{clock.process_time() - cpu_began:.1f} s of processor time")  # fmt: skip
    for version, published in RELEASES[1:]:
        done = sum(node.running >= version for node in year.nodes)
        print(f"{version}: {done} nodes run it or a newer one")
        if version in year.finished:
            print(f"  all of them {(year.finished[version] - published).days} days after it was published")
    for name, count in sorted(year.counts.items()):
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
