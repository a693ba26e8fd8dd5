"""How a pending update ended after a restart: found out once, recorded with its cause, queued for a report.

Rules it enforces:

* the partition table shows what happened (:func:`updog.pending_update.diagnose`), and the traces of failed
  starts show why (:func:`updog.failed_boot.cause.explain`);
* a slot that failed to run is read first: if its content is damaged, the release is not the cause;
* every event in which a version is confirmed or left is made here, so that each is both recorded and
  reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from signpost.medium import opened
from updog import outcome_report
from updog.failed_boot.cause import BootEvidence, explain
from updog.image.region import partition_content
from updog.pending_update import diagnose
from updog.standing import Standing
from updog.state import UP, Code, Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from signpost.app import RunningDiskView
    from signpost.medium import Medium
    from updog.config import Config
    from updog.host import Host, RunningSlot
    from updog.state import NodeState, PendingUpdate

    Clock = Callable[[], datetime]
    FindDamage = Callable[[NodeState, PendingUpdate, RunningDiskView], tuple[str, ...]]
    """Returns the names of the images of a pending update that differ from what was written."""


class Reconciler:
    """Updates the node's state to what the partition table and the present boot show.

    Args:
        config: whether and where to report.
        host: reads the records of crashed kernels.
        clock: returns the current time, UTC.
    """

    def __init__(self, config: Config, host: Host, clock: Clock) -> None:
        self._config = config
        self._host = host
        self._clock = clock

    def reconcile(
        self, state: NodeState, running: RunningSlot, view: RunningDiskView, *, find_damage: FindDamage
    ) -> tuple[NodeState, Standing]:
        """Return the state that fits the partition table and this boot, and the pending update's standing."""
        state = replace(state, disk_guid=state.disk_guid or view.disk_guid)
        pending = None if view.single else state.pending
        new = view.slots[pending.slot].flags if pending else None
        old_slot = pending.slot.other if pending else view.active
        standing = diagnose(pending, running, new, view.slots[old_slot].flags)
        if pending is None or standing is Standing.NONE:
            return replace(state, pending=None), standing
        if standing is Standing.FELL_BACK:
            damaged = find_damage(state, pending, view)
            return self._fallen_back_state(state, pending, running, damaged), standing
        if standing is Standing.STAGED:
            state = state.with_applied(None)
        elif standing is Standing.TRIAL:
            state = state.with_reached(UP)
        elif standing is Standing.CONFIRMED:
            sentence = f"{pending.version} in slot {pending.slot.value} was found to be confirmed."
            state = self.confirmed_state(state, running, sentence)
        elif standing is Standing.ROLLED_BACK:
            event = Event(
                time=self._clock(),
                code=Code.ROLLED_BACK_BY_HAND,
                version=pending.version,
                sentence=f"An operator rolled back from {pending.version} to slot {running.slot.value}.",
            )
            state = self.left_state(state, running, event)
        return state, standing

    def confirmed_state(self, state: NodeState, running: RunningSlot, sentence: str) -> NodeState:
        """Return the state after the running version was found healthy."""
        event = Event(time=self._clock(), code=Code.CONFIRMED, version=running.version, sentence=sentence)
        line = outcome_report.outcome_line(self._config, state, event, running)
        return state.with_confirmed(running.version).with_event(event).with_report(line)

    def left_state(self, state: NodeState, running: RunningSlot, event: Event) -> NodeState:
        """Return the state after the version of ``event`` was left again."""
        line = outcome_report.outcome_line(self._config, state, event, running)
        return state.with_left(event).with_report(line)

    def _fallen_back_state(
        self, state: NodeState, pending: PendingUpdate, running: RunningSlot, damaged: tuple[str, ...]
    ) -> NodeState:
        """Return the state after the pending update failed to run, with its cause."""
        records = self._host.records()
        evidence = BootEvidence(
            slot=pending.slot,
            stages=tuple(attempt.stage for attempt in running.attempts if attempt.slot is pending.slot),
            reached=pending.reached,
            records=tuple(record for record in records if record.digest not in state.records_seen),
            damaged=damaged,
        )
        explanation = explain(evidence)
        sentence = (
            f"{pending.version} in slot {pending.slot.value} {explanation.text}; its tries were used up, and "
            f"slot {running.slot.value} took over with {running.version}."
        )
        event = Event(
            time=self._clock(),
            code=Code.BOOT_FAILED,
            version=pending.version,
            sentence=sentence,
            cause=explanation.cause.value,
        )
        state = self.left_state(state, running, event)
        return state.with_records_seen(record.digest for record in records)


def skip_damage(_state: NodeState, _pending: PendingUpdate, _view: RunningDiskView) -> tuple[str, ...]:
    """Report no damage without reading the slot, which would take too long for `status`."""
    return ()


def damage_finder(medium: Medium) -> FindDamage:
    """Return a function that reads the slot of a pending update and names the images that differ."""

    def find(state: NodeState, pending: PendingUpdate, view: RunningDiskView) -> tuple[str, ...]:
        record = state.slots.get(pending.slot)
        if record is None or record.version != pending.version:
            return ()
        damaged = []
        with opened(medium, view.disk) as descriptor:
            for kind, wanted in record.images.items():
                partition = view.slots[pending.slot].partition(kind)
                try:
                    good = partition_content(medium, descriptor, partition, wanted.size) == wanted
                except MediumError:
                    good = False
                damaged += [] if good else [kind]
        return tuple(damaged)

    return find
