"""The restart's command, the hooks around it, and the sentinel: real scripts and files."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.support.nodes import Node, make_node
from tests.support.patience import eventually, stretched, took_less
from updog.daemon.restart import (
    HookResult,
    remove_sentinel,
    require_passed,
    restart,
    restart_command,
    run_post_confirm,
    run_pre_restart,
    systemd_version,
    write_sentinel,
)
from updog.errors import HookError, HostError
from updog.state_store import StateStore

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def script(path: Path, body: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


# -- the command


@pytest.mark.parametrize(
    ("command", "systemd", "words"),
    [
        ("systemctl reboot", 248, "systemctl --check-inhibitors=yes reboot"),
        ("systemctl reboot", 252, "systemctl --check-inhibitors=yes reboot"),
        (
            "/usr/bin/systemctl reboot --no-block",
            260,
            "/usr/bin/systemctl --check-inhibitors=yes reboot --no-block",
        ),
        ("systemctl reboot", 247, "systemctl reboot"),
        ("systemctl reboot", None, "systemctl reboot"),
        ("systemctl reboot --check-inhibitors=no", 252, "systemctl reboot --check-inhibitors=no"),
        ("systemctl reboot -i", 252, "systemctl reboot -i"),
        ("systemctl kexec", 252, "systemctl kexec"),
        ("reboot", 252, "reboot"),
        ("sh -c reboot", 252, "sh -c reboot"),
    ],
)
def test_inhibitors_are_respected_where_systemctl_can(command: str, systemd: int | None, words: str) -> None:
    asked = restart_command(command.split(), check_inhibitors=True, systemd=systemd)
    assert asked == words.split()
    assert restart_command(command.split(), check_inhibitors=False, systemd=systemd) == command.split()


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT", 252),
        ("warning: x\nsystemd 247", 247),
        ("systemd 9999999 (x)", None),
        ("elogind 252", None),
        ("", None),
    ],
)
def test_the_version_is_what_systemctl_says(tmp_path: Path, output: str, version: int | None) -> None:
    program = script(tmp_path / "systemctl", f"cat <<'END'\n{output}\nEND")
    assert systemd_version(str(program)) == version


def test_without_systemctl_there_is_no_version(tmp_path: Path) -> None:
    assert systemd_version(str(tmp_path / "systemctl")) is None


@pytest.mark.parametrize(("check", "has_bus"), [(True, True), (True, False), (False, True)])
def test_a_restart_runs_the_command(tmp_path: Path, *, check: bool, has_bus: bool) -> None:
    """Without the bus, systemctl 252 fails: "Failed to connect to bus"."""
    said, bus = tmp_path / "said", tmp_path / "system_bus_socket"
    if has_bus:
        bus.touch()
    program = script(
        tmp_path / "systemctl", f'[ "$1" = --version ] && echo "systemd 252" && exit\necho "$*" >> {said}'
    )
    restart([str(program), "reboot"], check_inhibitors=check, system_bus=bus)
    assert said.read_text() == ("--check-inhibitors=yes reboot\n" if check and has_bus else "reboot\n")


def test_a_command_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    program = script(tmp_path / "x y", "echo first; printf 'blocked by \\033[2Jdpkg\\n' >&2; exit 4")
    with pytest.raises(HostError) as raised:
        restart([str(program)])
    assert raised.value.message.endswith(r": exit status 4: blocked by \x1b[2Jdpkg")
    assert f"'{program}'" in raised.value.message


def test_a_command_that_is_not_there_or_is_killed_or_is_not_configured_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        restart([str(tmp_path / "none")])
    with pytest.raises(HostError, match="killed by signal 9"):
        restart([str(script(tmp_path / "dies", "kill -9 $$"))])
    with pytest.raises(HostError, match="no reboot_command"):
        restart([])


def test_what_the_command_leaves_in_the_background_goes_on(tmp_path: Path) -> None:
    """It may be what restarts the machine: it is neither waited for nor killed."""
    body = f"(until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo done > {tmp_path}/done) &"
    restart([str(script(tmp_path / "later", body))])
    (tmp_path / "go").touch()  # a restart that waits for it fails before this
    assert eventually((tmp_path / "done").exists)


# -- hooks


def test_hooks_run_in_order_and_keep_the_last_line_of_their_output(tmp_path: Path) -> None:
    folder = tmp_path / "pre-restart.d"
    script(folder / "20-deregister", f"echo 20 >> {tmp_path}/order; echo gone")
    script(folder / "10-drain", f"echo 10 >> {tmp_path}/order; echo draining; echo 12 pods moved; echo")
    for name in ("10-drain~", "15-x.dpkg-old", ".hidden"):
        script(folder / name, "exit 1")
    (folder / "README").write_text("how to")
    assert run_pre_restart(tmp_path, stretched(PATIENCE)) == (
        HookResult(name="10-drain", problem="", last_line="12 pods moved"),
        HookResult(name="20-deregister", problem="", last_line="gone"),
    )
    assert (tmp_path / "order").read_text() == "10\n20\n"
    require_passed(tmp_path, run_pre_restart(tmp_path, stretched(PATIENCE)))


@pytest.mark.parametrize("kind", ["fails", "killed", "hangs", "not executable", "link to nothing"])
def test_a_hook_that_fails_stops_the_restart_and_is_named(tmp_path: Path, kind: str) -> None:
    hook = tmp_path / "pre-restart.d/10-drain"
    if kind == "link to nothing":
        hook.parent.mkdir()
        hook.symlink_to("nowhere")
    else:
        bodies = {"fails": "echo no room; exit 1", "killed": "kill -9 $$", "hangs": "sleep 600"}
        script(hook, bodies.get(kind, "exit 0"), mode=0o644 if kind == "not executable" else 0o755)
    script(tmp_path / "pre-restart.d/20-next", f"touch {tmp_path}/ran")
    began = time.monotonic()
    results = run_pre_restart(tmp_path, stretched(1 if kind == "hangs" else PATIENCE))
    with pytest.raises(HookError, match=r"not restarted: .*10-drain ") as raised:
        require_passed(tmp_path, results)
    assert took_less(began, PATIENCE)
    assert not (tmp_path / "ran").exists()
    assert ("no room" in raised.value.message) == (kind == "fails")


def test_no_hooks_are_no_obstacle_and_a_folder_that_cannot_be_read_is_one(tmp_path: Path) -> None:
    assert run_pre_restart(tmp_path, 1) == ()
    assert run_pre_restart(tmp_path / "none", 1) == ()
    (tmp_path / "pre-restart.d").write_text("")
    with pytest.raises(HookError, match=r"pre-restart\.d cannot be read: Not a directory"):
        require_passed(tmp_path, run_pre_restart(tmp_path, 1))


def test_hooks_after_a_confirm_are_all_run(tmp_path: Path) -> None:
    folder = tmp_path / "post-confirm.d"
    script(folder / "10-fails", "echo cannot register; exit 1")
    script(folder / "20-next", "echo registered")
    assert run_post_confirm(tmp_path, stretched(PATIENCE)) == (
        HookResult(
            name="10-fails", problem="exited with status 1: cannot register", last_line="cannot register"
        ),
        HookResult(name="20-next", problem="", last_line="registered"),
    )


@pytest.mark.parametrize(
    ("result", "code", "sentence"),
    [
        (("10-drain", "", "12 pods moved."), "hook-passed", "pre-restart.d/10-drain passed: 12 pods moved."),
        (("10-drain", "", ""), "hook-passed", "pre-restart.d/10-drain passed."),
        (
            ("10-drain", "exited with status 1: pods left", "pods left"),
            "hook-failed",
            "pre-restart.d/10-drain exited with status 1: pods left.",
        ),
        (
            ("10-drain", "did not finish in 60 s", "waiting for db-0"),
            "hook-failed",
            "pre-restart.d/10-drain did not finish in 60 s: waiting for db-0.",
        ),
        (
            ("", "cannot be read: Not a directory", ""),
            "hook-failed",
            "pre-restart.d cannot be read: Not a directory.",
        ),
    ],
)
def test_how_a_hook_ended_is_an_event_with_the_last_line_of_its_output(
    result: tuple[str, str, str], code: str, sentence: str
) -> None:
    name, problem, last_line = result
    event = HookResult(name=name, problem=problem, last_line=last_line).event("pre-restart.d", NOON, "anna")
    assert (event.code.value, event.sentence, event.time, event.by) == (code, sentence, NOON, "anna")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose restart notes how much of the history was on the disk before it."""
    history = tmp_path / "node/state/state.json"
    command = ["sh", "-c", f"cp {history} {tmp_path}/at-the-restart 2>&- || touch {tmp_path}/at-the-restart"]
    return make_node(tmp_path, reboot_command=command, health_checks=[])


