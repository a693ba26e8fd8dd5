"""Built-in health checks, against real files and programs under folders of the test's own."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from updog.config import VITALS
from updog.health import OUT_OF_TIME, Allowance
from updog.vitals import CHECKS, Vitals, run_vitals

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
NO_ROUTE = "there is no default route"
ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"


def _allowance(each: float) -> Allowance:
    return Allowance(each=each, end=time.monotonic() + 60)


@pytest.fixture
def vitals(tmp_path: Path) -> Vitals:
    (tmp_path / "proc/net").mkdir(parents=True)
    return Vitals(
        state_dir=tmp_path,
        repository="http://localhost/metadata/",
        now=NOW,
        latest_known=None,
        allowance=_allowance(5),
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
    assert tuple(CHECKS) == VITALS


def test_only_what_is_asked_for_is_run_and_all_of_it_is_required(vitals: Vitals) -> None:
    findings = run_vitals(("clock", "free-space"), vitals)
    assert [(finding.check, finding.required, finding.problem) for finding in findings] == [
        ("clock", True, ""),
        ("free-space", True, ""),
    ]


def test_without_systemd_no_unit_has_failed(vitals: Vitals) -> None:
    assert CHECKS["failed-units"](vitals) == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", ""),
        ("echo 'web.service loaded failed failed Web'", "failed units: web.service"),
        ("echo no bus; exit 3", "systemctl exited with status 3: no bus"),
        ("sleep 60 & wait", "systemctl gave no answer in 1 s"),
    ],
    ids=["none", "one", "error", "hangs"],
)
def test_failed_units_are_named(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    vitals.systemd.mkdir()
    _systemctl(vitals.state_dir, script, monkeypatch)
    found = CHECKS["failed-units"](replace(vitals, allowance=_allowance(1)))
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("four", "six", "problem"),
    [
        (ROUTES + "eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n", "", ""),
        (ROUTES + "eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n", "", NO_ROUTE),
        (ROUTES + "eth0\t00000000\t0102A8C0\t0002\t0\t0\t0\t00000000\n", "", NO_ROUTE),
        ("", f"{'0' * 32} 00 {'0' * 32} 00 fe80 400 1 0 00000003 eth0\n", ""),
        (
            "",
            f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n",
            NO_ROUTE,
        ),
    ],
    ids=["IPv4", "only a network", "down", "IPv6", "only loopback"],
)
def test_a_default_route_of_either_family_is_enough(
    vitals: Vitals, four: str, six: str, problem: str
) -> None:
    (vitals.proc / "net/route").write_text(four, encoding="ascii")
    (vitals.proc / "net/ipv6_route").write_text(six, encoding="ascii")
    assert CHECKS["default-route"](vitals) == problem


def test_without_procfs_there_is_no_route(vitals: Vitals) -> None:
    assert CHECKS["default-route"](vitals) == NO_ROUTE


def test_the_repository_s_host_has_to_resolve(vitals: Vitals) -> None:
    assert CHECKS["name-resolution"](vitals) == ""
    lost = replace(vitals, repository="http://no-such-host.invalid/metadata/")
    assert "no-such-host.invalid" in CHECKS["name-resolution"](lost)
    assert CHECKS["name-resolution"](replace(vitals, repository="file:///mnt/usb/")) == ""


def test_a_state_folder_that_is_not_there_has_no_room(vitals: Vitals) -> None:
    assert "cannot be examined" in CHECKS["free-space"](replace(vitals, state_dir=Path("/no/such/folder")))


def test_a_full_file_system_is_told_in_bytes(vitals: Vitals) -> None:
    assert "bytes are free" in CHECKS["free-space"](replace(vitals, state_dir=Path("/proc")))


def test_a_clock_behind_what_was_known_is_not_good(vitals: Vitals) -> None:
    """D42: a jump to 1970, or an empty battery."""
    known = replace(vitals, latest_known=NOW)
    assert CHECKS["clock"](known) == ""
    assert "1970-01-01" in CHECKS["clock"](replace(known, now=datetime(1970, 1, 1, tzinfo=UTC)))
    assert CHECKS["clock"](replace(known, now=NOW + timedelta(days=400))) == ""


def test_what_is_only_wanted_warns(vitals: Vitals) -> None:
    """D39."""
    behind = replace(vitals, latest_known=NOW + timedelta(days=1))
    (finding,) = run_vitals(("clock",), behind, required=False)
    assert finding.problem
    assert not finding.fatal


def test_what_there_is_no_time_for_has_not_passed(vitals: Vitals) -> None:
    over = replace(vitals, allowance=Allowance(each=5, end=time.monotonic()))
    (finding,) = run_vitals(("free-space",), over)
    assert finding.problem == OUT_OF_TIME
    assert finding.fatal
