"""PURE: how large a failure rate can be, told from outcomes that are looked at again and again.

A guard looks every few minutes. A textbook interval (Clopper-Pearson, Wilson) is right for one look at a
number of outcomes fixed beforehand; looked at after every outcome it is wrong sooner or later, whatever its
confidence. So the bounds here hold *for all moments at once* (a confidence sequence): with probability
``1 - alpha`` no look at all, ever, shows an interval that misses the true rate.

Rules:

* the evidence against a rate *p* is the beta-binomial mixture over it,
  ``M(p) = B(k + a, n - k + b) / B(a, b) / (p^k (1 - p)^(n - k))`` for *k* failures among *n* outcomes: the
  stake of a gambler who bets against *p* and cannot win in the long run if *p* is true. By Ville's inequality
  its greatest value ever exceeds ``1 / alpha`` with probability at most ``alpha``;
* the interval holds the rates with ``M(p) < 1 / alpha``; ``M`` has one minimum, at ``k / n``, so each end is
  found by halving. No normal approximation: the bounds are right for one outcome as for a million;
* outcomes need not arrive at a fixed pace, and when to stop may depend on what was seen.

See H. Robbins, Ann. Math. Statist. 41 (1970) 1397, and decision 0024.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log, log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PRIOR = (0.5, 4.5)
"""The gambler's belief, as a beta distribution: one bad node in ten, vaguely. It decides how soon a rate is
proven, never whether the bounds are right (measured in decision 0024)."""

_HALVINGS = 60
"""Each halves the interval: beyond a float's precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Outcomes: how many, and how many of them failed."""

    failed: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.failed <= self.total:
            raise ValueError(f"{self.failed} failures among {self.total} outcomes")

    @property
    def rate(self) -> float:
        """The share that failed; 0 without outcomes."""
        return self.failed / self.total if self.total else 0.0


def log_evidence(count: Count, rate: float) -> float:
    """Return the logarithm of the evidence that the true rate is not ``rate`` (0 < rate < 1)."""
    a, b = PRIOR
    fine = count.total - count.failed
    mixture = _log_beta(count.failed + a, fine + b) - _log_beta(a, b)
    return mixture - count.failed * log(rate) - fine * log1p(-rate)


def exceeds(count: Count, rate: float, alpha: float) -> bool:
    """Tell whether it is proven that the true rate is above ``rate``: the lower bound is."""
    return count.rate > rate and log_evidence(count, rate) >= -log(alpha)


def interval(count: Count, alpha: float) -> tuple[float, float]:
    """Return the lower and the upper bound of the true rate, right at every look with ``1 - alpha``."""

    def refuted(rate: float) -> bool:
        return log_evidence(count, rate) >= -log(alpha)

    lower = 0.0 if count.failed == 0 else _edge(refuted, outside=0.0, inside=count.rate)
    upper = 1.0 if count.failed == count.total else _edge(refuted, outside=1.0, inside=count.rate)
    return lower, upper


def enough(rate: float, alpha: float) -> int:
    """Return how many outcomes without any failure prove that the true rate is below ``rate``."""
    low, high = 0, 1
    while log_evidence(Count(failed=0, total=high), rate) < -log(alpha):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        proven = log_evidence(Count(failed=0, total=middle), rate) >= -log(alpha)
        low, high = (low, middle) if proven else (middle, high)
    return high


def _edge(refuted: Callable[[float], bool], *, outside: float, inside: float) -> float:
    """Return where ``refuted`` changes between a rate that is refuted and the one observed."""
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if not 0 < middle < 1 or refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
