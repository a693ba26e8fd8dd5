"""PURE: decide whether a release fails too often to continue, from what its nodes have reported so far.

There are three answers for each group of nodes (the whole release, and each of its waves), from the bounds of
:mod:`repo_tools.fleet.bounds`:

* ``over``: the lower bound is above the budget. More nodes fail than allowed, and that is not by chance;
* ``within``: the upper bound is not above the budget;
* ``open``: neither is proven yet.

Which answer holds a release depends on :class:`HoldOn`:

* ``PROOF`` (the default): a group is ``over``;
* ``DOUBT``: a group is ``over``, or the whole release is still ``open`` after as many outcomes as a release
  without failures needs to be ``within``. With fewer outcomes, the upper bound of any release is above the
  budget.

Silence has its own budget: a node that took the release and has not been heard of since cannot report that it
hangs. The probability of error, ``alpha``, is divided among all questions, so that a release within its
budgets is held by proof with at most this probability, however often it is examined.

A release can only be allowed to continue if something was seen of it. Logs that are empty, too old, or mostly
not understood, or in which no node reports an outcome, prove nothing: then the guard *cannot judge*
(:func:`blind_spots`). They never prevent a hold: what is proven is proven.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from repo_tools.fleet.bounds import FailureCount, exceeds, interval, outcomes_to_prove
from signpost.errors import UsageError
from updog.update_metadata.times import readable_duration, readable_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime, timedelta

ALL_NODES = "release"
"""The name of the group of all nodes."""

_OF_RELEASE, _OF_WAVES, _OF_SILENCE = 0.5, 0.25, 0.25
"""Parts of alpha: for failures of the whole release, of all waves together, and for silence."""


class HoldOn(Enum):
    """Which answers hold a release."""

    PROOF = "proof"
    DOUBT = "doubt"


class GuardAnswer(Enum):
    """What is proven about a group's rate."""

    OVER = "over"
    WITHIN = "within"
    OPEN = "open"


class VerdictAnswer(Enum):
    """What the guard says about a release."""

    HOLD = "hold"
    CANNOT_JUDGE = "cannot-judge"
    NOTHING_TO_JUDGE = "nothing-to-judge"
    MAY_GO_ON = "may-go-on"


