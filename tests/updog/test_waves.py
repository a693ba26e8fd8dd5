"""Waves: which node gets an update at which second, and the policies that define it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from signpost.errors import ExitStatus
from updog.update_metadata.errors import PolicyError, SeedError
from updog.update_metadata.seeds import MAX_SEED, machine_seed
from updog.update_metadata.waves import (
    BUILT_IN_POLICIES,
    MAX_POLICY_CHARACTERS,
    PolicyStep,
    Wave,
    WavePolicy,
    Waves,
)

START = datetime(2026, 10, 25, 18, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SECOND, MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)

DEFAULT = WavePolicy.built_in("default").waves(START)
TWO = Waves.of({0: START, 100: START + 100 * HOUR})


# Who is ready when


@pytest.mark.parametrize(
    ("seed", "after"),
    [(0, 0 * HOUR), (1, HOUR), (50, 50 * HOUR), (99, 99 * HOUR), (100, 100 * HOUR), (2047, 100 * HOUR)],
)
def test_a_host_is_ready_by_its_place_inside_its_wave(seed: int, after: timedelta) -> None:
    assert TWO.ready_at(seed) == START + after


def test_the_place_counts_from_the_waves_own_key_not_from_zero() -> None:
    later = Waves.of({0: START, 1000: START + DAY, 1024: START + 2 * DAY})
    assert later.ready_at(1000) == START + DAY
    assert later.ready_at(1001) == START + DAY + HOUR
    assert later.ready_at(1023) == START + DAY + 23 * HOUR


def test_a_ready_time_is_cut_to_the_microsecond() -> None:
    thirds = Waves.of({0: START, 3: START + SECOND})
    assert [thirds.ready_at(seed) for seed in range(4)] == [
        START,
        START + 333_333 * MICROSECOND,
        START + 666_666 * MICROSECOND,
        START + SECOND,
    ]


def test_arithmetic_is_exact_over_the_whole_calendar() -> None:
    age = Waves.of({0: datetime(1, 1, 1, tzinfo=UTC), MAX_SEED: datetime(9999, 12, 31, tzinfo=UTC)})
    span = datetime(9999, 12, 31, tzinfo=UTC) - datetime(1, 1, 1, tzinfo=UTC)
    exact = Fraction(span // MICROSECOND * 2047, 2048)
    assert age.ready_at(2047) == datetime(1, 1, 1, tzinfo=UTC) + int(exact) * MICROSECOND


def test_no_waves_is_open_at_once() -> None:
    assert Waves().ready_at(0) is None
    assert Waves().position(2047) is None
    assert Waves().share_open(START) == 1


def test_seeds_below_the_first_key_open_with_the_first_wave_never_earlier() -> None:
    waves = Waves.of({1000: START, 2000: START + DAY})
    assert {waves.ready_at(seed) for seed in range(1001)} == {START}
    position = waves.position(5)
    assert position is not None
    assert (position.number, position.count) == (1, 2)


def test_seed_zero_does_not_slip_in_before_the_first_wave() -> None:
    assert DEFAULT.ready_at(0) == START + HOUR
    assert DEFAULT.share_open(START + HOUR - SECOND) == 0


def test_a_key_of_2048_only_ends_the_wave_before() -> None:
    waves = Waves.of({0: START, MAX_SEED: START + 2048 * HOUR})
    assert waves.ready_at(2047) == START + 2047 * HOUR
    position = waves.position(2047)
    assert position is not None
    assert (position.number, position.count, position.end) == (1, 1, START + 2048 * HOUR)


@pytest.mark.parametrize("key", [2049, 858993459, 2**32 - 1])
def test_larger_keys_are_ignored(key: int) -> None:
    waves = Waves.of({0: START, key: START + DAY})
    assert waves.ready_at(2047) == START
    assert waves.share_open(START) == 1


@pytest.mark.parametrize("key", [2048, 2049, 858993459])
def test_none_but_such_keys_is_open_at_once(key: int) -> None:
    waves = Waves.of({key: START})
    assert waves.ready_at(2047) is None
    assert waves.share_open(START - DAY) == 1


@pytest.mark.parametrize("step", [timedelta(0), -DAY])
def test_a_wave_whose_successor_does_not_start_later_opens_as_a_whole(step: timedelta) -> None:
    waves = Waves.of({0: START, 1024: START + step})
    assert {waves.ready_at(seed) for seed in range(1024)} == {START}
    assert waves.share_open(START - DAY) == Fraction(1 if step else 0, 2)
    (fault,) = waves.order_faults()
    assert fault.path == "1024"
    assert "not after wave 0 (2026-10-25T18:00:00Z)" in fault.problem


def test_rising_waves_are_in_order() -> None:
    assert DEFAULT.order_faults() == ()


@pytest.mark.parametrize("seed", [-1, 2048, 858993459])
@pytest.mark.parametrize("waves", [Waves(), DEFAULT], ids=["no-waves", "waves"])
def test_seeds_outside_the_range_are_refused(waves: Waves, seed: int) -> None:
    with pytest.raises(SeedError, match=f"seed {seed} is outside 0…2047") as caught:
        waves.ready_at(seed)
    assert caught.value.status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("seed", "number", "first", "end"),
    [(0, 1, 0, 20), (19, 1, 0, 20), (20, 2, 20, 102), (1203, 5, 819, 1228), (2047, 7, 1843, 2048)],
)
def test_a_host_knows_its_wave(seed: int, number: int, first: int, end: int) -> None:
    position = DEFAULT.position(seed)
    assert position is not None
    assert (position.number, position.count) == (number, 7)
    assert (position.first_seed, position.end_seed) == (first, end)


def test_a_wave_knows_its_start_and_its_end() -> None:
    assert DEFAULT.position(20) == Wave(
        number=2, count=7, first_seed=20, end_seed=102, start=START + 4 * HOUR, end=START + DAY
    )
    last = DEFAULT.position(2047)
    assert last is not None
    assert (last.start, last.end) == (START + 6 * DAY, None)


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (HOUR - MICROSECOND, Fraction(0)),
        (HOUR, Fraction(1, 2048)),
        (4 * HOUR - MICROSECOND, Fraction(20, 2048)),
        (4 * HOUR, Fraction(21, 2048)),
        (6 * DAY - MICROSECOND, Fraction(1843, 2048)),
        (6 * DAY, Fraction(1)),
    ],
)
def test_the_open_share_counts_hosts_exactly(after: timedelta, share: Fraction) -> None:
    assert DEFAULT.share_open(START + after) == share


@pytest.mark.parametrize("name", BUILT_IN_POLICIES)
def test_no_two_hosts_before_the_last_wave_are_ready_in_the_same_second(name: str) -> None:
    waves = WavePolicy.built_in(name).waves(START)
    last = waves.starts[-1]
    ready = [waves.ready_at(seed) for seed in range(last.seed)]
    seconds = Counter(moment.replace(microsecond=0) for moment in ready if moment)
    assert len(ready) == last.seed
    assert max(seconds.values()) == 1


# The seed of a machine


def test_a_machine_keeps_its_seed() -> None:
    """D81: these values must never change, or every node changes its place in the fleet."""
    assert machine_seed("b08dfa6083e7567a1921a715000001fb") == 537
    assert machine_seed("b08dfa6083e7567a1921a715000001fb", version="1.1.0") == 1142


def test_white_space_around_a_machine_id_does_not_count() -> None:
    assert machine_seed("b08dfa6083e7567a1921a715000001fb\n") == machine_seed(
        "b08dfa6083e7567a1921a715000001fb"
    )


@pytest.mark.parametrize("machine_id", ["", " \n", "uninitialized\n"])
def test_a_machine_without_an_id_has_no_seed(machine_id: str) -> None:
    with pytest.raises(SeedError, match="no machine-id yet"):
        machine_seed(machine_id)


def test_seeds_of_a_fleet_cover_the_range_evenly() -> None:
    eighths = Counter(machine_seed(f"{number:032x}") * 8 // MAX_SEED for number in range(8000))
    assert sorted(eighths) == list(range(8))
    assert all(900 < hosts < 1100 for hosts in eighths.values())


def test_with_the_version_mixed_in_others_are_first_next_time() -> None:
    ids = [f"{number:032x}" for number in range(2000)]
    first = {name for name in ids if machine_seed(name, version="1.0.0") < MAX_SEED // 10}
    again = {name for name in first if machine_seed(name, version="1.1.0") < MAX_SEED // 10}
    assert len(first) > 150
    assert len(again) < len(first) / 5


# Policies


def test_a_policy_gives_each_wave_the_seeds_up_to_its_percentage() -> None:
    assert DEFAULT.to_json() == {
        "0": "2026-10-25T19:00:00Z",
        "20": "2026-10-25T22:00:00Z",
        "102": "2026-10-26T18:00:00Z",
        "307": "2026-10-27T18:00:00Z",
        "819": "2026-10-29T18:00:00Z",
        "1228": "2026-10-30T18:00:00Z",
        "1843": "2026-10-31T18:00:00Z",
    }


@pytest.mark.parametrize(
    ("name", "keys", "hours"),
    [
        ("default", [0, 20, 102, 307, 819, 1228, 1843], [1, 4, 24, 48, 96, 120, 144]),
        ("accelerated", [0, 61, 245, 819, 1638], [1, 4, 8, 16, 24]),
        ("slow-roll", [0, 20, 102, 307, 819, 1228, 1843], [1, 24, 72, 168, 216, 288, 312]),
        ("ohno", [0, 102, 512, 1024, 1843], [0.5, 1, 2, 2.5, 3]),
    ],
)
def test_the_shipped_policies_have_upstreams_figures(name: str, keys: list[int], hours: list[float]) -> None:
    waves = WavePolicy.built_in(name).waves(START)
    assert [start.seed for start in waves.starts] == keys
    assert [(start.at - START) / HOUR for start in waves.starts] == hours


def test_a_policy_is_read_from_toml() -> None:
    policy = WavePolicy.from_toml(
        """
        # a comment, as the shipped files have them
        [[waves]]
        start_after = "30 minutes"
        fleet_percentage = 5

        [[waves]]
        start_after = "in 1 day"
        fleet_percentage = 100
        """
    )
    assert policy.steps == (
        PolicyStep(start_after=HOUR / 2, fleet_percentage=5),
        PolicyStep(start_after=DAY, fleet_percentage=100),
    )


@pytest.mark.parametrize("name", BUILT_IN_POLICIES)
def test_a_shipped_policy_written_as_toml_is_itself(name: str) -> None:
    policy = WavePolicy.built_in(name)
    assert WavePolicy.from_toml(policy.to_toml()) == policy


def test_one_wave_opens_to_everybody_at_its_start() -> None:
    policy = WavePolicy.from_toml('[[waves]]\nstart_after = "1 hour"\nfleet_percentage = 100\n')
    assert policy.waves(START).ready_at(2047) == START + HOUR


def test_a_policy_that_stops_at_a_share_stays_there() -> None:
    policy = WavePolicy.from_toml('[[waves]]\nstart_after = "1 hour"\nfleet_percentage = 10\n')
    waves = policy.waves(START)
    assert waves.order_faults() == ()
    assert waves.share_open(START + HOUR - timedelta(seconds=1)) == 0
    opened = [waves.share_open(START + after) for after in (2 * HOUR, 1000 * DAY, 10_000 * DAY)]
    assert opened == [Fraction(204, 2048)] * 3
    assert waves.stop == waves.starts[-1]
    paused = waves.paused(START + 2 * HOUR, START + 50 * DAY)
    assert paused.share_open(START + 10_000 * DAY) == Fraction(204, 2048)


def wave(start_after: object = '"1 hour"', percentage: object = 1, more: str = "") -> str:
    return f"[[waves]]\nstart_after = {start_after}\nfleet_percentage = {percentage}\n{more}\n"


FAULTY = {
    "empty-file": ("", ["waves: missing"]),
    "empty-list": ("waves = []", ["waves: empty; a policy has at least one wave"]),
    "one-table-not-a-list": (
        '[waves]\nstart_after = "1 hour"',
        ['waves: expected a list, found {"start_after": "1 hour"}'],
    ),
    "misspelt-table": (
        "wave = []",
        ["waves: missing", "wave: unknown key; did you mean 'waves'?"],
    ),
    "misspelt-key": (
        wave(more='start_afetr = "2 hours"'),
        ["waves[0].start_afetr: unknown key; did you mean 'start_after'?"],
    ),
    "unknown-key": (wave(more="jitter = 3"), ["waves[0].jitter: unknown key"]),
    "bad-unit": (
        wave('"3 months"'),
        ["waves[0].start_after: '3 months' is not a number of minutes, hours, days or weeks"],
    ),
    "date-instead-of-duration": (
        wave("2026-10-25"),
        ['waves[0].start_after: expected printable text, found "2026-10-25"'],
    ),
    "zero-per-cent": (wave(percentage=0), ["waves[0].fleet_percentage: 0 is outside 1…100"]),
    "beyond-the-fleet": (wave(percentage=101), ["waves[0].fleet_percentage: 101 is outside 1…100"]),
    "half-per-cent": (
        wave(percentage=0.5),
        ["waves[0].fleet_percentage: expected a whole number, found 0.5"],
    ),
    "same-percentage": (
        wave('"1 hour"', 5) + wave('"2 hours"', 5),
        ["waves[1].fleet_percentage: 5 is not above 5 of waves[0]"],
    ),
    "same-time": (
        wave('"60 minutes"', 5) + wave('"1 hour"', 6),
        ["waves[1].start_after: 1 hour is not above 1 hour of waves[0]"],
    ),
    "all-falling": (
        wave('"1 day"', 9) + wave('"1 week"', 8) + wave('"2 hours"', 7),
        [
            "waves[1].fleet_percentage: 8 is not above 9 of waves[0]",
            "waves[2].start_after: 2 hours is not above 1 week of waves[1]",
            "waves[2].fleet_percentage: 7 is not above 8 of waves[1]",
        ],
    ),
    "two-bad-waves": (
        wave(percentage=0) + wave('"soon"', 2),
        [
            "waves[0].fleet_percentage: 0 is outside 1…100",
            "waves[1].start_after: 'soon' is not a number of minutes, hours, days or weeks",
        ],
    ),
    "more-waves-than-per-cents": (wave() * 101, ["waves: 101 items; the limit is 100"]),
    "oversized": (
        "#" * (MAX_POLICY_CHARACTERS + 1),
        [f"{MAX_POLICY_CHARACTERS + 1} characters; the limit is {MAX_POLICY_CHARACTERS}"],
    ),
}


@pytest.mark.parametrize(("text", "faults"), FAULTY.values(), ids=FAULTY)
def test_every_fault_of_a_policy_is_named_by_its_path(text: str, faults: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        WavePolicy.from_toml(text)
    assert [str(fault) for fault in caught.value.faults] == faults
    assert caught.value.status is ExitStatus.USAGE


@pytest.mark.parametrize("text", ["[[waves]", "x = " + "[" * 20_000], ids=["cut-short", "deep"])
@pytest.mark.usefixtures("undisturbed")
def test_what_is_not_toml_is_one_fault(text: str) -> None:
    with pytest.raises(PolicyError, match="the wave policy has a fault: not TOML: "):
        WavePolicy.from_toml(text)


def test_a_misspelt_policy_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PolicyError, match="default, accelerated, slow-roll, ohno; did you mean 'slow-roll'"):
        WavePolicy.built_in("slowroll")


def test_a_roll_out_past_the_calendar_is_refused() -> None:
    with pytest.raises(PolicyError, match="after the year 9999"):
        WavePolicy.built_in("default").waves(datetime(9999, 12, 30, tzinfo=UTC))