def _with_hooks(node: Node, *bodies: str, folder: str = "pre-restart.d") -> None:
    for number, body in enumerate(bodies):
        script(node.folder / "hooks" / folder / f"{number}0-hook", body)
    text = node.config.read_text(encoding="utf-8")
    node.config.write_text(f'{text}\n[auto.hooks]\ndir = "hooks"\n', encoding="utf-8")


def test_the_hooks_of_a_restart_are_in_the_history_before_the_machine_goes_down(
    node: Node, tmp_path: Path
) -> None:
    _with_hooks(node, "echo 12 pods moved", "echo deregistered")
    assert node.updog("agent", "restart").status == 0
    assert [event["sentence"] for event in node.updog("history", "--json").document] == [
        "pre-restart.d/00-hook passed: 12 pods moved.",
        "pre-restart.d/10-hook passed: deregistered.",
    ]
    assert "deregistered" in (tmp_path / "at-the-restart").read_text()


def test_a_hook_that_stops_the_restart_is_in_the_history(node: Node, tmp_path: Path) -> None:
    _with_hooks(node, "echo pods are left; exit 1")
    assert node.updog("agent", "restart").status == 4
    assert node.codes() == ["hook-failed"]
    assert node.state().history[-1].sentence.endswith("exited with status 1: pods are left.")
    assert not (tmp_path / "at-the-restart").exists()


