"""Health checks: real executables that fail, hang, die, flood and leave things behind (D38, D39, D92)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.nodes import health_check
from updog.health import KEPT_BYTES, OUT_OF_TIME, Allowance, Finding, run_checks

PATIENCE = 10


def _allowance(each: float = PATIENCE, every: float = 100) -> Allowance:
    """Return the time that checks may take from now on, each and together."""
    return Allowance(each=each, end=time.monotonic() + every)


def _run(folder: Path, timeout: int = PATIENCE) -> Finding:
    """Return the finding of the only check there is."""
    (finding,) = run_checks(folder, _allowance(timeout))
    return finding


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(path.read_text())


def _ends(pid: int) -> bool:
    """Tell whether a process is gone within a moment: a signal is delivered, not returned."""
    deadline = time.monotonic() + 2
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _is_running(pid)


@pytest.mark.parametrize("make", [False, True], ids=["absent", "empty"])
def test_without_checks_every_boot_is_good(tmp_path: Path, make: bool) -> None:  # noqa: FBT001 - parametrized
    if make:
        (tmp_path / "required").mkdir()
        (tmp_path / "wanted").mkdir()
    assert run_checks(tmp_path, _allowance()) == ()


def test_a_check_that_passes_says_nothing(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", "echo all is well")
    assert _run(tmp_path) == Finding(check="10-web", required=True, problem="")


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


def test_a_wanted_check_only_warns(tmp_path: Path) -> None:
    """D39."""
    health_check(tmp_path, "10-web", "exit 1", kind="wanted")
    finding = _run(tmp_path)
    assert finding == Finding(check="10-web", required=False, problem="exited with status 1")
    assert not finding.fatal


def test_every_check_runs_in_the_order_of_names_whatever_the_others_say(tmp_path: Path) -> None:
    health_check(tmp_path, "20-b", "exit 0")
    health_check(tmp_path, "10-a", "exit 1")
    health_check(tmp_path, "05-w", "exit 0", kind="wanted")
    health_check(tmp_path, "30-c", "exit 2")
    findings = run_checks(tmp_path, _allowance())
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
    assert finding.problem == "gave no answer in 1 s"
    assert finding.fatal
    assert time.monotonic() - started < 5


def test_a_check_that_hangs_takes_its_children_with_it(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    assert "gave no answer" in _run(tmp_path, timeout=1).problem
    assert _ends(_pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("status", [0, 1])
def test_a_child_left_in_the_background_holds_nobody_up_and_is_ended(tmp_path: Path, status: int) -> None:
    """D92: it holds the output open."""
    health_check(tmp_path, "10-web", f"sleep 600 & echo $! > {tmp_path}/pid; exit {status}")
    started = time.monotonic()
    assert bool(_run(tmp_path).problem) == bool(status)
    assert time.monotonic() - started < 5
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
    assert time.monotonic() - started < 5
    daemon = _pid_in(tmp_path / "pid")
    if "later" in then:
        time.sleep(2.2)  # its words reach the thread that once listened
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


def test_what_is_not_executable_is_pointed_out_and_fails_nothing(tmp_path: Path) -> None:
    health_check(tmp_path, "README", "exit 1").chmod(0o644)
    (tmp_path / "required" / "folder").mkdir()
    (tmp_path / "required" / "dangling").symlink_to("/no/such/file")
    (finding,) = run_checks(tmp_path, _allowance())
    assert (finding.check, finding.fatal) == ("README", False)
    assert finding.problem == "is not executable, so it was not run"


def test_a_link_to_an_executable_is_a_check(tmp_path: Path) -> None:
    (tmp_path / "required").mkdir()
    (tmp_path / "required" / "10-true").symlink_to("/bin/true")
    assert _run(tmp_path) == Finding(check="10-true", required=True, problem="")


def test_a_check_is_asked_nothing_and_leads_its_own_session(tmp_path: Path) -> None:
    health_check(tmp_path, "10-web", 'read -r line && exit 1; [ "$(ps -o sid= -p $$ | tr -d " ")" = $$ ]')
    assert _run(tmp_path).problem == ""


def test_checks_that_hang_share_the_time_of_all(tmp_path: Path) -> None:
    """D38: each of them would wait for its own time-out."""
    for name in ("10-a", "20-b", "30-c"):
        health_check(tmp_path, name, "sleep 600")
    health_check(tmp_path, "40-d", f"touch {tmp_path}/ran")
    health_check(tmp_path, "50-w", "exit 0", kind="wanted")
    started = time.monotonic()
    findings = run_checks(tmp_path, _allowance(0.6, 1.0))
    assert time.monotonic() - started < 3
    assert findings[0].problem == "gave no answer in 0.6 s"
    assert "gave no answer in 0." in findings[1].problem
    assert [finding.problem for finding in findings[2:]] == [OUT_OF_TIME] * 3
    assert [finding.fatal for finding in findings] == [True, True, True, True, False]
    assert not (tmp_path / "ran").exists()
