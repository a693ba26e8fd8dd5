"""What the agent says of its next action: a time that is true, or none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from updog.auto.policy import Mode, Policy
from updog.auto.table import AutoState, Phase
from updog.daemon import view
from updog.daemon.memory import Memory
from updog.daemon.wishes import Requests
from updog.update_metadata.version import Version

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)
POLICY = Policy(mode=Mode.RESTART, warn=HALF_AN_HOUR)


def document(phase: Phase, *, retry_at: datetime | None = None) -> view.Json:
    """Return what is said in ``phase``, which began at noon, while no gate is closed."""
    memory = Memory.new(NOON)
    state: AutoState = replace(
        memory.state, phase=phase, since=NOON, version=Version.parse("1.1.0"), retry_at=retry_at
    )
    return view.document(POLICY, replace(memory, state=state), [], Requests())


def test_an_announced_restart_comes_when_the_warning_is_over() -> None:
    said = document(Phase.LEAVING)
    assert said["next"] == {"action": "restart", "at": "2026-11-28T12:30:00Z"}
    assert "next      restart at 2026-11-28 12:30 UTC" in view.text(said)


@pytest.mark.parametrize("phase", [Phase.LOCKING, Phase.CLEARED, Phase.STAGED])
def test_a_restart_that_nobody_has_announced_has_no_time(phase: Phase) -> None:
    said = document(phase)
    assert said["next"] == {"action": "restart", "at": None}
    assert "next " not in view.text(said)


@pytest.mark.parametrize(("phase", "action"), [(Phase.READY, "install"), (Phase.STAGED, "restart")])
def test_what_failed_comes_again_at_its_time(phase: Phase, action: str) -> None:
    said = document(phase, retry_at=NOON + HALF_AN_HOUR)
    assert said["next"] == {"action": action, "at": "2026-11-28T12:30:00Z"}
