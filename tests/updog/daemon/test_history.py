"""One history: what updog did, what the agent did, and what operators asked, in the order of time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from signpost.sets import Slot
from tests.support.nodes import NEWER, Node, make_node
from updog.auto.policy import Policy
from updog.daemon import asked, view, wishes
from updog.daemon.history import merged
from updog.daemon.memory import MAX_EVENTS, Memory, MemoryStore
from updog.state import Code, Event
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BY = "uid 1000 (anna), pid 4711, curl"


def event(code: Code, time: datetime = NOON) -> Event:
    return Event(time=time, code=code, version=Version.parse(NEWER), sentence=f"It was {code}.")


LOCK_TAKEN, INSTALLED, HELD = event(Code.LOCK_TAKEN), event(Code.INSTALLED), event(Code.HELD_BY_HAND)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return make_node(tmp_path, health_checks=[])


def remember(node: Node, *events: Event) -> Path:
    """Save events as the agent does; return its file."""
    store = MemoryStore(node.folder / "state")
    memory = Memory.new(NOON)
    for each in events:
        memory = memory.with_event(each)
    store.save(memory)
    return store.path


def test_events_are_put_together_by_time() -> None:
    later = replace(INSTALLED, time=NOON + 2 * SECOND)
    assert merged([HELD, later], [INSTALLED], [replace(LOCK_TAKEN, time=NOON + SECOND)]) == (
        HELD,
        INSTALLED,
        replace(LOCK_TAKEN, time=NOON + SECOND),
        later,
    )


def test_within_a_second_what_was_asked_comes_before_what_was_done() -> None:
    fraction = timedelta(milliseconds=900)  # kept in memory, not in the files
    assert merged([replace(HELD, time=NOON + fraction)], [INSTALLED])[0].code is Code.HELD_BY_HAND


def test_the_history_has_what_updog_and_the_agent_did_and_what_was_asked_without_a_daemon(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert node.updog("agent", "hold", "moving racks").status == 0
    assert node.updog("agent", "resume").status == 0
    monkeypatch.setenv("UPDOG_BY", BY)
    assert node.updog("update").status == 0
    monkeypatch.delenv("UPDOG_BY")
    assert node.updog("update-revert").status == 0
    remember(node, replace(LOCK_TAKEN, time=datetime.now(UTC) + SECOND))
    shown: list[dict[str, Any]] = node.updog("history", "--json").document
    assert [each["code"] for each in shown] == [
        "held-by-hand",
        "resumed",
        "installed",
        "applied",
        "reverted",
        "lock-taken",
    ]
    assert [each.get("by") == BY for each in shown] == [False, False, True, True, False, False]
    assert shown[0]["by"].startswith("uid ")
    assert not {"by"} & (shown[4].keys() | shown[5].keys())
    lines = node.updog("history").out.splitlines()
    assert "moving racks" in lines[0]
    assert lines[2].endswith(f"By {BY}.")


def test_who_asked_is_one_short_printable_line_whatever_the_variable_says(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPDOG_BY", "\x1b[2Janna\n" + "x" * 5000)
    assert node.updog("update").status == 0
    by = node.state().history[-1].by or ""
    assert by.startswith(r"\x1b[2Janna x")
    assert len(by) < 250


def test_a_denial_says_who_rolled_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.updog("update").status == 0
    node.boot()
    assert node.updog("confirm").status == 0
    monkeypatch.setenv("UPDOG_BY", BY)
    assert node.updog("rollback").status == 0
    denied = node.updog("deny-list", "--json").document
    assert [each["by"] for each in denied] == [BY]
    assert node.flags(Slot.A).priority > node.flags(Slot.B).priority


@pytest.mark.parametrize("content", [b"{", b'{"format": 99, "events": []}'])
def test_an_agents_file_that_cannot_be_read_hides_only_itself_and_is_left_as_it_is(
    node: Node, content: bytes
) -> None:
    assert node.updog("agent", "hold", "moving racks").status == 0
    path = remember(node, LOCK_TAKEN)
    path.write_bytes(content)
    done = node.updog("history", "--json")
    assert [each["code"] for each in done.document] == ["held-by-hand"]
    assert path.read_bytes() == content
    assert sorted(each.name for each in path.parent.glob("auto.json*")) == ["auto.json"]


def test_requests_that_cannot_be_read_hide_only_themselves(node: Node) -> None:
    remember(node, LOCK_TAKEN)
    (node.folder / "state/wishes.json").write_text("[")
    assert [each["code"] for each in node.updog("history", "--json").document] == ["lock-taken"]


def test_what_the_agent_says_of_itself_has_both_and_is_bounded(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    requests = wishes.change(tmp_path, lambda before: asked.hold(before, "racks", now=NOON, by=BY))
    memory = Memory.new(NOON).with_event(replace(LOCK_TAKEN, time=NOON + SECOND))
    shown = view.document(Policy(), memory, (), requests)["events"]
    assert [(each["code"], each.get("by")) for each in shown] == [("held-by-hand", BY), ("lock-taken", None)]
    for number in range(MAX_EVENTS):
        memory = memory.with_event(replace(LOCK_TAKEN, time=NOON + number * SECOND))
    assert len(view.document(Policy(), memory, (), requests)["events"]) == MAX_EVENTS
