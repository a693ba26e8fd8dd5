"""Properties of all waves: no host is early, hosts are ready in order and evenly spread in each wave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from updog.update_metadata.seeds import MAX_SEED, machine_seed
from updog.update_metadata.times import LONGEST_DURATION, format_duration, parse_duration
from updog.update_metadata.waves import PolicyStep, WavePolicy, Waves

START = datetime(2026, 10, 25, 18, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

seeds = st.integers(0, MAX_SEED - 1)
gaps = st.timedeltas(min_value=MICROSECOND, max_value=timedelta(days=400))


@st.composite
def rising_waves(draw: st.DrawFn, *, first: st.SearchStrategy[int] | None = None) -> Waves:
    """Draw waves whose keys and times rise."""
    keys = draw(st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=6, unique=True))
    if first is not None:
        keys = [*keys, draw(first)]
    at, starts = START, {}
    for key in sorted(set(keys)):
        starts[key] = at
        at += draw(gaps)
    return Waves.of(starts)


@st.composite
def policies(draw: st.DrawFn) -> WavePolicy:
    """Draw a policy whose times and percentages rise."""
    percentages = sorted(draw(st.sets(st.integers(1, 100), min_size=1, max_size=8)))
    minutes = st.integers(0, LONGEST_DURATION // timedelta(minutes=1))
    delays = sorted(draw(st.sets(minutes, min_size=len(percentages), max_size=len(percentages))))
    return WavePolicy(
        steps=tuple(
            PolicyStep(start_after=timedelta(minutes=delay), fleet_percentage=percentage)
            for delay, percentage in zip(delays, percentages, strict=True)
        )
    )


def ready(waves: Waves, seed: int) -> datetime:
    moment = waves.ready_at(seed)
    assert moment is not None
    return moment


@given(rising_waves(first=st.just(0)))
def test_hosts_become_ready_in_the_order_of_their_seeds_and_none_before_its_wave(waves: Waves) -> None:
    moments = [ready(waves, seed) for seed in range(MAX_SEED)]
    assert moments == sorted(moments)
    assert moments[0] == waves.starts[0].at


@given(rising_waves(first=st.just(0)), seeds)
def test_inside_a_wave_hosts_are_evenly_spread(waves: Waves, seed: int) -> None:
    wave = waves.position(seed)
    assert wave is not None
    assert wave.first_seed <= seed < wave.end_seed
    moments = [ready(waves, host) for host in range(wave.first_seed, wave.end_seed)]
    assert moments[0] == wave.start
    if wave.end is None:
        assert set(moments) == {wave.start}
        return
    assert moments[-1] < wave.end
    slope = Fraction((wave.end - wave.start) // MICROSECOND, wave.end_seed - wave.first_seed)
    steps = [(later - earlier) // MICROSECOND for earlier, later in pairwise([*moments, wave.end])]
    assert all(abs(step - slope) < 1 for step in steps)


@given(rising_waves(), seeds)
def test_ready_times_are_the_rule_in_exact_fractions(waves: Waves, seed: int) -> None:
    below = [start for start in waves.starts if start.seed <= seed]
    above = [start for start in waves.starts if start.seed > seed]
    moment = waves.ready_at(seed)
    if not below:
        opened = above[0].at if above[0].seed < MAX_SEED else None
        assert moment == opened
    elif not above:
        assert moment == below[-1].at
    else:
        span = (above[0].at - below[-1].at) // MICROSECOND
        exact = Fraction(span * (seed - below[-1].seed), above[0].seed - below[-1].seed)
        assert moment is not None
        assert 0 <= exact - (moment - below[-1].at) // MICROSECOND < 1


@given(rising_waves(), seeds, st.sampled_from([-MICROSECOND, timedelta(), MICROSECOND]))
def test_the_open_share_is_the_count_of_open_hosts(waves: Waves, seed: int, shift: timedelta) -> None:
    now = (waves.ready_at(seed) or START) + shift
    moments = [waves.ready_at(host) for host in range(MAX_SEED)]
    counted = sum(moment is None or moment <= now for moment in moments)
    assert waves.share_open(now) == Fraction(counted, MAX_SEED)


@given(rising_waves(first=st.just(0)), st.integers(MAX_SEED + 1, 2**32 - 1), gaps)
def test_keys_beyond_the_seeds_change_nothing(waves: Waves, key: int, gap: timedelta) -> None:
    starts = {start.seed: start.at for start in waves.starts}
    more = Waves.of(starts | {key: waves.starts[-1].at + gap})
    assert [more.ready_at(seed) for seed in (0, 1000, 2047)] == [
        waves.ready_at(seed) for seed in (0, 1000, 2047)
    ]


@given(policies())
def test_a_policy_written_and_read_is_itself(policy: WavePolicy) -> None:
    assert WavePolicy.from_toml(policy.to_toml()) == policy


@given(policies())
def test_each_wave_of_a_policy_ends_at_its_share_of_the_fleet(policy: WavePolicy) -> None:
    waves = policy.waves(START)
    assert waves.order_faults() == ()
    times = [start.at for start in waves.starts[: len(policy.steps)]]
    assert times == [START + step.start_after for step in policy.steps]
    last = policy.steps[-1]
    if last.fleet_percentage < 100:
        stop = waves.starts[-1]
        assert waves.stop is not None
        assert stop.seed == last.fleet_percentage * MAX_SEED // 100
        opened = waves.share_open(START + last.start_after + timedelta(days=3650))
        assert opened == Fraction(stop.seed, MAX_SEED)
    else:
        assert waves.stop is None
        assert len(waves.starts) == len(policy.steps)
    for step, following in zip(policy.steps[:-1], waves.starts[1:], strict=False):
        assert following.seed == step.fleet_percentage * MAX_SEED // 100
        share = waves.share_open(following.at - MICROSECOND)
        assert share == Fraction(following.seed, MAX_SEED)


@given(st.integers(0, LONGEST_DURATION // timedelta(minutes=1)))
def test_a_duration_written_and_read_is_itself(minutes: int) -> None:
    duration = timedelta(minutes=minutes)
    assert parse_duration(format_duration(duration)) == duration


@given(st.text(min_size=1).filter(lambda text: text.strip() not in {"", "uninitialized"}))
def test_every_machine_has_a_seed_in_range(machine_id: str) -> None:
    try:
        machine_id.encode()
    except UnicodeEncodeError:
        return
    assert 0 <= machine_seed(machine_id) < MAX_SEED
    assert 0 <= machine_seed(machine_id, version="1.0.0") < MAX_SEED


@given(rising_waves(), st.timedeltas(timedelta(days=-2), timedelta(days=2000)), gaps)
def test_a_pause_delays_every_node_by_its_length_and_opens_to_nobody(
    waves: Waves, after: timedelta, pause: timedelta
) -> None:
    since = START + after
    until = since + pause
    paused = waves.paused(since, until)
    assert paused.order_faults() == ()
    for seed in range(0, MAX_SEED, 7):
        wave = waves.position(seed)
        if wave is None:
            assert paused.ready_at(seed) is None
            continue
        before, now = ready(waves, seed), ready(paused, seed)
        if before <= since:
            assert now <= until
            continue
        step = ((wave.end or wave.start) - wave.start) // (wave.end_seed - wave.first_seed) + 2 * MICROSECOND
        assert max(until, before + pause - step) <= now <= before + pause