def test_the_hooks_after_a_confirm_are_in_the_history(node: Node) -> None:
    _with_hooks(node, "exit 3", "echo registered", folder="post-confirm.d")
    assert node.updog("agent", "post-confirm").status == 0
    assert node.codes() == ["hook-failed", "hook-passed"]


def test_a_history_that_cannot_be_written_stops_no_restart(node: Node, tmp_path: Path) -> None:
    _with_hooks(node, "exit 0")
    (node.folder / "state/state.json").unlink(missing_ok=True)
    (node.folder / "state/state.json").mkdir()
    done = node.updog("agent", "restart")
    assert done.status == 0
    assert "not recorded: " in done.err
    assert (tmp_path / "at-the-restart").exists()


def test_another_updog_at_work_is_waited_for_before_the_history_is_written(node: Node) -> None:
    _with_hooks(node, f"touch {node.folder}/ran")
    store = StateStore(node.folder / "state", medium=OsMedium(), clock=lambda: NOON)
    with store.locked():
        restarting = node.updog_process("agent", "restart")
        assert eventually((node.folder / "ran").exists)
        time.sleep(0.5)  # it finds the lock taken
    restarting.communicate()
    assert restarting.returncode == 0
    assert node.codes() == ["hook-passed"]


# -- the sentinel


def test_a_sentinel_is_written_and_removed(tmp_path: Path) -> None:
    sentinel = tmp_path / "reboot-required"
    write_sentinel(sentinel, "1.1.0 is installed\n")
    assert sentinel.read_text() == "updog: 1.1.0 is installed\n"
    assert list(tmp_path.iterdir()) == [sentinel]
    write_sentinel(sentinel, "updog: 1.2.0 is installed")
    assert sentinel.read_text() == "updog: 1.2.0 is installed\n"
    remove_sentinel(sentinel)
    remove_sentinel(sentinel)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["*** System restart required ***\n", ""])
def test_the_sentinel_of_another_program_is_left_alone(tmp_path: Path, content: str) -> None:
    """Packages ask for a restart by the same file."""
    sentinel = tmp_path / "reboot-required"
    sentinel.write_text(content)
    write_sentinel(sentinel, "1.1.0 is installed")
    remove_sentinel(sentinel)
    assert sentinel.read_text() == content


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_sentinel_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    sentinel = tmp_path / "reboot-required"
    other = tmp_path / "other"
    other.write_text("updog: x")
    if kind == "link":
        sentinel.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(sentinel)
    else:
        sentinel.mkdir()
    with pytest.raises(HostError, match="the sentinel cannot be used"):
        write_sentinel(sentinel, "x")
    with pytest.raises(HostError, match="the sentinel cannot be used"):
        remove_sentinel(sentinel)
    assert other.read_text() == "updog: x"
    assert sentinel.is_symlink() == (kind == "link")


def test_a_sentinel_without_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediumError):
        write_sentinel(tmp_path / "none/reboot-required", "x")
