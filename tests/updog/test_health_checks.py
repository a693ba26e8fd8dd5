"""Health checks: real executables that fail, hang, die, flood and leave things behind (D38, D39, D92)."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import health_check
from tests.support.patience import eventually, stretched, took_less
from updog.health.checks import KEPT_BYTES, OUT_OF_TIME, CheckResult, TimeBudget, run_checks

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60
LONG = 60
"""Seconds: much less than what a check here sleeps, 600."""


def _budget(each: float = PATIENCE, every: float = 100) -> TimeBudget:
    """Return the time that checks may take from now on, each and together."""
    return TimeBudget(each=each, end=time.monotonic() + every)


def _run(folder: Path, timeout: int = PATIENCE) -> CheckResult:
    """Return the finding of the only check."""
    (finding,) = run_checks(folder, _budget(timeout))
    return finding


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _pid_in(path: Path) -> int:
    assert eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def _ends(pid: int) -> bool:
    """Tell whether a process ends soon: a signal is delivered, not returned."""
    return eventually(lambda: not _is_running(pid))


@pytest.mark.parametrize("make", [False, True], ids=["absent", "empty"])
def test_without_checks_every_boot_is_good(tmp_path: Path, make: bool) -> None:  # noqa: FBT001 - parametrized
    if make:
        (tmp_path / "required").mkdir()
        (tmp_path / "wanted").mkdir()
    assert run_checks(tmp_path, _budget()) == ()


def test_a_check_that_passes_reports_nothing(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", "echo all is well")
    assert _run(tmp_path) == CheckResult(check="10-web", required=True, problem="")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 1", "exited with status 1"),
        ("exit 255", "exited with status 255"),
        ("echo first; echo no answer on port 80; exit 3", "exited with status 3: no answer on port 80"),
        ("echo to stderr >&2; exit 1", "exited with status 1: to stderr"),
        ("kill -SEGV $$", "was killed by signal 11"),
        ("echo the end; kill -KILL $$", "was killed by signal 9: the end"),
        ("printf 'bad \\377 byte'; exit 1", "exited with status 1: bad � byte"),
    ],
)
def test_a_check_that_fails_says_how_in_one_line(tmp_path: Path, script: str, problem: str) -> None:
    health_check(tmp_path, "10-web", script)
    finding = _run(tmp_path)
    assert finding.problem == problem
    assert finding.fatal


def test_a_link_that_cannot_be_followed_fails_and_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "required").mkdir()
    (tmp_path / "required/10-web").symlink_to("n" * 300)
    finding = _run(tmp_path)
    assert finding.fatal
    assert finding.problem == "File name too long, so it was not run"


def test_a_check_that_no_thread_can_watch_fails_and_is_killed(tmp_path: Path) -> None:
    check = health_check(tmp_path, "10-web", "sleep 600; true")
    before = threading.stack_size(1 << 46)  # no machine has room for such a stack
    try:
        finding = _run(tmp_path)
    finally:
        threading.stack_size(before)
    assert finding.fatal
    assert finding.problem == "cannot be watched: can't start new thread"
    assert eventually(lambda: not _is_run(check))


def _is_run(program: Path) -> bool:
    """Return whether a process has this program in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            if os.fsencode(program) in path.read_bytes():
                return True
    return False


def test_a_wanted_check_only_warns(tmp_path: Path) -> None:
    """D39."""
    health_check(tmp_path, "10-web", "exit 1", kind="wanted")
    finding = _run(tmp_path)
    assert finding == CheckResult(check="10-web", required=False, problem="exited with status 1")
    assert not finding.fatal


def test_every_check_runs_in_the_order_of_names_whatever_the_others_say(tmp_path: Path) -> None:
    health_check(tmp_path, "20-b", "exit 0")
    health_check(tmp_path, "10-a", "exit 1")
    health_check(tmp_path, "05-w", "exit 0", kind="wanted")
    health_check(tmp_path, "30-c", "exit 2")
    findings = run_checks(tmp_path, _budget())
    assert [(finding.check, bool(finding.problem)) for finding in findings] == [
        ("10-a", True),
        ("20-b", False),
        ("30-c", True),
        ("05-w", False),
    ]


