"""The status follows what no file tells, and clients do not wait for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signpost.cli import program
from signpost.console import run
from tests.support.api_clients import agent_of, configure_api
from tests.support.nodes import make_node
from tests.support.patience import eventually
from updog.durable import stamp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.api_clients import RunningAgent

_SOON, _NEVER = 0.2, 3600.0  # seconds
_LIMITS = {
    f"updog.daemon.api.{module}:{name}": seconds
    for module in ("node", "start")
    for name, seconds in (("MAX_AGE", _SOON), ("OLDEST", _NEVER))
}
"""No answer waits for a new status: only the agent itself asks for one."""


def next_slot(agent: RunningAgent) -> str:
    return str(agent.get("/v1/status").document["slots"])


def test_a_flag_that_was_changed_by_hand_shows_without_anybody_waiting_for_it(tmp_path: Path) -> None:
    node = make_node(tmp_path, health_checks=[])
    configure_api(node)
    with agent_of(node, limits=_LIMITS) as agent:
        before = next_slot(agent)
        assert run(program, ["--disk", str(node.disk), "rescue", "B"]) == 0
        files = [node.state_file, node.state_file.with_name("auto.json")]
        stamps = [stamp(file) for file in files]
        assert eventually(lambda: next_slot(agent) != before)
        assert [stamp(file) for file in files] == stamps, "what a file tells would have shown it anyway"
