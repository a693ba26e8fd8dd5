"""What became of an update after a restart: worked out once, recorded with its cause, queued to be reported.

Rules it enforces:

* the partition table says what happened (:func:`updog.outcome.diagnose`), and what failed starts left behind
  says why (:func:`updog.postmortem.explain`);
* a slot that could not run is read back first: what it no longer holds is no fault of the release;
* every way in which a version is kept or left ends here, so that none is recorded without being reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from signpost.medium import opened
from updog import report
from updog.image.install import Region, read_content
from updog.outcome import Outcome, diagnose
from updog.postmortem import Evidence, explain
from updog.state import UP, Code, Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from signpost.app import View
    from signpost.medium import Medium
    from updog.config import Config
    from updog.host import Host, Running
    from updog.state import NodeState, Pending

    Clock = Callable[[], datetime]
    Damage = Callable[[NodeState, Pending, View], tuple[str, ...]]
    """Tells which images of a pending update are no longer what was written."""


class Aftermath:
    """Brings what a node remembers in line with what happened.

    Args:
        config: whether and where to report.
        host: what kernels left behind.
        clock: this moment, UTC.
    """

    def __init__(self, config: Config, host: Host, clock: Clock) -> None:
        self._config = config
        self._host = host
        self._clock = clock

    def reconciled(
        self, state: NodeState, running: Running, view: View, *, damage: Damage
    ) -> tuple[NodeState, Outcome]:
        """Bring what is remembered in line with what the partition table and this boot say."""
        state = replace(state, disk_guid=state.disk_guid or view.disk_guid)
        pending = None if view.single else state.pending
        new = view.slots[pending.slot].flags if pending else None
        old_slot = pending.slot.other if pending else view.active
        outcome = diagnose(pending, running, new, view.slots[old_slot].flags)
        if pending is None or outcome is Outcome.NONE:
            return replace(state, pending=None), outcome
        if outcome is Outcome.FELL_BACK:
            return self._fallen_back(state, pending, running, damage(state, pending, view)), outcome
        return self._recorded(outcome, state, pending, running), outcome

    def confirmed(self, state: NodeState, running: Running, sentence: str) -> NodeState:
        """Return the state once the running version was found good."""
        event = Event(time=self._clock(), code=Code.CONFIRMED, version=running.version, sentence=sentence)
        line = report.line(self._config, state, event, running)
        return state.confirmed(running.version).noting(event).reporting(line)

    def left(self, state: NodeState, running: Running, event: Event) -> NodeState:
        """Return the state once the version of ``event`` was left again."""
        return state.left(event).reporting(report.line(self._config, state, event, running))

    def _recorded(self, outcome: Outcome, state: NodeState, pending: Pending, running: Running) -> NodeState:
        """Return the state once it is recorded where the pending update stands."""
        version, slot = pending.version, pending.slot.value
        if outcome is Outcome.STAGED:
            return state.applied(None)
        if outcome is Outcome.TRIAL:
            return state.reaching(UP)
        if outcome is Outcome.CONFIRMED:
            return self.confirmed(state, running, f"{version} in slot {slot} was found confirmed.")
        if outcome is Outcome.ROLLED_BACK:
            sentence = f"{version} was left by hand for slot {running.slot.value}."
            code = Code.ROLLED_BACK_BY_HAND
            event = Event(time=self._clock(), code=code, version=version, sentence=sentence)
            return self.left(state, running, event)
        return state

    def _fallen_back(
        self, state: NodeState, pending: Pending, running: Running, damaged: tuple[str, ...]
    ) -> NodeState:
        """Return the state once it is recorded why the pending update went down."""
        records = self._host.records()
        evidence = Evidence(
            slot=pending.slot,
            stages=tuple(attempt.stage for attempt in running.attempts if attempt.slot is pending.slot),
            reached=pending.reached,
            records=tuple(record for record in records if record.digest not in state.records_seen),
            damaged=damaged,
        )
        why = explain(evidence)
        sentence = (
            f"{pending.version} in slot {pending.slot.value} {why.words}; its tries were used up and slot "
            f"{running.slot.value} took over with {running.version}."
        )
        event = Event(
            time=self._clock(),
            code=Code.BOOT_FAILED,
            version=pending.version,
            sentence=sentence,
            cause=why.cause.value,
        )
        return self.left(state, running, event).having_seen(record.digest for record in records)


def unexamined(_state: NodeState, _pending: Pending, _view: View) -> tuple[str, ...]:
    """Find no damage, because nobody has the time to look: what `status` does."""
    return ()


def damage(medium: Medium) -> Damage:
    """Return what reads a pending update's slot back, on ``medium``, and names the images that differ."""

    def look(state: NodeState, pending: Pending, view: View) -> tuple[str, ...]:
        record = state.slots.get(pending.slot)
        if record is None or record.version != pending.version:
            return ()
        found = []
        with opened(medium, view.disk) as descriptor:
            for role, wanted in record.images.items():
                place = getattr(view.slots[pending.slot], role)
                region = Region(
                    medium=medium,
                    descriptor=descriptor,
                    offset=place.offset,
                    size=place.size,
                    name=place.label,
                )
                try:
                    good = read_content(region, wanted.size, advance=lambda _count: None) == wanted
                except MediumError:
                    good = False
                found += [] if good else [role]
        return tuple(found)

    return look
