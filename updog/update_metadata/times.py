"""Times and durations as the formats write them, and as an operator reads them.

Rules:
* A time on the wire is RFC 3339 with an offset; it is UTC from the moment it is read, and written with ``Z``.
* Months and days without their zero (``2019-8-06T15:00:00Z``, in old manifests) are read, never written.
* Fractions finer than a microsecond are cut. A leap second (``:60``) is refused: no publisher writes one.
* A duration is ``[in ]<number> minutes|hours|days|weeks``, singular or plural.
* Arithmetic is on whole microseconds; nothing here is a float.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from updog.update_metadata.errors import TimeError

LONGEST_DURATION = timedelta(weeks=520)
"""Ten years: no roll-out is longer, and a start plus it stays within the calendar."""

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
_SPOKEN = (
    ("day", "days", timedelta(days=1)),
    ("h", "h", timedelta(hours=1)),
    ("min", "min", timedelta(minutes=1)),
    ("s", "s", timedelta(seconds=1)),
)


def parse_time(text: str) -> datetime:
    """Return the RFC 3339 time ``text`` in UTC, to the microsecond. Raises TimeError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise TimeError(f"{text!r} is not an RFC 3339 time such as 2026-11-24T09:30:00Z")
    try:
        return _assembled(match).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise TimeError(f"{text!r} is not a time of the calendar: {error}") from error


def _assembled(match: re.Match[str]) -> datetime:
    date = (int(match["year"]), int(match["month"]), int(match["day"]))
    clock = (int(match["hour"]), int(match["minute"]), int(match["second"]))
    microsecond = int((match["fraction"] or "0").ljust(6, "0")[:6])
    return datetime(*date, *clock, microsecond, tzinfo=_offset(match))


def _offset(match: re.Match[str]) -> timezone:
    if match["sign"] is None:
        return UTC
    size = timedelta(hours=int(match["off_hour"]), minutes=int(match["off_minute"]))
    return timezone(-size if match["sign"] == "-" else size)


def format_time(time: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC; the inverse of :func:`parse_time`."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


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
    """Return an RFC 3339 time, or one from ``now`` such as ``in 2 days``. Raises TimeError."""
    return now + parse_duration(text) if text.startswith("in ") else parse_time(text)


def format_duration(duration: timedelta) -> str:
    """Return whole minutes in the largest unit that fits; the inverse of :func:`parse_duration`."""
    unit = next((unit for unit in _UNITS if not duration % _UNITS[unit]), "minute")
    number = duration // _UNITS[unit]
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def spoken_time(time: datetime) -> str:
    """Return ``2026-11-24 09:30 UTC`` for a person; the second is added where it is not 0."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC" if utc.second else f"{utc:%Y-%m-%d %H:%M} UTC"


def spoken_duration(duration: timedelta) -> str:
    """Return ``1 day 13 h`` for a person: the two largest units, rounded up so as never to promise early."""
    sizes = [size for _, _, size in _SPOKEN]
    largest = next((index for index, size in enumerate(sizes) if size <= duration), len(sizes) - 1)
    finest = sizes[min(largest + 1, len(sizes) - 1)]
    rest = -(-max(duration, timedelta()) // finest) * finest
    words = []
    for one, many, size in _SPOKEN:
        number, rest = divmod(rest, size)
        words += [f"{number} {one if number == 1 else many}"] if number else []
    return " ".join(words) or "0 s"
