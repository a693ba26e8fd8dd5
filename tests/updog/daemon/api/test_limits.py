"""As many clients as there may be, also bad ones: the others are served, and the agent stays small."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.support.api_clients import Connection, agent_of, configure_api
from tests.support.api_crowds import HALF_A_HEAD, LARGE_HEAD, MAX_CLIENTS, crowd_of
from tests.support.nodes import make_node
from tests.support.patience import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pytest

    from tests.support.api_clients import RunningAgent

MAX_RESIDENT = 32 << 20  # bytes
ROUNDS = 25


@contextmanager
def limited_agent(folder: Path, limits: Mapping[str, float] | None = None) -> Iterator[RunningAgent]:
    """Run an agent; nothing that a client does may be a defect in its log."""
    node = make_node(folder, health_checks=[])
    configure_api(node, max_clients=MAX_CLIENTS)
    with agent_of(node, limits=limits) as agent:
        yield agent
        assert not agent.says("Traceback")
        assert agent.process.poll() is None


def is_refused(agent: RunningAgent) -> bool:
    """Whether there are too many clients for one more."""
    reply = agent.get("/v1/status")
    if reply.status == 200:
        return False
    assert (reply.status, reply.code) == (503, "too-many-clients")
    assert int(reply.headers["retry-after"]) > 0
    return True


def admitted(agent: RunningAgent) -> Connection:
    """Return a connection that is served; one that comes too early after another has left is not."""
    found: list[Connection] = []

    def is_served() -> bool:
        connection = agent.connect()
        if connection.ask("GET", "/v1").status == 200:
            found.append(connection)
        else:
            connection.__exit__()
        return bool(found)

    assert eventually(is_served), "no slot is free again"
    return found[0]


def test_a_client_too_many_is_told_so_and_served_once_another_has_left(tmp_path: Path) -> None:
    with (
        limited_agent(tmp_path) as agent,
        crowd_of(agent, readers=12, slow=10, mute=10) as crowd,
        ExitStack() as others,
    ):
        assert is_refused(agent)
        for one in (crowd.mute[0], crowd.slow[0], crowd.readers[0]):
            one.leave()
            connection = others.enter_context(admitted(agent))
            assert connection.ask("GET", "/v1/status").status == 200
            assert is_refused(agent), "one has left, and one has come"


def test_half_a_head_takes_a_slot_and_one_that_is_too_large_gives_it_back(tmp_path: Path) -> None:
    limits = {"updog.daemon.api.exchange:HEAD_SECONDS": 3600.0}
    with limited_agent(tmp_path, limits) as agent, crowd_of(agent, readers=0, slow=0, mute=MAX_CLIENTS - 1):
        with admitted(agent) as half:
            half.send(HALF_A_HEAD)
            assert is_refused(agent)
        with admitted(agent) as large:
            large.send(LARGE_HEAD)
            reply = large.reply()
            assert (reply.status, reply.code) == (431, "head-too-large")
            admitted(agent).__exit__()


def ask_as_operators(connection: Connection) -> Counter[str]:
    """Ask for a hundred things as operators do, and between them for the status; return what was asked."""
    asked: Counter[str] = Counter()
    begin = datetime.now(UTC) + timedelta(hours=1)
    for number in range(ROUNDS):
        until = (begin + timedelta(minutes=number)).isoformat()
        for method, wish, body, code in (
            ("POST", "hold", f'{{"reason": "rack {number}"}}', "held-by-hand"),
            ("DELETE", "hold", "", "resumed"),
            ("POST", "postpone", f'{{"until": "{until}"}}', "postponed"),
            ("DELETE", "postpone", "", "resumed"),
        ):
            headers = {"Content-Type": "application/json"}
            assert connection.ask(method, f"/v1/auto/{wish}", body.encode(), headers).status == 200
            assert [connection.ask("GET", "/v1/status").status for _ in range(3)] == [200] * 3
            asked[code] += 1
    return asked


def test_those_who_read_hear_all_whatever_the_others_do_and_the_agent_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens here is less than what is kept: on the slowest machine there is no gap."""
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # a run that measures coverage measures processes too, which is not small
    with (
        limited_agent(tmp_path) as agent,
        crowd_of(agent, readers=16, slow=6, mute=7) as crowd,
        agent.connect() as half,
        agent.connect() as large,
        agent.connect() as operator,
    ):
        half.send(HALF_A_HEAD)
        large.send(LARGE_HEAD)
        asked = ask_as_operators(operator)
        assert asked.total() == 100
        assert eventually(lambda: all(len(reader.heard("history")) >= 100 for reader in crowd.readers))
        for reader in crowd.readers:
            assert Counter(event.data["code"] for event in reader.heard("history")) == asked
            assert not reader.heard("gap")
        assert agent.resident() <= MAX_RESIDENT
