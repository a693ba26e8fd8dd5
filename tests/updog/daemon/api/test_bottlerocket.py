"""Bottlerocket's paths: byte for byte what its clients know, on a real node with a real agent.

What is expected comes from upstream's sources, which tests/support/bottlerocket.py names.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from tests.support.api_clients import agent_of, configure_api, run_folder
from tests.support.bottlerocket import ApiClient, ApiClientError, Operator, OperatorStatus, send
from tests.support.nodes import NEWER, NEWEST, RUNNING, Node, make_node, now
from tests.support.patience import eventually
from tests.support.repositories import ARCH, VARIANT
from updog.daemon.api.bottlerocket import DEACTIVATED_SECONDS, UpdateView
from updog.daemon.api.documents import By, Decision, Do, Job, JobState, Problem
from updog.select import VerdictCode
from updog.standing import Standing
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.api_clients import Reply, RunningAgent

LOCKED, ALLOWED, GONE = (
    "Update lock held",
    "Update action not allowed according to update state",
    "Previously chosen Update no longer exists",
)
STATUS_LOCKED = (
    "Unable to obtain shared lock for reading update status: Resource temporarily unavailable (os error 11)"
)
UNINITIALIZED = "Update status is uninitialized, refresh-updates to initialize it"
NO_DEACTIVATE = {"updog.daemon.api.bottlerocket:DEACTIVATED_SECONDS": 0.0}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return _node(tmp_path)


def _node(folder: Path, **api: str) -> Node:
    node = make_node(folder, reboot_command=["touch", str(folder / "rebooted")], health_checks=[])
    configure_api(node, **api)
    return node


def image(version: str) -> dict[str, str]:
    return {"arch": ARCH, "version": version, "variant": VARIANT}


def partition(version: str, *, boots: bool) -> dict[str, Any]:
    return {"image": image(version), "next_to_boot": boots}


def ask(agent: RunningAgent, method: str, path: str) -> tuple[int, str]:
    reply = send(agent.bottlerocket, method, path)
    return reply.status, reply.body.decode()


def act(agent: RunningAgent, action: str) -> tuple[int, str]:
    return ask(agent, "POST", f"/actions/{action}")


def status(agent: RunningAgent) -> Reply:
    """Return the status once nothing runs."""
    replies: list[Reply] = []

    def has_ended() -> bool:
        replies.append(send(agent.bottlerocket, "GET", "/updates/status"))
        return replies[-1].status != HTTPStatus.LOCKED

    assert eventually(has_ended)
    return replies[-1]


def done(agent: RunningAgent, action: str) -> dict[str, Any]:
    """Carry out a command that must be accepted; return the status after its end."""
    assert act(agent, action) == (HTTPStatus.NO_CONTENT, "")
    document: dict[str, Any] = status(agent).document
    return document


def ended(document: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return how the last command of a status ended."""
    command = document["most_recent_command"]
    return command["cmd_type"], command["cmd_status"], command["exit_status"]


def told(state: str, command: str, **members: Any) -> dict[str, Any]:
    """Return a status after a command that went well: member for member, in upstream's order."""
    return {
        "update_state": state,
        "available_updates": members["available"],
        "chosen_update": image(members["chosen"]) if members["chosen"] else None,
        "active_partition": partition(members["active"], boots=members.get("boots", True)),
        "staging_partition": partition(members["staging"], boots=not members.get("boots", True))
        if members.get("staging")
        else None,
        "most_recent_command": {
            "cmd_type": command,
            "cmd_status": "Success",
            "timestamp": members.get("timestamp"),
            "exit_status": 0,
            "stderr": "",
        },
    }


