"""What people and machines read: values in, text and documents out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from signpost.app import Signpost
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.support.nodes import CONFIRMED, disk_bytes
from updog.agent import ImageCheck, Status
from updog.host import BootId, Running
from updog.outcome import Outcome
from updog.render import (
    decision_document,
    decision_text,
    history_text,
    status_document,
    status_text,
    table,
    verify_document,
    why_text,
)
from updog.select import Decision
from updog.state import Code, Event, NodeState, Pending
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

V1, V2 = Version.parse("1.0.0"), Version.parse("1.1.0")
MOMENT = datetime(2026, 11, 24, 9, 5, tzinfo=UTC)
FAILED = Event(time=MOMENT, code=Code.BOOT_FAILED, version=V2, sentence="It went down at stage init.")
PENDING = Pending(version=V2, slot=Slot.B, previous=V1)


def _status(folder: Path, flags: dict[Slot, Flags], *, sound: bool = True) -> Status:
    """Return the status of a node whose disk has these flags, with one bad copy unless ``sound``."""
    disk = folder / "disk.img"
    data = bytearray(disk_bytes(dict.fromkeys(("boot", "root", "hash"), b""), flags=flags))
    if not sound:
        data[512:520] = bytes(8)
    disk.write_bytes(data)
    running = Running(variant="v", version=V1, boot_id=BootId("b"), slot=Slot.A, disk=str(disk))
    view = Signpost(OsMedium(), str(disk), Slot.A).view()
    return Status(running=running, view=view, state=NodeState(), outcome=Outcome.NONE)


@pytest.fixture
def status(tmp_path: Path) -> Status:
    """Return the status of a quiet node."""
    return _status(tmp_path, {Slot.A: CONFIRMED, Slot.B: Flags(tries=1)})


def test_a_quiet_node_says_so_in_few_lines(status: Status) -> None:
    assert status_text(status).splitlines() == [
        "running   v 1.0.0 from slot A, confirmed",
        f"disk      {status.view.disk}",
        "update    no update pending",
        "",
        "slot  version  priority  tries  successful",
        "A     unknown  2         0      yes         runs, boots next",
        "B     unknown  0         1      no",
    ]


@pytest.mark.parametrize("outcome", Outcome)
def test_wherever_an_update_stands_it_is_said_with_what_to_do(status: Status, outcome: Outcome) -> None:
    pending = replace(status, state=NodeState(pending=PENDING), outcome=outcome)
    line = next(line for line in status_text(pending).splitlines() if line.startswith("update"))
    assert "{" not in line
    assert "1.1.0" in line or outcome is Outcome.NONE
    assert status_document(pending)["standing"] == outcome.value


def test_the_last_rollback_and_the_denials_are_told(status: Status) -> None:
    troubled = replace(status, state=NodeState(denied={V2: FAILED}, history=(FAILED,)))
    text = status_text(troubled)
    assert "rollback  2026-11-24 09:05 UTC boot-failed: It went down at stage init." in text
    assert "denied    1.1.0 (until a newer version is confirmed, or `updog deny-list --clear`)" in text
    document = status_document(troubled)
    assert document["last_rollback"] == FAILED.to_json()
    assert document["denied"] == [{"version": "1.1.0", "cause": FAILED.to_json()}]


def test_a_table_with_faults_and_no_way_to_boot_is_shouted(tmp_path: Path) -> None:
    bad = _status(tmp_path, {Slot.A: Flags(), Slot.B: Flags()}, sound=False)
    text = status_text(bad)
    assert "table     primary: no GPT signature; `signpost repair` mends it" in text
    assert text.splitlines()[-1].startswith("boot      NOTHING IS BOOTABLE")
    assert status_document(bad)["next"] is None


def test_an_unconfirmed_slot_is_marked(tmp_path: Path) -> None:
    assert "NOT confirmed" in status_text(_status(tmp_path, {Slot.A: Flags(priority=2), Slot.B: CONFIRMED}))


def test_the_history_is_a_line_an_event_in_utc() -> None:
    events = (FAILED, replace(FAILED, code=Code.STATE_LOST, version=None, sentence="Lost."))
    assert history_text(events).splitlines() == [
        "2026-11-24 09:05 UTC  boot-failed           It went down at stage init.",
        "2026-11-24 09:05 UTC  state-lost            Lost.",
    ]
    assert history_text(()) == ""


def test_no_decision_is_a_summary_and_an_empty_list() -> None:
    nothing = Decision(update=None, verdicts=(), summary="Nothing.")
    assert decision_document(nothing, everything=False) == {"update": None, "summary": "Nothing."}
    assert decision_document(nothing, everything=True) == []
    assert decision_text(nothing, everything=False) == decision_text(nothing, everything=True) == ""
    assert why_text(nothing) == "Nothing."


def test_columns_are_aligned_and_lines_end_where_their_text_does() -> None:
    assert table([("a", "long cell", ""), ("longer", "b", "")]) == ["a       long cell", "longer  b"]


def test_what_was_verified_is_a_document() -> None:
    checks = (ImageCheck(role="root", size=4096, good=True),)
    assert verify_document("A", checks) == {"slot": "A", "images": {"root": {"size": 4096, "good": True}}}
