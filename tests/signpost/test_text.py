"""Units, times and tables: each kind of figure has one unit, and is printed unambiguously."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signpost.text import counted, duration_text, rate_text, size_text, table, traffic_text

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1.0 KiB"),
        (MIB - 1, "1.0 MiB"),
        (MIB - 52, "1023.9 KiB"),
        (MIB, "1.0 MiB"),
        (1_000_000, "976.6 KiB"),
        (GIB - 1, "1.0 GiB"),
        (3 * GIB, "3.0 GiB"),
        (TIB, "1.0 TiB"),
        (5000 * TIB, "5000.0 TiB"),
    ],
)
def test_sizes_are_in_powers_of_1024(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (99_999, "100.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (10**6, "1.0 MB"),
        (MIB, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_traffic_is_in_powers_of_1000(count: float, text: str) -> None:
    assert traffic_text(count) == text
    assert rate_text(count) == f"{text}/s"


@given(st.integers(0, 9 * 10**14))
def test_no_figure_shows_as_a_whole_next_unit(count: int) -> None:
    assert float(size_text(count).split()[0]) < 1024
    assert float(traffic_text(count).split()[0]) < 1000


@given(st.integers(0, 1 << 49), st.sampled_from([size_text, traffic_text]))
def test_what_is_shown_is_within_its_last_digit(count: int, text: object) -> None:
    assert callable(text)
    number, unit = text(count).split()
    factors = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
    factors |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    assert abs(float(number) * factors[unit] - count) <= 0.0501 * factors[unit]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "1 s"),
        (59.4, "1 min"),
        (200, "3 min 20 s"),
        (3599.4, "1 h"),
        (3601, "1 h 1 min"),
        (90_000, "1 day 1 h"),
        (10 * 86_400 - 1, "10 days"),
        (-5, "0 s"),
    ],
)
def test_times_are_in_two_units_at_most_and_never_too_early(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (86399, "23 h 59 min"), (7 * 86400 - 1, "6 days 23 h")],
)
def test_time_that_is_left_is_never_rounded_up(seconds: float, text: str) -> None:
    assert duration_text(seconds, up=False) == text


def test_columns_are_aligned_and_lines_end_where_their_text_does() -> None:
    assert table([("a", "long cell", ""), ("longer", "b", "")]) == "a       long cell\nlonger  b"
    assert table([]) == ""


def test_a_row_of_another_length_is_a_defect() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        table([("a", "b"), ("c",)])


@pytest.mark.parametrize(
    ("number", "text"), [(0, "no waves"), (1, "1 wave"), (2, "2 waves"), (30, "30 waves")]
)
def test_one_thing_is_not_counted_as_several(number: int, text: str) -> None:
    assert counted(number, "wave") == text
