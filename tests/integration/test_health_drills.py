"""Health drills on a complete node: real checks, real processes, real kills (D38-D42), and the reports.

Also how a version that could never run is explained afterwards, and where: login message, metrics, outcome
lines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from signpost.app import Signpost
from signpost.medium import OsMedium
from signpost.progress import SilentReporter
from signpost.sets import Slot
from signpost.state import Command
from tests.support.http_server import HttpServer, answer, stalled
from tests.support.nodes import NEWER, RUNNING, Node, make_node, now
from tests.support.patience import eventually, stretched, took_less
from updog.agent import Agent
from updog.config import load
from updog.drill import Stage
from updog.errors import ExpiredError, HealthError
from updog.host import Host
from updog.state import MAX_OUTBOX
from updog.update_metadata.outcomes import OutcomeLine, pseudonym
from updog.views import UpdateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.nodes import CommandResult
    from updog.state import Event

DONE, NOTHING, REFUSED = 0, 3, 4
MACHINE_ID = "8f1f0d6c2b7e4a0f9d3c5b6a79880011"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node on trial: 1.1.0 was applied and started in slot B."""
    return on_trial(make_node(tmp_path))


def on_trial(node: Node) -> Node:
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWER
    return node


def last_rollback(node: Node) -> Event:
    event = node.state().last_rollback
    assert event is not None
    return event


def is_gone(pid: int) -> bool:
    """Tell whether a process ends soon; a zombie counts as ended."""

    def ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"

    return eventually(ended)


def wait_for(path: Path) -> None:
    assert eventually(path.exists)


def ends_badly(node: Node, problem: str, cause: str) -> CommandResult:
    """Assert that confirm falls back: cause recorded, priority lowered, and the old slot starts.

    Returns:
        what confirm said.
    """
    said = node.updog("confirm")
    assert said.status == REFUSED
    assert problem in said.err
    event = last_rollback(node)
    assert (event.code.value, event.cause) == ("health-check-failed", cause)
    assert problem in event.sentence
    assert node.flags(Slot.B).priority < node.flags(Slot.A).priority
    assert not node.flags(Slot.B).successful
    assert node.boot().document["version"] == RUNNING
    assert node.codes().count("health-check-failed") == 1
    assert event.sentence in node.updog("status").out
    assert node.updog("check-update").status == NOTHING
    return said


# -- D38: a required check that does not pass -----------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo no answer on port 80; exit 1", "20-web: exited with status 1: no answer on port 80"),
        ("kill -SEGV $$", "20-web: was killed by signal 11"),
        ("trap '' TERM INT HUP; while :; do sleep 1; done", "20-web: did not finish in "),
        ("sleep 600 & sleep 600", "20-web: did not finish in "),
        ("head -c 100000000 /dev/zero | tr '\\0' x; echo", "20-web: exited with status 1: xxx"),
        ("yes", "20-web: did not finish in "),
    ],
    ids=["fails", "signal", "hangs and ignores signals", "hangs with a child", "100 MB", "endless output"],
)
def test_a_required_check_that_does_not_pass_falls_back(node: Node, script: str, problem: str) -> None:
    """D38."""
    timeout = stretched(3) if "did not finish" in problem else stretched(60)
    node.configure(health_timeout=timeout, health_deadline=0)  # the checks before it take some of the time
    node.health_check("20-web", f"{script}\nexit 1")
    ends_badly(node, problem, "20-web")


def test_many_hanging_checks_end_with_the_deadline_not_with_the_sum_of_their_times(node: Node) -> None:
    """D38."""
    node.configure(health_timeout=stretched(2), health_deadline=stretched(2))
    for number in range(20, 30):
        node.health_check(f"{number}-hangs", "sleep 600")
    started = time.monotonic()
    said = ends_badly(
        node, "21-hangs: was not run: the time limit for all health checks was reached", "20-hangs"
    )
    assert "29-hangs: was not run" in said.err  # the history has the first of them, cut
    assert took_less(started, 15)


