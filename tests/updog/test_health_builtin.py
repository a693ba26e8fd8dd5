"""Built-in health checks, against real files and programs under folders of the test's own."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from updog.config import BUILTIN_CHECKS
from updog.health.builtin import CHECKS, BuiltinInputs, failed_units, run_builtin_checks
from updog.health.checks import OUT_OF_TIME, TimeBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
NO_ROUTE = "there is no default route"
ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"


def _budget(each: float) -> TimeBudget:
    return TimeBudget(each=each, end=time.monotonic() + 60)


@pytest.fixture
def vitals(tmp_path: Path) -> BuiltinInputs:
    (tmp_path / "proc/net").mkdir(parents=True)
    return BuiltinInputs(
        state_dir=tmp_path,
        repository="http://localhost/metadata/",
        now=NOW,
        signed_time=None,
        budget=_budget(5),
        proc=tmp_path / "proc",
        systemd=tmp_path / "systemd",
    )


def _systemctl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a real executable named systemctl in front of PATH."""
    program = folder / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_every_name_of_the_configuration_has_a_check() -> None:
    assert tuple(CHECKS) == BUILTIN_CHECKS


def test_only_what_is_asked_for_is_run_and_all_of_it_is_required(vitals: BuiltinInputs) -> None:
    findings = run_builtin_checks(("default-route", "free-space"), vitals)
    assert [(finding.check, finding.required, finding.problem) for finding in findings] == [
        ("default-route", True, NO_ROUTE),
        ("free-space", True, ""),
    ]


