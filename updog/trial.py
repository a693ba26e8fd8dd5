"""Is this boot good, for long enough? Checks are repeated until they pass, then once more after a while.

Rules it enforces:

* a boot is good only if every required check passes before the deadline *and* still passes after the
  stability window: services that start and then die do not count (Bottlerocket's "successful" means little
  more than that a target was reached);
* every round of checks has an end of its own: the deadline, or the time one check may take where that is
  later, so that a round of hanging checks does not go on for the sum of their time-outs (D38);
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
    """Seconds: for checks to pass, for which they must then keep passing, and that one check may take."""

    deadline: float
    window: float
    check: float


def judge(
    checks: Callable[[float], Findings],
    patience: Patience,
    *,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Findings:
    """Return the findings that decide: those after the window, or the last ones before the deadline.

    Args:
        checks: runs them all within the seconds it is given.
        patience: how long to wait for what.
        sleep: waits.
        monotonic: tells seconds that only ever grow.
    """
    end = monotonic() + patience.deadline
    findings = checks(max(patience.deadline, patience.check))
    while _failed(findings) and monotonic() + RETRY_SECONDS <= end:
        sleep(RETRY_SECONDS)
        findings = checks(max(end - monotonic(), patience.check))
    if _failed(findings) or not patience.window:
        return findings
    sleep(patience.window)
    return checks(max(patience.deadline, patience.check))


def _failed(findings: Findings) -> bool:
    """Tell whether a required check failed."""
    return any(finding.fatal for finding in findings)
