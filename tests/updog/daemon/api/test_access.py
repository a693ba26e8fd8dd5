"""Who may do what: real processes of other users against every path, by the kernel's word alone."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api_clients import agent_of, configure_api
from tests.support.nodes import make_node
from tests.support.other_users import AS_ROOT, NOBODY, NoNamespaceError, process_of
from updog.daemon.api.route import Right, Route
from updog.daemon.api.routes import BOTTLEROCKET, ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api_clients import RunningAgent
    from tests.support.other_users import OtherProcess

CREW, READERS, API = 4711, 4712, 4713  # groups
ANNA, BOB = 4001, 4002  # users
OTHER_GROUPS = tuple(range(20_000, 21_000))

_BIND = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


def _can_bind() -> bool:
    words = ["unshare", "--mount", "mount", "--bind", "/etc/group", "/etc/group"]
    return AS_ROOT and subprocess.run(words, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_bind(), reason="needs other users and a mount namespace")


@dataclass(frozen=True, kw_only=True)
class Place:
    """An agent whose users and groups are those of two files of the test."""

    agent: RunningAgent
    groups: Path


@contextmanager
def place(**api: Any) -> Iterator[Place]:
    """Run an agent in a folder that everybody can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="access-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "passwd").write_text(f"root:x:0:0::/:/bin/sh\nanna:x:{ANNA}:{ANNA}::/:/bin/sh\n")
        (folder / "group").write_text(f"root:x:0:\ncrew:x:{CREW}:\nreaders:x:{READERS}:\napi:x:{API}:\n")
        node = make_node(folder)
        configure_api(node, **api)
        with agent_of(node, before=["unshare", "--mount", "sh", "-c", _BIND, str(folder)]) as agent:
            yield Place(agent=agent, groups=folder / "group")


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    grants = {
        "read": ["root", "user:anna", "group:readers", "group:crew"],
        "control": ["root", "group:crew", "user:no-such", "group:no-such"],
    }
    with place(**grants) as found:
        yield found.agent


@dataclass(frozen=True, kw_only=True)
class Who:
    """A user, and the rights that it must have."""

    process: Any
    rights: frozenset[Right]


BOTH, READ, NONE = frozenset(Right), frozenset({Right.READ}), frozenset[Right]()


def who(rights: frozenset[Right], **process: Any) -> Who:
    return Who(process=partial(process_of, **process), rights=rights)


WHO = {
    "root": who(BOTH, uid=0),
    "root with other groups": who(BOTH, uid=0, gid=NOBODY, groups=OTHER_GROUPS[:300]),
    "a user by name": who(READ, uid=ANNA),
    "a user by name with other groups": who(READ, uid=ANNA, gid=NOBODY, groups=OTHER_GROUPS[:300]),
    "another user": who(NONE, uid=BOB),
    "a user of the group root": who(NONE, uid=BOB, gid=0, groups=[0]),
    "a supplementary group": who(BOTH, uid=BOB, groups=[CREW]),
    "the first of its groups": who(BOTH, uid=BOB, groups=[CREW, *OTHER_GROUPS[:20]]),
    "its own group": who(BOTH, uid=BOB, gid=CREW),
    "a group that only reads": who(READ, uid=BOB, groups=[READERS]),
    "256 groups": who(BOTH, uid=BOB, groups=[CREW, *OTHER_GROUPS[:255]]),
    "more groups than are read": who(NONE, uid=BOB, groups=[CREW, *OTHER_GROUPS[:256]]),
    "its own group beside too many": who(BOTH, uid=BOB, gid=CREW, groups=OTHER_GROUPS),
    "nobody": who(NONE, uid=NOBODY),
    "root of nobody's namespace": who(NONE, uid=NOBODY, is_namespaced=True),
    "root of a reader's namespace": who(READ, uid=ANNA, is_namespaced=True),
}

STARTS_WORK = {"/actions/refresh-updates", "/actions/reboot"}
"""What has no body that could be wrong: only those who may not are let ask."""


def body_of(route: Route) -> object:
    """Return a body that is refused after the rights were looked at."""
    return {"no": "such"} if route.sends else None


def ask_all(process: OtherProcess, routes: list[Route]) -> dict[str, int]:
    """Return each request's status; of the stream only the head is asked for."""
    found = {}
    for route in routes:
        method = "HEAD" if route.path == "/v1/events" else route.method
        path = route.path.replace("{id}", "x")
        found[f"{route.method} {path}"] = process.ask(method, path, body_of(route)).status
    return found


