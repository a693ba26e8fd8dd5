"""The state of a node as metrics, in Prometheus' text format for node_exporter's textfile collector. PURE.

Names and meanings are in :data:`METRICS` alone; ``docs/reference/metrics.md`` is generated from it. A label
has few values: no sentence is one, since each value makes another time series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signpost.app import SlotView
    from updog.state import Event
    from updog.views import Status


class Sample(NamedTuple):
    """One value and its labels."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A gauge: its name and meaning, the labels of its samples, and how a node's status gives them."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    samples: Callable[[Status], list[Sample]]


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
    """Return the value of a label; the format wants these three characters escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _of_slots(status: Status, value: Callable[[SlotView], float]) -> list[Sample]:
    return [Sample({"slot": slot.value}, value(seen)) for slot, seen in status.view.slots.items()]


def _at(event: Event) -> Sample:
    """Return the Unix time of an event (seconds), labelled with its code, cause and version."""
    version = str(event.version) if event.version else ""
    labels = {"code": event.code.value, "cause": event.cause or "", "version": version}
    return Sample(labels, int(event.time.timestamp()))


_EVENT = ("code", "cause", "version")
METRICS = (
    Metric(
        "updog_info",
        "What runs, always 1.",
        ("variant", "version", "slot"),
        lambda status: [
            Sample(
                {
                    "variant": status.running.variant,
                    "version": str(status.running.version),
                    "slot": status.running.slot.value,
                },
                1,
            )
        ],
    ),
    Metric(
        "updog_confirmed",
        "1 if the running slot is confirmed.",
        (),
        lambda status: [Sample({}, status.confirmed)],
    ),
    Metric(
        "updog_standing",
        "The standing of the pending update, always 1.",
        ("standing",),
        lambda status: [Sample({"standing": status.standing.value}, 1)],
    ),
    Metric(
        "updog_pending",
        "The update that is installed and not confirmed.",
        ("version", "slot"),
        lambda status: [
            Sample({"version": str(pending.version), "slot": pending.slot.value}, 1)
            for pending in [status.state.pending]
            if pending
        ],
    ),
    Metric(
        "updog_slot",
        "The version known to be in a slot, always 1.",
        ("slot", "version"),
        lambda status: [
            Sample({"slot": slot.value, "version": str(version)}, 1)
            for slot in status.view.slots
            if (version := status.state.version_in(slot))
        ],
    ),
    Metric(
        "updog_slot_priority",
        "A slot's priority, 0 to 15; 0 never boots.",
        ("slot",),
        lambda status: _of_slots(status, lambda seen: seen.flags.priority),
    ),
    Metric(
        "updog_slot_tries",
        "Boots that a slot has left to prove itself.",
        ("slot",),
        lambda status: _of_slots(status, lambda seen: seen.flags.tries),
    ),
    Metric(
        "updog_slot_successful",
        "1 if a slot was confirmed.",
        ("slot",),
        lambda status: _of_slots(status, lambda seen: seen.flags.successful),
    ),
    Metric(
        "updog_slot_boots_next",
        "1 for the slot that boots next, else 0.",
        ("slot",),
        lambda status: [Sample({"slot": slot.value}, slot is status.view.next) for slot in status.view.slots],
    ),
    Metric(
        "updog_table_faults",
        "Partition table faults; signpost repair fixes them.",
        (),
        lambda status: [Sample({}, len(status.view.faults))],
    ),
    Metric(
        "updog_denied_versions",
        "Versions that failed here and are not installed again.",
        (),
        lambda status: [Sample({}, len(status.state.denied))],
    ),
    Metric(
        "updog_last_event_seconds",
        "Unix time of the last event.",
        _EVENT,
        lambda status: [_at(event) for event in status.state.history[-1:]],
    ),
    Metric(
        "updog_last_rollback_seconds",
        "Unix time of the last rollback.",
        _EVENT,
        lambda status: [_at(rollback) for rollback in [status.state.last_rollback] if rollback],
    ),
    Metric(
        "updog_last_check_seconds",
        "Unix time a repository was last verified.",
        (),
        lambda status: [Sample({}, int(time.timestamp())) for time in [status.state.last_check] if time],
    ),
    Metric(
        "updog_outcomes_unsent",
        "Outcome lines waiting to be sent.",
        (),
        lambda status: [Sample({}, len(status.state.outbox))],
    ),
)
"""Every metric, in the order of the file."""
