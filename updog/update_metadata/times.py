"""Times and durations: as the file formats write them, and as operators read them.

Rules:
* A time in a file is RFC 3339 with an offset; it is converted to UTC when it is read, and written with ``Z``.
* Months and days without a leading zero (``2019-8-06T15:00:00Z``, in old manifests) are read, never written.
* Fractions are cut to microseconds. A leap second (``:60``) is refused: no publisher writes one.
* A duration is ``[in ]<number> minutes|hours|days|weeks``, singular or plural.
* Arithmetic uses whole microseconds, no floats.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from signpost.text import duration_text
from updog.update_metadata.errors import TimeError

LONGEST_DURATION = timedelta(weeks=520)
"""Ten years: no rollout is longer, and the sum of a start time and a duration stays valid."""

_TIME = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})"
    r"[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<off_hour>[0-9]{2}):(?P<off_minute>[0-9]{2}))"
)
_DURATION = re.compile(r"(?:in )?(?P<number>[0-9]{1,7}) (?P<unit>minute|hour|day|week)s?")
_UNITS = {
    "week": timedelta(weeks=1),
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
}


def parse_time(text: str) -> datetime:
    """Return the RFC 3339 time ``text`` in UTC, to the microsecond. Raises TimeError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise TimeError(f"{text!r} is not an RFC 3339 time such as 2026-11-24T09:30:00Z")
    date = (int(match["year"]), int(match["month"]), int(match["day"]))
    clock = (int(match["hour"]), int(match["minute"]), int(match["second"]))
    microsecond = int((match["fraction"] or "0").ljust(6, "0")[:6])
    try:
        zone = UTC
        if match["sign"] is not None:
            offset = timedelta(hours=int(match["off_hour"]), minutes=int(match["off_minute"]))
            zone = timezone(-offset if match["sign"] == "-" else offset)
        return datetime(*date, *clock, microsecond, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise TimeError(f"{text!r} is not a valid time: {error}") from error


def format_time(time: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC; the inverse of :func:`parse_time`."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def parse_optional(text: str | None) -> datetime | None:
    """Return an RFC 3339 time that may be missing, as :func:`parse_time`. Raises TimeError."""
    return None if text is None else parse_time(text)


def format_optional(time: datetime | None) -> str | None:
    """Return a time that may be missing, as :func:`format_time`."""
    return None if time is None else format_time(time)


def parse_duration(text: str) -> timedelta:
    """Return the duration ``text``, such as ``30 minutes`` or ``in 1 day``. Raises TimeError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise TimeError(f"{text!r} is not a number of minutes, hours, days or weeks")
    duration = int(match["number"]) * _UNITS[match["unit"]]
    if duration > LONGEST_DURATION:
        raise TimeError(f"{text!r} is longer than ten years")
    return duration


def parse_moment(text: str, now: datetime) -> datetime:
    """Return an RFC 3339 time, or one relative to ``now`` such as ``in 2 days``. Raises TimeError."""
    return now + parse_duration(text) if text.startswith("in ") else parse_time(text)


def format_duration(duration: timedelta) -> str:
    """Return a duration of whole minutes in the largest unit that divides it; inverse of parse_duration."""
    unit = next((unit for unit in _UNITS if not duration % _UNITS[unit]), "minute")
    number = duration // _UNITS[unit]
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def readable_time(time: datetime) -> str:
    """Return a time for messages: ``2026-11-24 09:30 UTC``, with the seconds if they are not 0."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC" if utc.second else f"{utc:%Y-%m-%d %H:%M} UTC"


def readable_duration(duration: timedelta) -> str:
    """Return a duration for messages: ``1 day 13 h``, the two largest units, rounded up (never too early)."""
    return duration_text(duration.total_seconds())


def readable_time_left(duration: timedelta) -> str:
    """Return the time until something expires, for messages, rounded down: never more than is left."""
    return duration_text(duration.total_seconds(), up=False)