def test_a_whole_life_is_upstreams_byte_for_byte(node: Node) -> None:
    offer: dict[str, Any] = {"available": [NEWER, RUNNING], "chosen": NEWER, "active": RUNNING}
    moments = []

    def check(agent: RunningAgent, expected: dict[str, Any]) -> None:
        reply = status(agent)
        timestamp = reply.document["most_recent_command"]["timestamp"]
        expected["most_recent_command"]["timestamp"] = timestamp
        assert reply.body.decode() == json.dumps(expected, separators=(",", ":"))
        assert reply.headers["content-type"] == "application/json"
        assert datetime.fromisoformat(timestamp).utcoffset() == timedelta()
        msgspec.json.decode(reply.body, type=OperatorStatus)
        moments.append(timestamp)

    with agent_of(node, limits=NO_DEACTIVATE) as agent:
        assert ask(agent, "GET", "/updates/status") == (HTTPStatus.NOT_FOUND, UNINITIALIZED)
        assert act(agent, "prepare-update") == (HTTPStatus.CONFLICT, ALLOWED)
        assert act(agent, "activate-update") == (HTTPStatus.CONFLICT, ALLOWED)
        assert act(agent, "deactivate-update") == (HTTPStatus.CONFLICT, ALLOWED)
        done(agent, "refresh-updates")
        check(agent, told("Available", "refresh", **offer))
        assert act(agent, "activate-update") == (HTTPStatus.CONFLICT, ALLOWED)
        done(agent, "prepare-update")
        check(agent, told("Staged", "prepare", staging=NEWER, **offer))
        assert act(agent, "deactivate-update") == (HTTPStatus.CONFLICT, ALLOWED)
        done(agent, "prepare-update")
        check(agent, told("Staged", "prepare", staging=NEWER, **offer))
        done(agent, "activate-update")
        check(agent, told("Ready", "activate", staging=NEWER, boots=False, **offer))
        assert act(agent, "prepare-update") == (HTTPStatus.CONFLICT, ALLOWED)
        assert act(agent, "activate-update") == (HTTPStatus.CONFLICT, ALLOWED)
        done(agent, "refresh-updates")
        check(agent, told("Ready", "refresh", staging=NEWER, boots=False, **offer))
        done(agent, "deactivate-update")
        check(agent, told("Staged", "refresh", staging=NEWER, **offer))
        done(agent, "activate-update")
        check(agent, told("Ready", "activate", staging=NEWER, boots=False, **offer))
        assert act(agent, "reboot") == (HTTPStatus.NO_CONTENT, "")
        assert (node.folder.parent / "rebooted").exists()
    shutil.rmtree(run_folder(node))
    node.boot()
    offer |= {"active": NEWER, "chosen": None}
    with agent_of(node) as agent:
        check(agent, told("Idle", "refresh", staging=RUNNING, boots=False, **offer))  # its try is used up
        assert act(agent, "prepare-update") == (HTTPStatus.CONFLICT, ALLOWED)
        assert node.updog("confirm").status == 0
        check(agent, told("Idle", "refresh", **offer))
        done(agent, "refresh-updates")
        check(agent, told("Idle", "refresh", **offer))
    assert len(set(moments)) == 8, moments


def test_the_heads_are_upstreams(node: Node) -> None:
    with agent_of(node) as agent:
        refused = send(agent.bottlerocket, "POST", "/actions/prepare-update")
        assert refused.headers["content-type"] == "text/plain; charset=utf-8"
        accepted = send(agent.bottlerocket, "POST", "/actions/refresh-updates")
        assert not {"content-type", "content-length", "transfer-encoding"} & set(accepted.headers)
        assert "retry-after" not in send(agent.bottlerocket, "POST", "/actions/refresh-updates").headers
        assert {"content-type", "content-length"} <= set(status(agent).headers)


def test_os_says_what_runs_as_updog_reads_it(tmp_path: Path) -> None:
    """The operator parses the version strictly; os-release may have a `v` in front of it."""
    node = _node(tmp_path)
    release = node.folder / "run/os-release"
    text = release.read_text(encoding="utf-8").replace(RUNNING, f"v{RUNNING}")
    release.write_text(f'{text}BUILD_ID=1a2b3c\nPRETTY_NAME="Node OS"\n', encoding="utf-8")
    with agent_of(node) as agent:
        reply = send(agent.bottlerocket, "GET", "/os")
        fields = {
            "arch": ARCH,
            "build_id": "1a2b3c",
            "pretty_name": "Node OS",
            "variant_id": VARIANT,
            "version_id": RUNNING,
        }
        assert reply.body.decode() == json.dumps(fields, separators=(",", ":"))
        assert Operator(agent.bottlerocket).running_version() == RUNNING


def test_os_costs_nothing_after_the_first_time(node: Node) -> None:
    """The operator asks for it every five seconds. Without a configuration no command could be asked."""
    with agent_of(node) as agent:
        before = ask(agent, "GET", "/os")
        node.config.unlink()
        assert node.updog("status").status == 2
        for _ in range(2):
            assert ask(agent, "GET", "/os") == before
        node.state_file.touch()
        assert ask(agent, "GET", "/updates/status")[0] == HTTPStatus.INTERNAL_SERVER_ERROR
        assert ask(agent, "GET", "/os") == before


def test_a_node_that_cannot_say_how_it_stands_is_no_fault_of_the_request(node: Node) -> None:
    with agent_of(node) as agent:
        node.config.unlink()
        reply = agent.get("/v1/status")
        assert (reply.status, reply.code) == (HTTPStatus.INTERNAL_SERVER_ERROR, "config")
        http, text = ask(agent, "GET", "/updates/status")
        assert http == HTTPStatus.INTERNAL_SERVER_ERROR
        assert str(node.config) in text