@pytest.mark.parametrize("script", ["sleep 600", "trap '' TERM INT HUP; sleep 600", "while :; do :; done"])
def test_a_check_that_hangs_is_ended_at_its_time(tmp_path: Path, script: str) -> None:
    health_check(tmp_path, "10-web", script)
    started = time.monotonic()
    finding = _run(tmp_path, timeout=1)
    assert finding.problem == "did not finish in 1 s"
    assert finding.fatal
    assert took_less(started, LONG)


def test_a_check_that_hangs_takes_its_children_with_it(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    assert "did not finish" in _run(tmp_path, timeout=1).problem
    assert _ends(_pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("status", [0, 1])
def test_a_child_left_in_the_background_holds_nobody_up_and_is_ended(tmp_path: Path, status: int) -> None:
    """D92: it holds the output open."""
    health_check(tmp_path, "10-web", f"sleep 600 & echo $! > {tmp_path}/pid; exit {status}")
    started = time.monotonic()
    assert bool(_run(tmp_path).problem) == bool(status)
    assert took_less(started, LONG)
    assert _ends(_pid_in(tmp_path / "pid"))


@pytest.mark.parametrize(
    "then", ["sleep 600", "sleep 2; echo later; sleep 600"], ids=["quiet", "talks later"]
)
def test_a_daemon_in_a_session_of_its_own_holds_nobody_up(tmp_path: Path, then: str) -> None:
    """It escapes the kill, keeps the output open, and may go on printing after the verdict."""
    health_check(
        tmp_path,
        "10-web",
        f"setsid sh -c 'echo $$ > {tmp_path}/pid; {then}' & until [ -s {tmp_path}/pid ]; do sleep 0.01; done",
    )
    started = time.monotonic()
    assert _run(tmp_path).problem == ""
    assert took_less(started, LONG)
    daemon = _pid_in(tmp_path / "pid")
    if "later" in then:
        time.sleep(2.2)  # its output reaches the thread that was listening
    os.killpg(daemon, 9)


def test_a_flood_costs_nothing_and_its_end_is_kept(tmp_path: Path) -> None:
    """D38: 100 MB."""
    health_check(tmp_path, "10-web", "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1")
    assert _run(tmp_path, timeout=60).problem == "exited with status 1: the end"


def test_a_line_without_end_is_kept_up_to_its_limit(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", "head -c 1000000 /dev/zero | tr '\\0' x; exit 1")
    problem = _run(tmp_path).problem
    assert problem == "exited with status 1: " + "x" * KEPT_BYTES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"#!/no/such/interpreter\n", "cannot be started: No such file or directory"),
        (b"\x7fELF rubbish", "cannot be started: Exec format error"),
        (b"", "cannot be started: Exec format error"),
    ],
    ids=["interpreter", "rubbish", "empty"],
)
def test_a_check_that_cannot_be_started_makes_the_boot_unhealthy(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = health_check(tmp_path, "10-web", "")
    path.write_bytes(content)
    finding = _run(tmp_path)
    assert finding.problem == problem
    assert finding.fatal


def _only(tmp_path: Path) -> CheckResult:
    (finding,) = run_checks(tmp_path, _budget())
    return finding


LEFTOVERS = (
    *("20-web~", "20-web.bak", "20-web.orig", "20-web.old", "20-web.swp", "#20-web#", "20-web.sh~"),
    *("20-web.dpkg-old", "20-web.dpkg-dist", "20-web.dpkg-new", "20-web.ucf-dist", "20-web.rpmsave"),
    *("20-web.rpmnew", "20-web.rpmorig", "20-web.pacsave", "20-web.apk-new", "20-web.disabled"),
)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_an_editor_or_a_package_manager_left_is_pointed_out_and_not_run(
    tmp_path: Path, name: str
) -> None:
    health_check(tmp_path, name, f"touch {tmp_path}/ran; exit 1")
    finding = _only(tmp_path)
    assert (finding.check, finding.fatal) == (name, False)
    assert "so it was not run" in finding.problem
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [".20-web.swp", ".#20-web", ".gitkeep"])
def test_hidden_files_are_not_checks(tmp_path: Path, name: str) -> None:
    health_check(tmp_path, name, "exit 1")
    assert run_checks(tmp_path, _budget()) == ()


