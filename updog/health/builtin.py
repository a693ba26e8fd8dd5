"""Built-in health checks, which work on every Linux node.

Each check is a function from :class:`BuiltinInputs` to its problem (empty: none); :data:`CHECKS` maps the
names in the configuration to them. They use real programs, and files below root folders that tests can set.
They never raise.

Rules it enforces:

* a release is judged by what it can break: a unit that had failed before the update does not count, and a
  clock that is wrong only warns, whatever the configuration requires (no version is left for it).
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from updog.config import BUILTIN_CHECKS
from updog.health.checks import OUT_OF_TIME, CheckResult, TimeBudget, run_bounded
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

FREE_BYTES = 64 << 20  # with less, the next update could not even store its metadata and logs
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}")  # systemd.unit(5)
_LIST_BYTES = 1 << 20  # of systemctl's list: thousands of units
_ROUTE_UP, _ANYWHERE = 0x1, b"00000000"  # linux/route.h RTF_UP; destination 0.0.0.0 in procfs


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltinInputs:
    """What the checks examine.

    Attributes:
        state_dir: a folder whose file system must have free space.
        repository: URL whose host name must resolve.
        now: the node's clock, UTC.
        signed_time: when the last timestamp of the repository that was verified had been signed, UTC.
        budget: how long the checks may take.
        failed_before: the systemd units that had failed before the running version was installed.
        proc: where procfs is mounted.
        systemd: a folder that exists if systemd is running.
    """

    state_dir: Path
    repository: str
    now: datetime
    signed_time: datetime | None
    budget: TimeBudget
    failed_before: frozenset[str] = frozenset()
    proc: Path = Path("/proc")
    systemd: Path = Path("/run/systemd/system")


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedUnits:
    """The names of the units that have failed, or why they are not known (``problem``)."""

    names: frozenset[str] = frozenset()
    problem: str = ""


def run_builtin_checks(
    names: Iterable[str], inputs: BuiltinInputs, *, required: bool = True
) -> tuple[CheckResult, ...]:
    """Run the built-in checks with these names, within the time budget."""
    return tuple(
        CheckResult(
            check=name,
            required=required and name not in _ONLY_WARN,
            problem=CHECKS[name](inputs) if inputs.budget.next_timeout() > 0 else OUT_OF_TIME,
        )
        for name in names
    )


def failed_units(timeout: float, *, systemd: Path) -> FailedUnits:
    """Return the systemd units that have failed by now; none if systemd is not running.

    Args:
        timeout: seconds that systemctl may take.
        systemd: a folder that exists if systemd is running.
    """
    if not systemd.is_dir():
        return FailedUnits()
    command = ["systemctl", "list-units", "--state=failed", "--plain", "--full", "--no-legend", "--no-pager"]
    result = run_bounded(command, timeout, kept=_LIST_BYTES)
    if result.problem:
        return FailedUnits(problem=f"systemctl {result.problem}")
    rows = [line.split() for line in result.output.splitlines()]
    # UNIT LOAD ACTIVE SUB DESCRIPTION; systemctl's own warnings are among the lines
    return FailedUnits(
        names=frozenset(row[0] for row in rows if "failed" in row[1:4] and _UNIT.fullmatch(row[0]))
    )


def _failed_units(inputs: BuiltinInputs) -> str:
    """No systemd unit has failed that had not failed before the update; passes without systemd."""
    failed = failed_units(inputs.budget.next_timeout(), systemd=inputs.systemd)
    if failed.problem:
        return failed.problem
    new = sorted(failed.names - inputs.failed_before)
    old = sorted(failed.names & inputs.failed_before)
    excused = f" ({', '.join(old)} had failed before the update)" if old else ""
    return f"failed units: {', '.join(new)}{excused}" if new else ""


def _default_route(inputs: BuiltinInputs) -> str:
    """The kernel has a default route, IPv4 or IPv6 (proc(5), net/route and net/ipv6_route)."""
    four = _rows(inputs.proc / "net/route")[1:]
    six = _rows(inputs.proc / "net/ipv6_route")
    found = any(row[1] == _ANYWHERE and int(row[3], 16) & _ROUTE_UP for row in four) or any(
        row[0] == b"0" * 32 and row[1] == b"00" and row[9] != b"lo" for row in six
    )
    return "" if found else "there is no default route"


def _name_resolution(inputs: BuiltinInputs) -> str:
    """The repository's host name resolves; passes for `file:` repositories."""
    host = urlsplit(inputs.repository).hostname
    if host is None:
        return ""
    seconds = inputs.budget.next_timeout()
    problems: list[str] = [f"{host} was not resolved in {round(seconds, 1):g} s"]

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, None)
            problems.append("")
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host, such as a..b
            problems.append(f"{host} does not resolve: {error}")

    thread = threading.Thread(target=resolve, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the limit of threads, or of memory
        return f"{host} was not resolved: {error}"
    thread.join(seconds)  # the resolver's own timeouts are longer
    return problems[-1]


def _free_space(inputs: BuiltinInputs) -> str:
    """The state folder's file system has free space."""
    try:
        free = shutil.disk_usage(inputs.state_dir).free
    except OSError as error:
        return f"{inputs.state_dir} cannot be examined: {error.strerror}"
    return "" if free >= FREE_BYTES else f"only {free} bytes are free in {inputs.state_dir}"


def _clock(inputs: BuiltinInputs) -> str:
    """The clock is not behind the time at which the repository was signed."""
    if inputs.signed_time is None or inputs.now >= inputs.signed_time:
        return ""
    signed = readable_time(inputs.signed_time)
    return f"the clock shows {readable_time(inputs.now)}, but the repository was signed on {signed}"


def _rows(path: Path) -> list[list[bytes]]:
    """Return the fields of each line of a file in procfs; none if it does not exist.

    Names of interfaces are bytes: any but white space and the slash.
    """
    try:
        return [line.split() for line in path.read_bytes().split(b"\n") if line]
    except OSError:
        return []


_FUNCTIONS = (_failed_units, _default_route, _name_resolution, _free_space, _clock)
_ONLY_WARN = frozenset({"clock"})
CHECKS: dict[str, Callable[[BuiltinInputs], str]] = dict(zip(BUILTIN_CHECKS, _FUNCTIONS, strict=True))
"""The function of each check that ``health_checks`` in the configuration may list."""
