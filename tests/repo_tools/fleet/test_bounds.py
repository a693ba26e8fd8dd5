"""The bounds of a failure rate: correct whenever they are checked, and as tight as documented."""

from __future__ import annotations

import random
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_tools.fleet.bounds import FailureCount, exceeds, interval, log_evidence, outcomes_to_prove
from repo_tools.fleet.verdict import GuardAnswer, HoldOn, Rules, Tally, is_bad, judge
from signpost.errors import UsageError

ALPHA = 0.05


@st.composite
def counts(draw: st.DrawFn) -> FailureCount:
    total = draw(st.integers(0, 5000))
    return FailureCount(failed=draw(st.integers(0, total)), total=total)


def evidence_by_sum(count: FailureCount, rate: float) -> float:
    """The mixture by its definition: an integral over the prior, here summed over many rates."""
    a, b, steps = 0.5, 4.5, 200_000
    # Substituting q = u^2 takes the prior's pole at 0 away.
    weight = evidence = 0.0
    for step in range(steps):
        root = (step + 0.5) / steps
        q = root * root
        density = root ** (2 * a - 1) * (1 - q) ** (b - 1)
        weight += density
        evidence += density * exp(
            count.failed * log(q / rate) + (count.total - count.failed) * log((1 - q) / (1 - rate))
        )
    return log(evidence / weight)


@pytest.mark.parametrize(("failed", "total", "rate"), [(0, 40, 0.02), (3, 50, 0.01), (2, 2, 0.5)])
def test_the_evidence_is_the_integral_it_claims_to_be(failed: int, total: int, rate: float) -> None:
    count = FailureCount(failed=failed, total=total)
    assert log_evidence(count, rate) == pytest.approx(evidence_by_sum(count, rate), abs=1e-3)


@given(counts(), st.floats(0.001, 0.2))
def test_the_interval_holds_what_was_seen_and_ends_where_the_evidence_does(
    count: FailureCount, alpha: float
) -> None:
    lower, upper = interval(count, alpha)
    assert 0 <= lower <= count.rate <= upper <= 1
    for edge in (lower, upper):
        if 1e-9 < edge < 1 - 1e-6:  # nearer to 1 a float has too few digits left for 1 - p
            assert log_evidence(count, edge) == pytest.approx(-log(alpha), abs=1e-5)


@given(counts(), st.floats(0.001, 0.5))
def test_exceeds_is_the_lower_bound(count: FailureCount, budget: float) -> None:
    lower, _ = interval(count, ALPHA)
    if abs(lower - budget) > 1e-9:
        assert exceeds(count, budget, ALPHA) == (lower > budget)


@pytest.mark.parametrize("budget", [0.01, 0.1])
def test_looking_after_every_outcome_is_wrong_no_more_often_than_promised(budget: float) -> None:
    """600 fleets whose rate is exactly the budget, each checked after every one of 1000 outcomes."""
    wrong = 0
    for seed in range(600):
        chance, failed = random.Random(seed), 0
        for total in range(1, 1001):
            failed += chance.random() < budget
            if exceeds(FailureCount(failed=failed, total=total), budget, ALPHA):
                wrong += 1
                break
    assert wrong / 600 <= ALPHA


def test_one_failure_proves_nothing_and_two_of_two_do() -> None:
    assert not exceeds(FailureCount(failed=1, total=1), 0.01, ALPHA / 2)
    assert exceeds(FailureCount(failed=2, total=2), 0.01, ALPHA / 2)


def test_enough_is_the_first_number_that_proves_health() -> None:
    number = outcomes_to_prove(0.01, ALPHA)
    assert interval(FailureCount(failed=0, total=number), ALPHA)[1] <= 0.01
    assert interval(FailureCount(failed=0, total=number - 1), ALPHA)[1] > 0.01


def test_a_count_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="3 failures among 2"):
        FailureCount(failed=3, total=2)


def tally(*waves: tuple[int, int], quiet: tuple[int, int] = (0, 0)) -> Tally:
    return Tally(
        waves={
            number: FailureCount(failed=bad, total=all_) for number, (bad, all_) in enumerate(waves, start=1)
        },
        quiet=FailureCount(failed=quiet[0], total=quiet[1]),
    )


def test_nothing_is_held_before_anything_is_known() -> None:
    verdict = judge(tally((0, 0)), Rules())
    assert not verdict.hold
    assert {finding.answer for finding in verdict.findings} == {GuardAnswer.OPEN}


def test_a_bad_release_is_held_and_the_findings_say_where() -> None:
    verdict = judge(tally((0, 300), (16, 60)), Rules())
    assert {(finding.group, finding.question) for finding in verdict.reasons} == {
        ("release", "failures"),
        ("wave 2", "failures"),
    }


def test_a_wave_that_fails_is_seen_behind_healthy_ones() -> None:
    verdict = judge(tally((0, 20_000), (8, 60)), Rules())
    assert [finding.group for finding in verdict.reasons] == ["wave 2"]


def test_silence_has_its_own_budget() -> None:
    assert not judge(tally((0, 10), quiet=(10, 100)), Rules()).hold
    (against,) = judge(tally((0, 10), quiet=(60, 100)), Rules()).reasons
    assert against.question == "silence"


def test_doubt_holds_what_proof_lets_go_on() -> None:
    seen = tally((4, 700))
    assert not judge(seen, Rules()).hold
    assert judge(seen, Rules(hold_on=HoldOn.DOUBT)).hold
    assert not judge(tally((0, 700)), Rules(hold_on=HoldOn.DOUBT)).hold
    assert not judge(tally((4, Rules().outcomes_needed - 1)), Rules(hold_on=HoldOn.DOUBT)).hold


@settings(max_examples=50)
@given(st.lists(counts(), min_size=1, max_size=4), counts(), st.sampled_from(HoldOn))
def test_the_quick_answer_is_the_full_one(
    waves: list[FailureCount], quiet: FailureCount, hold_on: HoldOn
) -> None:
    rules = Rules(hold_on=hold_on)
    seen = Tally(waves=dict(enumerate(waves, start=1)), quiet=quiet)
    assert is_bad(seen, rules) == judge(seen, rules).hold


@pytest.mark.parametrize("name", ["budget", "silence", "alpha"])
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_rule_that_is_not_a_share_is_refused(name: str, share: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        Rules(**{name: share})  # type: ignore[arg-type]
