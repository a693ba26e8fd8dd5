"""Times and durations of the wire formats, and the words an operator reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import (
    format_duration,
    format_time,
    parse_duration,
    parse_time,
    readable_duration,
    readable_time,
)

READ = {
    "zulu": ("2026-10-25T18:00:00Z", "2026-10-25T18:00:00Z"),
    "lower-case": ("2026-10-25t18:00:00z", "2026-10-25T18:00:00Z"),
    "space": ("2026-10-25 18:00:00Z", "2026-10-25T18:00:00Z"),
    "offset-east": ("2026-10-25T18:00:00+05:30", "2026-10-25T12:30:00Z"),
    "offset-west-into-the-next-day": ("2026-10-25T18:00:00-08:00", "2026-10-26T02:00:00Z"),
    "unpadded-month": ("2019-8-06T15:00:00Z", "2019-08-06T15:00:00Z"),
    "unpadded-month-and-day": ("2019-8-6T15:00:00Z", "2019-08-06T15:00:00Z"),
    "milliseconds": ("2026-10-25T18:00:00.250Z", "2026-10-25T18:00:00.250000Z"),
    "nanoseconds-are-cut": ("2026-10-25T18:00:00.123456999Z", "2026-10-25T18:00:00.123456Z"),
    "leap-day": ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
}

REFUSED = {
    "no-offset": "2026-10-25T18:00:00",
    "date-only": "2026-10-25",
    "no-seconds": "2026-10-25T18:00Z",
    "month-13": "2026-13-25T18:00:00Z",
    "no-such-day": "2026-02-29T18:00:00Z",
    "hour-24": "2026-10-25T24:00:00Z",
    "leap-second": "2016-12-31T23:59:60Z",
    "offset-of-a-day": "2026-10-25T18:00:00+24:00",
    "year-0": "0000-01-01T00:00:00Z",
    "before-the-calendar": "0001-01-01T00:00:00+01:00",
    "after-the-calendar": "9999-12-31T23:59:59-01:00",
    "words": "tomorrow",
    "newline": "2026-10-25T18:00:00Z\n",
}


@pytest.mark.parametrize(("text", "written"), READ.values(), ids=READ)
def test_a_time_is_read_and_written_in_utc(text: str, written: str) -> None:
    time = parse_time(text)
    assert time.tzinfo is UTC
    assert format_time(time) == written


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(TimeError) as caught:
        parse_time(text)
    assert repr(text) in caught.value.message


def test_a_time_of_another_zone_is_written_in_utc() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(noon) == "2026-07-01T10:00:00Z"


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0 minutes", timedelta(0)),
        ("1 minute", timedelta(minutes=1)),
        ("30 minutes", timedelta(minutes=30)),
        ("1 hour", timedelta(hours=1)),
        ("in 4 hours", timedelta(hours=4)),
        ("1 day", timedelta(days=1)),
        ("in 2 weeks", timedelta(weeks=2)),
        ("520 weeks", timedelta(weeks=520)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "hours",
        "4hours",
        "4  hours",
        "-4 hours",
        "1.5 hours",
        "4 Hours",
        "4 months",
        "4 hourss",
        "12345678 weeks",
    ],
)
def test_any_other_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(TimeError, match="is not a number of minutes, hours, days or weeks"):
        parse_duration(text)


def test_a_duration_beyond_ten_years_is_refused() -> None:
    with pytest.raises(TimeError, match="longer than ten years"):
        parse_duration("521 weeks")


@pytest.mark.parametrize(
    "text", ["1 minute", "90 minutes", "1 hour", "36 hours", "6 days", "1 week", "2 weeks"]
)
def test_a_duration_is_written_in_its_largest_unit(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


def test_no_time_at_all_is_a_duration() -> None:
    assert parse_duration(format_duration(timedelta())) == timedelta()


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(), "0 s"),
        (timedelta(seconds=-5), "0 s"),
        (timedelta(microseconds=1), "1 s"),
        (timedelta(seconds=42), "42 s"),
        (timedelta(minutes=1), "1 min"),
        (timedelta(minutes=5, seconds=10), "5 min 10 s"),
        (timedelta(minutes=59, seconds=59, microseconds=1), "1 h"),
        (timedelta(hours=13, seconds=1), "13 h 1 min"),
        (timedelta(days=1, hours=12, minutes=59), "1 day 13 h"),
        (timedelta(days=1, hours=23, seconds=1), "2 days"),
        (timedelta(days=400), "400 days"),
    ],
)
def test_a_wait_is_shown_in_two_units_and_never_too_short(duration: timedelta, words: str) -> None:
    assert readable_duration(duration) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-11-24T09:30:00Z", "2026-11-24 09:30 UTC"),
        ("2026-11-24T09:30:07Z", "2026-11-24 09:30:07 UTC"),
        ("2026-11-24T09:29:59.999999Z", "2026-11-24 09:29:59 UTC"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31 23:59:59 UTC"),
        ("2026-11-24T11:30:00+02:00", "2026-11-24 09:30 UTC"),
    ],
)
def test_a_moment_is_shown_in_utc(text: str, words: str) -> None:
    assert readable_time(parse_time(text)) == words
