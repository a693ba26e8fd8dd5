"""PURE: confidence bounds of a failure rate that stay valid when outcomes are examined repeatedly.

A guard examines the outcomes every few minutes. A textbook interval (Clopper-Pearson, Wilson) is valid for
one examination of a number of outcomes that was fixed beforehand; examined after every outcome, it is wrong
sooner or later, whatever its confidence. So the bounds here are valid *for all moments at once* (a confidence
sequence): with probability ``1 - alpha``, no examination ever shows an interval that misses the true rate.

Rules:

* the evidence against a rate *p* is the beta-binomial mixture over it,
  ``M(p) = B(k + a, n - k + b) / B(a, b) / (p^k (1 - p)^(n - k))`` for *k* failures among *n* outcomes: the
  wealth of a gambler who bets against *p* and cannot win in the long run if *p* is true. By Ville's
  inequality its maximum exceeds ``1 / alpha`` with probability at most ``alpha``;
* the interval contains the rates with ``M(p) < 1 / alpha``; ``M`` has one minimum, at ``k / n``, so each end
  is found by bisection. No normal approximation: the bounds are valid for one outcome as for a million;
* outcomes need not arrive at a fixed rate, and when to stop may depend on what was seen.

See H. Robbins, Ann. Math. Statist. 41 (1970) 1397, and decision 0024.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import lgamma, log, log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


PRIOR = (0.5, 4.5)
"""Prior as a beta distribution: about one bad node in ten, with low confidence. It determines how soon a rate
is proven, never whether the bounds are valid (measured in decision 0024)."""

_BISECTIONS = 60
"""Each halves the interval: more than the precision of a float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureCount:
    """Number of outcomes, and how many of them are failures."""

    failed: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.failed <= self.total:
            raise ValueError(f"{self.failed} failures among {self.total} outcomes")

    @property
    def rate(self) -> float:
        """The share that failed; 0 without outcomes."""
        return self.failed / self.total if self.total else 0.0


def log_evidence(count: FailureCount, rate: float) -> float:
    """Return the logarithm of the evidence that the true rate is not ``rate`` (0 < rate < 1)."""
    a, b = PRIOR
    succeeded = count.total - count.failed
    mixture = _log_beta(count.failed + a, succeeded + b) - _log_beta(a, b)
    return mixture - count.failed * log(rate) - succeeded * log1p(-rate)


def exceeds(count: FailureCount, rate: float, alpha: float) -> bool:
    """Return whether the true rate is proven to be above ``rate``, that is, the lower bound is above it."""
    return count.rate > rate and log_evidence(count, rate) >= -log(alpha)


def interval(count: FailureCount, alpha: float) -> tuple[float, float]:
    """Return the lower and upper bound of the true rate, valid at every examination with ``1 - alpha``."""

    def refuted(rate: float) -> bool:
        return log_evidence(count, rate) >= -log(alpha)

    lower = 0.0 if count.failed == 0 else _bisect(refuted, outside=0.0, inside=count.rate)
    upper = 1.0 if count.failed == count.total else _bisect(refuted, outside=1.0, inside=count.rate)
    return lower, upper


def outcomes_to_prove(rate: float, alpha: float) -> int:
    """Return how many outcomes without a failure prove that the true rate is below ``rate``."""
    low, high = 0, 1
    while log_evidence(FailureCount(failed=0, total=high), rate) < -log(alpha):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        proven = log_evidence(FailureCount(failed=0, total=middle), rate) >= -log(alpha)
        low, high = (low, middle) if proven else (middle, high)
    return high


def _bisect(refuted: Callable[[float], bool], *, outside: float, inside: float) -> float:
    """Return where ``refuted`` changes between a refuted rate and the observed one."""
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        if not 0 < middle < 1 or refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


MAX_STEPS = 200
"""Most points of a curve: as many as a plot can show."""

_STEPS = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440))


def step_over(span: timedelta) -> timedelta:
    """Return a round step that divides ``span`` into fewer than :data:`MAX_STEPS` parts."""
    days = timedelta(days=1 + int(span / timedelta(days=1) / MAX_STEPS))
    return next((step for step in _STEPS if span / step < MAX_STEPS), days)
