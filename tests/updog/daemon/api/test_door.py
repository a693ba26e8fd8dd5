"""The sockets: who opens them, what is in the way, and how long an agent stays that came for a client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.api_clients import (
    Connection,
    agent_of,
    configure_api,
    program_of,
    run_folder,
)
from tests.support.nodes import make_node
from tests.support.other_users import AS_ROOT
from tests.support.patience import eventually, slowness_of_this_run, stretched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.api_clients import RunningAgent
    from tests.support.nodes import Node

_FIRST_FD = 3
_ABOVE = 100
_PASS = f"""
import fcntl, os, sys
names, first, *words = sys.argv[1:]
above = [fcntl.fcntl(int(each), fcntl.F_DUPFD, {_ABOVE}) for each in first.split(",")]
for target, each in enumerate(above, {_FIRST_FD}):
    os.dup2(each, target)
    os.close(each)
pid = os.environ.get("OTHER_PID") or str(os.getpid())
os.environ.update(LISTEN_PID=pid, LISTEN_FDS=str(len(above)), LISTEN_FDNAMES=names)
os.execvp(words[0], words)
"""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path, health_checks=[], reboot_command=["true"])


@dataclass(kw_only=True)
class ServiceManager:
    """Opens sockets and passes them on, as systemd does (sd_listen_fds(3)).

    Attributes:
        paths: by the names that they are passed with.
    """

    paths: Mapping[str, Path]
    _sockets: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        for path in self.paths.values():
            opened = socket.socket(socket.AF_UNIX)
            opened.bind(str(path))
            opened.listen()
            self._sockets.append(opened)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    @contextmanager
    def starts(self, node: Node, **more: Any) -> Iterator[RunningAgent]:
        """Run the agent with the sockets."""
        numbers = [each.fileno() for each in self._sockets]
        before = [sys.executable, "-c", _PASS, ":".join(self.paths), ",".join(map(str, numbers))]
        with agent_of(node, before=before, pass_fds=numbers, **more) as agent:
            yield agent


def get(path: Path, target: str = "/v1") -> int:
    with Connection(path) as connection:
        return connection.ask("GET", target).status


def answers(path: Path) -> bool:
    with suppress(OSError, EOFError):
        return get(path, "/os") == 200
    return False


def is_refused(path: Path) -> bool:
    """Whether nobody listens at a socket that is there."""
    try:
        answers_with = get(path)
    except ConnectionRefusedError:
        return True
    except (OSError, EOFError):
        return False
    raise AssertionError(answers_with)


def change_mode(node: Node, agent: RunningAgent) -> None:
    """Let an agent read its configuration anew, with another mode."""
    text = node.config.read_text(encoding="utf-8")
    node.config.write_text(text.replace('"check"', '"install"'), encoding="utf-8")
    agent.process.send_signal(signal.SIGHUP)


def mode_at(path: Path) -> str:
    """Return the mode of the agent at a socket; empty while nobody listens there."""
    with suppress(OSError, EOFError), Connection(path) as connection:
        return str(connection.ask("GET", "/v1/status").document["auto"]["mode"])
    return ""


def failed_start(node: Node) -> subprocess.CompletedProcess[str]:
    """Start an agent that must end by itself, with a fault that it tells."""
    return subprocess.run(
        program_of(node),
        env={**os.environ, "RUNTIME_DIRECTORY": str(run_folder(node))},
        capture_output=True,
        text=True,
        check=False,
        timeout=stretched(60),
    )


# -- sockets that were passed


def test_sockets_that_were_passed_are_used_by_their_names(node: Node, tmp_path: Path) -> None:
    configure_api(node)
    paths = {"updog-agent.socket": tmp_path / "a", "bottlerocket": tmp_path / "b", "": tmp_path / "c"}
    with ServiceManager(paths=paths) as manager, manager.starts(node):
        assert [get(path) for path in paths.values()] == [200, 404, 200]
        assert [get(path, "/os") for path in paths.values()] == [200, 200, 200]
        assert not list(run_folder(node).glob("*.sock")), "it opens none of its own"


def test_sockets_for_another_process_are_not_taken(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_api(node)
    monkeypatch.setenv("OTHER_PID", "1")
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, manager.starts(node) as agent:
        assert get(agent.socket) == 200
        with Connection(tmp_path / "a") as connection:
            connection.socket.settimeout(0.1)
            connection.send(b"GET /v1 HTTP/1.0\r\n\r\n")
            with pytest.raises(TimeoutError):
                connection.reply()


def test_a_client_that_came_before_the_agent_is_answered(node: Node, tmp_path: Path) -> None:
    configure_api(node, mode="off")
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, Connection(tmp_path / "a") as connection:
        connection.send(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        with manager.starts(node):
            assert connection.reply().document["auto"]["mode"] == "off"


def test_work_does_not_inherit_the_sockets(node: Node, tmp_path: Path) -> None:
    """Else a hook that stays would keep them open."""
    hook, seen = node.folder / "hooks/pre-restart.d/10-look", tmp_path / "seen"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\nls -l /proc/$PPID/fd /proc/self/fd > {seen}\n", encoding="utf-8")
    hook.chmod(0o755)
    configure_api(node)
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, manager.starts(node) as agent:
        listening = str(Path(f"/proc/{agent.process.pid}/fd/{_FIRST_FD}").readlink())
        assert listening.startswith("socket:")
        assert agent_at(agent, tmp_path / "a").done("reboot")["state"] == "succeeded"
    text = seen.read_text(encoding="utf-8")
    assert "->" in text
    assert listening not in text


def agent_at(agent: RunningAgent, path: Path) -> RunningAgent:
    """Return the same agent, asked at another socket."""
    return replace(agent, socket=path)


# -- staying and leaving

SERVICE = "updog.daemon.service"
IDLE = "updog.daemon.api.start:IDLE_SECONDS"


def quick_to_leave(**more: float) -> dict[str, float]:
    """Return limits with which an agent leaves soon after its last client."""
    seconds = 0.5 * slowness_of_this_run()
    limits = {IDLE: seconds, f"{SERVICE}:LEAVE_LOOK_SECONDS": 0.05, f"{SERVICE}:FIRST_CLIENT_SECONDS": 600.0}
    return {**limits, **{f"{SERVICE}:{name}": value for name, value in more.items()}}


def test_without_automatic_updates_it_leaves_some_time_after_its_last_client(
    node: Node, tmp_path: Path
) -> None:
    configure_api(node, mode="off")
    path = tmp_path / "a"
    with ServiceManager(paths={"": path}) as manager:
        with manager.starts(node, limits=quick_to_leave()) as agent:
            with Connection(path) as connection:
                for _ in range(3):
                    assert connection.ask("GET", "/v1").status == 200
                with pytest.raises(subprocess.TimeoutExpired):
                    agent.process.wait(2 * slowness_of_this_run())
                assert connection.ask("GET", "/v1").status == 200, "a client that is here is not left"
            assert agent.process.wait(stretched(60)) == 0
        with manager.starts(node, limits=quick_to_leave()) as agent:
            assert get(path) == 200, "and it comes again for the next"


def test_a_client_that_listens_keeps_it_here(node: Node, tmp_path: Path) -> None:
    configure_api(node, mode="off")
    path = tmp_path / "a"
    with ServiceManager(paths={"": path}) as manager, manager.starts(node, limits=quick_to_leave()) as agent:
        with agent_at(agent, path).stream() as events:
            assert next(events).name == "state"
            with pytest.raises(subprocess.TimeoutExpired):
                agent.process.wait(2 * slowness_of_this_run())
        assert agent.process.wait(stretched(60)) == 0


def test_a_job_keeps_it_here(node: Node, tmp_path: Path) -> None:
    hook, go_on = node.folder / "hooks/pre-restart.d/10-wait", tmp_path / "go-on"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\nwhile [ ! -e {go_on} ]; do sleep 0.05; done\n", encoding="utf-8")
    hook.chmod(0o755)
    configure_api(node, mode="off")
    path = tmp_path / "a"
    with ServiceManager(paths={"": path}) as manager, manager.starts(node, limits=quick_to_leave()) as agent:
        agent_at(agent, path).start_job("reboot")
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(2 * slowness_of_this_run())
        go_on.touch()
        assert agent.process.wait(stretched(60)) == 0
        assert agent.says("job reboot succeeded")


def test_where_no_client_comes_it_leaves_too(node: Node, tmp_path: Path) -> None:
    configure_api(node, mode="off")
    limits = quick_to_leave(FIRST_CLIENT_SECONDS=0.1)
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, manager.starts(node, limits=limits) as agent:
        assert agent.process.wait(stretched(60)) == 0


def test_with_automatic_updates_it_stays_without_clients(node: Node, tmp_path: Path) -> None:
    configure_api(node, mode="check")
    limits = quick_to_leave(FIRST_CLIENT_SECONDS=0.1)
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, manager.starts(node, limits=limits) as agent:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(2 * slowness_of_this_run())
        assert get(tmp_path / "a") == 200


def test_without_automatic_updates_and_passed_sockets_it_opens_none_and_leaves(node: Node) -> None:
    configure_api(node, mode="off")
    assert failed_start(node).returncode == 0
    assert not list(run_folder(node).glob("*.sock"))


def test_what_serves_clients_is_loaded_when_the_first_comes(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent:

        def has_parser() -> bool:
            return "msgspec" in Path(f"/proc/{agent.process.pid}/maps").read_text(encoding="utf-8")

        assert not has_parser()
        assert get(agent.socket) == 200
        assert has_parser()


# -- a new configuration


def test_a_new_configuration_keeps_the_sockets_that_were_passed(node: Node, tmp_path: Path) -> None:
    """A client that comes in between waits, and is answered."""
    configure_api(node)
    path = tmp_path / "a"
    with ServiceManager(paths={"": path}) as manager, manager.starts(node) as agent:
        assert get(path) == 200
        change_mode(node, agent)
        assert eventually(lambda: mode_at(path) == "install")
        assert agent.process.poll() is None


@pytest.mark.parametrize("has_clients", [True, False])
def test_a_new_configuration_keeps_also_the_socket_that_it_opened_beside_one_that_was_passed(
    node: Node, tmp_path: Path, *, has_clients: bool
) -> None:
    """Left open, it would be another process that listens there."""
    configure_api(node)
    with ServiceManager(paths={"": tmp_path / "a"}) as manager, manager.starts(node) as agent:
        if has_clients:
            assert (get(tmp_path / "a"), get(agent.bottlerocket, "/os")) == (200, 200)
        for _ in range(2):
            agent.process.send_signal(signal.SIGHUP)
            assert eventually(lambda: not answers(agent.bottlerocket) or answers(tmp_path / "a"))
        assert eventually(lambda: answers(agent.bottlerocket))
        assert get(tmp_path / "a") == 200
        assert agent.process.poll() is None
        assert not agent.says("another process listens")


def test_told_several_times_in_a_row_it_is_still_there(node: Node) -> None:
    """SIGHUP ends a process that does not listen yet, and systemd takes that for a clean end."""
    configure_api(node)
    with agent_of(node) as agent:
        for _ in range(20):
            agent.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        assert eventually(lambda: answers(agent.socket) or agent.process.poll() is not None)
        assert agent.process.poll() is None


def test_a_new_configuration_opens_its_own_sockets_anew(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent:
        assert get(agent.socket) == 200
        change_mode(node, agent)
        assert eventually(lambda: mode_at(agent.socket) == "install")
        assert eventually(lambda: answers(agent.bottlerocket))
        assert agent.process.poll() is None


# -- what is in the way


def test_the_socket_of_an_agent_that_was_killed_is_replaced(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent:
        agent.kill()
        assert agent.socket.is_socket()
        assert eventually(lambda: is_refused(agent.socket))  # a child that did not start yet has it, too
    with agent_of(node) as agent:
        assert get(agent.socket) == 200


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_where_another_process_listens_it_does_not_start(node: Node, kind: socket.SocketKind) -> None:
    configure_api(node)
    run_folder(node).mkdir()
    path = run_folder(node) / "api.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind is not socket.SOCK_DGRAM:
            other.listen(8)
        before = path.stat().st_ino
        done = failed_start(node)
        assert done.returncode == (75 if kind is socket.SOCK_STREAM else 1), done.stderr
        assert str(path) in done.stderr
        assert path.stat().st_ino == before, "its socket is still there"


@pytest.mark.parametrize("obstacle", ["file", "folder", "link", "link to a socket", "pipe"])
def test_what_is_no_socket_stays_and_stops_the_start(node: Node, tmp_path: Path, obstacle: str) -> None:
    configure_api(node)
    run_folder(node).mkdir()
    path, target = run_folder(node) / "api.sock", tmp_path / "target"
    target.write_text("precious", encoding="utf-8")
    with ExitStack() as stack:
        match obstacle:
            case "file":
                path.write_text("precious", encoding="utf-8")
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to(target)
            case "link to a socket":
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.bind(str(tmp_path / "s"))
                path.symlink_to(tmp_path / "s")
            case _:
                os.mkfifo(path)
        before = path.lstat()
        done = failed_start(node)
        assert done.returncode == 1
        assert f"cannot listen at {path}: Address already in use" in done.stderr
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
        assert target.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("mode", [0o777, 0o772, *([0o770] if AS_ROOT else [])])
def test_a_folder_that_others_can_write_to_is_refused(node: Node, tmp_path: Path, mode: int) -> None:
    """Whoever can put another socket in its place is asked in the agent's place."""
    folder = tmp_path / "open"
    folder.mkdir()
    if AS_ROOT:
        os.chown(folder, 0, 4711)
    folder.chmod(mode)
    configure_api(node, socket=str(folder / "api.sock"))
    done = failed_start(node)
    assert done.returncode == 1
    assert f"api.socket = {folder / 'api.sock'}: {folder} can be written by" in done.stderr
    assert not list(folder.iterdir())


def test_a_folder_that_is_not_there_is_told(node: Node, tmp_path: Path) -> None:
    configure_api(node, socket=str(tmp_path / "none/api.sock"))
    done = failed_start(node)
    assert done.returncode == 1
    assert f"api.socket = {tmp_path / 'none/api.sock'}: cannot look at {tmp_path / 'none'}" in done.stderr


def test_without_a_socket_there_is_no_api_and_the_agent_works(node: Node) -> None:
    configure_api(node, socket="", bottlerocket_socket="")
    with agent_of(node) as agent:
        assert not list(run_folder(node).glob("*.sock"))
        assert agent.stop() == 0
