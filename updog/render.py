"""Values to text and to JSON documents, for people and for machines. PURE: nothing here prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from updog.outcome import Outcome
from updog.progress import megabytes
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signpost.gptprio import Flags
    from signpost.sets import Slot
    from signpost.state import State
    from updog.agent import ImageCheck, Status, UpdatePlan
    from updog.image.plan import Source
    from updog.installing.needs import Needs
    from updog.select import Decision, Verdict
    from updog.state import Event, NodeState
    from updog.update_metadata.manifest import Update

    Json = dict[str, Any]

_STANDING = {
    Outcome.NONE: "no update pending",
    Outcome.STAGED: "{version} is installed in slot {slot}; `updog update-apply` makes it boot next",
    Outcome.WAITING: "{version} in slot {slot} boots next; restart to come up on it",
    Outcome.TRIAL: "{version} runs on trial; `updog confirm` keeps it or falls back",
    Outcome.CONFIRMED: "{version} is confirmed",
    Outcome.FELL_BACK: "{version} fell back",
    Outcome.ROLLED_BACK: "{version} was left by hand",
}


def status_document(status: Status) -> Json:
    """Return `updog status --json` (schema in docs/reference/status.md)."""
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
            "confirmed": view.slots[view.active].flags.successful,
        },
        "disk": {"path": view.disk, "guid": str(view.disk_guid), "faults": list(view.faults)},
        "slots": slots,
        "next": view.next.value if view.next else None,
        "standing": status.outcome.value,
        "pending": state.pending.to_json() if state.pending else None,
        "denied": [
            {"version": str(version), "cause": event.to_json()} for version, event in state.denied.items()
        ],
        "last_rollback": rollback.to_json() if rollback else None,
    }


def status_text(status: Status) -> str:
    """Return `updog status` for people."""
    running, view, state = status.running, status.view, status.state
    confirmed = "confirmed" if view.slots[view.active].flags.successful else "NOT confirmed"
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
        f"running   {running.variant} {running.version} from slot {running.slot.value}, {confirmed}",
        f"disk      {view.disk}",
        f"update    {_standing(status)}",
        "",
        *table(rows),
        "",
        *_trouble(state),
        *(f"table     {fault}; `signpost repair` mends it" for fault in view.faults),
    ]
    if view.next is None:
        lines.append("boot      NOTHING IS BOOTABLE: see docs/how-to/rescue.md before any restart")
    return "\n".join(lines).rstrip()


def _standing(status: Status) -> str:
    """Say where the pending update stands and what to do next."""
    pending = status.state.pending
    if pending is None:
        return _STANDING[Outcome.NONE]
    return _STANDING[status.outcome].format(version=pending.version, slot=pending.slot.value)


def login_text(status: Status) -> str:
    """Return what a person who logs in should know: what runs, what waits, and why a version was left."""
    running, view, rollback = status.running, status.view, status.state.last_rollback
    confirmed = "confirmed" if view.slots[view.active].flags.successful else "NOT confirmed"
    lines = [f"{running.variant} {running.version} runs from slot {running.slot.value}, {confirmed}."]
    if status.outcome is not Outcome.NONE:
        lines.append(f"{_standing(status)}.")
    if rollback is not None and rollback.version in status.state.denied:
        lines.append(f"{_moment(rollback)} {_codes(rollback)}: {rollback.sentence}")
    if view.next is None:
        lines.append("NOTHING IS BOOTABLE: see docs/how-to/rescue.md before any restart.")
    return "\n".join(f"updog: {line}" for line in lines)


def _codes(event: Event) -> str:
    """Return what happened by its stable code, and why by its cause."""
    return f"{event.code.value} ({event.cause})" if event.cause else event.code.value


def _trouble(state: NodeState) -> list[str]:
    """Tell of the last rollback and of what is denied."""
    rollback = state.last_rollback
    lines = [f"rollback  {_moment(rollback)} {_codes(rollback)}: {rollback.sentence}"] if rollback else []
    if state.denied:
        versions = ", ".join(str(version) for version in state.denied)
        lines.append(
            f"denied    {versions} (until a newer version is confirmed, or `updog deny-list --clear`)"
        )
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def history_text(events: Sequence[Event]) -> str:
    """Return the history, oldest first, a line an event."""
    return "\n".join(f"{_moment(event)}  {event.code.value:20}  {event.sentence}" for event in events)


def _moment(event: Event) -> str:
    return f"{event.time:%Y-%m-%d %H:%M} UTC"


def decision_document(decision: Decision, *, everything: bool) -> Json | list[Json]:
    """Return what upstream prints: the update (an object), or with ``everything`` a list of all."""
    if everything:
        return [verdict_document(verdict) for verdict in decision.verdicts]
    update = decision.update
    if update is None:
        return {"update": None, "summary": decision.summary}
    return {**_release_document(update), "summary": decision.summary}


def _release_document(update: Update) -> Json:
    """Return a release as the manifest has it."""
    from updog.update_metadata.manifest import update_to_json  # `updog status` has no use for it

    return update_to_json(update)


def verdict_document(verdict: Verdict) -> Json:
    """Return what was decided about one release, and why."""
    return {
        **_release_document(verdict.update),
        "verdict": verdict.code.value,
        "sentence": verdict.sentence,
        "ready_at": format_time(verdict.ready_at) if verdict.ready_at else None,
    }


def decision_text(decision: Decision, *, everything: bool) -> str:
    """Return the update as upstream prints it (`VARIANT VERSION`), or all of them with their verdicts."""
    if everything:
        rows = [(v.update.variant, str(v.update.version), v.sentence) for v in decision.verdicts]
        return "\n".join(table(rows)) if rows else ""
    update = decision.update
    return f"{update.variant} {update.version}" if update else ""


def why_text(decision: Decision) -> str:
    """Return why this version, or why none, release by release."""
    rows = [(str(verdict.update.version), verdict.sentence) for verdict in decision.verdicts]
    return "\n".join([decision.summary, *([""] if rows else []), *(table(rows) if rows else [])])


def verify_document(slot: str, checks: Sequence[ImageCheck]) -> Json:
    """Return what `updog verify` read."""
    return {
        "slot": slot,
        "images": {check.role: {"size": check.size, "good": check.good} for check in checks},
    }


def plan_document(plan: UpdatePlan) -> Json:
    """Return `updog plan --json`; all figures are bytes."""
    update = plan.update
    return {
        "variant": update.variant,
        "arch": update.arch,
        "path": [str(plan.running), str(update.version)],
        "slot": plan.slot.value,
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
    """Return `updog plan`: one row an image, one column a source, then the partitions and the flags."""
    from updog.image.plan import Source  # `updog status` and `confirm` have no use for it

    sources = [s for s in Source if any(need.raw.get(s) for need in plan.needs)]
    heads = ["image", "size", *(source.value for source in sources), "fetched", "index", "requests", "into"]
    rows = [heads, *(_need_cells(need, sources) for need in plan.needs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    total = sum(need.total for need in plan.needs)
    flags = "\n".join(
        f"slot {slot}: {_flags_text(before)} -> {_flags_text(after)}"
        for (slot, before), (_, after) in zip(
            _flags_by_slot(plan.before, plan.slot), _flags_by_slot(plan.after, plan.slot), strict=True
        )
    )
    head = f"{plan.running} -> {plan.update.version} in slot {plan.slot}: {total} bytes from the network"
    return f"{head} ({megabytes(total)})\n\n{table}\n\n{flags}"


def _need_cells(need: Needs, sources: Sequence[Source]) -> list[str]:
    partition = need.placement.partition
    raw = [megabytes(need.raw.get(source, 0)) for source in sources]
    size = megabytes(need.size) if need.size else "?"
    into = f"{partition.number} {partition.label}"
    return [need.placement.role, size, *raw, str(need.fetch), str(need.index), str(need.requests), into]


def _flags_text(flags: Flags) -> str:
    return f"priority {flags.priority}, tries {flags.tries}, {'' if flags.successful else 'not '}successful"
