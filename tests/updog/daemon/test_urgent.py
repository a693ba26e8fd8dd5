"""A release that its publisher marked urgent, from the repository to the restart; and how old one is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from tests.support.agents import AgentOnNode, replace_wall
from tests.support.nodes import NEWER, NEWEST, Node, make_node, now
from updog.auto.policy import GateName, Mode, Policy
from updog.auto.table import Phase
from updog.auto.windows import Window, Windows
from updog.daemon.memory import MemoryStore
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

WHY = "fixes CVE-2026-1234, which is exploited"
START = now().replace(second=0, microsecond=0)
CLOSED = Windows(
    windows=(
        Window(
            days=frozenset(range(7)), start=(START + timedelta(hours=11)).time(), length=timedelta(hours=1)
        ),
    )
)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node whose repository has nothing newer yet."""
    node = make_node(
        tmp_path, published=(), reboot_command=["touch", str(tmp_path / "rebooted")], health_checks=[]
    )
    replace_wall(node, monkeypatch)
    return node


def _agent(
    node: Node, *urgent: GateName, later: timedelta = timedelta(), min_age: timedelta = timedelta()
) -> AgentOnNode:
    """Return an agent after its first check, outside its window, which passes ``urgent`` gates.

    Its clock is that of the publisher and ``later``; that of the module's import may be an hour behind.
    """
    policy = Policy(
        mode=Mode.RESTART,
        windows=CLOSED,
        urgent=frozenset(urgent),
        warn=timedelta(minutes=5),
        min_age=min_age,
    )
    agent = AgentOnNode(node=node, policy=policy, moment=now() + later)
    agent.go_on()
    return agent


def _mark(node: Node, urgent: str) -> None:
    decide = rollout.marking(ReleaseName(version=Version.parse(NEWER)), urgent)
    rollout.take(node.repository.folder, decide, now=now())


def _is_rebooted(node: Node) -> bool:
    return (node.folder.parent / "rebooted").exists()


def test_an_urgent_release_passes_the_gates_that_its_node_names_and_says_why(node: Node) -> None:
    node.publish(NEWER, urgent=WHY)
    agent = _agent(node, GateName.MIN_AGE, GateName.WINDOW, GateName.SESSIONS, min_age=timedelta(days=3))
    agent.log_in("anna", "pts/0")
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.LEAVING
    (warning,) = agent.warnings
    assert warning == (
        f"This machine restarts in 5 min for the update to {NEWER}, which is urgent: {WHY}. "
        "`updog agent postpone 2h` postpones it."
    )
    shown = agent.shown.splitlines()
    assert shown[1] == f"urgent    {WHY}"
    passed = [line for line in shown if line.startswith("passed    ")]
    assert [line.endswith(f" Passed: the release is urgent ({WHY}).") for line in passed] == [True, True]
    assert "The window opens" in passed[0]
    assert "1 user is logged in: anna (pts/0)." in passed[1]
    assert not any(line.startswith(("waits for", "then")) for line in shown)
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.GONE
    assert _is_rebooted(node)


@pytest.mark.parametrize(
    ("urgent", "named"),
    [
        pytest.param("", (GateName.WINDOW, GateName.SESSIONS), id="it is not urgent"),
        pytest.param(WHY, (), id="the node names no gates"),
        pytest.param(WHY, (GateName.SESSIONS,), id="the node names other gates"),
    ],
)
def test_other_releases_and_other_gates_wait_as_ever(
    node: Node, urgent: str, named: tuple[GateName, ...]
) -> None:
    node.publish(NEWER, urgent=urgent)
    agent = _agent(node, *named)
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["window"])
    assert ("urgent    " in agent.shown) == bool(urgent)
    assert agent.warnings == []


def test_a_release_that_is_marked_while_it_waits_goes_on_at_the_next_check_and_stops_when_unmarked(
    node: Node,
) -> None:
    node.publish(NEWER)
    agent = _agent(node, GateName.WINDOW)
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["window"])
    agent.inhibit("a backup runs")
    _mark(node, WHY)
    agent.go_on(hours=2)
    assert agent.closed == ["inhibitors"]
    assert MemoryStore(agent.folder).load(agent.moment).urgent == {Version.parse(NEWER): WHY}
    _mark(node, "")
    agent.go_on(hours=2)
    assert agent.closed == ["window", "inhibitors"]
    _mark(node, WHY)
    agent.stop_inhibiting()
    agent.go_on(hours=2)
    assert agent.phase() is Phase.LEAVING