def test_without_a_slot_to_return_to_the_node_stays_up_and_can_be_repaired(node: Node) -> None:
    """D45: a restart would leave nothing that boots."""
    rebooted = node.folder / "rebooted"
    node.configure(reboot_command=["touch", str(rebooted)])
    Signpost(OsMedium(), str(node.disk), Slot.B).apply(Command.CLEAR_INACTIVE)
    check = node.health_check("20-web", "exit 1")
    for _ in range(2):
        said = node.updog("confirm", "--json")
        assert said.status == REFUSED
        assert said.document["error"]["code"] == "no-way-back"
        assert "Do not restart" in said.err
    assert not rebooted.exists()
    assert node.codes().count("health-check-failed") == 1
    check.write_text("#!/bin/sh\n", encoding="utf-8")
    assert node.updog("confirm").status == DONE
    assert node.flags(Slot.B).successful
    assert not node.state().denied


def test_what_a_check_prints_cannot_take_over_a_terminal(node: Node) -> None:
    node.configure(motd_file="run/motd")
    node.health_check("20-web\x1b[2J", "printf 'first\\n\\033]0;owned\\007 \\033[31mred'; exit 1")
    node.updog("confirm")
    event = last_rollback(node)
    assert event.sentence.isprintable()
    assert event.sentence == (
        r"1.1.0 in slot B failed its health check: 20-web\x1b[2J: "
        r"exited with status 1: \x1b]0;owned\x07 \x1b[31mred."
    )
    assert "\x1b" not in (node.folder / "run/motd").read_text(encoding="utf-8")


# -- D39: a wanted one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["exit 1", "sleep 600", "kill -9 $$"])
def test_a_wanted_check_that_does_not_pass_is_a_warning(node: Node, script: str) -> None:
    """D39."""
    node.configure(health_timeout=stretched(1))
    node.health_check("20-nice", script, kind="wanted")
    said = node.updog("confirm", "--json")
    assert said.status == DONE
    (warning,) = said.document["warnings"]
    assert warning.startswith("20-nice: ")
    assert f"was confirmed, with a warning: {warning}." in node.updog("history").out
    assert node.flags(Slot.B).successful


def test_a_built_in_check_can_be_wanted_too(node: Node) -> None:
    """D39."""
    node.configure(
        health_warnings=["name-resolution"], metadata_base_url="http://no-such-host.invalid/metadata/"
    )
    said = node.updog("confirm", "--json")
    assert said.status == DONE
    assert "no-such-host.invalid" in said.document["warnings"][0]


# -- D40, D41: killed, restarted ------------------------------------------------------------------------


def confirming(node: Node) -> Iterator[subprocess.Popen[str]]:
    """Yield a confirm that is running its checks; end it afterwards."""
    node.health_check("20-slow", f"touch {node.folder}/checking; exec sleep 600")
    node.configure(health_timeout=600)
    process = node.updog_process("confirm")
    try:
        wait_for(node.folder / "checking")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_confirm_that_is_killed_decides_nothing_and_the_next_one_does(
    node: Node, how: signal.Signals
) -> None:
    """D40, D74: the lock is free at once, and slot and history are as before."""
    slots, history = node.view().slots, node.codes()
    for process in confirming(node):
        assert node.updog("confirm").status == 75
        process.send_signal(how)
        process.wait(stretched(60))
    assert node.updog("status", "--json").document["standing"] == "on trial"
    assert node.view().slots == slots
    assert node.codes() == history
    assert node.state().last_rollback is None
    node.health_check("20-slow", "exit 0")
    assert node.updog("confirm").status == DONE
    assert node.flags(Slot.B).successful