def test_without_systemd_no_unit_has_failed(vitals: BuiltinInputs) -> None:
    assert CHECKS["failed-units"](vitals) == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", ""),
        ("echo 'web.service loaded failed failed Web'", "failed units: web.service"),
        ("echo no bus; exit 3", "systemctl exited with status 3: no bus"),
        ("sleep 60 & wait", "systemctl did not finish in 1 s"),
    ],
    ids=["none", "one", "error", "hangs"],
)
def test_failed_units_are_named(
    vitals: BuiltinInputs, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    vitals.systemd.mkdir()
    _systemctl(vitals.state_dir, script, monkeypatch)
    found = CHECKS["failed-units"](replace(vitals, budget=_budget(1)))
    assert problem in found
    assert bool(found) == bool(problem)


def test_a_unit_that_had_failed_before_the_update_does_not_count(
    vitals: BuiltinInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitals.systemd.mkdir()
    lines = ("old.service loaded failed failed Old", "Warning: web.service changed on disk", "")
    _systemctl(vitals.state_dir, "\n".join(f"echo '{line}'" for line in lines), monkeypatch)
    known = replace(vitals, failed_before=frozenset({"old.service", "repaired.service"}))
    assert CHECKS["failed-units"](known) == ""
    (vitals.state_dir / "bin/systemctl").write_text(
        "#!/bin/sh\necho 'old.service loaded failed failed Old'\necho 'new.mount loaded failed failed New'\n",
        encoding="utf-8",
    )
    assert CHECKS["failed-units"](known) == (
        "failed units: new.mount (old.service had failed before the update)"
    )


def test_a_thousand_failed_units_are_all_read(vitals: BuiltinInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the output alone would hide the first ones, or cut a name in two."""
    vitals.systemd.mkdir()
    script = 'for n in $(seq 1000); do echo "unit-$n.service loaded failed failed Unit number $n"; done'
    _systemctl(vitals.state_dir, script, monkeypatch)
    assert len(failed_units(60, systemd=vitals.systemd).names) == 1000


@pytest.mark.parametrize(
    ("four", "six", "problem"),
    [
        (ROUTES + "eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n", "", ""),
        (ROUTES + "eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n", "", NO_ROUTE),
        (ROUTES + "eth0\t00000000\t0102A8C0\t0002\t0\t0\t0\t00000000\n", "", NO_ROUTE),
        ("", f"{'0' * 32} 00 {'0' * 32} 00 fe80 400 1 0 00000003 eth0\n", ""),
        (ROUTES + "t\udcff\x1cn\x85\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n", "", ""),
        (
            "",
            f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n",
            NO_ROUTE,
        ),
    ],
    ids=["IPv4", "only a network", "down", "IPv6", "a name of bytes", "only loopback"],
)
def test_a_default_route_of_either_family_is_enough(
    vitals: BuiltinInputs, four: str, six: str, problem: str
) -> None:
    (vitals.proc / "net/route").write_bytes(os.fsencode(four))
    (vitals.proc / "net/ipv6_route").write_text(six, encoding="ascii")
    assert CHECKS["default-route"](vitals) == problem


def test_without_procfs_there_is_no_route(vitals: BuiltinInputs) -> None:
    assert CHECKS["default-route"](vitals) == NO_ROUTE


def test_the_repository_s_host_has_to_resolve(vitals: BuiltinInputs) -> None:
    assert CHECKS["name-resolution"](vitals) == ""
    lost = replace(vitals, repository="http://no-such-host.invalid/metadata/")
    assert "no-such-host.invalid" in CHECKS["name-resolution"](lost)
    assert CHECKS["name-resolution"](replace(vitals, repository="file:///mnt/usb/")) == ""


def test_a_name_that_no_host_has_is_a_problem_and_no_crash(vitals: BuiltinInputs) -> None:
    lost = replace(vitals, repository="http://a..b/metadata/")
    assert "a..b does not resolve" in CHECKS["name-resolution"](lost)


@pytest.mark.usefixtures("no_more_threads")
def test_where_no_thread_can_be_started_a_check_fails_in_words(vitals: BuiltinInputs) -> None:
    assert "can't start new thread" in CHECKS["name-resolution"](vitals)


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    """Ask for stacks that no machine has room for: the kernel refuses each new thread."""
    before = threading.stack_size(1 << 46)
    yield
    threading.stack_size(before)


def test_a_state_folder_that_is_not_there_has_no_room(vitals: BuiltinInputs) -> None:
    assert "cannot be examined" in CHECKS["free-space"](replace(vitals, state_dir=Path("/no/such/folder")))


def test_a_full_file_system_is_reported_in_bytes(vitals: BuiltinInputs) -> None:
    assert "bytes are free" in CHECKS["free-space"](replace(vitals, state_dir=Path("/proc")))


def test_a_clock_behind_what_was_signed_is_pointed_out(vitals: BuiltinInputs) -> None:
    """D42: a jump to 1970, or an empty battery."""
    known = replace(vitals, signed_time=NOW)
    assert CHECKS["clock"](known) == ""
    assert "1970-01-01" in CHECKS["clock"](replace(known, now=datetime(1970, 1, 1, tzinfo=UTC)))
    assert CHECKS["clock"](replace(known, now=NOW + timedelta(days=400))) == ""


def test_what_is_only_wanted_warns(vitals: BuiltinInputs) -> None:
    """D39."""
    (finding,) = run_builtin_checks(("default-route",), vitals, required=False)
    assert finding.problem
    assert not finding.fatal


def test_the_clock_only_warns_also_where_it_is_required(vitals: BuiltinInputs) -> None:
    behind = replace(vitals, signed_time=NOW + timedelta(days=1))
    (finding,) = run_builtin_checks(("clock",), behind)
    assert finding.problem == (
        "the clock shows 2026-11-24 09:30 UTC, but the repository was signed on 2026-11-25 09:30 UTC"
    )
    assert not finding.fatal


def test_a_check_without_time_left_has_not_passed(vitals: BuiltinInputs) -> None:
    over = replace(vitals, budget=TimeBudget(each=5, end=time.monotonic()))
    (finding,) = run_builtin_checks(("free-space",), over)
    assert finding.problem == OUT_OF_TIME
    assert finding.fatal
