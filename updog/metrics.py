"""The state of a node as metrics, in Prometheus' text format for node_exporter's textfile collector. PURE.

The table :data:`METRICS` is the one home of names and meanings; ``docs/reference/metrics.md`` is generated
from it. Labels have few values each; a sentence is in none, because it would make a series of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from updog.agent import Status
    from updog.state import Event


class Sample(NamedTuple):
    """One value and its labels."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A gauge: its name, what it is, the labels it has, and how it is told from a node's status."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    samples: Callable[[Status], Iterator[Sample]]


def text(status: Status) -> str:
    """Return the whole file; a metric without a sample is left out."""
    lines: list[str] = []
    for metric in METRICS:
        samples = [_sample(metric.name, sample) for sample in metric.samples(status)]
        if samples:
            lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} gauge", *samples]
    return "\n".join([*lines, ""])


def _sample(name: str, sample: Sample) -> str:
    """Return one line of the text format."""
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
    return f"{name}{{{labels}}} {sample.value:.15g}" if labels else f"{name} {sample.value:.15g}"


def _escaped(value: str) -> str:
    """Return a label's value with the three characters escaped that the format asks to."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _info(status: Status) -> Iterator[Sample]:
    running = status.running
    labels = {"variant": running.variant, "version": str(running.version), "slot": running.slot.value}
    yield Sample(labels, 1)


def _confirmed(status: Status) -> Iterator[Sample]:
    yield Sample({}, status.view.slots[status.view.active].flags.successful)


def _standing(status: Status) -> Iterator[Sample]:
    yield Sample({"standing": status.outcome.value}, 1)


def _pending(status: Status) -> Iterator[Sample]:
    if pending := status.state.pending:
        yield Sample({"version": str(pending.version), "slot": pending.slot.value}, 1)


def _slot_versions(status: Status) -> Iterator[Sample]:
    for slot in status.view.slots:
        if version := status.state.version_in(slot):
            yield Sample({"slot": slot.value, "version": str(version)}, 1)


def _priorities(status: Status) -> Iterator[Sample]:
    for slot, sees in status.view.slots.items():
        yield Sample({"slot": slot.value}, sees.flags.priority)


def _tries(status: Status) -> Iterator[Sample]:
    for slot, sees in status.view.slots.items():
        yield Sample({"slot": slot.value}, sees.flags.tries)


def _successful(status: Status) -> Iterator[Sample]:
    for slot, sees in status.view.slots.items():
        yield Sample({"slot": slot.value}, sees.flags.successful)


def _boots_next(status: Status) -> Iterator[Sample]:
    for slot in status.view.slots:
        yield Sample({"slot": slot.value}, slot is status.view.next)


def _faults(status: Status) -> Iterator[Sample]:
    yield Sample({}, len(status.view.faults))


def _denied(status: Status) -> Iterator[Sample]:
    yield Sample({}, len(status.state.denied))


def _last_event(status: Status) -> Iterator[Sample]:
    if status.state.history:
        yield _at(status.state.history[-1])


def _last_rollback(status: Status) -> Iterator[Sample]:
    if rollback := status.state.last_rollback:
        yield _at(rollback)


def _last_seen(status: Status) -> Iterator[Sample]:
    if latest := status.state.latest_time:
        yield Sample({}, int(latest.timestamp()))


def _unsent(status: Status) -> Iterator[Sample]:
    yield Sample({}, len(status.state.outbox))


def _at(event: Event) -> Sample:
    """Return when an event was, labelled by what, why and with which version."""
    version = str(event.version) if event.version else ""
    labels = {"code": event.code.value, "cause": event.cause or "", "version": version}
    return Sample(labels, int(event.time.timestamp()))


_EVENT = ("code", "cause", "version")
METRICS = (
    Metric("updog_info", "What runs, always 1.", ("variant", "version", "slot"), _info),
    Metric("updog_confirmed", "1 if the running slot is confirmed.", (), _confirmed),
    Metric("updog_standing", "Where the pending update stands, always 1.", ("standing",), _standing),
    Metric("updog_pending", "The update that is installed and not confirmed.", ("version", "slot"), _pending),
    Metric("updog_slot", "What is known to be in a slot, always 1.", ("slot", "version"), _slot_versions),
    Metric("updog_slot_priority", "A slot's priority, 0 to 15; 0 never boots.", ("slot",), _priorities),
    Metric("updog_slot_tries", "Starts that a slot has left.", ("slot",), _tries),
    Metric("updog_slot_successful", "1 if a slot was confirmed.", ("slot",), _successful),
    Metric("updog_slot_boots_next", "1 for the slot that boots next; none: rescue.", ("slot",), _boots_next),
    Metric("updog_table_faults", "Faults of the partition table that signpost repair mends.", (), _faults),
    Metric("updog_denied_versions", "Versions that were left here and are not taken again.", (), _denied),
    Metric("updog_last_event_seconds", "Unix time of the last event.", _EVENT, _last_event),
    Metric("updog_last_rollback_seconds", "Unix time a version was last left.", _EVENT, _last_rollback),
    Metric("updog_last_check_seconds", "Unix time a repository was last believed.", (), _last_seen),
    Metric("updog_outcomes_unsent", "Outcome lines that wait to be sent.", (), _unsent),
)
"""Every metric, in the order of the file."""
