"""The log of changes inside a repository: who did what to a release, when and why. PURE.

Rules:

* it is a target, ``changes.json``, signed with the manifest it speaks of: whoever can change the manifest
  writes the log, and nobody else can;
* *who* is the keys the writer had at hand; nothing else about a person can be proved from here;
* entries are only added. When a file is full it stays listed, as ``changes-<number of its last entry>.json``,
  and the next one names it under ``earlier``;
* nodes never read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signpost.errors import UsageError
from updog.update_metadata import fields
from updog.update_metadata.errors import Fault, FaultsError, ManifestError
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

LOG = "changes.json"

MAX_LOG_BYTES = 8 * 1024 * 1024
"""Size of one file of the log: :data:`FULL` entries with effects of any sensible length."""

FULL = 200
"""Entries of one file. Each change writes a new copy of the newest file, so it is kept small."""


def one_line(reason: str) -> str:
    """Return a reason if the log, and a node that is asked why, can print it. Raises UsageError."""
    if not reason.isprintable():
        raise UsageError(f"--reason {reason!r}: not one printable line", next_step="Write one line of text.")
    return reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What somebody did.

    Attributes:
        action: the command's name, such as ``hold``.
        subject: what it was done to, such as ``1.1.0 for vm on x86_64``.
        effects: what that does to the fleet, a sentence each.
        reason: why, as it was given; may be empty.
    """

    action: str
    subject: str
    effects: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A change as it stands in the log: its number from 1, its time, and the keys that were at hand."""

    number: int
    at: datetime
    keys: tuple[str, ...]
    change: Change

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "number": self.number,
            "at": format_time(self.at),
            "keys": list(self.keys),
            "action": self.change.action,
            "subject": self.change.subject,
            "effects": list(self.change.effects),
            "reason": self.change.reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeLog:
    """One file of the log. ``earlier`` is the target name of the one before it."""

    entries: tuple[Entry, ...] = ()
    earlier: str | None = None

    @classmethod
    def from_json(cls, data: bytes) -> ChangeLog:
        """Return the file written as ``data``. Raises ManifestError with every fault."""
        try:
            return _log(fields.decoded(data, most=MAX_LOG_BYTES))
        except FaultsError as error:
            raise ManifestError(fault.under(LOG) for fault in error.faults) from error

    def to_json(self) -> bytes:
        """Return the file; the inverse of :meth:`from_json`."""
        document = {"changes": [entry.to_json() for entry in self.entries], "earlier": self.earlier}
        return (json.dumps(document, indent=1) + "\n").encode()

    @property
    def full(self) -> bool:
        """Whether the next entry belongs into a new file."""
        return len(self.entries) >= FULL

    @property
    def archive_name(self) -> str:
        """What a full file is called once it is no longer the newest."""
        return f"changes-{self._last}.json"

    @property
    def _last(self) -> int:
        return self.entries[-1].number if self.entries else 0

    def with_change(self, change: Change, *, at: datetime, keys: Sequence[str]) -> ChangeLog:
        """Return the newest file with one more entry; after a full one that is a new file."""
        entry = Entry(number=self._last + 1, at=at, keys=tuple(keys), change=change)
        if self.full:
            return ChangeLog(entries=(entry,), earlier=self.archive_name)
        return ChangeLog(entries=(*self.entries, entry), earlier=self.earlier)


def _log(document: object) -> ChangeLog:
    members = fields.Fields(document)
    log = ChangeLog(
        entries=members.take("changes", lambda value: fields.array(value, _entry, most=FULL)),
        earlier=members.maybe("earlier", fields.text),
    )
    members.done()
    if log.earlier and not log.entries:
        raise FaultsError([Fault(path="changes", problem="empty, and there is an earlier file")])
    return log


def _entry(value: object) -> Entry:
    members = fields.Fields(value)
    entry = Entry(
        number=members.take("number", fields.whole_number),
        at=members.take("at", fields.time),
        keys=members.take("keys", _texts),
        change=Change(
            action=members.take("action", fields.text),
            subject=members.take("subject", fields.text),
            effects=members.take("effects", _texts),
            reason=members.take("reason", lambda value: fields.text(value) if value != "" else ""),
        ),
    )
    members.done()
    return entry


def _texts(value: object) -> tuple[str, ...]:
    return fields.array(value, fields.text, most=1024)
