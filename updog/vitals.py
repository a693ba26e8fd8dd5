"""Built-in health checks: what every Linux node can be asked, whatever it is for.

Each check is a function from :class:`Vitals` to its problem (empty: none); :data:`CHECKS` finds them by
the names of the configuration. They ask real programs and files under injectable roots, and never raise.
"""

from __future__ import annotations

import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from updog.config import VITALS
from updog.health import OUT_OF_TIME, Allowance, Finding, run_bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

FREE_BYTES = 64 << 20  # below it the next update could not even keep its metadata and logs
_ROUTE_UP, _ANYWHERE = 0x1, "00000000"  # linux/route.h RTF_UP; destination 0.0.0.0 in procfs


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """What the checks look at.

    Attributes:
        state_dir: the file system that must have room.
        repository: URL whose host must resolve.
        now: this moment by the node's clock, UTC.
        latest_known: the latest moment this node has known.
        allowance: how long the checks may take.
        proc: where procfs is mounted.
        systemd: the folder that is there when systemd runs.
    """

    state_dir: Path
    repository: str
    now: datetime
    latest_known: datetime | None
    allowance: Allowance
    proc: Path = Path("/proc")
    systemd: Path = Path("/run/systemd/system")


def run_vitals(names: Iterable[str], vitals: Vitals, *, required: bool = True) -> tuple[Finding, ...]:
    """Run the built-in checks of these names, as long as there is time."""
    return tuple(
        Finding(
            check=name,
            required=required,
            problem=CHECKS[name](vitals) if vitals.allowance.left() > 0 else OUT_OF_TIME,
        )
        for name in names
    )


def _failed_units(vitals: Vitals) -> str:
    """No systemd unit has failed; passes where systemd does not run."""
    if not vitals.systemd.is_dir():
        return ""
    command = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"]
    answer = run_bounded(command, vitals.allowance.left())
    if answer.problem:
        return f"systemctl {answer.problem}"
    units = [line.split()[0] for line in answer.said.splitlines() if line.strip()]
    return f"failed units: {', '.join(units)}" if units else ""


def _default_route(vitals: Vitals) -> str:
    """The kernel has a default route, IPv4 or IPv6 (proc(5), net/route and net/ipv6_route)."""
    four = [line.split() for line in _lines(vitals.proc / "net/route")[1:]]
    six = [line.split() for line in _lines(vitals.proc / "net/ipv6_route")]
    found = any(row[1] == _ANYWHERE and int(row[3], 16) & _ROUTE_UP for row in four) or any(
        row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" for row in six
    )
    return "" if found else "there is no default route"


def _name_resolution(vitals: Vitals) -> str:
    """The repository's host name resolves; passes for `file:` repositories."""
    host = urlsplit(vitals.repository).hostname
    if host is None:
        return ""
    seconds = vitals.allowance.left()
    problems: list[str] = [f"resolving {host} gave no answer in {round(seconds, 1):g} s"]
    thread = threading.Thread(target=_resolve, args=(host, problems), daemon=True)
    thread.start()
    thread.join(seconds)  # the resolver has time-outs of its own, and they are longer than ours
    return problems[-1]


def _resolve(host: str, problems: list[str]) -> None:
    """Add the outcome of resolving ``host``."""
    try:
        socket.getaddrinfo(host, None)
        problems.append("")
    except OSError as error:
        problems.append(f"{host} does not resolve: {error}")


def _free_space(vitals: Vitals) -> str:
    """The state folder's file system has room."""
    try:
        free = shutil.disk_usage(vitals.state_dir).free
    except OSError as error:
        return f"{vitals.state_dir} cannot be examined: {error.strerror}"
    return "" if free >= FREE_BYTES else f"only {free} bytes are free in {vitals.state_dir}"


def _clock(vitals: Vitals) -> str:
    """The clock is not behind the latest moment this node has known."""
    if vitals.latest_known is None or vitals.now >= vitals.latest_known:
        return ""
    return f"the clock says {vitals.now:%Y-%m-%d %H:%M}, but it has been {vitals.latest_known:%Y-%m-%d %H:%M}"


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of procfs; none where it is not there."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


_FUNCTIONS = (_failed_units, _default_route, _name_resolution, _free_space, _clock)
CHECKS: dict[str, Callable[[Vitals], str]] = dict(zip(VITALS, _FUNCTIONS, strict=True))
"""The check behind each name that ``health_checks`` of the configuration may list."""
