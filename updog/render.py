"""What the commands of updog print, as text and as JSON documents. PURE: values in, text out.

Rules it enforces:

* a document holds plain numbers (bytes, RFC 3339 times); text has units (:mod:`signpost.text`);
* where the pending update stands is called its *standing* everywhere; the text adds the next step.
"""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from signpost.text import size_text, table, traffic_text
from updog.standing import Standing
from updog.update_metadata.times import format_optional, parse_time, readable_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from signpost.gptprio import Flags
    from signpost.sets import Slot
    from signpost.state import State
    from updog.config import Setting
    from updog.config_key import Key
    from updog.image.plan import ChunkSource
    from updog.installing.estimate import Estimate
    from updog.select import Decision, ReleaseVerdict
    from updog.state import Event, NodeState
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version
    from updog.views import ImageCheck, Status, UpdatePlan

    Json = dict[str, Any]

_STANDING = {
    Standing.NONE: "no update pending",
    Standing.STAGED: "{version} is installed in slot {slot}; `updog update-apply` makes it boot next",
    Standing.WAITING: "{version} in slot {slot} boots next; restart to run it",
    Standing.TRIAL: "{version} runs on trial; `updog confirm` keeps it, or falls back",
    Standing.CONFIRMED: "{version} is confirmed",
    Standing.FELL_BACK: "{version} fell back",
    Standing.ROLLED_BACK: "{version} was rolled back by hand",
}


_NOTHING_BOOTABLE = "NOTHING IS BOOTABLE: before any restart, run `signpost rescue A` or `signpost rescue B`"


def keys_document(keys: Sequence[Key]) -> Json:
    """Return `updog help configuration --json`."""
    names = ("takes", "default", "meaning", "required", "upstream")
    return {key.name: {name: getattr(key, name) for name in names} for key in keys}


def settings_document(path: Path, settings: Sequence[Setting]) -> Json:
    """Return `updog config --json`."""
    return {
        "file": str(path),
        "settings": {
            setting.name: {"value": setting.value, "source": "file" if setting.is_from_file else "default"}
            for setting in settings
        },
    }


def settings_text(settings: Sequence[Setting]) -> str:
    """Return `updog config`: a line for each key, with values as TOML has them."""
    import json

    rows = [
        (
            setting.name,
            "unset" if setting.value is None else json.dumps(setting.value, ensure_ascii=False),
            "file" if setting.is_from_file else "default",
        )
        for setting in settings
    ]
    return table(rows)


def keys_text(keys: Sequence[Key]) -> str:
    """Return `updog help configuration`: every key of updog.toml, at most 80 columns wide."""

    def lines(key: Key) -> Iterator[str]:
        yield key.name
        default = "required" if key.required else key.default_text and f"default: {key.default_text}"
        for fact in filter(None, (key.meaning, f"takes {key.takes}", default)):
            yield from textwrap.wrap(fact, 78, initial_indent="    ", subsequent_indent="      ")

    return "\n".join("\n".join(lines(key)) for key in keys)


def status_document(status: Status) -> Json:
    """Return `updog status --json` (its members: docs/reference/status.md)."""
    running, view, state = status.running, status.view, status.state
    slots = {}
    for slot, sees in view.slots.items():
        version = state.version_in(slot)
        slots[slot.value] = {
            "version": str(version) if version else None,
            "priority": sees.flags.priority,
            "tries_left": sees.flags.tries,
            "successful": sees.flags.successful,
            "active": slot is view.active,
            "next": slot is view.next,
        }
    rollback = state.last_rollback
    return {
        "running": {
            "variant": running.variant,
            "version": str(running.version),
            "slot": running.slot.value,
            "confirmed": status.confirmed,
        },
        "disk": {"path": view.disk, "guid": str(view.disk_guid), "faults": list(view.faults)},
        "slots": slots,
        "next": view.next.value if view.next else None,
        "standing": status.standing.value,
        "pending": state.pending.to_json() if state.pending else None,
        "denied": [
            {"version": str(version), "cause": event.to_json()} for version, event in state.denied.items()
        ],
        "last_rollback": rollback.to_json() if rollback else None,
        "last_event": state.history[-1].to_json() if state.history else None,
        "confirmed_at": format_optional(state.confirmed_at),
        "checked_at": format_optional(state.last_check),
        "check": state.check.to_json() if state.check else None,
        "available": _text(state.available_to(running.version)),
        "outcomes_unsent": len(state.outbox),
    }


def _text(version: Version | None) -> str | None:
    return str(version) if version else None