def test_while_a_command_runs_the_lock_is_held_also_for_the_status(node: Node) -> None:
    """Whoever restarts waits for the hooks; the other clients wait for that."""
    go_on = node.folder / "go-on"
    _hook(node, f"while [ ! -e {go_on} ]; do sleep 0.05; done")
    with agent_of(node) as agent:
        done(agent, "refresh-updates")
        replies: list[tuple[int, str]] = []
        thread = threading.Thread(target=lambda: replies.append(act(agent, "reboot")))
        thread.start()
        assert eventually(lambda: ask(agent, "GET", "/updates/status") == (HTTPStatus.LOCKED, STATUS_LOCKED))
        for action in ("refresh-updates", "prepare-update", "activate-update", "deactivate-update", "reboot"):
            assert act(agent, action) == (HTTPStatus.LOCKED, LOCKED)
        assert ask(agent, "GET", "/os")[0] == HTTPStatus.OK
        assert not replies
        go_on.touch()
        thread.join()
        assert replies == [(HTTPStatus.NO_CONTENT, "")]
        assert status(agent).status == HTTPStatus.OK


def test_who_ordered_a_restart_is_told_so_though_the_restart_ends_the_agent_too(node: Node) -> None:
    """The restart stops all services as soon as it is ordered."""
    with agent_of(node) as agent:
        _hook(node, f"kill -TERM {agent.process.pid}; sleep 0.5")
        assert act(agent, "reboot") == (HTTPStatus.NO_CONTENT, "")
        assert (node.folder.parent / "rebooted").exists()
        assert agent.process.wait() == 0


def test_a_restart_that_does_not_happen_is_an_error_and_says_why(node: Node) -> None:
    _hook(node, "echo pods are left; exit 1")
    with agent_of(node) as agent:
        http, text = act(agent, "reboot")
    assert http == HTTPStatus.INTERNAL_SERVER_ERROR
    assert text.startswith("Failed to reboot, exit code: 4, stderr: ")
    assert "pods are left" in text


def _hook(node: Node, script: str) -> None:
    hook = node.folder / "hooks/pre-restart.d/10-test"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    hook.chmod(0o755)


def test_a_first_refresh_that_fails_initializes_the_status_too(node: Node) -> None:
    """Else apiclient gives up after five answers 404 and cannot say what is wrong."""
    node.lose_repository()
    with agent_of(node) as agent:
        with pytest.raises(ApiClientError, match=r"refresh attempt failed: .*/repo/metadata"):
            ApiClient(agent.bottlerocket).check()
        document = status(agent).document
    assert document["update_state"] == "Idle"
    assert document["available_updates"] == []
    assert ended(document) == ("refresh", "Failed", 5)
    msgspec.convert(document, OperatorStatus)


def _withdraw(node: Node, version: str) -> None:
    decide = rollout.withdrawing(ReleaseName(version=Version.parse(version)))
    rollout.take(node.repository.folder, decide, now=now())


def test_what_is_withdrawn_after_the_refresh_is_not_installed_and_then_gone(node: Node) -> None:
    """Upstream decides again when it installs, and calls an update staged that nobody downloaded."""
    with agent_of(node) as agent:
        done(agent, "refresh-updates")
        _withdraw(node, NEWER)
        document = done(agent, "prepare-update")
        command = document["most_recent_command"]
        assert (command["cmd_type"], command["cmd_status"], command["exit_status"]) == (
            "prepare",
            "Failed",
            3,
        )
        assert "withdrawn" in command["stderr"]
        assert (document["update_state"], document["chosen_update"]) == ("Idle", None)
        msgspec.convert(document, OperatorStatus)
        assert act(agent, "prepare-update") == (HTTPStatus.NOT_FOUND, GONE)
        node.publish(NEWEST)
        assert done(agent, "refresh-updates")["chosen_update"] == image(NEWEST)
        assert done(agent, "prepare-update")["staging_partition"] == partition(NEWEST, boots=False)


def test_in_staged_a_refresh_that_chooses_nothing_leaves_nothing_to_prepare(node: Node) -> None:
    with agent_of(node) as agent:
        done(agent, "refresh-updates")
        done(agent, "prepare-update")
        _withdraw(node, NEWER)
        document = done(agent, "refresh-updates")
        assert (document["update_state"], document["chosen_update"]) == ("Staged", None)
        assert document["available_updates"] == [RUNNING]
        assert act(agent, "prepare-update") == (HTTPStatus.NOT_FOUND, GONE)
        assert ended(done(agent, "activate-update")) == ("activate", "Failed", 4)


