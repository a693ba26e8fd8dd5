"""What the node remembers between runs and across both slots. PURE: values and their JSON.

Rules it enforces:

* one document, replaced as a whole, so that there is never half a memory;
* a version that fell back is denied until a newer one is confirmed or a person clears it;
* every rollback leaves one event with a stable code and one sentence;
* the history is bounded, oldest first out.

The partition table stays the truth about what boots; this is the truth about what is *in* the slots
and why things happened.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from signpost.sets import Slot
from updog.errors import ConfigError
from updog.update_metadata.content import Content
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.outcomes import OutcomeLine
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from updog.update_metadata.manifest import Update

FORMAT = 1
MAX_HISTORY = 500  # events; about 100 KiB, years of updates
MAX_OUTBOX = 32  # lines; a node that cannot report for so many updates has other news


_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class Code(StrEnum):
    """What can happen to a node, by its stable name; :data:`CODES` has the meanings.

    A name of the same form that is not listed is kept as it is: the other slot's updog may be a newer one,
    and falling back from it must not cost this node its memory.
    """

    INSTALLED = "installed"
    INSTALL_FAILED = "install-failed"
    APPLIED = "applied"
    REVERTED = "reverted"
    CONFIRMED = "confirmed"
    BOOT_FAILED = "boot-failed"
    HEALTH_FAILED = "health-check-failed"
    ROLLED_BACK_BY_HAND = "rolled-back-by-hand"
    DENIAL_CLEARED = "denial-cleared"
    STATE_LOST = "state-lost"
    EXPIRED_ACCEPTED = "expired-accepted"
    DISK_ACCEPTED = "disk-accepted"
    CLOCK_ACCEPTED = "clock-accepted"
    PASSED_OVER = "passed-over"

    @classmethod
    def _missing_(cls, value: object) -> Code | None:
        """Make a member for this one use of a later updog's name."""
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value, value
        return member


CODES = {
    Code.INSTALLED: "an update was written to the inactive slot and read back",
    Code.INSTALL_FAILED: "an update could not be installed; the running slot is untouched",
    Code.APPLIED: "the installed update boots next",
    Code.REVERTED: "the installed update no longer boots next",
    Code.CONFIRMED: "a version passed its health checks, or was marked successful by hand",
    Code.BOOT_FAILED: "a version used up its tries without being confirmed, and the other slot took over",
    Code.HEALTH_FAILED: "a version failed a required health check; the other slot boots next, if it can",
    Code.ROLLED_BACK_BY_HAND: "a person left a version for the other slot",
    Code.DENIAL_CLEARED: "a person allowed a version again that had been left",
    Code.STATE_LOST: "the state file could not be read; history and deny-list start anew",
    Code.EXPIRED_ACCEPTED: "a person allowed expired metadata until a moment",
    Code.DISK_ACCEPTED: "a person accepted another disk in the place of the one this node ran from",
    Code.CLOCK_ACCEPTED: "a person accepted a clock that is behind what this node had seen",
    Code.PASSED_OVER: "the boot stage could not start a slot that was to start first, and took the other one",
}

UP, CHECKING = "up", "checking"
"""How far an update on trial came: its own updog ran, and began to check its health."""

