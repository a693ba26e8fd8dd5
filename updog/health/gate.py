"""Whether a boot is healthy for long enough: checks are repeated until they pass, then once more later.

Rules it enforces:

* a boot is healthy only if every required check passes before the deadline *and* still passes after the
  stability window: services that start and then die do not count (Bottlerocket's "successful" means little
  more than that a systemd target was reached);
* every round of checks ends at the deadline, or after the time limit of one check if that is later, so that a
  round of hanging checks does not take the sum of their timeouts (D38);
* time is measured by the monotonic clock, so a jump of the system time to 1970 or by a year has no effect
  (D42).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.health.checks import CheckResult

    Results = tuple[CheckResult, ...]

RETRY_SECONDS = 5.0  # between two rounds of checks before the deadline


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLimits:
    """Time limits in seconds.

    Attributes:
        deadline: within it the checks must pass. window: for it they must then keep passing.
        check: the longest time that one check may take.
    """

    deadline: float
    window: float
    check: float


def evaluate(
    run_checks: Callable[[float], Results],
    limits: GateLimits,
    *,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Results:
    """Return the results that decide: those after the window, or the last ones before the deadline.

    Args:
        run_checks: runs all checks within the given number of seconds.
        limits: how long to wait.
        sleep: sleeps so many seconds.
        monotonic: the monotonic clock, in seconds.
    """
    end = monotonic() + limits.deadline
    results = run_checks(max(limits.deadline, limits.check))
    while _has_failed(results) and monotonic() + RETRY_SECONDS <= end:
        sleep(RETRY_SECONDS)
        results = run_checks(max(end - monotonic(), limits.check))
    if _has_failed(results) or not limits.window:
        return results
    sleep(limits.window)
    return run_checks(max(limits.deadline, limits.check))


def _has_failed(results: Results) -> bool:
    """Return whether a required check failed."""
    return any(result.fatal for result in results)
