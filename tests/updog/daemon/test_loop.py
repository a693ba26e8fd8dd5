"""The agent drives a real node on a real machine, whose folders and clock are the test's."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from signpost.sets import Slot
from tests.support.agents import NOON, AgentOnNode, replace_wall
from tests.support.nodes import NEWER, Node, make_node, now
from updog.auto.gates import Gate
from updog.auto.policy import GateName, Mode, Policy
from updog.auto.table import Act, AutoState, Notice, Phase
from updog.auto.windows import Window, Windows
from updog.daemon import asked, wishes
from updog.daemon.children import Children
from updog.daemon.loop import COMMANDS, ORPHAN_WAIT
from updog.daemon.memory import Counts, Memory, MemoryStore
from updog.state import CODES, Code
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

BY = "uid 1000 (anna), pid 4711, bash"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    rebooted = tmp_path / "rebooted"
    node = make_node(tmp_path, reboot_command=["touch", str(rebooted)], health_checks=[])
    replace_wall(node, monkeypatch)
    return node


def _is_rebooted(node: Node) -> bool:
    return (node.folder.parent / "rebooted").exists()


def test_a_node_stages_at_once_and_restarts_without_gates(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    agent.go_on()
    assert agent.phase() is Phase.IDLE  # the first check is minutes away: a whole fleet may have started
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.GONE
    assert _is_rebooted(node)
    assert node.flags(Slot.B).priority > node.flags(Slot.A).priority


def test_it_waits_for_its_window_and_flips_no_flag_before(node: Node) -> None:
    window = Window(
        days=frozenset(range(7)), start=(NOON + timedelta(hours=11)).time(), length=timedelta(hours=1)
    )
    policy = Policy(mode=Mode.RESTART, windows=Windows(windows=(window,)), warn=timedelta(minutes=5))
    agent = AgentOnNode(node=node, policy=policy)
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["window"])
    assert node.flags(Slot.B).priority == 0
    agent.go_on(hours=11)
    assert agent.phase() is Phase.LEAVING
    assert agent.warnings
    assert not _is_rebooted(node)
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.GONE
    assert _is_rebooted(node)
    node.boot()
    agent.start()
    agent.go_on()
    assert agent.phase() is Phase.TRIAL
    assert node.updog("confirm").status == 0
    agent.go_on()
    assert agent.phase() is Phase.IDLE


def test_users_are_warned_and_waited_for_then_the_node_restarts(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    agent.log_in("anna", "pts/0")
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["sessions"])
    assert len(agent.warnings) == 1
    agent.go_on(minutes=11)
    assert agent.phase() is Phase.GONE


def test_a_release_that_is_held_while_it_waits_is_taken_back_by_the_next_look(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART))
    agent.inhibit("a backup runs")
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["inhibitors"])
    rollout.hold(node.repository.folder, ReleaseName(version=Version.parse(NEWER)), now=now())
    agent.stop_inhibiting()
    agent.go_on(hours=2)
    assert agent.phase() is Phase.IDLE
    assert not _is_rebooted(node)


def test_what_an_operator_holds_is_neither_installed_nor_restarted(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    wishes.change(agent.folder, lambda before: asked.hold(before, "racks", now=NOON, by=BY))
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.READY, ["hold"])
    assert node.state().pending is None
    wishes.change(agent.folder, lambda _: wishes.Requests())
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.GONE


def test_a_restart_that_was_announced_is_taken_back_when_it_is_postponed(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta(minutes=5)))
    agent.go_on()
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.LEAVING
    until = agent.moment + timedelta(hours=2)
    wishes.change(agent.folder, lambda before: asked.postpone(before, until, now=agent.moment, by=BY))
    agent.go_on(minutes=1)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["postpone"])
    assert node.flags(Slot.B).priority == 0
    agent.go_on(hours=2)
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.GONE


def test_an_agent_that_was_killed_before_the_restart_takes_it_back_and_begins_again(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta(minutes=5)))
    agent.go_on()
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.LEAVING
    agent.start()
    agent.go_on()
    assert node.codes()[-2:] == ["reverted", "applied"]
    assert agent.phase() is Phase.LEAVING
    assert len(agent.warnings) == 2  # the users get the whole time again
    assert not _is_rebooted(node)


def test_the_child_of_an_agent_that_was_killed_is_waited_for(node: Node) -> None:
    children = Children([sys.executable, "-c", "import time; time.sleep(60)"], node.folder / "run/updog")
    children.start("job", ())
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART))
    assert agent.daemon.look() == NOON + ORPHAN_WAIT
    assert agent.phase() is Phase.START
    os.kill(children.pid("job"), signal.SIGKILL)
    assert children.wait("job").status == -signal.SIGKILL
    agent.go_on()
    assert agent.phase() is Phase.IDLE


def test_a_blocker_that_objects_is_asked_again_and_holds_the_restart_up(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    agent.block("20-raid", "a disk is rebuilt")
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["blockers"])
    agent.stop_blocking("20-raid")
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.GONE


def test_with_a_sentinel_another_program_restarts_and_a_withdrawn_release_removes_it(
    node: Node, tmp_path: Path
) -> None:
    sentinel = tmp_path / "reboot-required"
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, sentinel=sentinel))
    agent.go_on()
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.INSTALLED
    assert sentinel.read_text() == f"updog: {NEWER} is installed\n"
    assert node.flags(Slot.B).priority > node.flags(Slot.A).priority
    rollout.hold(node.repository.folder, ReleaseName(version=Version.parse(NEWER)), now=now())
    agent.go_on(hours=2)
    assert not sentinel.exists()
    assert node.flags(Slot.B).priority == 0
    assert not _is_rebooted(node)


def test_bug_247_1938_1561_what_was_rolled_back_by_hand_is_not_taken_again(node: Node) -> None:
    """Fcos #247, fcos #1938, Flatcar #1561."""
    assert node.updog("update").status == 0
    node.boot()
    assert node.updog("confirm").status == 0
    assert node.updog("rollback").status == 0
    node.boot()
    assert node.updog("boot-record").status == 0
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    agent.go_on()
    agent.go_on(minutes=20)
    assert agent.daemon.memory.checked_at == agent.moment
    assert agent.phase() is Phase.IDLE
    assert node.codes().count("installed") == 1
    assert not _is_rebooted(node)