LEAST_UNDERSTOOD = 0.5
"""Share of the lines below which the logs are not the ones that the guard is made for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """How much the logs show of a release.

    Attributes:
        read, understood: number of lines. last: time of the last request; None without requests.
        nodes: nodes of its variant, architecture and channel that were seen.
        unnamed: those that send no pseudonym. behind: those that run a lower version, or an unknown one.
        took: those that took the release. outcomes: number that count as good or bad.
    """

    read: int
    understood: int
    last: datetime | None
    nodes: int
    unnamed: int
    behind: int
    took: int
    outcomes: int

    @property
    def quiescent(self) -> bool:
        """Whether no node takes the release, or has to."""
        return self.nodes > 0 and not (self.behind or self.took or self.outcomes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The limits of a release.

    Attributes:
        budget: share of nodes that may fail. silence: share of nodes that may fall silent.
        alpha: probability that a release within its budgets is held.
        hold_on: which answers hold it.
    """

    budget: float = 0.01
    silence: float = 0.1
    alpha: float = 0.05
    hold_on: HoldOn = HoldOn.PROOF

    def __post_init__(self) -> None:
        """Refuse shares outside 0 … 1. Raises UsageError."""
        for name, share in (("budget", self.budget), ("silence budget", self.silence), ("alpha", self.alpha)):
            if not 0 < share < 1:
                raise UsageError(
                    f"the {name} {share:g} is not between 0 and 1", next_step="Write 1% or 0.01."
                )

    @property
    def outcomes_needed(self) -> int:
        """Number of outcomes after which a release without failures is within its budget."""
        return outcomes_to_prove(self.budget, self.alpha * _OF_RELEASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """The outcomes of a release so far.

    Attributes:
        waves: wave number from 1 → outcomes of its nodes.
        quiet: nodes that have had time to be heard of again, and how many have not since they took it.
    """

    waves: Mapping[int, FailureCount]
    quiet: FailureCount = field(default_factory=FailureCount)

    @property
    def overall(self) -> FailureCount:
        """The outcomes of all waves."""
        counts = self.waves.values()
        return FailureCount(
            failed=sum(each.failed for each in counts), total=sum(each.total for each in counts)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardFinding:
    """One question and its answer.

    Attributes:
        group: ``release`` or ``wave 3``. question: ``failures`` or ``silence``.
        count: the outcomes. budget: the allowed rate. lower, upper: bounds of the true rate.
    """

    group: str
    question: str
    count: FailureCount
    budget: float
    lower: float
    upper: float

    @property
    def answer(self) -> GuardAnswer:
        """How the bounds compare with the budget."""
        if self.lower > self.budget:
            return GuardAnswer.OVER
        return GuardAnswer.WITHIN if self.upper <= self.budget else GuardAnswer.OPEN


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardVerdict:
    """All findings about a release, and those that require a hold.

    Attributes:
        blind: why the guard cannot judge the release. idle: why there is nothing to judge; empty otherwise.
    """

    findings: tuple[GuardFinding, ...]
    reasons: tuple[GuardFinding, ...]
    blind: tuple[str, ...] = ()
    idle: str = ""

    @property
    def hold(self) -> bool:
        """Whether the release must be held."""
        return bool(self.reasons)

    @property
    def answer(self) -> VerdictAnswer:
        """What the guard says about the release."""
        if self.reasons:
            return VerdictAnswer.HOLD
        if self.blind:
            return VerdictAnswer.CANNOT_JUDGE
        return VerdictAnswer.NOTHING_TO_JUDGE if self.idle else VerdictAnswer.MAY_GO_ON


def judge(tally: Tally, rules: Rules) -> GuardVerdict:
    """Return the verdict on a release from its outcomes."""
    findings = tuple(
        GuardFinding(
            group=group, question=question, count=count, budget=budget, lower=bounds[0], upper=bounds[1]
        )
        for group, question, count, budget, alpha in _questions(tally, rules)
        for bounds in [interval(count, alpha)]
    )
    return GuardVerdict(findings=findings, reasons=tuple(item for item in findings if _holds(item, rules)))


def blind_spots(
    sight: Sight, *, now: datetime, max_age: timedelta, since: datetime | None = None, idle: bool = False
) -> tuple[str, ...]:
    """Return why the logs are not enough to let a release continue; nothing if they are.

    Args:
        sight: what they show.
        now: the current time.
        max_age: how old their last request may be.
        since: only outcomes from this time on were counted; None for all.
        idle: no outcome is to be expected.
    """
    if not sight.read:
        return ("the logs have no lines",)
    found = []
    if sight.understood < LEAST_UNDERSTOOD * sight.read:
        found.append(f"only {sight.understood} of {sight.read} lines are understood")
    if sight.last is None:
        found.append("the logs contain no request")
    elif now - sight.last > max_age:
        found.append(
            f"the logs end on {readable_time(sight.last)}, more than {readable_duration(max_age)} ago"
        )
    if not sight.outcomes and not idle:
        after = f" since {readable_time(since)}" if since else ""
        found.append(f"no outcome was reported{after}" if sight.nodes else f"no node was seen{after}")
    return tuple(found)


def is_bad(tally: Tally, rules: Rules) -> bool:
    """Return whether :func:`judge` would hold the release; faster, because a simulation calls it often."""
    over = any(exceeds(count, budget, alpha) for _, _, count, budget, alpha in _questions(tally, rules))
    return over or (
        rules.hold_on is HoldOn.DOUBT
        and tally.overall.total >= rules.outcomes_needed
        and interval(tally.overall, rules.alpha * _OF_RELEASE)[1] > rules.budget
    )


def _questions(tally: Tally, rules: Rules) -> Iterator[tuple[str, str, FailureCount, float, float]]:
    """Yield group, question, outcomes, budget and part of alpha."""
    yield ALL_NODES, "failures", tally.overall, rules.budget, rules.alpha * _OF_RELEASE
    if len(tally.waves) > 1:
        part = rules.alpha * _OF_WAVES / len(tally.waves)
        for number, count in sorted(tally.waves.items()):
            yield f"wave {number}", "failures", count, rules.budget, part
    yield ALL_NODES, "silence", tally.quiet, rules.silence, rules.alpha * _OF_SILENCE


def _holds(finding: GuardFinding, rules: Rules) -> bool:
    if finding.answer is GuardAnswer.OVER:
        return True
    doubtful = rules.hold_on is HoldOn.DOUBT and (finding.group, finding.question) == (ALL_NODES, "failures")
    return doubtful and finding.answer is GuardAnswer.OPEN and finding.count.total >= rules.outcomes_needed