@pytest.mark.parametrize("user", WHO.values(), ids=WHO)
def test_every_path_is_open_to_those_who_have_its_right_and_to_nobody_else(
    agent: RunningAgent, user: Who
) -> None:
    closed = [route for route in ROUTES if route.right not in user.rights]
    is_open = [route for route in ROUTES if route.right in user.rights and route.path not in STARTS_WORK]
    try:
        with user.process(agent.socket) as process:
            assert set(ask_all(process, closed).values()) <= {HTTPStatus.FORBIDDEN}
            statuses = ask_all(process, is_open)
    except NoNamespaceError as error:
        pytest.skip(f"no user namespaces: {error}")
    assert HTTPStatus.FORBIDDEN not in statuses.values(), statuses
    assert all(status < 500 for status in statuses.values()), statuses
    assert agent.get("/v1/jobs").document == {"jobs": []}


def test_a_refusal_names_the_right_and_where_it_is_given(agent: RunningAgent) -> None:
    with process_of(agent.socket, uid=ANNA) as process:
        reply = process.ask("POST", "/v1/jobs", {"do": "refresh"})
        assert (reply.status, reply.code) == (403, "not-allowed")
        error = reply.document["error"]
        assert error["message"] == f"user {ANNA} has not the right `control`"
        assert "api.control" in error["next_step"]
        reply = process.ask("POST", "/actions/reboot")
        assert reply.status == 403
        assert reply.headers["content-type"].startswith("text/plain")
        assert b"`control`" in reply.body
    with process_of(agent.socket, uid=BOB) as process:
        assert "api.read" in process.ask("GET", "/v1").document["error"]["next_step"]


def test_who_may_not_does_not_learn_whether_the_body_was_good(agent: RunningAgent) -> None:
    with process_of(agent.socket, uid=NOBODY) as process:
        for body in ({"do": "refresh"}, {"do": "nothing"}, None):
            assert process.ask("POST", "/v1/jobs", body).status == 403


def test_without_a_configuration_everybody_reads_and_only_root_controls() -> None:
    """The group `updog` is not on this machine."""
    with place() as found, process_of(found.agent.socket, uid=NOBODY) as process:
        assert process.ask("GET", "/v1/status").status == 200
        assert process.ask("GET", "/v1/config").status == 403
        assert found.agent.get("/v1/config").status == 200


def test_a_group_counts_for_processes_that_got_it_when_they_started() -> None:
    """It is looked up at each request, but a process keeps the groups that it has."""
    with (
        place(control=["group:night-shift"]) as found,
        process_of(found.agent.socket, uid=BOB) as before,
        process_of(found.agent.socket, uid=BOB, groups=[4800]) as chance,
    ):
        assert before.ask("GET", "/v1/config").status == 403
        assert chance.ask("GET", "/v1/config").status == 403, "there is no such group yet"
        with found.groups.open("a") as file:
            file.write("night-shift:x:4800:bob\n")
        assert before.ask("GET", "/v1/config").status == 403
        assert chance.ask("GET", "/v1/config").status == 200
        with process_of(found.agent.socket, uid=BOB, groups=[4800]) as after:  # as after a new login
            assert after.ask("GET", "/v1/config").status == 200


def test_who_asked_is_kept_by_the_kernels_word(agent: RunningAgent) -> None:
    with process_of(agent.socket, uid=BOB, groups=[CREW]) as process:
        assert process.ask("POST", "/v1/auto/hold", {"reason": "moving racks"}).status == 200
        assert process.ask("DELETE", "/v1/auto/hold").status == 200
        last = agent.get("/v1/history").document["events"][-1]
        name = Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8").strip()
        assert last["by"] == f"uid {BOB}, pid {process.pid}, {name}"
    assert agent.says(f"DELETE /v1/auto/hold, asked for by uid {BOB}")


# -- Bottlerocket's socket


def test_whoever_can_open_bottlerockets_socket_may_control_and_nobody_else_can(agent: RunningAgent) -> None:
    at = agent.bottlerocket
    assert at.stat().st_mode & 0o777 == 0o660
    assert at.stat().st_gid == API
    with process_of(at, uid=BOB, groups=[API]) as process:
        for route in BOTTLEROCKET:
            if route.path not in STARTS_WORK:
                assert process.ask(route.method, route.path).status in {200, 404, 409}
        assert process.ask("GET", "/v1").status == 404, "of our paths it has none"
    with process_of(at, uid=BOB, groups=[CREW]) as process, pytest.raises(PermissionError):
        process.ask("GET", "/os")


def test_the_own_socket_is_open_to_all_because_rights_are_decided_for_each_request(
    agent: RunningAgent,
) -> None:
    assert agent.socket.stat().st_mode & 0o777 == 0o666
    assert agent.socket.parent.stat().st_mode & 0o022 == 0


def test_nobody_can_take_the_last_connection_from_root() -> None:
    with place(max_clients=2) as found, ExitStack() as connections:
        agent = found.agent
        os.seteuid(NOBODY)
        try:
            assert connections.enter_context(agent.connect()).ask("GET", "/v1").status == 200
            refused = agent.get("/v1")
        finally:
            os.seteuid(0)
        assert (refused.status, refused.code) == (503, "too-many-clients")
        assert connections.enter_context(agent.connect()).ask("GET", "/v1").status == 200
        assert agent.get("/v1").status == 503