ROLLBACKS = frozenset({Code.BOOT_FAILED, Code.HEALTH_FAILED, Code.ROLLED_BACK_BY_HAND})


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotRecord:
    """What was written to a slot and read back from it: raw sizes in bytes and SHA-256 by image."""

    variant: str
    arch: str
    version: Version
    images: Mapping[str, Content]

    @classmethod
    def of(cls, update: Update, images: Mapping[str, Content]) -> Self:
        """Return what a slot holds once ``images`` of ``update`` are in it."""
        return cls(variant=update.variant, arch=update.arch, version=update.version, images=images)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        images = {name: {"size": image.size, "sha256": image.sha256} for name, image in self.images.items()}
        return {"variant": self.variant, "arch": self.arch, "version": str(self.version), "images": images}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            variant=value["variant"],
            arch=value["arch"],
            version=Version.parse(value["version"]),
            images={name: Content(**content) for name, content in value["images"].items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """An update that is installed but not confirmed.

    ``boot_id`` is the boot during which it was applied (None: staged only), so that a later one can
    tell whether the machine has been restarted since. ``reached`` is how far it came by what it noted
    itself, when it ran: one of :data:`UP`, :data:`CHECKING`, or nothing.
    """

    version: Version
    slot: Slot
    previous: Version
    boot_id: str | None = None
    reached: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the pending update as JSON values."""
        versions = {"version": str(self.version), "previous": str(self.previous)}
        reached = {"reached": self.reached} if self.reached else {}
        return {**versions, "slot": self.slot.value, "boot_id": self.boot_id, **reached}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            version=Version.parse(value["version"]),
            slot=Slot(value["slot"]),
            previous=Version.parse(value["previous"]),
            boot_id=value["boot_id"],
            reached=str(value.get("reached", "")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened: when (UTC), its code, the version it happened to, and one sentence.

    ``cause`` says why a version was left, by a stable name, where there is one: of a failed boot a
    :class:`~updog.postmortem.Cause`, of a failed health check the check's name.
    """

    time: datetime
    code: Code
    version: Version | None
    sentence: str
    cause: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values."""
        version = str(self.version) if self.version else None
        document = {
            "time": self.time.isoformat(timespec="seconds"),
            "code": self.code.value,
            "version": version,
            "sentence": self.sentence,
        }
        return {**document, "cause": self.cause} if self.cause else document

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            time=_moment(value["time"]),
            code=Code(value["code"]),
            version=Version.parse(value["version"]) if value["version"] else None,
            sentence=value["sentence"],
            cause=value.get("cause"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeState:
    """The whole memory of a node."""

    disk_guid: str | None = None
    slots: Mapping[Slot, SlotRecord] = field(default_factory=dict)
    pending: Pending | None = None
    denied: Mapping[Version, Event] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    latest_time: datetime | None = None
    records_seen: frozenset[str] = frozenset()
    outbox: tuple[OutcomeLine, ...] = ()

    @property
    def last_rollback(self) -> Event | None:
        """The newest event in which a version was left again, with its cause."""
        return next((event for event in reversed(self.history) if event.code in ROLLBACKS), None)

    def version_in(self, slot: Slot) -> Version | None:
        """The version that is known to be in a slot."""
        record = self.slots.get(slot)
        return record.version if record else None

    def noting(self, event: Event) -> NodeState:
        """Return the state with ``event`` at the end of its bounded history."""
        return replace(self, history=(*self.history, event)[-MAX_HISTORY:])

    def emptied(self, slot: Slot) -> NodeState:
        """Return the state before the first byte is written to ``slot``: nothing is known to be in it."""
        slots = {which: record for which, record in self.slots.items() if which is not slot}
        return replace(self, slots=slots, pending=None)

    def installed(self, slot: Slot, record: SlotRecord, previous: Version) -> NodeState:
        """Return the state once ``record`` was proven to be in ``slot``."""
        pending = Pending(version=record.version, slot=slot, previous=previous)
        return replace(self, slots={**self.slots, slot: record}, pending=pending)

    def applied(self, boot_id: str | None) -> NodeState:
        """Return the state once the pending slot boots next (or, with None, no longer does)."""
        pending = replace(self.pending, boot_id=boot_id, reached="") if self.pending else None
        return replace(self, pending=pending)

    def reaching(self, stage: str) -> NodeState:
        """Return the state once the pending update, on trial, noted that it came as far as ``stage``."""
        if self.pending is None or self.pending.reached in {stage, CHECKING}:
            return self
        return replace(self, pending=replace(self.pending, reached=stage))

    def having_seen(self, records: Iterable[str]) -> NodeState:
        """Return the state once these records of pstore, by their digests, explain nothing any more."""
        return replace(self, records_seen=frozenset(records))

    def reporting(self, line: OutcomeLine | None) -> NodeState:
        """Return the state with a line to send, if there is one, at the end of its bounded queue."""
        if line is None:
            return self
        return replace(self, outbox=(*self.outbox, line)[-MAX_OUTBOX:])

    def reported(self, lines: Collection[OutcomeLine]) -> NodeState:
        """Return the state once ``lines`` were sent."""
        return replace(self, outbox=tuple(line for line in self.outbox if line not in lines))

    def confirmed(self, version: Version) -> NodeState:
        """Return the state once ``version`` was found healthy; older denials have served their purpose."""
        newer = {denied: event for denied, event in self.denied.items() if denied > version}
        return replace(self, pending=None, denied=newer)

    def left(self, event: Event) -> NodeState:
        """Return the state once the version of ``event`` was left again: denied, with the cause."""
        denied = {**self.denied, event.version: event} if event.version else self.denied
        return replace(self.noting(event), pending=None, denied=denied)

    def cleared(self, version: Version) -> NodeState:
        """Return the state without the denial of ``version``."""
        return replace(self, denied={v: event for v, event in self.denied.items() if v != version})

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values; what this project added later only where there is some."""
        later: dict[str, Any] = {}
        if self.records_seen:
            later["records_seen"] = sorted(self.records_seen)
        if self.outbox:
            later["outbox"] = [line.members() for line in self.outbox]
        return {
            "format": FORMAT,
            "disk_guid": self.disk_guid,
            "slots": {slot.value: record.to_json() for slot, record in self.slots.items()},
            "pending": self.pending.to_json() if self.pending else None,
            "denied": [event.to_json() for event in self.denied.values()],
            "latest_time": self.latest_time.isoformat() if self.latest_time else None,
            "history": [event.to_json() for event in self.history],
            **later,
        }

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: the text is not a state document of this format.
        """
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ConfigError(f"state format {value['format']!r} is not {FORMAT}")
            denials = [Event.from_json(event) for event in value["denied"]]
            return cls(
                disk_guid=value["disk_guid"],
                slots={Slot(name): SlotRecord.from_json(item) for name, item in value["slots"].items()},
                pending=Pending.from_json(value["pending"]) if value["pending"] else None,
                denied={event.version: event for event in denials if event.version},
                history=tuple(Event.from_json(event) for event in value["history"]),
                latest_time=_moment(value["latest_time"]) if value["latest_time"] else None,
                records_seen=frozenset(str(digest) for digest in value.get("records_seen", ())),
                outbox=_lines(value.get("outbox", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"the state document is damaged: {error!r}") from error


def _lines(values: Iterable[Any]) -> tuple[OutcomeLine, ...]:
    """Read the queue of lines; one that is none is not worth losing the rest of the memory for."""
    lines = []
    for value in values:
        with suppress(FaultsError):
            lines.append(OutcomeLine.from_json(json.dumps(value)))
    return tuple(lines)


def _moment(text: str) -> datetime:
    """Read an aware time, which can be compared with any other. Raises TypeError or ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
