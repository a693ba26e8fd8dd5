"""When signatures expire, as an iCalendar file (RFC 5545) for the calendars of those who sign. PURE.

Rules it enforces:

* one event for each role, always with the same UID, its SEQUENCE the metadata's version: a calendar that
  imports the file again moves the event instead of adding another;
* the alarm goes off when `expirations` begins to call the role near;
* lines end in CRLF and are folded after 75 octets, never inside a character (§3.1);
* text is escaped (§3.3.11).
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from repo_tools.trust.expirations import Expiration, RenewalWindow

_FOLD = 75  # octets (§3.1)
_RENEW_ROOT = "Begin with: repo-tools root renew root-next.json"
_REFRESH = "Re-sign with: repo-tools refresh"


def calendar_text(rows: Sequence[Expiration], window: RenewalWindow, *, name: str, now: datetime) -> str:
    """Return the calendar of a repository of this name."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//updog//repo-tools//EN"]
    for row in rows:
        lines += _event(row, window.of(row.role), name, now)
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _event(row: Expiration, ahead: timedelta, name: str, now: datetime) -> Iterator[str]:
    next_step = _RENEW_ROOT if row.role == "root" else _REFRESH
    summary = _escaped(f"{name}: the signature of {row.role} expires")
    yield "BEGIN:VEVENT"
    yield f"UID:{row.role}@{name}.repo-tools"
    yield f"SEQUENCE:{row.version}"
    yield f"DTSTAMP:{_moment(now)}"
    yield f"DTSTART:{_moment(row.expires)}"
    yield f"SUMMARY:{summary}"
    yield f"DESCRIPTION:{_escaped(f'{row.name}. {next_step}')}"
    yield "BEGIN:VALARM"
    yield "ACTION:DISPLAY"
    yield f"TRIGGER:-PT{int(ahead.total_seconds()) // 60}M"
    yield f"DESCRIPTION:{summary}"
    yield "END:VALARM"
    yield "END:VEVENT"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _escaped(text: str) -> str:
    for character in "\\;,":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "\\n")


def _folded(line: str) -> str:
    """Return a line in pieces of at most 75 octets, separated by CRLF and a blank."""
    pieces, piece = [], ""
    for character in line:
        if len((piece + character).encode()) > _FOLD:
            pieces.append(piece)
            piece = " "
        piece += character
    return "\r\n".join([*pieces, piece])
