"""The stream of events: what happens, in order, and nothing left out for those who come back."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api_clients import Connection, EventStream, agent_of, configure_api
from tests.support.nodes import NEWER, make_node
from tests.support.patience import eventually, slowness_of_this_run
from updog.api_keys import Grantee
from updog.daemon.api import exchange, v1
from updog.daemon.api.documents import EventName
from updog.daemon.api.door import listen
from updog.daemon.api.events import KEPT, Events
from updog.daemon.api.jobs import JobRunner
from updog.daemon.api.node import NodeReader
from updog.daemon.api.route import Right
from updog.daemon.api.routes import ROUTES, Grants, Router
from updog.daemon.api.server import Listener, Server
from updog.daemon.children import Children

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.api_clients import StreamedEvent
    from tests.support.nodes import Node


MAX_CLIENTS = 32


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A server in this process whose events are made by the test."""

    path: Path
    events: Events
    connections: ExitStack

    def happen(self, *numbers: int, size: int = 0) -> None:
        """Let events happen that have these numbers, and so many bytes besides."""
        for number in numbers:
            self.events.add(EventName.AUTO, {"number": number, "text": "x" * size})

    def listen(self, last_id: str | None = None, *, as_sse: bool = False) -> EventStream:
        """Return a stream on a new connection, which is open until the test ends."""
        connection = self.connections.enter_context(Connection(self.path))
        return EventStream(connection, as_sse=as_sse, last_id=last_id or self.events.id_of(0))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    events, children = Events(), Children.of(tmp_path / "updog.toml", tmp_path)
    jobs = JobRunner(children, tmp_path / "jobs", events, is_busy=lambda: False, on_end=lambda *_: None)
    node = v1.Node(
        config_path=tmp_path / "updog.toml",
        state_dir=tmp_path,
        os_release=tmp_path / "os-release",
        arch="x86_64",
        reader=NodeReader(children, tmp_path),
        jobs=jobs,
        events=events,
    )
    grants = Grants(by_right=dict.fromkeys(Right, (Grantee.parse("any"),)))
    listener = Listener(
        socket=listen(tmp_path / "s", mode=0o600, group=""), router=Router(ROUTES, node, grants)
    )
    server = Server(listeners=[listener], max_clients=MAX_CLIENTS)
    server.start()
    with ExitStack() as connections:
        yield Stage(path=tmp_path / "s", events=events, connections=connections)
    server.close()
    listener.socket.close()
    events.close()


def take(stream: EventStream, count: int) -> list[StreamedEvent]:
    return [next(stream) for _ in range(count)]


def numbers(events: Sequence[StreamedEvent]) -> list[int]:
    return [event.data["number"] for event in events if event.name == "auto"]


# -- coming back


@pytest.mark.parametrize("as_sse", [False, True], ids=["NDJSON", "SSE"])
@pytest.mark.parametrize("cut_after", [1, 2, 100, KEPT - 1, KEPT])
def test_who_comes_back_within_what_is_kept_misses_nothing(
    stage: Stage, cut_after: int, *, as_sse: bool
) -> None:
    stage.happen(0)
    last = take(stage.listen(as_sse=as_sse), 1)[-1].id
    stage.happen(*range(1, cut_after + 1))
    found = take(stage.listen(last, as_sse=as_sse), cut_after)
    assert [event.name for event in found] == ["auto"] * cut_after, "neither a gap nor a state"
    assert numbers(found) == list(range(1, cut_after + 1))


