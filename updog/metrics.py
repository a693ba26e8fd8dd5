"""The state of a node as metrics, in Prometheus' text format. PURE: JSON documents in, text out.

The documents are those of ``updog status --json`` and ``updog agent status --json``. Names and meanings are
in :data:`NODE_METRICS` and :data:`AGENT_METRICS` alone; ``docs/reference/metrics.md`` is generated from them.
A label has few values: no sentence is one, since each value makes another time series.

The commands and the agent are two processes, and each writes a file of its own for node_exporter
(:mod:`updog.status_files`): no metric is in both tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from updog.update_metadata.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime


class Sample(NamedTuple):
    """One value and its labels."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A metric: its name and meaning, the labels of its samples, and how a document gives them.

    ``kind`` is ``gauge``, or ``counter`` for what only grows, also over a restart of the agent or the node.
    """

    name: str
    meaning: str
    labels: tuple[str, ...]
    samples: Callable[[Mapping[str, Any]], list[Sample]]
    kind: str = "gauge"


def text(status: Mapping[str, Any], agent: Mapping[str, Any] | None, now: datetime) -> str:
    """Return all metrics.

    Args:
        status: the document of ``updog status --json``.
        agent: that of ``updog agent status --json``; None: the agent does not run.
        now: the time, UTC.
    """
    return node_text(status) + (agent_text(agent, now) if agent is not None else "")


def node_text(status: Mapping[str, Any]) -> str:
    """Return the metrics of the node, from the document of ``updog status --json``."""
    return _text(NODE_METRICS, status)


def agent_text(agent: Mapping[str, Any], now: datetime) -> str:
    """Return the metrics of the agent, from the document of ``updog agent status --json``."""
    return _text(AGENT_METRICS, {**agent, "now": format_time(now)})


def _text(metrics: Iterable[Metric], document: Mapping[str, Any]) -> str:
    """Return the lines of these metrics; one without a sample is left out."""
    lines: list[str] = []
    for metric in metrics:
        samples = [_sample(metric.name, sample) for sample in metric.samples(document)]
        if samples:
            head = [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [*head, *samples]
    return "\n".join([*lines, ""])


def _sample(name: str, sample: Sample) -> str:
    """Return one line of the text format."""
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
    return f"{name}{{{labels}}} {sample.value:.15g}" if labels else f"{name} {sample.value:.15g}"


def _escaped(value: str) -> str:
    """Return the value of a label; the format wants these three characters escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _of_slots(member: str) -> Callable[[Mapping[str, Any]], list[Sample]]:
    """Return what gives a sample for each slot from a member of its facts."""
    return lambda status: [Sample({"slot": slot}, facts[member]) for slot, facts in status["slots"].items()]


def _label(member: str) -> Callable[[Mapping[str, Any]], list[Sample]]:
    """Return what gives one sample with the value 1, whose label is a member of the document."""
    return lambda document: [Sample({member: document[member]}, 1)]


def _unix(time: str) -> int:
    """Return a time of a document as Unix time, in whole seconds."""
    return int(parse_time(time).timestamp())


def _event(event: Mapping[str, Any] | None) -> list[Sample]:
    """Return the Unix time of an event, labelled with its code, cause and version."""
    if event is None:
        return []
    labels = {"code": event["code"], "cause": event.get("cause") or "", "version": event["version"] or ""}
    return [Sample(labels, _unix(event["time"]))]