def test_apiclient_checks_applies_and_cancels(node: Node) -> None:
    with agent_of(node) as agent:
        client = ApiClient(agent.bottlerocket)
        with pytest.raises(ApiClientError, match="409"):
            client.apply()
        assert client.check()["update_state"] == "Available"
        assert client.apply()["update_state"] == "Ready"
        assert client.cancel()["update_state"] == "Staged"
        assert client.apply()["staging_partition"] == partition(NEWER, boots=True)
        assert client.check()["update_state"] == "Ready"


def test_the_operator_updates_a_node_that_has_no_automatic_updates(tmp_path: Path) -> None:
    """The socket is opened by systemd, which starts the agent when a client comes."""
    node = _node(tmp_path, mode="off", socket="", bottlerocket_socket="")
    run_folder(node).mkdir()
    path = run_folder(node) / "bottlerocket.sock"
    activate = [sys.executable, "-c", _ACTIVATE, str(path)]
    with agent_of(node, before=activate) as agent:
        operator = Operator(agent.bottlerocket)
        assert operator.running_version() == RUNNING
        assert operator.chosen_update() == NEWER
        operator.prepare_update()
        operator.activate_update()
        operator.boot_into_update()
    path.unlink()
    node.boot()
    with agent_of(node, before=activate) as agent:
        operator = Operator(agent.bottlerocket)
        assert operator.running_version() == NEWER
        assert operator.chosen_update() is None
        assert node.updog("confirm").status == 0
        assert operator.chosen_update() is None
        assert operator.status().update_state == "Idle"


_ACTIVATE = """
import os, socket, sys
path, *program = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)  # also if it was that number already
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "bottlerocket"}
os.execv(program[0], program)
"""


def test_after_a_deactivate_the_operator_can_read_the_status_again_soon(node: Node) -> None:
    """It does not know the word, which apiclient waits for: at first one of them has to be served."""
    with agent_of(node, limits=NO_DEACTIVATE) as agent:
        ApiClient(agent.bottlerocket).check()
        ApiClient(agent.bottlerocket).apply()
        done(agent, "deactivate-update")
        operator = Operator(agent.bottlerocket)
        assert operator.status().most_recent_command.cmd_type == "activate"
        operator.prepare_update()
        operator.activate_update()
        assert operator.status().update_state == "Ready"


def test_nobody_can_make_a_refresh_choose_what_the_node_would_not_take(node: Node) -> None:
    """Else what one client looks at is what the operator installs. A plan can be of another version."""
    with agent_of(node) as agent:
        for choice in ({"version": RUNNING}, {"ignore_waves": True}):
            assert agent.post("/v1/jobs", {"do": "refresh", **choice}).code == "usage"
        chosen = done(agent, "refresh-updates")["chosen_update"]
        agent.done("plan", version=RUNNING)
        assert status(agent).document["chosen_update"] == chosen == image(NEWER)


def test_its_socket_has_no_other_paths(node: Node) -> None:
    with agent_of(node) as agent:
        assert ask(agent, "GET", "/v1")[0] == HTTPStatus.NOT_FOUND
        assert ask(agent, "GET", "/v1/status")[0] == HTTPStatus.NOT_FOUND
        assert agent.get("/os").document["version_id"] == RUNNING


# -- the view, as a function ------------------------------------------------------------------------

MOMENT = datetime(2026, 11, 28, 12, tzinfo=UTC)
OPEN = (("1.2.0", "waiting"), (NEWER, "chosen"), (RUNNING, "running"), ("0.9.0", "older"))
OFFERED = Decision(
    checked_at=MOMENT,
    summary="",
    update=NEWER,
    verdicts=[
        {"version": version, "max_version": "1.2.0", "waves": {}, "verdict": verdict}
        for version, verdict in (("1.3.0", "withdrawn"), *OPEN)
    ],
)


def job(do: Do, *, after: float = 60.0, **members: Any) -> Job:
    """Return a job that ended so many seconds after :data:`MOMENT`."""
    ended = MOMENT + timedelta(seconds=after)
    values: dict[str, Any] = {"state": JobState.SUCCEEDED, "ended": ended, "exit_status": 0, **members}
    by = By(uid=0, gid=0, pid=1, comm="test")
    return Job(id=do.value, do=do, started=ended - timedelta(seconds=1), by=by, pid=2, **values)