def test_an_urgent_release_goes_on_though_a_later_one_is_offered_that_is_not_urgent(node: Node) -> None:
    node.publish(NEWER, urgent=WHY)
    agent = _agent(node, GateName.MIN_AGE, GateName.WINDOW, min_age=timedelta(days=3))
    agent.inhibit("a backup runs")
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["inhibitors"])
    node.publish(NEWEST)
    agent.go_on(hours=2)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["inhibitors"])
    agent.stop_inhibiting()
    agent.go_on(minutes=5)
    assert agent.phase() is Phase.LEAVING
    assert WHY in agent.warnings[-1]


def test_a_release_that_is_not_urgent_waits_though_a_later_one_is_offered_that_is(node: Node) -> None:
    node.publish(NEWER)
    agent = _agent(node, GateName.WINDOW, later=timedelta(days=2), min_age=timedelta(days=1))
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["window"])
    node.repository.publish(NEWEST, now=now() + timedelta(days=2), urgent=WHY)  # too young for this node
    agent.go_on(hours=2)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["window"])
    offer = agent.daemon.memory.offer
    assert offer is not None
    assert (str(offer.version), offer.urgent) == (NEWEST, WHY)
    assert "urgent" not in agent.shown


def test_users_are_not_told_to_postpone_what_a_postponement_does_not_stop(node: Node) -> None:
    node.publish(NEWER, urgent=f"{WHY}.")
    agent = _agent(node, GateName.WINDOW, GateName.POSTPONE)
    agent.go_on(minutes=20)
    assert agent.warnings == [
        f"This machine restarts in 5 min for the update to {NEWER}, which is urgent: {WHY}."
    ]


def test_users_who_hold_it_up_learn_why_it_is_urgent(node: Node) -> None:
    node.publish(NEWER, urgent=WHY)
    agent = _agent(node, GateName.WINDOW)
    agent.log_in("anna", "pts/0")
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.STAGED, ["sessions"])
    (warning,) = agent.warnings
    assert warning == (
        f"This machine must restart for the update to {NEWER}, which is urgent: {WHY}. It waits up to 10 min "
        "for you to log out. `updog agent postpone 2h` postpones it."
    )


# -- how old a release is


def test_a_release_without_waves_is_as_old_as_its_publication(node: Node) -> None:
    node.publish(NEWER)
    agent = _agent(node, min_age=timedelta(days=1))
    agent.go_on(minutes=20)
    assert (agent.phase(), agent.closed) == (Phase.READY, ["min_age"])
    agent.go_on(hours=22)
    assert agent.phase() is Phase.READY
    agent.go_on(hours=2)
    assert agent.phase() is Phase.STAGED


def test_a_release_with_waves_is_as_old_as_its_first_wave(node: Node) -> None:
    node.publish(NEWER, waves="ohno", start_at=now() - timedelta(days=20))
    agent = _agent(node, min_age=timedelta(days=19))
    agent.go_on(minutes=20)
    assert agent.phase() is Phase.STAGED


# -- what a person asks


def test_why_and_plan_say_that_the_release_is_urgent_and_why(node: Node) -> None:
    node.publish(NEWER, urgent=WHY)
    why = node.updog("why")
    assert why.out.splitlines()[0].endswith(f" Its publisher marked it urgent: {WHY}.")
    document = node.updog("why", "--json").document
    assert [release.get("urgent") for release in document["releases"]] == [WHY, None]
    assert document["releases"][0]["published"].endswith("Z")
    assert node.updog("plan").out.splitlines()[1] == f"urgent: {WHY}"
    assert node.updog("plan", "--json").document["urgent"] == WHY
    node.publish(NEWEST)
    assert "urgent" not in node.updog("plan").out
    assert node.updog("plan", "--json").document["urgent"] is None


def test_an_urgent_release_waits_for_its_wave_and_says_so(node: Node) -> None:
    node.publish(NEWER, urgent=WHY, waves="default")
    why = node.updog("why")
    assert why.status == 3
    assert "opens for this node" in why.out
    assert f" Its publisher marked it urgent: {WHY}." in why.out
