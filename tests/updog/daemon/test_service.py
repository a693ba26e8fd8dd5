"""The daemon as a process of its own: its commands, its size, its end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from signpost.sets import Slot
from tests.support.nodes import Node, make_node
from tests.support.patience import eventually, stretched
from updog import config as configuration
from updog.daemon.service import refuse_timer
from updog.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTO = """
[auto]
mode = "restart"
warn = "0m"
[auto.hooks]
dir = "hooks"
[api]
socket = ""
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    node = make_node(
        tmp_path,
        reboot_command=["touch", str(tmp_path / "rebooted")],
        health_checks=[],
        metrics_file="metrics/updog.prom",
        motd_file="motd",
    )
    node.config.write_text(node.config.read_text(encoding="utf-8") + AUTO, encoding="utf-8")
    return node


@contextmanager
def daemon_of(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon as the command starts it; it is ready, or has ended, when the block begins."""
    words = [sys.executable, "-m", "updog", "--config", str(node.config), "agent"]
    with (
        log_of(node).open("ab") as log,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log) as process,
    ):
        try:
            assert eventually(lambda: said(node) is not None or process.poll() is not None)
            yield process
        finally:
            process.kill()


def log_of(node: Node) -> Path:
    """Return the file that has what daemons said on stderr."""
    return node.folder / "agent.log"


def said(node: Node) -> Any:
    """Return what the daemon that runs says of itself; None if none runs."""
    result = node.updog("agent", "status", "--json")
    return result.document if result.status == 0 else None


def state(node: Node) -> str:
    document = said(node)
    return document["state"] if document else ""


def is_rebooted(node: Node) -> bool:
    return (node.folder.parent / "rebooted").exists()


def test_an_operator_makes_it_check_and_it_installs_and_restarts(node: Node) -> None:
    with daemon_of(node) as process:
        assert eventually(lambda: state(node) == "idle")
        assert node.updog("agent", "check").status == 0
        assert eventually(lambda: is_rebooted(node))
        assert node.flags(Slot.B).priority > node.flags(Slot.A).priority
        assert eventually(lambda: "is restarting into 1.1.0" in node.updog("status").out)
        process.terminate()
        assert process.wait(stretched(10)) == 0


def test_what_an_operator_said_while_it_did_not_run_counts_when_it_starts(node: Node) -> None:
    done = node.updog("agent", "hold", "moving racks")
    assert done.status == 0
    assert "does not run" in done.err
    with daemon_of(node):
        node.updog("agent", "check")
        assert eventually(lambda: state(node) == "ready")
        shown = node.updog("agent", "status").out
        assert "moving racks" in shown
        assert node.updog("why").out.endswith(shown)
        assert said(node)["hold"]["reason"] == "moving racks"
        assert node.updog("agent", "resume").status == 0
        assert eventually(lambda: is_rebooted(node))


@pytest.mark.parametrize("when", ["tomorrow", "07:00", "2 h", "2h30m", ""])
def test_a_time_that_it_cannot_read_is_refused_and_what_it_reads_is_told(node: Node, when: str) -> None:
    done = node.updog("agent", "postpone", when)
    assert done.status == 2
    assert f"{when!r} is none of 30m, 2h, 1d and a time such as 2026-11-24T09:30:00Z" in done.err


def test_its_metrics_stand_in_a_file_of_their_own_while_it_runs(node: Node) -> None:
    folder = node.folder / "metrics"

    def tells(*lines: str) -> bool:
        text = (folder / "updog-agent.prom").read_text(encoding="utf-8")
        return set(lines) <= set(text.splitlines())

    with daemon_of(node) as process:
        assert eventually(lambda: tells('updog_auto_state{state="idle"} 1'))
        node.updog("agent", "postpone", "2h")
        node.updog("agent", "check")
        assert eventually(lambda: tells('updog_auto_state{state="staged"} 1'))
        assert tells('updog_auto_checks_total{result="update"} 1', "updog_auto_postponed_total 1")
        assert tells('updog_auto_gate_closed{gate="postpone"} 1', "updog_auto_restarts_total 0")
        assert {path.name for path in folder.iterdir()} == {"updog.prom", "updog-agent.prom"}
        process.terminate()
        process.wait()
        assert [path.name for path in folder.iterdir()] == ["updog.prom"]


def test_the_login_message_says_what_a_staged_release_waits_for(node: Node) -> None:
    with daemon_of(node):
        node.updog("agent", "postpone", "2h")
        node.updog("agent", "check")
        assert eventually(lambda: state(node) == "staged")
        shown = node.updog("motd").out
        assert "1.1.0 is staged, and waits for its restart since" in shown
        assert "An operator postponed the restart until" in shown
        node.updog("agent", "check")  # its command writes the file
        assert eventually(lambda: (node.folder / "motd").read_text(encoding="utf-8") == shown)


def test_a_hook_that_fails_stops_the_restart_and_is_named(node: Node) -> None:
    hook = node.folder / "hooks/pre-restart.d/20-drain"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\necho pods are left; exit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    with daemon_of(node):
        node.updog("agent", "check")
        failed = "restart-failed"
        assert eventually(
            lambda: failed in [event["code"] for event in (said(node) or {"events": []})["events"]],
        )
        assert eventually(lambda: node.flags(Slot.B).priority == 0)
        assert not is_rebooted(node)


WINDOW_FAR_AWAY = """
[auto.windows]
time_zone = "UTC"
[[auto.window]]
start_time = "{start:%H:%M}"
length_minutes = 10
"""


def last_look() -> tuple[int, int]:
    """Return what changes with every look of the daemon."""
    written = (Path(os.environ["RUNTIME_DIRECTORY"]) / "agent.json").stat()
    return written.st_ino, written.st_mtime_ns


def test_where_it_waits_it_does_nothing_between_two_looks(node: Node) -> None:
    """Each look asks `updog status`, a child: the end of that child is not a reason for the next look."""
    start = datetime.now(UTC) + timedelta(hours=12)
    with node.config.open("a", encoding="utf-8") as file:
        file.write(WINDOW_FAR_AWAY.format(start=start))
    with daemon_of(node):
        node.updog("agent", "check")
        assert eventually(lambda: state(node) == "staged")
        assert eventually(lambda: is_quiet(stretched(3)))


def is_quiet(seconds: float) -> bool:
    """Whether there is no look in so many seconds."""
    before = last_look()
    time.sleep(seconds)
    return last_look() == before


def test_a_confirm_is_noticed_at_once_and_not_at_the_next_look(node: Node) -> None:
    """Else a fleet with one lock loses up to a minute at every node. This process is the daemon's double."""
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    try:
        Path(os.environ["RUNTIME_DIRECTORY"]).mkdir()
        with (Path(os.environ["RUNTIME_DIRECTORY"]) / "agent.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            assert node.updog("confirm").status == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == [signal.SIGUSR1]


def test_once_it_is_ready_nobody_reads_what_the_one_before_it_said(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a slow node: `systemctl start`, then `updog agent status`: "mode off; is off"."""
    run = Path(os.environ["RUNTIME_DIRECTORY"])
    run.mkdir()
    (run / "agent.json").write_text('{"mode": "off", "state": "off"}', encoding="utf-8")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(stretched(60))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        words = [sys.executable, "-m", "updog", "--config", str(node.config), "agent"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
            try:
                while b"READY=1" not in manager.recv(4096):
                    pass
                process.send_signal(signal.SIGSTOP)
                assert json.loads((run / "agent.json").read_bytes())["mode"] == "restart"
            finally:
                process.kill()


def test_a_second_one_is_refused(node: Node) -> None:
    with daemon_of(node):
        assert (Path(os.environ["RUNTIME_DIRECTORY"]) / "agent.lock").stat().st_mode & 0o777 == 0o644
        words = [sys.executable, "-m", "updog", "--config", str(node.config), "agent"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=stretched(30))
        assert done.returncode == 75
        assert "another agent runs" in done.stderr


def test_told_to_read_a_configuration_with_a_fault_it_goes_on_as_it_was(node: Node) -> None:
    good = node.config.read_text(encoding="utf-8")
    with daemon_of(node) as process:
        assert eventually(lambda: state(node) == "idle")
        node.config.write_text(good.replace('mode = "restart"', 'mode = "restat"'), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "the configuration stays as it was" in log_of(node).read_text())
        node.config.write_text(good, encoding="utf-8")
        node.updog("agent", "check")
        assert eventually(lambda: is_rebooted(node))
        assert process.poll() is None


def test_told_to_read_its_configuration_it_follows_the_new_one(node: Node) -> None:
    with daemon_of(node) as process:
        assert eventually(lambda: state(node) == "idle")
        text = node.config.read_text(encoding="utf-8")
        node.config.write_text(text.replace('mode = "restart"', 'mode = "check"'), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: (said(node) or {"mode": ""})["mode"] == "check")
        assert f"starts again with the configuration in {node.config}" in log_of(node).read_text()
        assert process.poll() is None


def test_with_mode_off_it_ends_by_itself_and_status_says_which_file_says_so(node: Node) -> None:
    """FLUO #201: a unit that was masked ran after all. There is one switch, whoever starts the unit."""
    node.config.write_text(
        node.config.read_text(encoding="utf-8").replace('"restart"', '"off"'), encoding="utf-8"
    )
    with daemon_of(node) as process:
        assert process.wait(stretched(30)) == 0
    done = node.updog("agent", "status")
    assert done.status == 1
    assert f"auto.mode in {node.config} is off" in done.err


def test_switched_off_it_takes_back_what_it_made_boot_next_before_it_ends(node: Node) -> None:
    text = node.config.read_text(encoding="utf-8")
    at_once = text.replace('mode = "restart"', 'mode = "install"\napply = "at-once"')
    node.config.write_text(at_once, encoding="utf-8")
    with daemon_of(node):
        assert eventually(lambda: state(node) == "idle")
        node.updog("agent", "check")
        assert eventually(lambda: node.flags(Slot.B).priority > node.flags(Slot.A).priority)
    node.config.write_text(at_once.replace('"install"', '"off"'), encoding="utf-8")
    with daemon_of(node) as process:
        assert process.wait(stretched(60)) == 0
    assert node.flags(Slot.A).priority > node.flags(Slot.B).priority
    assert node.holds(Slot.B, "1.1.0")


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("folder", ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system"])
def test_beside_the_timer_that_updates_it_refuses_to_start(node: Node, tmp_path: Path, folder: str) -> None:
    """FLUO #201: there is one program that updates. The image may have enabled it too, outside of /etc."""
    timer = "/usr/lib/systemd/system/updog-update.timer"
    link(tmp_path / "root" / folder / "timers.target.wants/updog-update.timer", timer)
    with pytest.raises(ConfigError, match="both would install updates"):
        refuse_timer(configuration.load(node.config), tmp_path / "root")


def test_beside_a_timer_that_is_masked_it_starts(node: Node, tmp_path: Path) -> None:
    units = tmp_path / "root/usr/lib/systemd/system"
    link(units / "timers.target.wants/updog-update.timer", "../updog-update.timer")
    (units / "updog-update.timer").touch()
    with pytest.raises(ConfigError):
        refuse_timer(configuration.load(node.config), tmp_path / "root")
    link(tmp_path / "root/etc/systemd/system/updog-update.timer", "/dev/null")
    refuse_timer(configuration.load(node.config), tmp_path / "root")


def test_idle_it_is_small_and_has_none_of_the_heavy_modules(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # a run that measures coverage measures processes too, which is not small
    with daemon_of(node) as process:
        assert eventually(lambda: state(node) == "idle")
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        resident = re.search(r"VmRSS:\s+([0-9]+) kB", status)
        assert resident
        assert int(resident[1]) <= 20 * 1024
    code = "import sys, updog.daemon.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"tuf", "requests", "cryptography", "ssl", "rich", "click", "hashlib", "updog.agent"}
    assert not heavy & set(loaded.split())