def test_a_node_that_only_knows_of_an_update_is_asked_how_it_stands_only_when_its_state_changed(
    node: Node,
) -> None:
    """A process every five minutes would be most of what an agent that only checks costs."""
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.CHECK))
    agent.go_on()
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.READY, ["mode"])
    agent.go_on(minutes=5)
    asked_at = (node.folder / "run/updog").stat().st_mtime_ns  # of the files with answers, which are removed
    agent.go_on(minutes=5)
    assert (node.folder / "run/updog").stat().st_mtime_ns == asked_at
    assert node.updog("update-image").status == 0
    agent.go_on(minutes=5)
    assert (node.folder / "run/updog").stat().st_mtime_ns > asked_at


def test_with_mode_off_it_does_nothing(node: Node) -> None:
    before = node.disk_digest()
    agent = AgentOnNode(node=node, policy=Policy())
    agent.go_on()
    agent.go_on(hours=3)
    assert agent.phase() is Phase.OFF
    assert node.disk_digest() == before
    assert node.state().last_check is None


def test_a_repository_that_cannot_be_reached_is_counted_and_stops_nothing(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART))
    agent.go_on()
    node.lose_repository()
    agent.go_on(minutes=20)
    agent.go_on(hours=2)
    assert agent.phase() is Phase.IDLE
    assert agent.daemon.memory.failed_checks == 2


