"""What the node remembers: how it changes, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from signpost.sets import ImageKind, Slot
from updog.errors import ConfigError, StateFormatError
from updog.state import (
    CHECKING,
    CODES,
    MAX_FAILED_UNITS,
    MAX_HISTORY,
    ROLLBACKS,
    UP,
    Code,
    Event,
    NodeState,
    PendingUpdate,
    SlotRecord,
)
from updog.update_metadata.content import Content
from updog.update_metadata.version import Version

V1, V2, V3 = (Version.parse(text) for text in ("1.0.0", "1.1.0", "1.2.0"))
MOMENT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
RECORD = SlotRecord(
    variant="synthetic",
    arch="x86_64",
    version=V2,
    images={kind: Content(size=4096, sha256=kind[0] * 64) for kind in ImageKind},
)


def _event(code: Code, version: Version | None = V2, minutes: int = 0) -> Event:
    time = MOMENT + timedelta(minutes=minutes)
    return Event(time=time, code=code, version=version, sentence=f"{version}: {code.value}.")


FULL = NodeState(
    disk_guid="61c63862-c98a-598a-b5b3-eefb91d0e8d2",
    slots={Slot.A: RECORD, Slot.B: RECORD},
    pending=PendingUpdate(version=V2, slot=Slot.B, previous=V1, boot_id="boot"),
    denied={V3: _event(Code.BOOT_FAILED, V3)},
    history=(_event(Code.INSTALLED), _event(Code.STATE_LOST, None)),
    last_check=MOMENT,
    signed_time=MOMENT,
    retried=frozenset({V3}),
    failed_units=frozenset({"web.service", "backup.timer"}),
)


def _encoded(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("state", [NodeState(), FULL], ids=["empty", "full"])
def test_the_json_is_read_back_as_it_was(state: NodeState) -> None:
    assert NodeState.from_json(_encoded(state.to_json())) == state


def test_a_time_that_an_earlier_updog_took_from_the_clock_vouches_for_nothing() -> None:
    document = {**FULL.to_json(), "latest_time": "2046-11-24T09:30:00+00:00"}
    del document["signed_time"]
    assert NodeState.from_json(_encoded(document)).signed_time is None


def test_the_json_is_that_of_format_1() -> None:
    """D99: a later version must read this file; change it only with a new format."""
    assert NodeState(disk_guid="guid", last_check=MOMENT, history=(_event(Code.APPLIED),)).to_json() == {
        "format": 1,
        "disk_guid": "guid",
        "slots": {},
        "pending": None,
        "denied": [],
        "latest_time": "2026-11-24T09:30:00+00:00",
        "history": [
            {
                "time": "2026-11-24T09:30:00+00:00",
                "code": "applied",
                "version": "1.1.0",
                "sentence": "1.1.0: applied.",
            }
        ],
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"\xff\xfe",
        b"\x00" * 512,
        b"[" * 100_000,
        b'{"format": 1}',
    ],
    ids=[
        "empty",
        "torn",
        "null",
        "list",
        "number",
        "no format",
        "not UTF-8",
        "zeros",
        "deep",
        "bare",
    ],
)
@pytest.mark.usefixtures("undisturbed")
def test_anything_else_is_refused_by_one_error(text: bytes) -> None:
    """D76."""
    with pytest.raises(ConfigError):
        NodeState.from_json(text)


def test_a_state_of_a_later_format_is_not_taken_for_a_damaged_one() -> None:
    with pytest.raises(StateFormatError, match="format 2; this updog knows 1"):
        NodeState.from_json(b'{"format": 2, "new": []}')


def _rolled_back(*later: Event) -> NodeState:
    return NodeState(history=(_event(Code.CONFIRMED, V1), _event(Code.BOOT_FAILED, V2), *later))


def test_the_last_rollback_is_shown_until_a_newer_version_is_confirmed() -> None:
    assert _rolled_back().last_rollback == _event(Code.BOOT_FAILED, V2)
    assert _rolled_back(_event(Code.CONFIRMED, V1)).last_rollback == _event(Code.BOOT_FAILED, V2)
    assert _rolled_back(_event(Code.CONFIRMED, V2)).last_rollback == _event(Code.BOOT_FAILED, V2)
    assert _rolled_back(_event(Code.CONFIRMED, V3)).last_rollback is None
    again = _rolled_back(_event(Code.CONFIRMED, V3), _event(Code.HEALTH_FAILED, V2))
    assert again.last_rollback == _event(Code.HEALTH_FAILED, V2)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("slots",), []),
        (("slots",), {"C": RECORD.to_json()}),
        (("slots", "A"), None),
        (("slots", "A", "version"), "one"),
        (("slots", "A", "images"), "root"),
        (("slots", "A", "images", "root"), {"size": 1}),
        (("pending", "slot"), "C"),
        (("pending",), "B"),
        (("denied",), None),
        (("denied", 0, "code"), "no such code"),
        (("history", 0, "time"), "yesterday"),
        (("history", 0, "time"), 5),
        (("history", 0), []),
        (("latest_time",), "2026"),
        (("latest_time",), "2026-11-24T09:30:00"),
        (("latest_time",), 7),
        (("signed_time",), "2026-11-24T09:30:00"),
        (("signed_time",), 7),
    ],
)
def test_one_bad_field_is_refused_too(path: tuple[str | int, ...], value: object) -> None:
    document: Any = FULL.to_json()
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ConfigError):
        NodeState.from_json(_encoded(document))


@pytest.mark.parametrize("length", range(0, len(_encoded(FULL.to_json())), 37))
def test_a_truncated_document_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        NodeState.from_json(_encoded(FULL.to_json())[:length])


def test_the_history_is_bounded_and_loses_its_oldest() -> None:
    state = NodeState()
    for number in range(MAX_HISTORY + 3):
        state = state.with_event(_event(Code.APPLIED, minutes=number))
    assert len(state.history) == MAX_HISTORY
    assert state.history[0] == _event(Code.APPLIED, minutes=3)
    assert state.history[-1] == _event(Code.APPLIED, minutes=MAX_HISTORY + 2)
    assert NodeState.from_json(_encoded(state.to_json())) == state


def test_leaving_a_version_keeps_its_history_bounded_too() -> None:
    state = NodeState(history=(_event(Code.APPLIED),) * MAX_HISTORY)
    assert len(state.with_left(_event(Code.BOOT_FAILED)).history) == MAX_HISTORY


def test_a_version_that_was_left_is_denied_with_its_cause() -> None:
    cause = _event(Code.BOOT_FAILED)
    state = FULL.with_left(cause)
    assert state.denied[V2] == cause
    assert state.denied[V3] == FULL.denied[V3]
    assert state.pending is None
    assert state.last_rollback == cause


def test_a_confirmed_version_forgives_itself_and_all_before_it_but_none_after() -> None:
    """D43."""
    denied = {version: _event(Code.BOOT_FAILED, version) for version in (V1, V2, V3)}
    assert set(NodeState(denied=denied).with_confirmed(V2).denied) == {V3}


def test_a_denial_can_be_cleared_alone() -> None:
    denied = {version: _event(Code.BOOT_FAILED, version) for version in (V1, V2)}
    state = NodeState(denied=denied)
    assert set(state.without_denial(V1).denied) == {V2}
    assert state.without_denial(V3) == state


def test_the_last_rollback_is_the_newest_of_its_kind() -> None:
    events = [_event(code, minutes=number) for number, code in enumerate([*ROLLBACKS, Code.CONFIRMED])]
    assert NodeState(history=tuple(events)).last_rollback == events[-2]
    assert NodeState(history=(_event(Code.CONFIRMED),)).last_rollback is None


def test_before_a_slot_is_written_nothing_is_known_to_be_in_it() -> None:
    state = FULL.with_slot_emptied(Slot.B)
    assert state.version_in(Slot.B) is None
    assert state.version_in(Slot.A) == V2
    assert state.pending is None


def test_an_installed_slot_is_pending_until_it_is_confirmed() -> None:
    state = NodeState().with_installed(Slot.B, RECORD, V1)
    assert state.version_in(Slot.B) == V2
    assert state.pending == PendingUpdate(version=V2, slot=Slot.B, previous=V1)
    assert state.with_applied("boot").pending == PendingUpdate(
        version=V2, slot=Slot.B, previous=V1, boot_id="boot"
    )
    assert state.with_applied("boot").with_applied(None) == state
    assert state.with_confirmed(V2).pending is None


def test_applying_without_a_pending_update_changes_nothing() -> None:
    assert NodeState().with_applied("boot") == NodeState()


def test_every_code_has_a_meaning() -> None:
    assert list(CODES) == list(Code)


def test_an_event_of_a_later_updog_is_kept_as_it_is() -> None:
    """D99: the other slot may be newer; falling back from it must not cost the node its memory."""
    document: Any = FULL.to_json()
    document["history"][0] |= {"code": "taken-by-aliens", "cause": "curiosity", "planet": "Mars"}
    document["later"] = {"member": 1}
    state = NodeState.from_json(_encoded(document))
    assert state.history[0].code.value == "taken-by-aliens"
    assert NodeState.from_json(_encoded(state.to_json())) == state
    assert state.history[0].to_json()["cause"] == "curiosity"


def test_how_far_a_trial_came_only_grows_and_is_forgotten_when_it_is_applied_again() -> None:
    state = FULL.with_reached(UP).with_reached(CHECKING).with_reached(UP)
    assert state.pending is not None
    assert state.pending.reached == CHECKING
    assert NodeState.from_json(_encoded(state.to_json())) == state
    assert state.with_applied("boot") == FULL
    assert NodeState().with_reached(UP) == NodeState()


def test_a_line_in_the_queue_that_is_none_does_not_cost_the_rest() -> None:
    document: Any = FULL.with_records_seen(["b", "a"]).to_json() | {"outbox": [{"outcome": 1}, 7, None]}
    assert NodeState.from_json(_encoded(document)) == FULL.with_records_seen(["a", "b"])


def _fallback(cause: str | None, version: Version = V3) -> Event:
    return replace(_event(Code.BOOT_FAILED, version), cause=cause)


DAY = timedelta(days=1)
UNKNOWN = frozenset({"unknown"})


@pytest.mark.parametrize("cause", ["unknown", None])
def test_a_version_that_fell_back_without_a_cause_is_due_once_and_only_later(cause: str | None) -> None:
    state = NodeState().with_left(_fallback(cause))
    assert state.due_again(MOMENT + DAY - timedelta(seconds=1), DAY, UNKNOWN) == set()
    assert state.due_again(MOMENT + DAY, DAY, UNKNOWN) == {V3}
    again = state.with_retry(V3)
    assert again.denied == {}
    left_again = again.with_left(_fallback(cause))
    assert left_again.due_again(MOMENT + 400 * DAY, DAY, UNKNOWN) == set()
    assert left_again.without_denial(V3).with_left(_fallback(cause)).due_again(MOMENT + DAY, DAY, UNKNOWN)


@pytest.mark.parametrize(
    "event",
    [
        _fallback("verity-failed"),
        replace(_event(Code.HEALTH_FAILED, V3), cause="unknown"),
        _event(Code.ROLLED_BACK_BY_HAND, V3),
    ],
    ids=["named", "health check", "operator"],
)
def test_a_version_that_was_left_for_a_reason_stays_denied(event: Event) -> None:
    assert NodeState().with_left(event).due_again(MOMENT + 400 * DAY, DAY, UNKNOWN) == set()


def test_a_fallback_of_which_the_clock_was_ahead_waits_for_nothing() -> None:
    assert NodeState().with_left(_fallback(None)).due_again(MOMENT - DAY, DAY, UNKNOWN) == {V3}


def test_confirming_forgets_retries_of_older_versions_and_of_the_version_itself() -> None:
    state = NodeState(retried=frozenset({V1, V2, V3}))
    assert state.with_confirmed(V2).retried == {V3}


def test_the_list_of_failed_units_is_bounded() -> None:
    state = NodeState().with_failed_units(f"unit-{number}.service" for number in range(5000))
    assert len(state.failed_units) == MAX_FAILED_UNITS