@pytest.mark.parametrize("name", ["20-web.sh", "20-web.py", "20.web", "20 web", "web-1.0", "20-wéb"])
def test_other_names_are_checks(tmp_path: Path, name: str) -> None:
    health_check(tmp_path, name, "exit 1")
    assert _only(tmp_path).fatal


def test_a_check_whose_name_is_not_text_is_run_and_its_name_is_made_printable(tmp_path: Path) -> None:
    script = health_check(tmp_path, "20-web", "exit 1")
    script.rename(os.fsdecode(os.fsencode(script) + b"-\xff\x1b"))
    finding = _only(tmp_path)
    assert (finding.check, finding.fatal) == (r"20-web-\udcff\x1b", True)


KINDS = pytest.mark.parametrize("kind", ["required", "wanted"])


@KINDS
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.symlink_to("/usr/lib/gone/20-web"), "is a link to a file that does not exist"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_text("#!/bin/sh\n"), "is not executable"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "is not a regular file"),
    ],
    ids=["dangling link", "loop", "not executable", "FIFO", "device"],
)
def test_a_check_that_cannot_be_run_is_pointed_out_and_fails_where_it_is_required(
    tmp_path: Path, kind: str, make: Callable[[Path], object], problem: str
) -> None:
    (tmp_path / kind).mkdir()
    make(tmp_path / kind / "20-web")
    finding = _only(tmp_path)
    assert finding.check == "20-web"
    assert problem in finding.problem
    assert finding.problem.endswith(", so it was not run")
    assert finding.fatal == (kind == "required")


@KINDS
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("gone")], ids=["file", "link"])
def test_a_folder_of_checks_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, kind: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / kind)
    finding = _only(tmp_path)
    assert "cannot be read, so no check in it was run" in finding.problem
    assert finding.fatal == (kind == "required")


def test_a_link_to_a_folder_that_is_gone_is_not_a_node_without_checks(tmp_path: Path) -> None:
    (tmp_path / "health.d").symlink_to("gone")
    findings = run_checks(tmp_path / "health.d", _budget())
    assert [(finding.check, finding.fatal) for finding in findings] == [("required", True), ("wanted", False)]


def test_a_readme_and_a_folder_are_pointed_out_and_fail_nothing(tmp_path: Path) -> None:
    health_check(tmp_path, "README", "exit 1").chmod(0o644)
    (tmp_path / "required" / "folder").mkdir()
    findings = run_checks(tmp_path, _budget())
    assert [(finding.check, finding.fatal) for finding in findings] == [("README", False), ("folder", False)]
    assert findings[0].problem == "is not executable, so it was not run"


def test_a_link_to_an_executable_is_a_check(tmp_path: Path) -> None:
    (tmp_path / "required").mkdir()
    (tmp_path / "required" / "10-true").symlink_to("/bin/true")
    assert _run(tmp_path) == CheckResult(check="10-true", required=True, problem="")


def test_a_check_is_asked_nothing_and_leads_its_own_session(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", 'read -r line && exit 1; [ "$(ps -o sid= -p $$ | tr -d " ")" = $$ ]')
    assert _run(tmp_path).problem == ""


def test_checks_that_hang_share_the_time_of_all(tmp_path: Path) -> None:
    """D38: each of them would wait for its own time-out."""
    for name in ("10-a", "20-b", "30-c"):
        health_check(tmp_path, name, "sleep 600")
    health_check(tmp_path, "40-d", f"touch {tmp_path}/ran")
    health_check(tmp_path, "50-w", "exit 0", kind="wanted")
    started, unit = time.monotonic(), stretched(1)
    findings = run_checks(tmp_path, _budget(unit, 1.6 * unit))
    assert took_less(started, LONG)
    assert findings[0].problem == f"did not finish in {unit} s"
    assert findings[1].problem.startswith("did not finish in ")
    assert findings[1].problem != findings[0].problem
    assert [finding.problem for finding in findings[2:]] == [OUT_OF_TIME] * 3
    assert [finding.fatal for finding in findings] == [True, True, True, True, False]
    assert not (tmp_path / "ran").exists()
