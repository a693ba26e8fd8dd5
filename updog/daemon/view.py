"""How automatic updates stand, for others to read: ``agent.json`` in ``/run/updog``. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from updog.auto.gates import first_closed
from updog.auto.table import Lock, Phase, is_waiting
from updog.daemon.history import merged
from updog.daemon.memory import MAX_EVENTS
from updog.update_metadata.times import (
    format_optional,
    format_time,
    parse_time,
    readable_time,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from updog.auto.gates import Gate
    from updog.auto.policy import Policy
    from updog.auto.table import AutoState
    from updog.daemon.memory import Memory
    from updog.daemon.wishes import Requests

Json = dict[str, Any]

_NEXT = {
    Phase.IDLE: "check",
    Phase.READY: "install",
    Phase.STAGED: "restart",
    Phase.LOCKING: "restart",
    Phase.CLEARED: "restart",
    Phase.LEAVING: "restart",
}
"""What comes next in a phase, where that is known."""

_WITH_RELEASE = frozenset(Phase) - {Phase.START, Phase.OFF, Phase.IDLE, Phase.CHECKING, Phase.TRIAL}
"""Phases in which the version of the state is what the agent works on."""


def document(
    policy: Policy,
    memory: Memory,
    gates: Sequence[Gate],
    requests: Requests,
) -> Json:
    """Return ``agent.json`` (docs/reference/agent.md).

    Args:
        policy: what is configured.
        memory: what the agent remembers.
        gates: their last answers.
        requests: what operators ask for.
    """
    state, wishes = memory.state, requests.wishes
    closed = first_closed(tuple(gates)) if state.phase in _NEXT else None
    at = closed.until if closed and state.phase is not Phase.IDLE else _next_time(policy, state)
    lock = policy.fleet_lock
    return {
        "mode": policy.mode.value,
        "state": state.phase.value,
        "since": format_time(state.since),
        "version": str(state.version) if state.version else None,
        "urgent": _why_urgent(memory),
        "waiting_since": format_optional(state.first_ready if is_waiting(state) else None),
        "waits_long": is_waiting(state) and state.long_wait_told,
        "summary": memory.summary,
        "checked_at": format_optional(memory.checked_at),
        "failed_checks": memory.failed_checks,
        "attempts": state.attempts,
        "next": {"action": _NEXT[state.phase], "at": format_optional(at)} if state.phase in _NEXT else None,
        "gates": [_gate(gate) for gate in gates],
        "lock": {
            "state": state.lock.value,
            "group": lock.group if lock else None,
            "kept_for": str(state.kept_for) if state.kept_for else None,
            "failed_requests": state.unlock_tries,
        },
        "permit": format_optional(wishes.permit),
        "postpone": format_optional(wishes.postpone),
        "hold": {"reason": wishes.hold, "since": format_optional(wishes.held_since)} if wishes.hold else None,
        "events": [event.to_json() for event in merged(requests.events, memory.events)[-MAX_EVENTS:]],
        "counts": memory.counts.to_json(),
    }


def _next_time(policy: Policy, state: AutoState) -> datetime | None:
    """Return when the next action comes if no gate is closed; None: at once, or after an answer."""
    if state.phase is Phase.LEAVING:
        return state.since + policy.warn
    return state.next_check if state.phase is Phase.IDLE else state.retry_at


def _why_urgent(memory: Memory) -> str | None:
    """Return why the release in work is urgent; a version that is only remembered is not in work."""
    offer = memory.in_work
    return offer.urgent or None if offer and memory.state.phase in _WITH_RELEASE else None


def _gate(gate: Gate) -> Json:
    return {
        "gate": gate.name.value,
        "open": gate.is_open,
        "code": gate.code,
        "sentence": gate.sentence,
        "until": format_optional(gate.until),
        "hard": gate.hard,
    }


_STATES = {
    "start": "has just started",
    "off": "is off",
    "idle": "waits for a release",
    "checking": "asks the repository",
    "ready": "{version} is to be installed",
    "installing": "{version} is being installed",
    "staged": "{version} is staged",
    "installed": "{version} is installed",
    "locking": "{version} is staged; the fleet lock is asked for",
    "cleared": "{version} is about to be restarted into",
    "leaving": "this node restarts into {version} soon",
    "gone": "this node is restarting into {version}",
    "trial": "a release is on trial",
}


def text(agent: Mapping[str, Any], *, with_checks: bool = True) -> str:
    """Return ``agent.json`` for people: what the agent does, and everything that it waits for.

    Args:
        agent: the document.
        with_checks: say how many checks failed.
    """
    lines = [f"agent     mode {agent['mode']}; {_STATES[agent['state']].format(version=agent['version'])}"]
    if agent.get("urgent"):  # a daemon that runs may be older
        lines.append(f"urgent    {agent['urgent']}")
    gates = agent["gates"] if agent["next"] else []
    lines.extend(f"passed    {gate['sentence']}" for gate in gates if gate["open"] and gate["sentence"])
    closed = [gate for gate in gates if not gate["open"]]
    lines.extend(
        f"{'waits for' if number == 0 else 'then':9} {gate['sentence']}" for number, gate in enumerate(closed)
    )
    if agent.get("waits_long"):
        since = readable_time(parse_time(agent["waiting_since"]).replace(microsecond=0))
        lines.append(f"waiting   since {since}: too long")
    if agent["next"] and agent["next"]["at"] and not closed:
        at = readable_time(parse_time(agent["next"]["at"]).replace(microsecond=0))
        lines.append(f"next      {_next_words(agent)} at {at}")
    if agent["lock"]["state"] != Lock.NO.value and agent["lock"]["group"]:
        lines.append(
            f"lock      {agent['lock']['state']} in group {agent['lock']['group']}{_lock_more(agent)}"
        )
    if agent["failed_checks"] and with_checks:
        lines.append(f"checks    the last {agent['failed_checks']} failed; `updog check-update` says why")
    return "\n".join(lines)


def _next_words(agent: Mapping[str, Any]) -> str:
    """Return what comes next: of a restart that is not announced, the request for the lock."""
    group = agent["lock"]["group"]
    is_to_be_locked = agent["state"] == Phase.STAGED.value and group
    return f"ask for the fleet lock of group {group}" if is_to_be_locked else agent["next"]["action"]


def _lock_more(agent: Mapping[str, Any]) -> str:
    lock = agent["lock"]
    if lock["kept_for"]:
        return f" because of {lock['kept_for']}"
    is_unanswered = lock["state"] == Lock.ASKED.value and agent["state"] != Phase.LOCKING.value
    return "; the server gave no answer that counts" if is_unanswered else ""