def status_text(status: Status) -> str:
    """Return `updog status`: what runs, the standing of the update, the slots, and what is wrong."""
    running, view, state = status.running, status.view, status.state
    rows = [("slot", "version", "priority", "tries", "successful", "")]
    for slot, sees in view.slots.items():
        marks = [
            mark for mark, on in (("runs", slot is view.active), ("boots next", slot is view.next)) if on
        ]
        flags = sees.flags
        good = "yes" if flags.successful else "no"
        version = str(state.version_in(slot) or "unknown")
        rows.append((slot.value, version, str(flags.priority), str(flags.tries), good, ", ".join(marks)))
    lines = [
        f"running   {running.variant} {running.version} from slot {running.slot.value}, {_confirmed(status)}",
        f"disk      {view.disk}",
        f"update    {_standing(status)}",
        "",
        table(rows),
        "",
        *_trouble(state),
        *(f"table     {fault}; `signpost repair` repairs it" for fault in view.faults),
    ]
    if view.next is None:
        lines.append(f"boot      {_NOTHING_BOOTABLE}")
    return "\n".join(lines).rstrip()


def _standing(status: Status) -> str:
    """Return the standing of the pending update, and what to do next."""
    pending, view = status.state.pending, status.view
    if view.next is view.active.other and status.standing in {Standing.NONE, Standing.STAGED}:
        version = status.state.version_in(view.next)
        return f"slot {view.next.value} ({version or 'version unknown'}) boots next, without an update"
    if pending is None:
        return _STANDING[Standing.NONE]
    if pending.recalled and status.standing is Standing.STAGED:
        return f"{pending.recalled} It is installed in slot {pending.slot.value} and does not boot"
    return _STANDING[status.standing].format(version=pending.version, slot=pending.slot.value)


def login_text(status: Status, agent: Mapping[str, Any] | None, now: datetime) -> str:
    """Return the login message: what runs, what is pending, what failed, and what an operator must see.

    Args:
        status: of the node.
        agent: what the running agent says of itself (docs/reference/agent.md); None: it does not run.
        now: the time, UTC.
    """
    running, view, rollback = status.running, status.view, status.state.last_rollback
    head = f"{running.variant} {running.version} runs from slot {running.slot.value}, {_confirmed(status)}."
    lines = [head]
    waits = _agents_wait(status, agent, now) if agent is not None else ""
    if waits:
        lines.append(waits)
    elif status.standing is not Standing.NONE or view.next is view.active.other:
        lines.append(f"{_standing(status)}.")
    if rollback is not None and rollback.version in status.state.denied:
        lines.append(f"{_moment(rollback)} {_codes(rollback)}: {rollback.sentence}")
    if status.state.check and status.state.check.is_failing:
        lines.append(status.state.check.sentence)
    if view.next is None:
        lines.append(f"{_NOTHING_BOOTABLE}.")
    return "\n".join(f"updog: {line}" for line in lines)


_LONG_WAIT = timedelta(days=1)
"""A release that waits to be installed is in the login message after this time; a staged one at once."""


def _agents_wait(status: Status, agent: Mapping[str, Any], now: datetime) -> str:
    """Return since when a release waits for the agent, and for what; empty where the slots say more."""
    if not agent.get("waiting_since") or status.view.next is not status.view.active:
        return ""
    version, since = agent["version"], parse_time(agent["waiting_since"])
    pending = status.state.pending
    if status.standing is Standing.STAGED and pending is not None and not pending.recalled:
        if str(pending.version) != version or agent["mode"] != "restart":  # the next step is an operator's
            return ""
        what = f"{version} is staged, and waits for its restart"
    elif status.standing is Standing.NONE and now - since >= _LONG_WAIT:
        what = f"{version} waits to be installed"
    else:
        return ""
    closed = next((gate["sentence"] for gate in agent["gates"] if not gate["open"]), "")
    return f"{what} since {readable_time(since.replace(microsecond=0))}. {closed}".rstrip()


def _confirmed(status: Status) -> str:
    return "confirmed" if status.confirmed else "NOT confirmed"


def _codes(event: Event) -> str:
    """Return an event's code, and its cause where one is known."""
    return f"{event.code.value} ({event.cause})" if event.cause else event.code.value


def _trouble(state: NodeState) -> list[str]:
    """Return the lines about the last rollback, checks that fail, and the denied versions."""
    rollback = state.last_rollback
    lines = [f"rollback  {_moment(rollback)} {_codes(rollback)}: {rollback.sentence}"] if rollback else []
    if state.check and state.check.is_failing:
        lines.append(f"check     {state.check.sentence}")
    if state.denied:
        versions = ", ".join(str(version) for version in state.denied)
        lines.append(
            f"denied    {versions} (until a newer version is confirmed, or `updog deny-list --clear VERSION`)"
        )
    return lines


def history_text(events: Sequence[Event]) -> str:
    """Return the history, oldest first, one line for each event, and who asked for it."""
    return "\n".join(
        f"{_moment(event)}  {event.code.value:20}  {event.sentence}"
        + (f" By {event.by}." if event.by else "")
        for event in events
    )


