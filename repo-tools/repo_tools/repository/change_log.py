"""PURE: the log of changes in a repository: who did what to a release, when and why.

Rules:

* it is a target, ``changes.json``, signed together with the manifest that it describes: the keys that can
  change the manifest can write the log, and no others;
* ``keys`` are those that were available to the writer; who has signed a change is proved by the signatures of
  the metadata that list it first (:mod:`repo_tools.repository.log_signers`);
* entries are only added. A full file stays listed, as ``changes-<number of its last entry>.json``, and the
  next file names it under ``earlier``;
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

HOLD = "hold"
"""The action that holds a release."""

PROMOTE_FROM = "promote from "
"""The action of a promotion, before the name of the channel that it comes from."""

MAX_LOG_BYTES = 8 * 1024 * 1024
"""Size limit of one log file: :data:`FULL` entries, with effects of any sensible length."""

FULL = 200
"""Number of entries in a full file. Each change writes a new copy of the newest file: it is kept small."""


def checked_reason(reason: str) -> str:
    """Return a reason if it is one printable line, for the log and for nodes. Raises UsageError."""
    if not reason.isprintable():
        raise UsageError(f"--reason {reason!r}: not one printable line", next_step="Write one line of text.")
    return reason


def checked_urgent(why: str) -> str:
    """Return why a release is urgent, if nodes accept it as a sentence. Raises UsageError."""
    try:
        return fields.sentence(why)
    except FaultsError as error:
        raise UsageError(
            f"--urgent: {error.faults[0]}",
            next_step=f"Say why in one line of at most {fields.MAX_SENTENCE} characters.",
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change that was made.

    Attributes:
        action: the command's name, such as ``hold``.
        subject: what was changed, such as ``1.1.0 for vm on x86_64``.
        effects: the effects on the fleet, one sentence each.
        reason: why, as it was given; may be empty.
    """

    action: str
    subject: str
    effects: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry:
    """An entry of the log: a change, its number from 1, its time, and the keys that were available."""

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
    """One file of the log. ``earlier`` is the target name of the file before it."""

    entries: tuple[LogEntry, ...] = ()
    earlier: str | None = None

    @classmethod
    def from_json(cls, data: bytes) -> ChangeLog:
        """Return the log file in ``data``. Raises ManifestError, which lists every fault."""
        try:
            return _log(fields.decode_json(data, limit=MAX_LOG_BYTES))
        except FaultsError as error:
            raise ManifestError(fault.under(LOG) for fault in error.faults) from error

    def to_json(self) -> bytes:
        """Return the content of the file; the inverse of :meth:`from_json`."""
        document = {"changes": [entry.to_json() for entry in self.entries], "earlier": self.earlier}
        return (json.dumps(document, indent=1) + "\n").encode()

    @property
    def full(self) -> bool:
        """Whether the next entry goes into a new file."""
        return len(self.entries) >= FULL

    @property
    def archive_name(self) -> str:
        """The name of a full file once it is no longer the newest."""
        return f"changes-{self._last}.json"

    @property
    def _last(self) -> int:
        return self.entries[-1].number if self.entries else 0

    def with_change(self, change: Change, *, at: datetime, keys: Sequence[str]) -> ChangeLog:
        """Return the file with one more entry; a new file if this one is full."""
        entry = LogEntry(number=self._last + 1, at=at, keys=tuple(keys), change=change)
        if self.full:
            return ChangeLog(entries=(entry,), earlier=self.archive_name)
        return ChangeLog(entries=(*self.entries, entry), earlier=self.earlier)


def _log(document: object) -> ChangeLog:
    members = fields.Fields(document)
    log = ChangeLog(
        entries=members.required("changes", lambda value: fields.array(value, _entry, limit=FULL)),
        earlier=members.optional("earlier", fields.text),
    )
    members.raise_faults()
    if log.earlier and not log.entries:
        raise FaultsError([Fault(path="changes", problem="is empty although there is an earlier file")])
    return log


def _entry(value: object) -> LogEntry:
    members = fields.Fields(value)
    entry = LogEntry(
        number=members.required("number", fields.whole_number),
        at=members.required("at", fields.time),
        keys=members.required("keys", _texts),
        change=Change(
            action=members.required("action", fields.text),
            subject=members.required("subject", fields.text),
            effects=members.required("effects", _texts),
            reason=members.required("reason", lambda value: fields.text(value) if value != "" else ""),
        ),
    )
    members.raise_faults()
    return entry


def _texts(value: object) -> tuple[str, ...]:
    return fields.array(value, fields.text, limit=1024)