def test_a_confirm_that_is_terminated_ends_its_checks(node: Node) -> None:
    """D74: service managers send SIGTERM; a check that is left behind would keep its resources."""
    node.health_check("10-pid", f"echo $$ > {node.folder}/pid; touch {node.folder}/checking; exec sleep 600")
    for process in confirming(node):
        pid = int((node.folder / "pid").read_text(encoding="ascii"))
        process.send_signal(signal.SIGTERM)
        process.wait(stretched(60))
        assert process.returncode == -signal.SIGTERM
        assert is_gone(pid)


def test_a_restart_in_the_middle_of_the_checks_uses_up_the_try_and_is_reported_as_that(node: Node) -> None:
    """D41."""
    for process in confirming(node):
        process.kill()
        process.wait(stretched(60))
    assert node.boot().document["version"] == RUNNING
    event = last_rollback(node)
    assert (event.code.value, event.cause) == ("boot-failed", "not-confirmed")
    assert "1.1.0 in slot B started, but was interrupted during its health checks" in event.sentence


def test_a_restart_before_the_checks_is_distinguished_from_one_during_them(node: Node) -> None:
    """D41."""
    assert node.updog("boot-record").status == DONE
    node.boot()
    assert "started, but was interrupted before it was confirmed" in last_rollback(node).sentence


def test_with_tries_left_restarts_during_the_checks_cost_nothing_once_it_is_confirmed(tmp_path: Path) -> None:
    """D36, D41."""
    node = on_trial(make_node(tmp_path, tries=3))
    for _ in range(2):
        for process in confirming(node):
            process.kill()
        (node.folder / "checking").unlink()
        assert node.boot().document["version"] == NEWER
    node.health_check("20-slow", "exit 0")
    assert node.updog("confirm").status == DONE
    for _ in range(5):
        assert node.boot().document["version"] == NEWER
    assert node.state().last_rollback is None


# -- D42: the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2060])
def test_a_clock_that_jumps_during_the_window_neither_shortens_nor_prolongs_it(node: Node, year: int) -> None:
    """D42."""
    node.configure(stability_window=1, health_deadline=stretched(5))
    node.health_check("20-web", f"echo ran >> {node.folder}/log")
    calls: list[None] = []

    def jumping() -> object:
        calls.append(None)
        return now() if len(calls) < 3 else now().replace(year=year)

    started = time.monotonic()
    node.agent(clock=jumping).confirm()  # type: ignore[arg-type]
    assert time.monotonic() - started >= 1
    assert took_less(started, 10)
    assert (node.folder / "log").read_text(encoding="ascii").split() == ["ran", "ran"]
    assert node.flags(Slot.B).successful
    assert node.updog("check-update").status == NOTHING


@pytest.mark.parametrize("ahead", [timedelta(hours=9), timedelta(days=6), timedelta(days=4000)], ids=str)
def test_a_clock_that_was_once_ahead_costs_no_later_update(tmp_path: Path, ahead: timedelta) -> None:
    """A real-time clock in local time, until the network has set it; a bad battery."""
    node = make_node(tmp_path, health_checks=["clock"])
    is_expired = ahead > timedelta(days=7)  # the metadata are valid for so long
    with pytest.raises(ExpiredError) if is_expired else nullcontext():
        node.agent(clock=lambda: now() + ahead).check(UpdateRequest())
    node = on_trial(node)
    said = node.updog("confirm")
    assert (said.status, "warning" in said.err) == (DONE, False)
    assert node.flags(Slot.B).successful


def test_a_clock_that_is_behind_what_was_signed_only_warns(node: Node) -> None:
    """D42: no version is given up because of the machine's clock, though the check is required."""
    node.configure(health_checks=["clock"])
    results = node.agent(clock=lambda: now().replace(year=1970)).confirm()
    result = next(result for result in results if result.check == "clock")
    assert result.problem.startswith("the clock shows 1970-")
    assert "but the repository was signed on" in result.problem
    assert node.flags(Slot.B).successful
    assert node.state().denied == {}
    assert "with a warning: clock: the clock shows 1970-" in node.state().history[-1].sentence


# -- failed units and what had failed before ------------------------------------------------------------


