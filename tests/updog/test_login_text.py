"""The login message where an agent runs: one line for a release that waits, from what the agent says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.nodes import NEWER, Node, make_node
from updog.render import login_text

if TYPE_CHECKING:
    from updog.views import Status

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
STAGED = f"updog: {NEWER} is staged, and waits for its restart since 2026-11-28 11:00 UTC. The window opens."
READY = f"updog: {NEWER} waits to be installed since 2026-11-27 12:00 UTC. The window opens."
BY_HAND = f"updog: {NEWER} is installed in slot B; `updog update-apply` makes it boot next."


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Status:
    return make_node(tmp_path_factory.mktemp("quiet")).agent().status()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    node = make_node(tmp_path_factory.mktemp("staged"))
    node.updog("update-image")
    return node


@pytest.fixture(scope="module")
def staged(node: Node) -> Status:
    return node.agent().status()


def agent(*, hours: float = 1, version: str = NEWER, **changes: Any) -> dict[str, Any]:
    """Return what the login message reads of an agent for which a release is ready since some hours."""
    since = (NOON - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    gates = [
        {"gate": "hold", "open": True, "sentence": ""},
        {"gate": "window", "open": False, "sentence": "The window opens."},
        {"gate": "sessions", "open": False, "sentence": "1 user is logged in."},
    ]
    return {"mode": "restart", "version": version, "waiting_since": since, "gates": gates} | changes


def lines(status: Status, document: dict[str, Any] | None) -> list[str]:
    return login_text(status, document, NOON).splitlines()


def test_a_staged_release_has_one_line_that_says_what_it_waits_for(staged: Status) -> None:
    assert lines(staged, agent())[1:] == [STAGED]


def test_a_release_that_waits_to_be_installed_has_one_after_a_day(quiet: Status) -> None:
    assert lines(quiet, agent(hours=24))[1:] == [READY]
    assert lines(quiet, agent(hours=23.9))[1:] == []


def test_without_an_agent_the_next_step_is_an_operators(staged: Status, quiet: Status) -> None:
    assert lines(staged, None)[1:] == [BY_HAND]
    assert lines(quiet, None)[1:] == []


@pytest.mark.parametrize(
    "document", [agent(waiting_since=None), agent(version="1.2.0"), agent(mode="install")]
)
def test_what_the_agent_does_not_restart_into_is_an_operators_too(
    staged: Status, document: dict[str, Any]
) -> None:
    assert lines(staged, document)[1:] == [BY_HAND]


def test_where_no_gate_is_closed_it_says_only_since_when(staged: Status) -> None:
    assert lines(staged, agent(gates=[]))[1:] == [STAGED.removesuffix(" The window opens.")]


def test_once_it_boots_next_that_is_what_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    node = make_node(tmp_path_factory.mktemp("applied"))
    node.updog("update")
    assert lines(node.agent().status(), agent())[1:] == [
        f"updog: {NEWER} in slot B boots next; restart to run it."
    ]
