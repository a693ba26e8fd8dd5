"""Is this boot good, for long enough? Checks are repeated until they pass, then once more after a while.

Rules it enforces:

* a boot is good only if every required check passes before the deadline *and* still passes after the
  stability window: services that start and then die do not count (Bottlerocket's "successful" means little
  more than that a target was reached);
* time is counted by a clock that nobody can set, so a jump to 1970 or by a year neither shortens nor
  prolongs anything (D42).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.health import Finding

    Findings = tuple[Finding, ...]

RETRY_SECONDS = 5.0  # between two rounds of checks before the deadline


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Seconds: how long checks may take to pass, and how long they must then keep passing."""

    deadline: float
    window: float


def judge(
    checks: Callable[[], Findings],
    patience: Patience,
    *,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Findings:
    """Return the findings that decide: those after the window, or the last ones before the deadline."""
    end = monotonic() + patience.deadline
    findings = checks()
    while _failed(findings) and monotonic() + RETRY_SECONDS <= end:
        sleep(RETRY_SECONDS)
        findings = checks()
    if _failed(findings) or not patience.window:
        return findings
    sleep(patience.window)
    return checks()


def _failed(findings: Findings) -> bool:
    """Tell whether a required check failed."""
    return any(finding.fatal for finding in findings)