def _moment(event: Event) -> str:
    return f"{event.time:%Y-%m-%d %H:%M} UTC"


def decision_document(decision: Decision, *, everything: bool) -> Json | list[Json]:
    """Return the update as upstream prints it (an object); with ``everything`` a list of all releases."""
    if everything:
        return [verdict_document(verdict) for verdict in decision.verdicts]
    update = decision.update
    if update is None:
        return {"update": None, "summary": decision.summary}
    return {**_release_document(update), "summary": decision.summary}


def _release_document(update: Update) -> Json:
    """Return a release as the manifest has it."""
    from updog.update_metadata.manifest import update_to_json  # late: `updog status` does not need it

    return update_to_json(update)


def verdict_document(verdict: ReleaseVerdict) -> Json:
    """Return what was decided about one release, and why."""
    return {
        **_release_document(verdict.update),
        "verdict": verdict.code.value,
        "sentence": verdict.sentence,
        "ready_at": format_optional(verdict.ready_at),
    }


def decision_text(decision: Decision, *, everything: bool) -> str:
    """Return the update as upstream prints it (`VARIANT VERSION`), or all of them with their verdicts."""
    if everything:
        rows = [(v.update.variant, str(v.update.version), v.sentence) for v in decision.verdicts]
        return table(rows)
    update = decision.update
    return f"{update.variant} {update.version}" if update else ""


def why_text(decision: Decision) -> str:
    """Return why this version was chosen, or none, and the verdict on each release."""
    rows = [(str(verdict.update.version), verdict.sentence) for verdict in decision.verdicts]
    return "\n".join([decision.summary, *(["", table(rows)] if rows else [])])


def verify_document(slot: str, checks: Sequence[ImageCheck]) -> Json:
    """Return what `updog verify` read."""
    return {
        "slot": slot,
        "images": {check.kind: {"size": check.size, "good": check.good} for check in checks},
    }


def plan_document(plan: UpdatePlan) -> Json:
    """Return `updog plan --json`; all figures are bytes."""
    update = plan.update
    return {
        "id": plan.id,
        "variant": update.variant,
        "arch": update.arch,
        "path": [str(plan.running), str(update.version)],
        "slot": plan.slot.value,
        "urgent": update.urgent or None,
        "images": [need.to_json() for need in plan.needs],
        "total": sum(need.total for need in plan.needs),
        "flags": {
            "before": _flags_document(plan.before, plan.slot),
            "after": _flags_document(plan.after, plan.slot),
        },
    }


def _flags_document(state: State, inactive: Slot) -> Json:
    return {
        slot.value: {"priority": flags.priority, "tries_left": flags.tries, "successful": flags.successful}
        for slot, flags in _flags_by_slot(state, inactive)
    }


def _flags_by_slot(state: State, inactive: Slot) -> list[tuple[Slot, Flags]]:
    pairs = [(inactive.other, state.active), *([(inactive, state.inactive)] if state.inactive else [])]
    return sorted(pairs)


def plan_text(plan: UpdatePlan) -> str:
    """Return `updog plan`: a row for each image, a column for each source of its bytes, then the flags."""
    from updog.image.plan import ChunkSource  # late: `updog status` and `confirm` do not need it

    sources = [s for s in ChunkSource if any(need.raw.get(s) for need in plan.needs)]
    heads = ["image", "size", *(source.value for source in sources), "fetched", "index", "requests", "into"]
    rows = [heads, *(_need_cells(need, sources) for need in plan.needs)]
    total = sum(need.total for need in plan.needs)
    flags = "\n".join(
        f"slot {slot}: {_flags_text(before)} -> {_flags_text(after)}"
        for (slot, before), (_, after) in zip(
            _flags_by_slot(plan.before, plan.slot), _flags_by_slot(plan.after, plan.slot), strict=True
        )
    )
    head = f"{plan.running} -> {plan.update.version} in slot {plan.slot}: {total} bytes from the network"
    urgent = f"\nurgent: {plan.update.urgent}" if plan.update.urgent else ""
    return f"{head} ({traffic_text(total)}){urgent}\n\n{table(rows)}\n\n{flags}\n\nid {plan.id}"


def _need_cells(need: Estimate, sources: Sequence[ChunkSource]) -> list[str]:
    partition = need.placement.partition
    raw = [size_text(need.raw.get(source, 0)) for source in sources]
    size = size_text(need.size) if need.size else "?"
    into = f"{partition.number} {partition.label}"
    return [need.placement.kind, size, *raw, str(need.fetch), str(need.index), str(need.requests), into]


def _flags_text(flags: Flags) -> str:
    return f"priority {flags.priority}, tries {flags.tries}, {'' if flags.successful else 'not '}successful"