def _systemd(node: Node, failed: str, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Return the node's agent, on a host with systemd whose failed units are these."""
    (node.folder / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    program = node.folder / "bin/systemctl"
    program.parent.mkdir(exist_ok=True)
    lines = "".join(f"echo '{name} loaded failed failed Something'\n" for name in failed.split())
    program.write_text(f"#!/bin/sh\n{lines}", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    config = load(node.config)
    host = Host(config, run=str(node.folder / "run"))
    return Agent(config, host, clock=now, reporter=SilentReporter())


@pytest.mark.parametrize("seen_at", ["confirm of the boot before", "update"])
def test_a_unit_that_failed_before_the_update_costs_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen_at: str
) -> None:
    node = make_node(tmp_path, health_checks=["failed-units"])
    if seen_at == "update":
        _systemd(node, "backup.service", monkeypatch).update(UpdateRequest())
    else:
        _systemd(node, "backup.service", monkeypatch).confirm()
        assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWER
    _systemd(node, "backup.service", monkeypatch).confirm()
    assert node.flags(Slot.B).successful
    assert node.state().failed_units == {"backup.service"}


def test_a_unit_that_failed_only_with_the_new_release_makes_it_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(tmp_path, health_checks=["failed-units"])
    _systemd(node, "backup.service", monkeypatch).update(UpdateRequest())
    assert node.boot().document["version"] == NEWER
    with pytest.raises(HealthError, match=r"failed units: web\.service \(backup\.service had failed before"):
        _systemd(node, "backup.service web.service", monkeypatch).confirm()
    assert node.state().failed_units == {"backup.service"}


# -- one more try, where no cause is known ---------------------------------------------------------------


def _interrupted(node: Node) -> None:
    """Start the waiting update, and cut the power before it is confirmed."""
    assert node.boot().document["version"] == NEWER
    assert node.boot().document["version"] == RUNNING


def _check(node: Node, days: float) -> str | None:
    """Return the version that the node takes so many days from now."""
    update = node.agent(clock=lambda: now() + timedelta(days=days)).check(UpdateRequest()).update
    return str(update.version) if update else None


def test_a_version_that_lost_power_during_its_trial_is_tried_once_more(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    assert node.updog("update").status == DONE
    _interrupted(node)
    assert last_rollback(node).cause == "not-confirmed"
    assert _check(node, 0.9) is None
    assert _check(node, 1.1) == NEWER
    node.agent(clock=lambda: now() + timedelta(days=1.1)).update(UpdateRequest())
    assert node.state().denied == {}
    assert "retried" in node.codes()
    _interrupted(node)
    assert [str(version) for version in node.state().denied] == [NEWER]
    assert _check(node, 5) is None


def test_a_version_that_is_tried_once_more_can_be_confirmed(tmp_path: Path) -> None:
    node = make_node(tmp_path, retry_after=1)
    assert node.updog("update").status == DONE
    _interrupted(node)
    time.sleep(1.1)
    node = on_trial(node)
    assert node.updog("confirm").status == DONE
    assert node.flags(Slot.B).successful
    assert node.state().retried == set()


@pytest.mark.parametrize("case", ["a named cause", "switched off"])
def test_a_version_is_not_tried_again(tmp_path: Path, case: str) -> None:
    node = make_node(tmp_path, retry_after=0 if case == "switched off" else 86400)
    assert node.updog("update").status == DONE
    if case == "switched off":
        _interrupted(node)
    else:
        node.boot(Stage.VERITY)
        node.boot()
    assert _check(node, 5) is None
    assert [str(version) for version in node.state().denied] == [NEWER]


# -- falling back when nothing could run ----------------------------------------------------------------


def panic(node: Node, line: str, name: str = "dmesg-efi_pstore-170000000001001") -> Path:
    path = node.folder / "pstore" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"Panic#1 Part1\n<0>[    2.5] Kernel panic - not syncing: {line}\n", encoding="utf-8")
    return path


def falls_back(node: Node) -> Event:
    assert node.updog("update").status == DONE
    node.boot(Stage.INIT)
    assert node.boot().document["version"] == RUNNING
    return last_rollback(node)


def test_the_panic_of_a_version_that_could_not_run_is_its_cause_everywhere(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.updog("update")
    node.boot(Stage.KERNEL)
    panic(node, "VFS: Unable to mount root fs on unknown-block(0,0)")
    node.boot()
    status = node.updog("status", "--json").document
    assert (status["last_rollback"]["code"], status["last_rollback"]["cause"]) == (
        "boot-failed",
        "root-not-mounted",
    )
    for words in (["status"], ["history"], ["motd"], ["deny-list"]):
        assert "VFS: Unable to mount root fs" in node.updog(*words).out
    assert "boot-failed (root-not-mounted)" in node.updog("status").out
    assert node.codes().count("boot-failed") == 1
    for _ in range(2):
        node.updog("boot-record")
        node.boot()
    assert node.codes().count("boot-failed") == 1


@pytest.mark.parametrize("role", ["boot", "root", "hash"])
def test_a_slot_that_lost_what_was_written_is_told_from_a_bad_release(tmp_path: Path, role: str) -> None:
    """D77: bytes that change after the read-back; the boot stage only knows where the start ended."""
    node = make_node(tmp_path)
    node.updog("update")
    node.damage(Slot.B, role, 100)
    node.boot()
    node.boot()
    event = last_rollback(node)
    assert (event.code.value, event.cause) == ("boot-failed", "slot-damaged")
    assert f"its {role} no longer contained what was written" in event.sentence


def test_an_old_panic_does_not_explain_a_new_failure_wherever_it_was_moved(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    old = panic(node, "Fatal exception")
    event = falls_back(node)
    assert event.cause == "init-failed"
    assert "Fatal exception" not in event.sentence
    archive = node.folder / "pstore/1700000000"
    archive.mkdir()
    old.rename(archive / old.name)
    node.updog("deny-list", "--clear", NEWER)
    assert "Fatal exception" not in falls_back(node).sentence


def test_a_panic_explains_one_failure_only(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.updog("update")
    node.boot(Stage.KERNEL)
    panic(node, "Fatal exception")
    node.boot()
    assert last_rollback(node).cause == "kernel-panic"
    node.updog("deny-list", "--clear", NEWER)
    assert falls_back(node).cause == "init-failed"


def test_a_panic_of_the_first_try_explains_the_fall_back_after_the_last(tmp_path: Path) -> None:
    node = make_node(tmp_path, tries=2)
    node.updog("update")
    node.boot(Stage.INIT)
    panic(node, "Fatal exception")
    node.boot()
    assert node.updog("boot-record").status == DONE
    node.boot()
    assert last_rollback(node).cause == "kernel-panic"


def test_status_explains_before_anything_was_recorded_and_records_nothing(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.updog("update")
    node.boot(Stage.INIT)
    panic(node, "Fatal exception")
    node.start()
    before = node.state_file.read_bytes()
    assert "Fatal exception" in node.updog("status").out
    assert node.state_file.read_bytes() == before


# -- where it is reported ------------------------------------------------------------------------------------


def test_login_message_and_metrics_follow_every_change(tmp_path: Path) -> None:
    node = make_node(tmp_path, motd_file="run/motd.d/updog", metrics_file="metrics/updog.prom")
    motd, metrics = node.folder / "run/motd.d/updog", node.folder / "metrics/updog.prom"

    def told(*words: str) -> bool:
        return all(word in motd.read_text(encoding="utf-8") for word in words)

    node.updog("update")
    assert told("1.0.0 runs from slot A, confirmed.", "1.1.0 in slot B boots next")
    assert 'updog_standing{standing="waiting for a restart"} 1' in metrics.read_text(encoding="utf-8")
    node.boot()
    node.updog("boot-record")
    assert told("1.1.0 runs from slot B, NOT confirmed.", "1.1.0 runs on trial")
    node.health_check("20-web", "exit 1")
    node.updog("confirm")
    assert told("health-check-failed (20-web): 1.1.0 in slot B failed its health check")
    assert 'updog_slot_boots_next{slot="A"} 1' in metrics.read_text(encoding="utf-8")
    node.boot()
    node.updog("boot-record")
    assert told("1.0.0 runs from slot A, confirmed.", "health-check-failed (20-web)")
    node.updog("deny-list", "--clear", NEWER)
    assert not told("health-check-failed")
    assert node.updog("motd").out == motd.read_text(encoding="utf-8")
    assert [path.name for path in motd.parent.iterdir()] == ["updog"]


def test_the_files_can_be_read_by_all_and_are_not_written_through_a_link(tmp_path: Path) -> None:
    node = make_node(tmp_path, motd_file="theirs/motd")
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (node.folder / "theirs").mkdir()
    for name in ("motd", ".motd.tmp"):
        (node.folder / "theirs" / name).symlink_to(victim)
    before = os.umask(0o077)
    try:
        node.updog("boot-record")
    finally:
        os.umask(before)
    assert victim.read_text(encoding="utf-8") == "precious"
    motd = node.folder / "theirs/motd"
    assert not motd.is_symlink()
    assert motd.stat().st_mode & 0o777 == 0o644


def test_files_that_cannot_be_written_fail_nothing(tmp_path: Path) -> None:
    node = make_node(tmp_path, motd_file="updog.toml/motd", metrics_file="disk.img/metrics")
    on_trial(node)
    assert node.updog("confirm").status == DONE


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


def reporting(tmp_path: Path, server: HttpServer) -> Node:
    node = make_node(tmp_path, report_url=server.url("outcome?fleet=7"), machine_id="machine-id")
    (node.folder / "machine-id").write_text(f"{MACHINE_ID}\n", encoding="ascii")
    server.behave("outcome", answer(204))
    return node


def lines(server: HttpServer) -> list[OutcomeLine]:
    """Return the outcome lines in the server's log."""
    from urllib.parse import urlencode

    return [OutcomeLine.from_query(urlencode(request.query)) for request in server.asked("outcome")]


def test_a_confirmed_version_is_reported_once(tmp_path: Path, server: HttpServer) -> None:
    node = on_trial(reporting(tmp_path, server))
    for _ in range(2):
        assert node.updog("confirm").status == DONE
    (line,) = lines(server)
    assert (line.code, str(line.before), str(line.to)) == ("confirmed", RUNNING, NEWER)
    assert line.node == pseudonym(MACHINE_ID)
    assert MACHINE_ID not in json.dumps([request.query for request in server.log])
    assert server.asked("outcome")[0].query["fleet"] == "7"
    assert node.state().outbox == ()


def test_a_version_that_could_not_run_is_reported_by_the_old_one(tmp_path: Path, server: HttpServer) -> None:
    node = reporting(tmp_path, server)
    node.updog("update")
    node.boot(Stage.VERITY)
    node.boot()
    assert node.updog("confirm").status == DONE
    (line,) = lines(server)
    assert (line.code, line.cause, str(line.to)) == ("boot-failed", "verity-failed", NEWER)


def test_an_unhealthy_version_is_reported_before_the_restart(tmp_path: Path, server: HttpServer) -> None:
    node = on_trial(reporting(tmp_path, server))
    node.health_check("20-we\nb", "exit 1")
    assert node.updog("confirm").status == REFUSED
    (line,) = lines(server)
    assert (line.code, line.cause) == ("health-check-failed", "20-we b")


def test_nothing_is_sent_or_kept_unless_it_is_asked_for(tmp_path: Path, server: HttpServer) -> None:
    node = on_trial(reporting(tmp_path, server))
    node.configure(report_url=None)
    assert node.updog("confirm").status == DONE
    assert server.log == []
    assert node.state().outbox == ()


@pytest.mark.parametrize("trouble", ["gone", "error", "stalls"])
def test_a_report_that_cannot_be_made_fails_nothing_takes_little_and_is_made_later(
    tmp_path: Path, server: HttpServer, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("updog.outcome_report.SECONDS", 2.0)
    node = on_trial(reporting(tmp_path, server))
    if trouble == "gone":
        node.configure(report_url="http://127.0.0.1:1/outcome")
    else:
        server.behave("outcome", answer(503) if trouble == "error" else stalled(head=False))
    started = time.monotonic()
    assert node.updog("confirm").status == DONE
    assert took_less(started, 6)
    assert len(node.state().outbox) == 1
    assert node.flags(Slot.B).successful
    asked = len(server.asked("outcome"))
    node.configure(report_url=server.url("outcome"))
    server.behave("outcome", answer(200))
    assert node.updog("check-update").status == NOTHING
    (line,) = lines(server)[asked:]
    assert line.code == "confirmed"
    assert node.state().outbox == ()


def test_the_queue_is_bounded_and_loses_its_oldest(tmp_path: Path, server: HttpServer) -> None:
    node = on_trial(reporting(tmp_path, server))
    server.behave("outcome", answer(503))
    node.updog("confirm")
    state = node.state()
    (line,) = state.outbox
    for _ in range(MAX_OUTBOX + 5):
        state = state.with_report(line)
    assert len(state.outbox) == MAX_OUTBOX


def test_a_node_without_an_identity_is_confirmed_unreported(tmp_path: Path, server: HttpServer) -> None:
    node = on_trial(reporting(tmp_path, server))
    (node.folder / "machine-id").unlink()
    assert node.updog("confirm").status == DONE
    assert server.log == []


# -- what an operator accepts ------------------------------------------------------------------------------


def test_a_disk_replaced_on_purpose_is_accepted_and_the_history_stays(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.updog("update")
    node.boot(Stage.INIT)
    node.boot()
    assert node.updog("accept-disk").status == NOTHING
    state = json.loads(node.state_file.read_text(encoding="utf-8"))
    state["disk_guid"] = "11111111-2222-3333-4444-555555555555"
    node.state_file.write_text(json.dumps(state), encoding="utf-8")
    refused = node.updog("check-update")
    assert refused.status == REFUSED
    assert "updog accept-disk" in refused.err
    assert node.updog("accept-disk").status == DONE
    assert node.updog("check-update").status == NOTHING
    assert node.codes()[-1] == "disk-accepted"
    assert [str(version) for version in node.state().denied] == [NEWER]
    assert node.state().slots == {}


def test_a_time_that_was_signed_is_taken_back_by_a_person(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    assert node.updog("check-update").status == DONE
    assert node.updog("accept-clock").status == NOTHING
    state = json.loads(node.state_file.read_text(encoding="utf-8"))
    state["signed_time"] = now().replace(year=now().year + 20).isoformat()
    node.state_file.write_text(json.dumps(state), encoding="utf-8")
    assert node.updog("accept-clock").status == DONE
    accepted = node.state().signed_time
    assert accepted is not None
    assert accepted <= now()
    assert node.updog("check-update").status == DONE
    assert node.codes()[-1] == "clock-accepted"


def test_a_failed_boot_is_an_error_in_the_journal(node: Node) -> None:
    """`journalctl -p err` finds it, with its sentence."""
    assert str(node.start().version) == RUNNING
    path = node.folder / "stderr"
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        script = "from updog.cli import main; main()"
        command = [sys.executable, "-c", script, "--config", str(node.config), "boot-record"]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, env=environment, check=True)
    assert out.stdout == b"standing: fell back\n"
    assert path.read_text(encoding="utf-8").startswith(f"<3>boot-failed: {NEWER} in slot B started, but was")
    assert node.updog("boot-record").err == ""  # it is recorded once, and printed once
