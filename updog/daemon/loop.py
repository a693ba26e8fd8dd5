"""The daemon: look at everything, ask the table, save, act; then wait.

One look (:meth:`Daemon.look`) collects what has ended, gathers the facts, takes steps until the table waits,
and writes for others how things stand. Between two looks at most :data:`LONGEST_WAIT` passes: the system's
clock may jump, and files of operators may change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from signpost.errors import ExitStatus, ToolError
from signpost.journal import Severity
from signpost.text import counted, duration_text
from updog import durable, event_journal
from updog.auto.gates import Purpose, Readings, first_closed, judge
from updog.auto.policy import GateName
from updog.auto.table import (
    Act,
    AutoState,
    Facts,
    Job,
    Lock,
    LockCall,
    Notice,
    Phase,
    Step,
    restarted,
    step,
)
from updog.daemon.children import JOB
from updog.daemon.facts import CheckFacts, NodeFacts
from updog.daemon.surroundings import MachineReadings
from updog.state import SEVERITIES, Code, Event
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime
    from pathlib import Path

    from updog.auto.gates import Gate
    from updog.auto.policy import Policy
    from updog.daemon.children import Children, Ended
    from updog.daemon.memory import Memory, MemoryStore
    from updog.daemon.surroundings import Surroundings
    from updog.daemon.wishes import Requests

log = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(minutes=5)
ORPHAN_WAIT = timedelta(seconds=5)
_LOCK, _LOOK = "lock", "look"  # kinds of children, besides JOB
_MAX_STEPS = 32  # of one look; more would be a circle in the table
_WITH_GATES = frozenset({Phase.READY, Phase.STAGED, Phase.LOCKING, Phase.CLEARED, Phase.LEAVING})
_RESTING = frozenset({Phase.OFF, Phase.IDLE, Phase.READY})
"""Where a node may stay for weeks, with nothing under way and nothing staged by this agent."""

_ANSWERS: Mapping[int, LockCall] = {ExitStatus.DONE: LockCall.YES, ExitStatus.NOTHING_TO_DO: LockCall.NO}


class Command(NamedTuple):
    """How an action is carried out by a child: its kind, and the words."""

    kind: str
    words: Callable[[AutoState, Collection[Gate]], tuple[str, ...]]


def _passed(gates: Collection[Gate]) -> tuple[str, ...]:
    """Return the option for a restart in spite of inhibitors, where they no longer count."""
    is_passed = any(gate.name is GateName.INHIBITORS and gate.is_passed for gate in gates)
    return ("--ignore-inhibitors",) if is_passed else ()


COMMANDS = {
    Act.REFRESH: Command(JOB, lambda *_: ("why", "--json")),
    Act.INSTALL: Command(JOB, lambda state, _: ("update-image", "--image", str(state.version), "--json")),
    Act.APPLY: Command(JOB, lambda *_: ("update-apply", "--json")),
    Act.REVERT: Command(JOB, lambda *_: ("update-revert", "--json")),
    Act.RESTART: Command(JOB, lambda _, gates: ("agent", "restart", *_passed(gates), "--json")),
    Act.POST_CONFIRM: Command(JOB, lambda *_: ("agent", "post-confirm", "--json")),
    Act.LOCK: Command(_LOCK, lambda state, _: ("fleet-lock", "lock", "--to", str(state.version), "--json")),
    Act.UNLOCK: Command(_LOCK, lambda *_: ("fleet-lock", "unlock", "--json")),
}
"""Everything that takes time, or that changes the disk, is done by a child."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edges:
    """Where the daemon touches the world.

    Attributes:
        store: keeps the memory. children: do the work. surroundings: the machine.
        requests: returns what operators ask for now.
        state_file: the file behind `updog status`, to know when to ask again.
        keep_check: keeps what a check found, for others.
        clock: returns the time, UTC. jitter: returns a random number from -1 to 1.
    """

    store: MemoryStore
    children: Children
    surroundings: Surroundings
    requests: Callable[[], Requests]
    state_file: Path
    keep_check: Callable[[Mapping[str, Any], datetime], None]
    clock: Callable[[], datetime]
    jitter: Callable[[], float]


