"""What the agent says of its next action: a time that is true, or none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from updog.auto.policy import FleetLock, Mode, Policy
from updog.auto.table import AutoState, Lock, Phase
from updog.daemon import view
from updog.daemon.memory import Memory
from updog.daemon.wishes import Requests
from updog.update_metadata.version import Version
from updog.url import WEB, Url

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)
POLICY = Policy(mode=Mode.RESTART, warn=HALF_AN_HOUR)


LOCKED = replace(POLICY, fleet_lock=FleetLock(base_url=Url.parse("https://lock.example/", WEB), group="web"))


def document(
    phase: Phase, *, retry_at: datetime | None = None, policy: Policy = POLICY, lock: Lock = Lock.NO
) -> view.Json:
    """Return what is said in ``phase``, which began at noon, while no gate is closed."""
    memory = Memory.new(NOON)
    state: AutoState = replace(
        memory.state, phase=phase, since=NOON, version=Version.parse("1.1.0"), retry_at=retry_at, lock=lock
    )
    return view.document(policy, replace(memory, state=state), [], Requests())


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


def test_a_node_that_was_refused_the_lock_says_when_it_asks_again() -> None:
    said = document(Phase.STAGED, retry_at=NOON + HALF_AN_HOUR, policy=LOCKED)
    assert "next      ask for the fleet lock of group web at 2026-11-28 12:30 UTC" in view.text(said)
    assert "\nlock " not in view.text(said)


def test_a_lock_server_that_gave_no_answer_is_told_from_one_that_is_asked_now() -> None:
    said = document(Phase.STAGED, retry_at=NOON + HALF_AN_HOUR, policy=LOCKED, lock=Lock.ASKED)
    assert "lock      asked in group web; the server gave no answer that counts" in view.text(said)
    asks = view.text(document(Phase.LOCKING, policy=LOCKED, lock=Lock.ASKED))
    assert asks.endswith("lock      asked in group web")
