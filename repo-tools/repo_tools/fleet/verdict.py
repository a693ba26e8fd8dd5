"""PURE: whether a release has failed too often to go on, from what its nodes reported so far.

Three answers about each group of nodes (the release as a whole, and each of its waves), from the bounds of
:mod:`repo_tools.fleet.bounds`:

* ``over``: the lower bound is above the budget. More fail than was allowed, and chance does not explain it;
* ``within``: the upper bound is not above the budget;
* ``open``: neither is proven yet.

Which of them holds a release is the rule :class:`HoldOn`:

* ``PROOF`` (the default): a group is ``over``;
* ``DOUBT``: that, or the release as a whole is still ``open`` after so many outcomes that one without
  failures would be ``within``. With fewer, the upper bound of the best release is above the budget.

Silence is judged by its own budget: a node that took the release and was not heard of since cannot report
that it hangs. The chance to be wrong, ``alpha``, is shared out over all the questions asked, so that a
release that keeps its budgets is held by proof with at most that chance, however often it is judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from repo_tools.fleet.bounds import Count, enough, exceeds, interval
from signpost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WHOLE = "release"
"""The group of all nodes."""

_SHARES = {"failures": {True: 0.5, False: 0.25}, "silence": {True: 0.25}}
"""Parts of alpha: by question, and whether it is asked of the whole release or, shared, of its waves."""


class HoldOn(Enum):
    """What holds a release."""

    PROOF = "proof"
    DOUBT = "doubt"


class Answer(Enum):
    """What is known of a group's rate."""

    OVER = "over"
    WITHIN = "within"
    OPEN = "open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is allowed.

    Attributes:
        budget: share of nodes that may fail. silence: share that may not be heard of again.
        alpha: chance that a release whose rates keep the budgets is held all the same.
        hold_on: what holds it.
    """

    budget: float = 0.01
    silence: float = 0.1
    alpha: float = 0.05
    hold_on: HoldOn = HoldOn.PROOF

    def __post_init__(self) -> None:
        """Refuse what is no share. Raises UsageError."""
        for name, share in (("budget", self.budget), ("silence budget", self.silence), ("alpha", self.alpha)):
            if not 0 < share < 1:
                raise UsageError(
                    f"the {name} {share:g} is not between 0 and 1", next_step="Write 1% or 0.01."
                )

    @property
    def enough(self) -> int:
        """Outcomes after which a release without failures is within its budget."""
        return enough(self.budget, self.alpha * _SHARES["failures"][True])


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What the nodes of a release did so far.

    Attributes:
        waves: wave number → outcomes of its nodes; numbers from 1.
        quiet: of the nodes whose sign of life is due, those that gave none since they took the release.
    """

    waves: Mapping[int, Count]
    quiet: Count = field(default_factory=Count)

    @property
    def whole(self) -> Count:
        """The outcomes of all waves."""
        counts = self.waves.values()
        return Count(failed=sum(each.failed for each in counts), total=sum(each.total for each in counts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One question and its answer.

    Attributes:
        group: ``release`` or ``wave 3``. question: ``failures`` or ``silence``.
        count: what was seen. budget: what is allowed. lower, upper: bounds of the true rate.
    """

    group: str
    question: str
    count: Count
    budget: float
    lower: float
    upper: float

    @property
    def answer(self) -> Answer:
        """What the bounds say about the budget."""
        if self.lower > self.budget:
            return Answer.OVER
        return Answer.WITHIN if self.upper <= self.budget else Answer.OPEN


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All findings about a release, and those that hold it (none: it may go on)."""

    findings: tuple[Finding, ...]
    against: tuple[Finding, ...]

    @property
    def hold(self) -> bool:
        """Whether the release has to be held."""
        return bool(self.against)


def judge(tally: Tally, rules: Rules) -> Verdict:
    """Return what the outcomes of a release say."""
    findings = tuple(
        Finding(group=group, question=question, count=count, budget=budget, lower=bounds[0], upper=bounds[1])
        for group, question, count, budget, alpha in _questions(tally, rules)
        for bounds in [interval(count, alpha)]
    )
    return Verdict(findings=findings, against=tuple(item for item in findings if _holds(item, rules)))


def is_bad(tally: Tally, rules: Rules) -> bool:
    """Return whether :func:`judge` would hold the release; quicker, as a simulation asks it often."""
    over = any(exceeds(count, budget, alpha) for _, _, count, budget, alpha in _questions(tally, rules))
    return over or (
        rules.hold_on is HoldOn.DOUBT
        and tally.whole.total >= rules.enough
        and interval(tally.whole, rules.alpha * _SHARES["failures"][True])[1] > rules.budget
    )


def _questions(tally: Tally, rules: Rules) -> Iterator[tuple[str, str, Count, float, float]]:
    """Yield group, question, what was seen, budget and part of alpha."""
    of_failures, of_silence = _SHARES["failures"], _SHARES["silence"]
    yield WHOLE, "failures", tally.whole, rules.budget, rules.alpha * of_failures[True]
    if len(tally.waves) > 1:
        part = rules.alpha * of_failures[False] / len(tally.waves)
        for number, count in sorted(tally.waves.items()):
            yield f"wave {number}", "failures", count, rules.budget, part
    yield WHOLE, "silence", tally.quiet, rules.silence, rules.alpha * of_silence[True]


def _holds(finding: Finding, rules: Rules) -> bool:
    if finding.answer is Answer.OVER:
        return True
    asked = rules.hold_on is HoldOn.DOUBT and (finding.group, finding.question) == (WHOLE, "failures")
    return asked and finding.answer is Answer.OPEN and finding.count.total >= rules.enough