_EVENT = ("code", "cause", "version")
NODE_METRICS = (
    Metric(
        "updog_info",
        "What runs, always 1.",
        ("variant", "version", "slot"),
        lambda status: [
            Sample({name: status["running"][name] for name in ("variant", "version", "slot")}, 1),
        ],
    ),
    Metric(
        "updog_confirmed",
        "1 if the running slot is confirmed.",
        (),
        lambda status: [Sample({}, status["running"]["confirmed"])],
    ),
    Metric(
        "updog_standing",
        "The standing of the pending update, always 1.",
        ("standing",),
        _label("standing"),
    ),
    Metric(
        "updog_pending",
        "The update that is installed and not confirmed.",
        ("version", "slot"),
        lambda status: [
            Sample({"version": pending["version"], "slot": pending["slot"]}, 1)
            for pending in [status["pending"]]
            if pending
        ],
    ),
    Metric(
        "updog_slot",
        "The version known to be in a slot, always 1.",
        ("slot", "version"),
        lambda status: [
            Sample({"slot": slot, "version": facts["version"]}, 1)
            for slot, facts in status["slots"].items()
            if facts["version"]
        ],
    ),
    Metric(
        "updog_slot_priority",
        "A slot's priority, 0 to 15; 0 never boots.",
        ("slot",),
        _of_slots("priority"),
    ),
    Metric(
        "updog_slot_tries",
        "Boots that a slot has left to prove itself.",
        ("slot",),
        _of_slots("tries_left"),
    ),
    Metric(
        "updog_slot_successful",
        "1 if a slot was confirmed.",
        ("slot",),
        _of_slots("successful"),
    ),
    Metric(
        "updog_slot_boots_next",
        "1 for the slot that boots next, else 0.",
        ("slot",),
        _of_slots("next"),
    ),
    Metric(
        "updog_table_faults",
        "Partition table faults; signpost repair fixes them.",
        (),
        lambda status: [Sample({}, len(status["disk"]["faults"]))],
    ),
    Metric(
        "updog_denied_versions",
        "Versions that failed here and are not installed again.",
        (),
        lambda status: [Sample({}, len(status["denied"]))],
    ),
    Metric(
        "updog_last_event_seconds",
        "Unix time of the last event.",
        _EVENT,
        lambda status: _event(status["last_event"]),
    ),
    Metric(
        "updog_last_rollback_seconds",
        "Unix time of the last rollback.",
        _EVENT,
        lambda status: _event(status["last_rollback"]),
    ),
    Metric(
        "updog_last_check_seconds",
        "Unix time a repository was last verified.",
        (),
        lambda status: [Sample({}, _unix(time)) for time in [status["checked_at"]] if time],
    ),
    Metric(
        "updog_last_check_attempt_seconds",
        "Unix time of the last check, whether it succeeded or not.",
        (),
        lambda status: [Sample({}, _unix(check["time"])) for check in [status["check"]] if check],
    ),
    Metric(
        "updog_last_check_result",
        "How the last check ended, always 1: update, no-update, or the code of the error.",
        ("result",),
        lambda status: [Sample({"result": check["result"]}, 1) for check in [status["check"]] if check],
    ),
    Metric(
        "updog_failed_checks",
        "Checks that failed in a row.",
        (),
        lambda status: [Sample({}, check["failed"]) for check in [status["check"]] if check],
    ),
    Metric(
        "updog_update_available",
        "1 if the last check that succeeded found an update for this node, else 0.",
        ("version",),
        lambda status: [
            Sample({"version": version or ""}, version is not None)
            for version in [status["available"]]
            if status["check"]
        ],
    ),
    Metric(
        "updog_outcomes_unsent",
        "Outcome lines waiting to be sent.",
        (),
        lambda status: [Sample({}, status["outcomes_unsent"])],
    ),
)
"""The metrics of the node, in the order of the file."""


_USUAL_RESULTS = ("update", "no-update", "unreachable")
"""Results of a check that are counted from 0: Prometheus does not see an increase from nothing to 1."""


def _checks(agent: Mapping[str, Any]) -> list[Sample]:
    counts = {**dict.fromkeys(_USUAL_RESULTS, 0), **agent["counts"]["checks"]}
    return [Sample({"result": result}, number) for result, number in counts.items()]


def _waiting(agent: Mapping[str, Any]) -> list[Sample]:
    since = agent["waiting_since"]
    return [Sample({}, max(_unix(agent["now"]) - _unix(since), 0) if since else 0)]


AGENT_METRICS = (
    Metric("updog_auto_mode", "How far the agent goes by itself, always 1.", ("mode",), _label("mode")),
    Metric("updog_auto_state", "What the agent does, always 1.", ("state",), _label("state")),
    Metric(
        "updog_auto_gate_closed",
        "1 for a gate that is closed, else 0.",
        ("gate",),
        lambda agent: [Sample({"gate": gate["gate"]}, not gate["open"]) for gate in agent["gates"]],
    ),
    Metric(
        "updog_auto_waiting_seconds",
        "Time for which a release has been ready and does not run yet; 0 if there is none.",
        (),
        _waiting,
    ),
    Metric(
        "updog_auto_attempts",
        "Failed installs in a row of the release in work.",
        ("version",),
        lambda agent: [Sample({"version": agent["version"]}, agent["attempts"])] if agent["version"] else [],
    ),
    Metric(
        "updog_auto_lock",
        "What is known of the fleet lock, always 1.",
        ("state",),
        lambda agent: [Sample({"state": agent["lock"]["state"]}, 1)],
    ),
    Metric(
        "updog_auto_next_action_seconds",
        "Unix time of the next action, if it is known.",
        ("action",),
        lambda agent: [
            Sample({"action": action["action"]}, _unix(action["at"]))
            for action in [agent["next"]]
            if action and action["at"]
        ],
    ),
    Metric(
        "updog_auto_checks_total",
        "Checks by their result: update, no-update, or the code of the error.",
        ("result",),
        _checks,
        kind="counter",
    ),
    Metric(
        "updog_auto_restarts_total",
        "Restarts that the agent ordered.",
        (),
        lambda agent: [Sample({}, agent["counts"]["restarts"])],
        kind="counter",
    ),
    Metric(
        "updog_auto_postponed_total",
        "Postponements that operators asked for.",
        (),
        lambda agent: [Sample({}, agent["counts"]["postponed"])],
        kind="counter",
    ),
)
"""The metrics of the agent, in the order of the file; their document has the time too, as ``now``."""