def test_a_wait_that_is_too_long_is_an_event_that_says_what_for(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART))
    agent.inhibit("a backup runs")
    agent.go_on()
    agent.go_on(minutes=20)
    agent.go_on(hours=23)
    assert "too long" not in agent.shown
    agent.go_on(hours=2)
    (event,) = [event for event in agent.daemon.memory.events if event.code is Code.WAITS_LONG]
    assert event.sentence.startswith(f"{NEWER} has been ready since ")
    assert event.sentence.endswith("(a backup runs).")
    assert "too long" in agent.shown
    agent.start()
    agent.go_on()
    agent.go_on(days=2)
    assert [event.code for event in agent.daemon.memory.events].count(Code.WAITS_LONG) == 1
    agent.stop_inhibiting()
    agent.go_on(minutes=5)
    assert "too long" not in agent.shown or agent.phase() is Phase.LEAVING


def test_what_is_counted_goes_on_after_a_restart_of_the_agent(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART, warn=timedelta()))
    until = NOON + timedelta(hours=1)
    wishes.change(agent.folder, lambda before: asked.postpone(before, until, now=NOON, by=BY))
    agent.go_on()
    agent.go_on(minutes=20)
    assert agent.daemon.memory.counts == Counts(checks={"update": 1}, restarts=0, postponed=1)
    agent.start()
    agent.go_on(hours=1)
    assert agent.phase() is Phase.GONE
    assert agent.daemon.memory.counts == Counts(checks={"update": 1}, restarts=1, postponed=1)


def test_each_thing_that_was_asked_is_seen_once_also_after_the_oldest_was_dropped(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.CHECK))

    def postpone(moment: datetime) -> None:
        until = moment + timedelta(hours=1)
        wishes.change(agent.folder, lambda before: asked.postpone(before, until, now=moment, by=BY))

    for number in range(asked.MAX_EVENTS):
        postpone(NOON + timedelta(minutes=number))
        if number in {0, 1}:
            agent.go_on()
            assert agent.daemon.memory.counts.postponed == number + 1
    for _ in range(2):  # both within one second
        postpone(NOON + timedelta(minutes=asked.MAX_EVENTS))
    agent.go_on()
    assert agent.daemon.memory.counts.postponed == asked.MAX_EVENTS + 2


def test_the_memory_of_an_agent_that_counted_nothing_is_read(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.CHECK))
    agent.go_on()
    store = MemoryStore(agent.folder)
    document = json.loads(store.path.read_bytes())
    del document["counts"]
    store.path.write_text(json.dumps(document), encoding="utf-8")
    assert store.load(NOON).counts == Counts()


def test_what_it_remembers_is_read_as_it_was_written(node: Node) -> None:
    agent = AgentOnNode(node=node, policy=Policy(mode=Mode.RESTART))
    agent.inhibit("a backup runs")
    agent.go_on()
    agent.go_on(minutes=20)
    memory = agent.daemon.memory
    assert memory.offer is not None
    assert memory.offer.version == Version.parse(NEWER)
    assert MemoryStore(agent.folder).load(NOON) == memory


def test_a_damaged_memory_is_put_aside_and_may_hold_the_lock(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    store = MemoryStore(tmp_path)
    store.path.write_bytes(b'{"format": 1, "state": {}}')
    assert store.load(NOON) == Memory.new(NOON)
    assert (tmp_path / "auto.json.damaged").exists()


def test_requests_that_cannot_be_read_are_a_hold(tmp_path: Path) -> None:
    (tmp_path / "wishes.json").write_text("[")
    assert "cannot be read" in str(wishes.read(tmp_path).wishes.hold)


def test_what_the_agent_notes_has_a_code_of_the_history() -> None:
    assert {notice.value for notice in Notice} <= {code.value for code in CODES}


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (Gate(name=GateName.INHIBITORS), ("agent", "restart", "--json")),
        (Gate(name=GateName.SESSIONS, sentence="1 user. Passed: a permit."), ("agent", "restart", "--json")),
        (
            Gate(name=GateName.INHIBITORS, sentence="A backup runs. Passed: the release has waited."),
            ("agent", "restart", "--ignore-inhibitors", "--json"),
        ),
    ],
)
def test_a_restart_asks_inhibitors_unless_they_no_longer_count(gate: Gate, words: tuple[str, ...]) -> None:
    state = AutoState(phase=Phase.LEAVING, since=NOON)
    assert COMMANDS[Act.RESTART].words(state, [gate]) == words
