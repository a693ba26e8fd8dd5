"""What users and programs read: values in, text and documents out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from signpost.app import Signpost
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from tests.support.nodes import CONFIRMED, disk_bytes
from updog.host import BootId, RunningSlot
from updog.render import (
    decision_document,
    decision_text,
    history_text,
    status_document,
    status_text,
    verify_document,
    why_text,
)
from updog.select import Decision
from updog.standing import Standing
from updog.state import Code, Event, NodeState, PendingUpdate
from updog.update_metadata.version import Version
from updog.views import ImageCheck, Status

V1, V2 = Version.parse("1.0.0"), Version.parse("1.1.0")
MOMENT = datetime(2026, 11, 24, 9, 5, tzinfo=UTC)
FAILED = Event(time=MOMENT, code=Code.BOOT_FAILED, version=V2, sentence="It went down at stage init.")
PENDING = PendingUpdate(version=V2, slot=Slot.B, previous=V1)


def _status(folder: Path, flags: dict[Slot, Flags], *, sound: bool = True) -> Status:
    """Return the status of a node whose disk has these flags, with one bad copy unless ``sound``."""
    disk = folder / "disk.img"
    data = bytearray(disk_bytes(dict.fromkeys(("boot", "root", "hash"), b""), flags=flags))
    if not sound:
        data[512:520] = bytes(8)
    disk.write_bytes(data)
    running = RunningSlot(variant="v", version=V1, boot_id=BootId("b"), slot=Slot.A, disk=str(disk))
    view = Signpost(OsMedium(), str(disk), Slot.A).view()
    return Status(running=running, view=view, state=NodeState(), standing=Standing.NONE)


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


@pytest.mark.parametrize("standing", Standing)
def test_every_standing_is_shown_with_the_next_step(status: Status, standing: Standing) -> None:
    pending = replace(status, state=NodeState(pending=PENDING), standing=standing)
    line = next(line for line in status_text(pending).splitlines() if line.startswith("update"))
    assert "{" not in line
    assert "1.1.0" in line or standing is Standing.NONE
    assert status_document(pending)["standing"] == standing.value


def test_the_last_rollback_and_the_denials_are_reported(status: Status) -> None:
    troubled = replace(status, state=NodeState(denied={V2: FAILED}, history=(FAILED,)))
    text = status_text(troubled)
    assert "rollback  2026-11-24 09:05 UTC boot-failed: It went down at stage init." in text
    assert (
        "denied    1.1.0 (until a newer version is confirmed, or `updog deny-list --clear VERSION`)" in text
    )
    document = status_document(troubled)
    assert document["last_rollback"] == FAILED.to_json()
    assert document["denied"] == [{"version": "1.1.0", "cause": FAILED.to_json()}]


def test_a_table_with_faults_and_no_way_to_boot_is_shown_prominently(tmp_path: Path) -> None:
    bad = _status(tmp_path, {Slot.A: Flags(), Slot.B: Flags()}, sound=False)
    text = status_text(bad)
    assert "table     primary: no GPT signature; `signpost repair` repairs it" in text
    assert text.splitlines()[-1].startswith("boot      NOTHING IS BOOTABLE")
    assert status_document(bad)["next"] is None


def test_an_unconfirmed_slot_is_marked(tmp_path: Path) -> None:
    assert "NOT confirmed" in status_text(_status(tmp_path, {Slot.A: Flags(priority=2), Slot.B: CONFIRMED}))


def test_the_history_is_a_line_an_event_in_utc() -> None:
    held = replace(FAILED, code=Code.HELD_BY_HAND, version=None, sentence="Held.", by="uid 1000, pid 7")
    assert history_text((FAILED, held)).splitlines() == [
        "2026-11-24 09:05 UTC  boot-failed           It went down at stage init.",
        "2026-11-24 09:05 UTC  held-by-hand          Held. By uid 1000, pid 7.",
    ]
    assert history_text(()) == ""


def test_no_decision_is_a_summary_and_an_empty_list() -> None:
    nothing = Decision(update=None, verdicts=(), summary="Nothing.")
    assert decision_document(nothing, everything=False) == {"update": None, "summary": "Nothing."}
    assert decision_document(nothing, everything=True) == []
    assert decision_text(nothing, everything=False) == decision_text(nothing, everything=True) == ""
    assert why_text(nothing) == "Nothing."


def test_what_was_verified_is_a_document() -> None:
    checks = (ImageCheck(kind=ImageKind.ROOT, size=4096, good=True),)
    assert verify_document("A", checks) == {"slot": "A", "images": {"root": {"size": 4096, "good": True}}}


def test_the_reference_page_names_every_member_and_standing(status: Status) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/status.md").read_text(encoding="utf-8")
    document = status_document(status)
    parts = [document["running"], document["disk"], document["slots"]["A"], FAILED.to_json()]
    members = {name for part in (*parts, replace(PENDING, reached="up").to_json()) for name in part}
    words = {*(document.keys() - {"slots"}), *members, *(standing.value for standing in Standing)}
    assert {word for word in words if f"`{word}`" not in page} == set()