class Daemon:
    """Automatic updates of one node.

    Attributes:
        memory: what is saved now. gates: the last answers.

    Args:
        policy: what is configured.
        seed: of the node.
        edges: where it touches the world.
    """

    def __init__(self, policy: Policy, seed: int, edges: Edges) -> None:
        self._policy = policy
        self._seed = seed
        self._store = edges.store
        self._children = edges.children
        self._surroundings = edges.surroundings
        self._requests = edges.requests
        self._state_file = edges.state_file
        self._keep_check = edges.keep_check
        self._clock = edges.clock
        self._jitter = edges.jitter
        memory = edges.store.load(edges.clock())
        self.memory: Memory = replace(memory, state=restarted(memory.state))
        self.gates: tuple[Gate, ...] = ()
        self._node: NodeFacts | None = None
        self._node_read: tuple[int, ...] | None = None
        self._last_job = Job.NONE
        self._last_lock = LockCall.NONE

    # -- one look

    def look(self) -> datetime:
        """Take all steps that can be taken now, and return when to look again at the latest."""
        now = self._clock()
        if self._children.has_orphans((JOB, _LOCK)):
            return now + ORPHAN_WAIT  # what it does is not known before it ends
        self._forget_node()
        self._collect()
        self._see_what_was_asked()
        for _ in range(_MAX_STEPS):
            taken = self._step()
            if taken is None:
                break
            wake = taken.wake
            if not taken.acts and taken.state == self.memory.state:
                latest = now + LONGEST_WAIT
                return min(wake, latest) if wake is not None else latest
            self._take(taken)
        else:
            log.error("the table does not come to rest: %s", self.memory.state)
        return self._clock() + timedelta(minutes=1)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, so that the process may end where the mode is off.

        What a daemon before this one has started counts too.
        """
        kinds = (JOB, _LOCK)
        return not (any(map(self._children.is_running, kinds)) or self._children.has_orphans(kinds))

    @property
    def has_news(self) -> bool:
        """Whether a child has ended that no look has collected yet."""
        return any(self._children.has_ended(kind) for kind in (JOB, _LOCK))

    # -- facts

    def _step(self) -> Step | None:
        facts = self._facts()
        return None if facts is None else step(self.memory.state, facts, self._policy)

    def _facts(self) -> Facts | None:
        """Return what is true now; None if the node cannot be asked at the moment."""
        node = self._node_facts()
        if node is None:
            return None
        now, requests, memory = self._clock(), self._requests(), self.memory
        readings = self._readings(node, requests, now)
        policy = self._policy
        install = judge(Purpose.INSTALL, readings, policy, now)
        readings = replace(readings, offer=memory.in_work)  # a restart runs what is staged, not a later offer
        restart = judge(Purpose.RESTART, readings, policy, now)
        if memory.state.phase in _WITH_GATES - {Phase.READY} and first_closed(restart) is None:
            objections = self._surroundings.objections()
            restart = judge(Purpose.RESTART, replace(readings, objections=objections), policy, now)
        if (
            memory.state.phase is not Phase.CHECKING
        ):  # a check asks nothing of the machine; others see the last
            self.gates = install if memory.state.phase in {Phase.READY, Phase.IDLE} else restart
        done = memory.done
        return Facts(
            now=now,
            jitter=self._jitter(),
            running=node.running,
            standing=node.standing,
            staged=node.staged,
            confirmed_at=node.confirmed_at,
            denied=node.denied,
            offer=memory.offer,
            offered=memory.offered,
            job=Job.RUNNING if self._children.is_running(JOB) else self._last_job,
            lock_call=LockCall.RUNNING if self._children.is_running(_LOCK) else self._last_lock,
            install_gates=install,
            restart_gates=restart,
            without_lock=_is_permitted(requests, now) and requests.wishes.without_lock,
            release_lock=_is_new(requests.release_lock_at, done),
            check_now=_is_new(requests.check_at, done),
        )

    def _readings(self, node: NodeFacts, requests: Requests, now: datetime) -> Readings:
        memory = self.memory
        asks_machine = memory.state.phase in _WITH_GATES
        machine = self._surroundings.read(now) if asks_machine else MachineReadings()
        return Readings(
            standing=node.standing,
            offer=memory.offer,
            seed=self._seed,
            waiting_since=memory.state.first_ready,
            confirmed_at=node.confirmed_at,
            wishes=requests.wishes,
            users_warned_at=memory.state.users_warned_at,
            sessions=machine.sessions,
            inhibitors=machine.inhibitors,
            unread=machine.unread,
        )

    def _node_facts(self) -> NodeFacts | None:
        """Return what `updog status` says; it is asked again only where something can have changed."""
        if self._node is not None:
            return self._node
        self._children.start(_LOOK, ("status", "--json"))
        ended = self._children.wait(_LOOK)
        try:
            self._node = NodeFacts.of(ended.document)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("cannot learn how the node stands: %s", ended.sentence or repr(error))
        return self._node

    def _forget_node(self) -> None:
        """Let `updog status` be asked again, unless nothing is under way and its file is the same."""
        read = durable.stamp(self._state_file)
        is_resting = self.memory.state.phase in _RESTING
        if not is_resting or read != self._node_read:
            self._node = None
        self._node_read = read

    # -- what was asked, and what has ended

    def _see_what_was_asked(self) -> None:
        """Tell the journal what operators asked, also while no agent ran, and count it."""
        memory, events = self.memory, self._requests().events
        new = _after(events, memory.last_asked)
        if not new:
            return
        postponed = memory.counts.postponed + sum(event.code is Code.POSTPONED for event in new)
        counts = replace(memory.counts, postponed=postponed)
        self._remember(replace(memory, last_asked=new[-1], counts=counts))
        for event in new:
            _tell(event)

    def _collect(self) -> None:
        ended = self._children.collect(JOB)
        if ended is not None:
            self._last_job = self._job(ended)
            self._node = None
        ended = self._children.collect(_LOCK)
        if ended is not None:
            self._last_lock = _ANSWERS.get(ended.status, LockCall.FAILED)
            if self._last_lock is not LockCall.YES:  # a no is how other nodes get their turn
                level = logging.INFO if self._last_lock is LockCall.NO else logging.WARNING
                log.log(level, "the fleet lock: %s", ended.sentence)

    def _job(self, ended: Ended) -> Job:
        """Return what became of a job, and remember what a check found."""
        word = ended.words[0]
        if word == "why":
            return self._checked(ended)
        if ended.status == ExitStatus.BUSY:
            return Job.BUSY
        if ended.status not in {ExitStatus.DONE, ExitStatus.NOTHING_TO_DO}:
            log.warning("`updog %s` failed with status %s: %s", word, ended.status, ended.sentence)
            return Job.FAILED
        return Job.DONE

    def _checked(self, ended: Ended) -> Job:
        now, memory = self._clock(), self.memory
        try:
            found = CheckFacts.of(ended.document)
        except (KeyError, TypeError, ValueError) as error:
            log.info("the check failed: %s", ended.sentence or repr(error))  # several in a row: an event
            counts = memory.counts.with_check(ended.code)
            self._remember(replace(memory, failed_checks=memory.failed_checks + 1, counts=counts))
            return Job.FAILED
        self._keep_check(ended.document, now)
        self._remember(
            replace(
                memory,
                offer=found.offer,
                offered=found.offered,
                urgent=found.urgent,
                summary=found.summary,
                checked_at=now,
                failed_checks=0,
                counts=memory.counts.with_check("update" if found.offer else "no-update"),
            )
        )
        return Job.DONE

    # -- acting

    def _take(self, taken: Step) -> None:
        """Save the next state, then act; what an action fails with is a fact of the next look."""
        now, memory = self._clock(), replace(self.memory, state=taken.state)
        events = [_event(notice, taken.state, self._policy, self.gates, now) for notice in taken.notices]
        for event in events:
            memory = memory.with_event(event)
        if Act.REFRESH in taken.acts or Act.UNLOCK in taken.acts:
            memory = replace(memory, done=now)
        if Act.RESTART in taken.acts:
            memory = replace(memory, counts=replace(memory.counts, restarts=memory.counts.restarts + 1))
        self._remember(memory)
        for event in events:
            _tell(event)
        self._last_lock = LockCall.NONE
        for act in taken.acts:
            self._act(act, taken.state)

    def _act(self, act: Act, state: AutoState) -> None:
        log.info("%s (%s)", act.value, state.phase.value)
        if act in COMMANDS:
            command = COMMANDS[act]
            words = command.words(state, self.gates)
            if act in {Act.REVERT, Act.RESTART} and self._children.is_running(command.kind):
                self._children.wait(command.kind)
            try:
                self._children.start(command.kind, words)
            except OSError as error:
                log.warning("cannot start `updog %s`: %s", words[0], error)
                if command.kind == _LOCK:
                    self._last_lock = LockCall.FAILED
                else:
                    self._last_job = Job.FAILED
            self._node = None
        elif act is Act.WARN:
            offer = self.memory.in_work
            self._surroundings.warn(_warning(state, self._policy, offer.urgent if offer else ""))
        else:
            self._tell_program(act, state)

    def _tell_program(self, act: Act, state: AutoState) -> None:
        """Write or remove the sentinel; one that cannot be written is logged, and an operator can restart."""
        try:
            if act is Act.WRITE_SENTINEL:
                self._surroundings.write_sentinel(f"updog: {state.version} is installed\n")
            elif act is Act.REMOVE_SENTINEL:
                self._surroundings.remove_sentinel()
        except ToolError as error:
            log.warning("%s", error.message)

    def _remember(self, memory: Memory) -> None:
        """Save before anything depends on it. Raises MediumError: then nothing is done."""
        if memory != self.memory:
            self._store.save(memory)
            self.memory = memory


def _after(events: tuple[Event, ...], last: Event | None) -> tuple[Event, ...]:
    """Return the events that came after ``last``; if that was dropped, those that are newer."""
    if last in events:
        return events[len(events) - events[::-1].index(last) :]
    return tuple(event for event in events if last is None or event.time > last.time)


def _is_new(asked: datetime | None, done: datetime | None) -> bool:
    return asked is not None and (done is None or asked > done)


def _is_permitted(requests: Requests, now: datetime) -> bool:
    permit = requests.wishes.permit
    return permit is not None and now < permit


def _warning(state: AutoState, policy: Policy, urgent: str) -> str:
    """Return what the users are told; ``urgent`` is why the publisher marked the release so, or empty."""
    because = f", which is urgent: {urgent.rstrip('.')}" if urgent else ""
    what = f"for the update to {state.version}{because}."
    if state.phase is Phase.LEAVING:
        sentence = f"This machine restarts in {duration_text(policy.warn.total_seconds())} {what}"
    else:
        when = duration_text(policy.sessions.grace.total_seconds())
        sentence = f"This machine must restart {what} It waits up to {when} for you to log out."
    if urgent and GateName.POSTPONE in policy.urgent:
        return sentence
    return f"{sentence} `updog agent postpone 2h` postpones it."


_SENTENCES: Mapping[Notice, Callable[[AutoState, str], str]] = {
    Notice.LOCK_TAKEN: lambda state, group: (
        f"The fleet lock of group {group} was taken to restart into {state.version}."
    ),
    Notice.LOCK_KEPT: lambda state, group: (
        f"This node fell back from {state.kept_for} and keeps the fleet lock of group {group} until that "
        "version is no longer offered or a newer one is."
    ),
    Notice.LOCK_RELEASED: lambda _, group: f"The fleet lock of group {group} was released.",
    Notice.GIVEN_UP: lambda state, _: (
        f"{state.version} could not be installed {state.attempts} times; it is not tried again."
    ),
    Notice.RESTART_FAILED: lambda state, _: (
        f"The restart into {state.version} did not happen; it was taken back."
    ),
    Notice.WAITS_LONG: lambda state, _: (
        f"{state.version} has been ready since {readable_time(state.first_ready or state.since)} and does "
        "not run yet."
    ),
}


def _event(notice: Notice, state: AutoState, policy: Policy, gates: tuple[Gate, ...], now: datetime) -> Event:
    """Return a notice as an event of the history: it has the same name there."""
    group = policy.fleet_lock.group if policy.fleet_lock else "(none)"
    sentence = _SENTENCES[notice](state, group)
    if notice is Notice.WAITS_LONG:
        sentence = f"{sentence} {_obstacle(state, gates, group)}"
    return Event(time=now, code=Code(notice.value), version=state.version, sentence=sentence)


def _obstacle(state: AutoState, gates: tuple[Gate, ...], group: str) -> str:
    """Return what a release waits for."""
    gate = first_closed(gates)
    if gate is not None:
        return gate.sentence
    if state.attempts:
        return f"It could not be installed {counted(state.attempts, 'time')}."
    if state.lock is not Lock.NO or state.retry_at is not None:
        return f"It waits for the fleet lock of group {group}."
    return "Another update is installed and waits for a restart."


def _tell(event: Event) -> None:
    """Send an event to the journal; without it, write a line of the log."""
    if not event_journal.send(event):
        is_serious = SEVERITIES.get(event.code, Severity.INFO) <= Severity.WARNING
        log.log(logging.WARNING if is_serious else logging.INFO, "%s: %s", event.code.value, event.sentence)