def view(
    standing: Standing = Standing.NONE,
    *jobs: Job,
    decision: Decision | None = OFFERED,
    denied: Mapping[str, str] | None = None,
    later: float = 120.0,
) -> UpdateView:
    is_other_next = standing in {Standing.WAITING, Standing.ROLLED_BACK}
    document = {
        "running": {"variant": VARIANT, "version": RUNNING, "slot": "A", "confirmed": True},
        "next": "B" if is_other_next else "A",
        "standing": standing.value,
        "pending": {"version": NEWER, "previous": "0.9.0"},
        "denied": [{"version": version, "cause": {"time": when}} for version, when in (denied or {}).items()],
    }
    return UpdateView(node=document, decision=decision, jobs=jobs, now=MOMENT + timedelta(seconds=later))


@pytest.mark.parametrize(
    ("standing", "state", "other"),
    [
        (Standing.NONE, "Available", None),
        (Standing.CONFIRMED, "Available", None),
        (Standing.FELL_BACK, "Available", None),
        (Standing.ROLLED_BACK, "Available", None),
        (Standing.STAGED, "Staged", NEWER),
        (Standing.WAITING, "Ready", NEWER),
        (Standing.TRIAL, "Idle", "0.9.0"),
    ],
)
def test_the_state_follows_from_the_standing(standing: Standing, state: str, other: str | None) -> None:
    found = view(standing).status(ARCH)
    assert found is not None
    assert found.update_state == state
    assert found.active_partition.next_to_boot is (standing not in {Standing.WAITING, Standing.ROLLED_BACK})
    staging = found.staging_partition
    assert (staging.image.version if staging else None) == other
    assert not staging or staging.next_to_boot is (standing is Standing.WAITING)
    msgspec.json.decode(msgspec.json.encode(found), type=OperatorStatus)


def test_every_standing_has_a_row() -> None:
    mark = test_the_state_follows_from_the_standing.pytestmark[0]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(Standing)


def test_available_is_what_is_open_to_the_node_newest_first() -> None:
    found = view().status(ARCH)
    assert found is not None
    assert found.available_updates == [NEWER, RUNNING, "0.9.0"]
    words = {verdict["verdict"] for verdict in OFFERED.verdicts}
    assert words <= {code.value for code in VerdictCode}


@pytest.mark.parametrize(
    ("moment", "chosen"), [("2026-11-28T12:00:01Z", None), ("2026-11-28T11:59:59Z", NEWER)]
)
def test_what_failed_since_the_refresh_is_chosen_no_more(moment: str, chosen: str | None) -> None:
    """A refresh that knew of the failure may choose it again: it is tried once more."""
    assert view(Standing.FELL_BACK, denied={NEWER: moment}).chosen == chosen


def test_a_job_that_runs_is_not_the_last_command_yet() -> None:
    """Else a client that looks at this moment would take its success for granted."""
    running = job(Do.INSTALL, state=JobState.RUNNING, ended=None, exit_status=None)
    found = view(Standing.NONE, running, job(Do.REFRESH, after=30)).status(ARCH)
    assert found is not None
    assert found.most_recent_command.cmd_type == "refresh"


@pytest.mark.parametrize(
    ("ended", "status", "exit_status"),
    [
        (job(Do.INSTALL, state=JobState.FAILED, exit_status=5), "Failed", 5),
        (job(Do.INSTALL, state=JobState.CANCELLED, exit_status=-15), "Failed", 15),
        (job(Do.INSTALL, state=JobState.LOST, exit_status=None), "Unknown", 1),
        (job(Do.INSTALL, exit_status=None), "Success", 0),
        (job(Do.REFRESH, exit_status=3), "Success", 0),
        (
            job(Do.INSTALL, exit_status=3, error=Problem(code="", message="none", next_step="", status=3)),
            "Failed",
            3,
        ),
    ],
)
def test_how_a_command_ended_is_told_in_upstreams_words(ended: Job, status: str, exit_status: int) -> None:
    found = view(Standing.NONE, ended).status(ARCH)
    assert found is not None
    command = found.most_recent_command
    assert (command.cmd_status, command.exit_status) == (status, exit_status)
    assert bool(command.stderr) is (status != "Success")
    msgspec.json.decode(msgspec.json.encode(found), type=OperatorStatus)


def test_a_deactivate_is_told_for_a_minute() -> None:
    reverted = job(Do.REVERT, after=0)
    for later, command in ((DEACTIVATED_SECONDS - 1, "deactivate"), (DEACTIVATED_SECONDS, "activate")):
        found = view(Standing.STAGED, reverted, job(Do.APPLY, after=-60), later=later).status(ARCH)
        assert found is not None
        assert found.most_recent_command.cmd_type == command