def test_cut_after_every_event_it_is_one_story(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """While events go on in another thread."""
    monkeypatch.setattr(v1, "LOOK_SECONDS", 0.01)  # those who went away are to be forgotten at once
    maker = threading.Thread(target=lambda: stage.happen(*range(120)))
    maker.start()
    found: list[StreamedEvent] = []
    while len(found) < 120:
        found += take(stage.listen(found[-1].id if found else None), 1)
        stage.connections.close()
    maker.join()
    assert numbers(found) == list(range(120))
    assert len({event.id for event in found}) == 120


@pytest.mark.parametrize("as_sse", [False, True], ids=["NDJSON", "SSE"])
@pytest.mark.parametrize("missed", [1, 7, 1000])
def test_who_comes_back_too_late_is_told_so_and_gets_the_rest(
    stage: Stage, missed: int, *, as_sse: bool
) -> None:
    stage.happen(0)
    last = take(stage.listen(as_sse=as_sse), 1)[-1].id
    stage.happen(*range(1, 1 + missed + KEPT))
    gap, *rest = take(stage.listen(last, as_sse=as_sse), 1 + KEPT)
    assert (gap.name, gap.data) == ("gap", {"after": last})
    assert numbers(rest) == list(range(1 + missed, 1 + missed + KEPT))
    again = take(stage.listen(gap.id, as_sse=as_sse), KEPT)
    assert numbers(again) == numbers(rest), "the gap's id is that of the event before the rest"


def test_who_falls_behind_while_listening_is_told_so_too(stage: Stage) -> None:
    stream = stage.listen()
    stage.happen(0)
    assert numbers(take(stream, 1)) == [0]
    stage.happen(*range(1, 3000), size=2000)  # more than the queue of a socket holds, and than is kept
    found: list[StreamedEvent] = []
    while not found or found[-1].name == "gap" or found[-1].data["number"] < 2999:
        found += take(stream, 1)
    gaps = [event for event in found if event.name == "gap"]
    assert gaps
    for before, after in pairwise(numbers(found)):
        assert after > before
    steps = sum(after != before + 1 for before, after in pairwise([0, *numbers(found)]))
    assert steps == len(gaps), "each gap is told, and nothing else is left out"


# -- one who is slow


def test_who_does_not_read_is_left_without_harm_to_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SEND_SECONDS", 0.2 * slowness_of_this_run())
    slow = stage.listen()
    quick = [stage.listen() for _ in range(4)]
    for number in range(2 * KEPT):  # each is read before the next: the quick ones never fall behind
        stage.happen(number, size=2000)
        for each in quick:
            assert numbers(take(each, 1)) == [number]
    assert eventually(slow.connection.is_left)
    assert len(list(slow)) < 2 * KEPT


# -- silence


@pytest.mark.parametrize("as_sse", [False, True], ids=["NDJSON", "SSE"])
def test_in_silence_a_stream_says_that_it_lives(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, as_sse: bool
) -> None:
    monkeypatch.setattr(v1, "HEARTBEAT_SECONDS", 0.01)
    stream = stage.listen(as_sse=as_sse)
    later = threading.Timer(0.2, stage.happen, [1])
    later.start()
    assert numbers(take(stream, 1)) == [1]
    assert stream.heartbeats >= 1
    later.join()


def test_a_listener_that_went_away_is_forgotten_also_where_nothing_happens(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v1, "HEARTBEAT_SECONDS", 3600.0)

    def is_served() -> bool:
        with Connection(stage.path) as connection:
            return connection.ask("GET", "/v1").status == 200

    for _ in range(MAX_CLIENTS):
        stage.listen()
    assert not is_served()
    stage.connections.close()
    assert eventually(is_served)


@pytest.mark.parametrize("as_sse", [False, True], ids=["NDJSON", "SSE"])
def test_a_listener_that_only_asks_nothing_more_goes_on_listening(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, as_sse: bool
) -> None:
    """As `curl` and `socat` do whose input has ended."""
    monkeypatch.setattr(v1, "LOOK_SECONDS", 0.01)
    stream = stage.listen(as_sse=as_sse)
    stream.connection.socket.shutdown(socket.SHUT_WR)
    later = threading.Timer(0.2, stage.happen, [1])
    later.start()
    assert numbers(take(stream, 1)) == [1]
    later.join()


# -- ids


@pytest.mark.parametrize(
    "last_id",
    [
        "x",
        "-",
        "-1",
        "0",
        "1",
        "RUN-",
        "RUN--1",
        "RUN-+1",
        "RUN-1e1",
        "RUN-\xb2",
        "RUN-99",
        "RUN-" + "9" * 99,
    ],
    ids=str,
)
def test_an_id_that_was_never_given_is_not_one_of_this_run(last_id: str) -> None:
    events = Events()
    events.add(EventName.AUTO, {})
    run = events.id_of(0).partition("-")[0]
    assert events.number_of(last_id.replace("RUN", run)) is None


def test_the_ids_of_another_run_are_not_those_of_this_one() -> None:
    first, second = Events(), Events()
    for events in (first, second):
        events.add(EventName.AUTO, {})
    assert first.number_of(first.id_of(1)) == 1
    assert second.number_of(first.id_of(1)) is None


# -- a whole agent


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return make_node(tmp_path, health_checks=[], reboot_command=["true"])


def until(stream: EventStream, name: str, **members: Any) -> list[StreamedEvent]:
    """Return the events up to the one of a name whose data has these members."""
    found: list[StreamedEvent] = []
    while True:
        found.append(next(stream))
        data = found[-1].data
        if found[-1].name == name and all(data[member] == value for member, value in members.items()):
            return found


def test_a_job_is_told_from_its_start_to_what_it_changed(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent, agent.stream() as lines, agent.stream(as_sse=True) as events:
        first = next(lines)
        assert first.name == "state"
        assert first.data["standing"] == "none"
        assert first.data["auto"]["mode"] == "check", "what the agent says of itself is known from the first"
        job = agent.start_job("install")["id"]
        found = until(lines, "job", state="succeeded")
        if not any(event.name == "state" for event in found):  # which of both is noticed first is not said
            found += until(lines, "state", standing="staged")
        names = [event.name for event in found]
        assert {"job", "step", "progress", "history", "state"} <= set(names)
        mine = [event for event in found if event.name in {"job", "step", "progress"}]
        assert {event.data.get("job", job) for event in mine} == {job}
        assert (mine[0].name, mine[0].data["state"]) == ("job", "running")
        assert (mine[-1].name, mine[-1].data["state"]) == ("job", "succeeded")
        (installed,) = [event.data for event in found if event.name == "history"]
        assert installed["code"] == "installed"
        assert installed == agent.get("/v1/history").document["events"][-1]
        assert [event.data for event in take(events, len(found) + 1)][1:] == [
            event.data for event in found
        ], "as server-sent events it is the same story"


def test_the_phases_that_are_done_are_told_as_done(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent, agent.stream() as lines:
        agent.start_job("install")
        found = until(lines, "job", state="succeeded")
        last = {event.data["phase"]: event.data for event in found if event.name == "progress"}
        assert {f"write {role}" for role in ("boot", "root", "hash")} <= set(last)
        for progress in last.values():
            assert progress["done"] == progress["total"]


def test_what_operators_say_is_told_and_what_the_agent_makes_of_it(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent, agent.stream() as lines:
        agent.post("/v1/auto/hold", {"reason": "moving racks"})
        found = until(lines, "history", code="held-by-hand")
        if not any(event.name == "auto" and event.data["hold"] for event in found):
            found += until(lines, "auto")
        held = [event.data["hold"] for event in found if event.name == "auto" and event.data["hold"]]
        assert held[0]["reason"] == "moving racks"


def test_an_automatic_install_shows_its_progress_as_nobodys_job(node: Node) -> None:
    configure_api(node, mode="install")
    with agent_of(node) as agent, agent.stream() as lines:
        assert node.updog("agent", "check").status == 0
        found = until(lines, "state", standing="staged")
        progress = [event.data for event in found if event.name == "progress"]
        assert progress
        assert {each["job"] for each in progress} == {None}
        assert "job" not in [event.name for event in found]
        assert "installing" in [event.data["state"] for event in found if event.name == "auto"]
        # what the node is and what it did are read one after the other: either may be told first
        if NEWER not in [event.data["version"] for event in found if event.name == "history"]:
            until(lines, "history", version=NEWER)
        assert agent.get("/v1/jobs").document == {"jobs": []}


@pytest.mark.parametrize("as_sse", [False, True], ids=["NDJSON", "SSE"])
def test_after_a_restart_of_the_agent_old_ids_are_a_gap_and_the_state_follows(
    node: Node, *, as_sse: bool
) -> None:
    configure_api(node)
    with agent_of(node) as agent, agent.stream(as_sse=as_sse) as lines:
        last = next(lines).id
        agent.kill()
    with agent_of(node) as agent, agent.stream(as_sse=as_sse, last_id=last) as lines:
        gap, state = take(lines, 2)
        assert (gap.name, gap.data) == ("gap", {"after": last})
        assert state.name == "state"
        assert last.partition("-")[0] != state.id.partition("-")[0]
    with agent_of(node) as agent, agent.stream(as_sse=as_sse, last_id="caf\xe9\x7f<>" * 100) as lines:
        assert [event.name for event in take(lines, 2)] == ["gap", "state"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_an_agent_that_ends_ends_its_streams(node: Node, accept: str) -> None:
    """A client can tell that from a connection that was cut."""
    configure_api(node)
    with agent_of(node) as agent, agent.connect() as connection:
        connection.send(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
        while b'"api_revision"' not in connection.line():
            pass
        assert agent.stop() == 0
        rest = b""
        while line := connection.line():
            rest += line
        assert rest.endswith(b"0\r\n\r\n"), rest


def test_ndjson_has_one_object_a_line(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent, agent.stream() as lines:
        assert lines.response.getheader("Content-Type") == "application/x-ndjson"
        assert lines.response.getheader("Cache-Control") == "no-store"
        assert set(json.loads(lines.response.readline())) == {"id", "event", "data"}
