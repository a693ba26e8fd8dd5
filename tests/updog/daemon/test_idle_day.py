"""What an idle agent takes, as tools/idle_day.py measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import NEWER
from tools.idle_day import agent_of, measured

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.mark.parametrize("published", [(), (NEWER,)], ids=["nothing new", "knows of an update"])
def test_a_check_takes_two_small_requests_and_a_look_neither_one_nor_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Sequence[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "")  # agent_of sets it
    with agent_of(tmp_path, published) as agent:
        agent.check()  # the first one fetches everything
        check = measured(agent, 2, agent.check)
        assert check.requests == 4
        assert 0 < check.bytes < 5000
        assert check.children > 0
        look = measured(agent, 20, agent.look)
        assert (look.requests, look.bytes, look.children) == (0, 0, 0.0)
