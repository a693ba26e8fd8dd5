"""Windows and freezes: a table over changes of the clock, and properties against a stepping oracle."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from updog.auto.windows import Freeze, Span, Window, Windows, current_or_next, freeze_at, window_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTE = timedelta(minutes=1)


def windows_of(text: str, zone: str = "UTC", *, spread: int = 0, margin: int = 0) -> Windows:
    """Return the windows in ``text``, such as ``"Sat,Sun 23:30 60; daily 01:00 30"``; lengths in minutes."""
    windows = []
    for one in text.split(";"):
        days, start, length = one.split()
        numbers = range(7) if days == "daily" else map(DAYS.index, days.split(","))
        length_of = timedelta(minutes=int(length))
        windows.append(Window(days=frozenset(numbers), start=time.fromisoformat(start), length=length_of))
    return Windows(
        windows=tuple(windows),
        zone=ZoneInfo(zone),
        spread=timedelta(minutes=spread),
        margin=timedelta(minutes=margin),
    )


class Row(NamedTuple):
    """At ``now`` (UTC), a node with ``windows`` in ``zone`` is in or before ``span``."""

    name: str
    windows: Windows
    now: datetime
    span: Span
    seed: int = 0


TABLE = """
[UTC]
before it | Sat 23:30 60 | 2026-03-07 12:00 | 2026-03-07 23:30 | 60
at its start | Sat 23:30 60 | 2026-03-07 23:30 | 2026-03-07 23:30 | 60
in its last second | Sat 23:30 60 | 2026-03-08 00:29:59 | 2026-03-07 23:30 | 60
at its end | Sat 23:30 60 | 2026-03-08 00:30 | 2026-03-14 23:30 | 60
kured's midnight: goes on | Sat 23:00 180 | 2026-03-08 00:30 | 2026-03-07 23:00 | 180
kured's midnight: day before | Sat 23:00 180 | 2026-03-07 00:30 | 2026-03-07 23:00 | 180
ends at midnight | Sat 23:00 60 | 2026-03-08 00:00 | 2026-03-14 23:00 | 60
starts at midnight | Sun 00:00 60 | 2026-03-07 23:59 | 2026-03-08 00:00 | 60
over the end of the week | Sun 23:00 120 | 2026-03-09 00:59 | 2026-03-08 23:00 | 120
first day of the week | Mon 00:00 60 | 2026-03-08 23:59 | 2026-03-09 00:00 | 60
six days long | Mon 00:00 8640 | 2026-03-07 23:59 | 2026-03-02 00:00 | 8640
every day | daily 03:00 30 | 2026-03-07 03:30 | 2026-03-08 03:00 | 30
Feb 29 | Tue 10:00 60 | 2028-02-28 12:00 | 2028-02-29 10:00 | 60
out of Feb 29 | Tue 23:00 120 | 2028-03-01 00:30 | 2028-02-29 23:00 | 120
Feb 28 to Mar 1 | Sat 23:00 180 | 2026-03-01 01:00 | 2026-02-28 23:00 | 180
over the end of the year | Thu 23:00 180 | 2027-01-01 01:00 | 2026-12-31 23:00 | 180
touching ones | Sat 22:00 120; Sun 00:00 60 | 2026-03-08 00:30 | 2026-03-07 22:00 | 180
overlapping ones | Sat 23:00 60; Sat 22:00 180 | 2026-03-08 00:30 | 2026-03-07 22:00 | 180
overlaps itself | Sat,Sun 12:00 1500 | 2026-03-09 12:30 | 2026-03-07 12:00 | 2940
a minute apart | Sat 22:00 119; Sun 00:00 60 | 2026-03-07 22:00 | 2026-03-07 22:00 | 119
[Europe/Berlin]
Berlin: in the gap | Sun 02:30 60 | 2026-03-28 12:00 | 2026-03-29 01:00 | 60
Berlin: gap begins | Sun 02:00 60 | 2026-03-29 01:30 | 2026-03-29 01:00 | 60
Berlin: gap ends | Sun 03:00 60 | 2026-03-29 00:59 | 2026-03-29 01:00 | 60
Berlin: over the gap | Sun 01:00 120 | 2026-03-29 01:59 | 2026-03-29 00:00 | 120
Berlin: gap unites | Sun 01:00 60; Sun 03:00 60 | 2026-03-29 00:30 | 2026-03-29 00:00 | 120
Berlin: twice, the first | Sun 02:30 60 | 2026-10-25 00:00 | 2026-10-25 00:30 | 60
Berlin: twice, not the second | Sun 02:30 30 | 2026-10-25 01:30 | 2026-11-01 01:30 | 30
Berlin: over the overlap | Sun 01:00 120 | 2026-10-25 00:59 | 2026-10-24 23:00 | 120
Berlin: overlap parts | Sun 02:00 60; Sun 03:00 60 | 2026-10-25 00:30 | 2026-10-25 00:00 | 60
Berlin: winter | Sat 23:30 60 | 2026-01-10 12:00 | 2026-01-10 22:30 | 60
Berlin: summer | Sat 23:30 60 | 2026-07-11 12:00 | 2026-07-11 21:30 | 60
[America/New_York]
New York: in the gap | Sun 02:30 30 | 2026-03-08 00:00 | 2026-03-08 07:00 | 30
New York: twice | Sun 01:30 30 | 2026-11-01 05:59 | 2026-11-01 05:30 | 30
[Australia/Lord_Howe]
Lord Howe: half an hour's gap | Sun 02:15 30 | 2026-10-03 12:00 | 2026-10-03 15:30 | 30
Lord Howe: twice | Sun 01:45 30 | 2026-04-04 12:00 | 2026-04-04 14:45 | 30
Lord Howe: not the second | Sun 01:45 30 | 2026-04-04 15:15 | 2026-04-11 15:15 | 30
[Pacific/Apia]
Apia: on the skipped day | Fri 12:00 60 | 2011-12-29 12:00 | 2011-12-30 10:00 | 60
Apia: after the skipped day | Sat 00:00 60 | 2011-12-29 12:00 | 2011-12-30 10:00 | 60
Apia: over the skipped day | Thu 23:00 120 | 2011-12-30 10:30 | 2011-12-30 09:00 | 120
[Pacific/Kwajalein]
Kwajalein: on the skipped day | Sat 10:00 60 | 1993-08-20 12:00 | 1993-08-21 12:00 | 60
[Europe/Moscow]
Moscow: old rules | Sun 12:00 60 | 2014-10-18 12:00 | 2014-10-19 08:00 | 60
Moscow: new rules | Sun 12:00 60 | 2014-10-25 12:00 | 2014-10-26 09:00 | 60
[Europe/Istanbul]
Istanbul: no winter time any more | Sun 02:00 60 | 2016-11-05 12:00 | 2016-11-05 23:00 | 60
[America/Sao_Paulo]
São Paulo: midnight in a gap | Sun 00:00 60 | 2018-11-03 12:00 | 2018-11-04 03:00 | 60
São Paulo: twice before midnight | Sat 23:30 30 | 2018-02-17 12:00 | 2018-02-18 01:30 | 30
São Paulo: no gap any more | Sun 00:00 60 | 2019-11-02 12:00 | 2019-11-03 03:00 | 60
[America/Havana]
Havana: midnight twice | Sun 00:30 30 | 2026-10-31 12:00 | 2026-11-01 04:30 | 30
[Asia/Kathmandu]
Kathmandu: quarters of an hour | Mon 00:00 60 | 2026-03-08 12:00 | 2026-03-08 18:15 | 60
[Pacific/Kiritimati]
Kiritimati: a day ahead | Sat 12:00 60 | 2026-03-06 12:00 | 2026-03-06 22:00 | 60
[Pacific/Pago_Pago]
Pago Pago: almost a day behind | Sat 23:00 60 | 2026-03-08 09:59 | 2026-03-08 10:00 | 60
[UTC]
spread: first node | Sat 22:00 60 | 2026-03-07 12:00 | 2026-03-07 22:00 | 60 | spread=40
spread: in the middle | Sat 22:00 60 | 2026-03-07 22:00 | 2026-03-07 22:20 | 40 | spread=40 seed=1024
spread: last node | Sat 22:00 60 | 2026-03-07 22:20 | 2026-03-07 22:39:58 | 1202s | spread=40 seed=2047
spread: over midnight | Sat 23:30 60 | 2026-03-07 23:45 | 2026-03-08 00:00 | 30 | spread=60 seed=1024
[Europe/Berlin]
spread: elapsed, over a gap | Sun 01:30 90 | 2026-03-29 00:00 | 2026-03-29 01:00 | 60 | spread=60 seed=1024
[UTC]
margin | Sat 22:00 60 | 2026-03-07 12:00 | 2026-03-07 22:00 | 45 | margin=15
margin: in it | Sat 22:00 60 | 2026-03-07 22:45 | 2026-03-14 22:00 | 45 | margin=15
margin: of union | Sat 22:00 120; Sun 00:00 60 | 2026-03-07 23:50 | 2026-03-07 22:00 | 150 | margin=30
spread: of union | Sat 22:00 120; Sun 00:00 9 | 2026-03-08 00:05 | 2026-03-07 22:04 | 125 | spread=8 seed=1024
"""
"""Zones, and below each: name | windows | now | start of the span | its minutes | options. Times are UTC."""


def rows() -> Iterator[Row]:
    zone = ""
    for line in TABLE.strip().splitlines():
        if line.startswith("["):
            zone = line.strip("[]")
            continue
        name, windows, now, start, length, *options = line.split(" | ")
        chosen = {word: int(value) for word, value in re.findall(r"(\w+)=(\d+)", " ".join(options))}
        seconds = int(length[:-1]) if length.endswith("s") else int(length) * 60
        yield Row(
            name=f"{zone} {name}",
            windows=windows_of(windows, zone, spread=chosen.get("spread", 0), margin=chosen.get("margin", 0)),
            now=utc(now),
            span=Span(start=utc(start), end=utc(start) + timedelta(seconds=seconds)),
            seed=chosen.get("seed", 0),
        )


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("row", tuple(rows()), ids=lambda row: row.name)
def test_a_window_opens_and_closes_when_the_table_says(row: Row) -> None:
    assert current_or_next(row.windows, row.now, row.seed) == row.span
    assert oracle(row.windows, row.now, row.seed) == row.span, "the oracle of the properties below"


def test_the_time_may_be_given_in_any_zone() -> None:
    windows, now = windows_of("Sat 23:30 60", "Europe/Berlin"), utc("2026-03-07T22:40")
    assert current_or_next(windows, now.astimezone(ZoneInfo("Asia/Tokyo")), 0) == current_or_next(
        windows, now, 0
    )


def test_a_window_that_spread_and_margin_use_up_never_opens_and_is_a_fault() -> None:
    windows = windows_of("Sat 23:30 60", spread=50, margin=10)
    assert current_or_next(windows, utc("2026-03-07T12:00"), 0) is not None
    (fault,) = window_faults(windows)
    assert fault.startswith(
        "the window at 23:30 is open for 60 minutes, but spread and margin take 60 minutes"
    )
    assert current_or_next(windows_of("Sat 23:30 60", margin=60), utc("2026-03-07T12:00"), 0) is None


@pytest.mark.parametrize(
    "text",
    [
        "daily 00:00 1440",
        "daily 05:00 1500",
        "Mon 00:00 10080",
        "Mon 09:00 5040; Thu 21:00 5040",
        "Mon 00:00 1; daily 00:15 1440",
    ],
)
def test_windows_that_are_open_all_week_are_a_fault(text: str) -> None:
    assert "open all week" in window_faults(windows_of(text, "Europe/Berlin"))[0]


@pytest.mark.parametrize("text", ["daily 00:00 1439", "Mon 00:00 10079", "Mon 09:00 5040; Thu 21:00 5039"])
def test_windows_that_close_for_a_minute_are_none(text: str) -> None:
    assert window_faults(windows_of(text)) == []
    assert window_faults(Windows()) == []


def test_a_window_longer_than_a_week_or_without_days_is_a_fault() -> None:
    assert window_faults(windows_of("Mon 00:00 10081")) == ["the window at 00:00 is longer than a week"]
    nowhere = Window(days=frozenset(), start=time(1), length=MINUTE)
    assert window_faults(Windows(windows=(nowhere,))) == ["the window at 01:00 has no days"]


# -- properties


BACK, AHEAD = 15, 23  # days that the oracle steps through around now: lengths are up to seven


@lru_cache(maxsize=64)
def walls(zone: ZoneInfo, first: datetime) -> tuple[tuple[datetime, datetime], ...]:
    """Return every minute from ``first`` on, and what the clock of ``zone`` shows then."""
    minutes = (first + number * MINUTE for number in range((BACK + AHEAD) * 1440))
    return tuple((minute, minute.astimezone(zone).replace(tzinfo=None)) for minute in minutes)


def oracle(windows: Windows, now: datetime, seed: int) -> Span | None:
    """Return what current_or_next returns, found by a look at the clock every minute."""
    assert isinstance(windows.zone, ZoneInfo)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    clock = walls(windows.zone, midnight - timedelta(days=BACK))
    first = clock[0][1].date() + timedelta(days=1)
    days = (first + timedelta(days=number) for number in range(BACK + AHEAD - 2))
    waiting = sorted(
        (datetime.combine(day, window.start), window.length)
        for day in days
        for window in windows.windows
        if day.weekday() in window.days
    )
    spans: list[Span] = []
    opened, until = None, clock[0][0]
    for minute, wall in clock:
        while waiting and wall >= waiting[0][0]:
            opened, until = opened or minute, max(until, minute + waiting.pop(0)[1])
        if opened is not None and minute >= until:
            spans.append(Span(start=opened, end=until))
            opened = None
    for span in spans:
        start = span.start + timedelta(seconds=int(windows.spread.total_seconds() * seed / 2048))
        end = span.end - windows.margin
        if start < end and now < end:
            return Span(start=start, end=end)
    return None


ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "America/Havana",
    "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns", "Africa/Cairo",
]  # fmt: skip
CHANGES = [
    utc(text)
    for text in (
        "2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-10-03T15:30",
        "2026-04-04T15:00", "2018-11-04T03:00", "2018-02-18T02:00", "2011-12-30T10:00", "2010-11-07T02:31",
        "2026-11-01T05:00", "2028-02-29T00:00", "2026-12-31T23:00", "2024-04-25T22:00",
    )
]  # fmt: skip
AROUND = st.builds(  # four days before a change of the clock to four days after it
    lambda moment, minutes: moment + minutes * MINUTE, st.sampled_from(CHANGES), st.integers(-5760, 5760)
)
WINDOW = st.builds(
    Window,
    days=st.frozensets(st.integers(0, 6), min_size=1),
    start=st.builds(time, st.one_of(st.integers(0, 3), st.integers(0, 23)), st.sampled_from([0, 15, 30, 59])),
    length=st.integers(1, 2000).map(lambda minutes: minutes * MINUTE),
)
WINDOWS = st.builds(
    Windows,
    windows=st.lists(WINDOW, min_size=1, max_size=3).map(tuple),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    spread=st.integers(0, 90).map(lambda minutes: minutes * MINUTE),
    margin=st.integers(0, 30).map(lambda minutes: minutes * MINUTE),
).filter(lambda windows: not window_faults(windows))
SEEDS = st.integers(0, 2047)


@given(WINDOWS, AROUND, SEEDS)
@settings(max_examples=60)
@example(
    windows_of("daily 00:00 1439", "Pacific/Apia"), utc("2011-12-31T00:00"), 0
)  # the gap closes the pause
@example(windows_of("daily 00:00 1400", "Europe/Berlin", spread=30), utc("2026-03-30T00:00"), 2047)
def test_the_span_is_the_one_that_a_look_at_the_clock_every_minute_finds(
    windows: Windows, now: datetime, seed: int
) -> None:
    assert current_or_next(windows, now, seed) == oracle(windows, now, seed)


@given(WINDOWS, AROUND, SEEDS)
def test_the_span_ends_after_now_and_is_the_same_at_each_of_its_moments(
    windows: Windows, now: datetime, seed: int
) -> None:
    span = current_or_next(windows, now, seed)
    assert span is not None
    assert span.end > now
    last = span.end - timedelta(seconds=1)
    for moment in (span.start, span.start + (last - span.start) / 2, last, min(now, span.start)):
        assert current_or_next(windows, moment, seed) == span
    following = current_or_next(windows, span.end, seed)
    assert following is not None
    assert following.start > span.end


@given(WINDOWS, AROUND, SEEDS)
def test_spread_only_delays_the_start_and_margin_only_brings_the_end_forward(
    windows: Windows, now: datetime, seed: int
) -> None:
    span = current_or_next(windows, now, seed)
    assert span is not None
    whole = current_or_next(replace(windows, spread=timedelta(), margin=timedelta()), span.start, 0)
    assert whole is not None
    assert whole.end == span.end + windows.margin
    assert timedelta() <= span.start - whole.start <= windows.spread
    earlier = current_or_next(windows, span.start, seed // 2)
    assert earlier is not None
    assert earlier.start <= span.start


def spans_of(windows: Windows, start: datetime, end: datetime, seed: int) -> Iterator[Span]:
    span = current_or_next(windows, start, seed)
    while span is not None and span.start < end:
        yield span
        span = current_or_next(windows, span.end, seed)


@given(
    st.integers(2018, 2030),
    st.sampled_from([zone for zone in ZONES if zone != "Pacific/Apia"]).map(ZoneInfo),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.times(max_value=time(23, 59), timezones=st.none()),
    st.integers(1, 20 * 60),
)
@settings(max_examples=15)
def test_a_year_has_every_occurrence_in_its_full_length(
    year: int, zone: ZoneInfo, days: frozenset[int], start: time, minutes: int
) -> None:
    window = Window(days=days, start=start.replace(second=0, microsecond=0), length=minutes * MINUTE)
    first, after = (datetime(number, 1, 1, tzinfo=zone) for number in (year, year + 1))
    spans = [
        span
        for span in spans_of(Windows(windows=(window,), zone=zone), first, after.astimezone(UTC), 0)
        if span.start >= first
    ]
    dates = [date(year, 1, 1) + timedelta(days=number) for number in range(366)]
    count = sum(day.weekday() in days for day in dates if day.year == year)
    assert sum((span.end - span.start for span in spans), timedelta()) == count * window.length
    assert len(spans) == count


# -- freezes


def freeze(first: str, last: str) -> Freeze:
    return Freeze(first=date.fromisoformat(first), last=date.fromisoformat(last), why=f"from {first}")


FROZEN = """
UTC | 2026-12-20..2027-01-05 | 2026-12-19 23:59:59 |
UTC | 2026-12-20..2027-01-05 | 2026-12-20 00:00 | 2027-01-06 00:00
UTC | 2026-12-20..2027-01-05 | 2027-01-05 23:59:59 | 2027-01-06 00:00
UTC | 2026-12-20..2027-01-05 | 2027-01-06 00:00 |
UTC | 2027-01-06..2027-01-10 2026-12-20..2027-01-05 | 2026-12-20 00:00 | 2027-01-11 00:00
UTC | 2027-01-07..2027-01-10 2026-12-20..2027-01-05 | 2026-12-20 00:00 | 2027-01-06 00:00
UTC | 2026-12-20..2027-01-05 2026-12-24..2026-12-26 | 2026-12-25 00:00 | 2027-01-06 00:00
UTC | 2028-02-29..2028-02-29 | 2028-02-29 12:00 | 2028-03-01 00:00
UTC | 0001-01-01..9999-12-31 | 2026-12-20 00:00 | 9999-01-02 00:00
Europe/Berlin | 2026-12-20..2027-01-05 | 2026-12-19 23:00 | 2027-01-05 23:00
America/Sao_Paulo | 2018-11-04..2018-11-04 | 2018-11-04 03:00 | 2018-11-05 02:00
America/Sao_Paulo | 2018-11-03..2018-11-03 | 2018-11-04 02:59 | 2018-11-04 03:00
America/Havana | 2026-10-31..2026-10-31 | 2026-11-01 03:59 | 2026-11-01 04:00
America/St_Johns | 2010-11-06..2010-11-06 | 2010-11-07 02:30:30 | 2010-11-07 03:30
America/St_Johns | 2010-11-06..2010-11-06 | 2010-11-07 03:29 | 2010-11-07 03:30
Pacific/Apia | 2011-12-29..2011-12-30 | 2011-12-30 09:59 | 2011-12-30 10:00
Pacific/Apia | 2011-12-30..2011-12-30 | 2011-12-30 10:00 |
Pacific/Apia | 2011-12-29..2011-12-29 2011-12-31..2011-12-31 | 2011-12-30 09:00 | 2011-12-31 10:00
"""
"""Zone | freezes | now (UTC) | end of the freeze (UTC), none where nothing is frozen."""


@pytest.mark.parametrize("line", FROZEN.strip().splitlines())
def test_a_freeze_is_whole_days_of_its_zone(line: str) -> None:
    zone, days, now, end = (part.strip() for part in line.split("|"))
    freezes = tuple(freeze(*one.split("..")) for one in days.split())
    frozen = freeze_at(freezes, ZoneInfo(zone), utc(now))
    assert (frozen and frozen[1]) == (utc(end) if end else None)
    if frozen:
        assert frozen[0] in freezes


def test_no_freeze_holds_where_none_is_configured() -> None:
    assert freeze_at((), UTC, utc("2026-12-20T00:00")) is None


@given(AROUND, st.sampled_from(ZONES).map(ZoneInfo), st.integers(-3, 3), st.integers(0, 3))
def test_a_moment_is_frozen_when_the_calendar_shows_a_day_of_the_freeze(
    now: datetime, zone: ZoneInfo, first: int, days: int
) -> None:
    today = now.astimezone(zone).date()
    begin = today + timedelta(days=first)
    frozen = Freeze(first=begin, last=begin + timedelta(days=days), why="test")
    answer = freeze_at((frozen,), zone, now)
    if frozen.first <= today <= frozen.last:
        assert answer is not None
        assert answer[1].astimezone(zone).date() > frozen.last
    elif answer is not None:  # the clock went back into the last day: the whole time in between is frozen
        assert today > frozen.last
        assert (answer[1] - timedelta(seconds=1)).astimezone(zone).date() == frozen.last
