"""The node's state, kept between runs and shared by both slots. PURE: values and their JSON.

Rules it enforces:

* the state is one document that is replaced as a whole, so it is never half written;
* a version that fell back is denied until a newer one is confirmed or an operator clears it; one that fell
  back without a known cause is denied for a time, and for good if it falls back once more;
* every rollback is recorded as one event with a stable code and one sentence;
* the history is bounded; the oldest event is dropped first. Sentences are cut and printable, because they
  may repeat what a server, a publisher, a kernel or a health check said.

The partition table defines what boots. The state records what is *in* the slots, and why things happened.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from signpost import text
from signpost.journal import Severity
from signpost.sets import ImageKind, Slot
from updog.errors import ConfigError, StateFormatError
from updog.update_metadata.content import Content
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.outcomes import MAX_NAME, OutcomeLine
from updog.update_metadata.times import readable_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import timedelta

    from updog.update_metadata.manifest import Update

FORMAT = 1
MAX_HISTORY = 500  # events; about 100 KiB, years of updates
MAX_FAILED_UNITS = 1000
MAX_OUTBOX = 32  # lines; a node that could not report so many updates has more serious problems


CHECKS_BEFORE_WARNING = 3
"""So many checks in a row fail before an operator is told: one an hour, that is two hours without any."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class Code(StrEnum):
    """What happened to a node, as a stable name; :data:`CODES` has the meanings.

    An unknown name of the same form is kept as it is: the updog in the other slot may be newer, and after a
    fallback from it this one must still be able to read the state.
    """

    INSTALLED = "installed"
    INSTALL_FAILED = "install-failed"
    APPLIED = "applied"
    REVERTED = "reverted"
    RECALLED = "recalled"
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
    RETRIED = "retried"
    LOCK_TAKEN = "lock-taken"
    LOCK_KEPT = "lock-kept"
    LOCK_RELEASED = "lock-released"
    GIVEN_UP = "given-up"
    RESTART_FAILED = "restart-failed"
    WAITS_LONG = "waits-long"
    CHECKS_FAILED = "checks-failed"
    CHECKS_RECOVERED = "checks-recovered"
    HOOK_PASSED = "hook-passed"
    HOOK_FAILED = "hook-failed"
    PERMITTED = "permitted"
    POSTPONED = "postponed"
    HELD_BY_HAND = "held-by-hand"
    RESUMED = "resumed"
    CHECK_ASKED = "check-asked"
    LOCK_RELEASE_ASKED = "lock-release-asked"

    @classmethod
    def _missing_(cls, value: object) -> Code | None:
        """Return a temporary member for a name that only a later updog knows."""
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value, value
        return member


CODES = {
    Code.INSTALLED: "an update was written to the inactive slot and read back",
    Code.INSTALL_FAILED: "an update could not be installed; the running slot was not changed",
    Code.APPLIED: "the installed update boots next",
    Code.REVERTED: "the installed update no longer boots next",
    Code.RECALLED: "the publisher withdrew or held the installed update before it ran; it does not boot next",
    Code.CONFIRMED: "a version passed its health checks, or was marked successful by an operator",
    Code.BOOT_FAILED: "a version used up its tries without being confirmed, and the other slot took over",
    Code.HEALTH_FAILED: "a version failed a required health check; the other slot boots next, if it can",
    Code.ROLLED_BACK_BY_HAND: "an operator rolled back from a version to the other slot",
    Code.DENIAL_CLEARED: "an operator removed a version from the deny-list",
    Code.STATE_LOST: "the state file could not be read; history and deny-list are empty again",
    Code.EXPIRED_ACCEPTED: "an operator accepted expired metadata until a given time",
    Code.DISK_ACCEPTED: "an operator accepted another disk in place of the node's own",
    Code.CLOCK_ACCEPTED: "an operator accepted a clock that is behind the repository's signed time",
    Code.PASSED_OVER: "the boot stage could not start the slot that came first, and started the other one",
    Code.RETRIED: "a version that fell back without a known cause, and was denied, is tried once more",
    Code.LOCK_TAKEN: "the agent holds the fleet lock, to restart this node",
    Code.LOCK_KEPT: "the agent keeps the fleet lock, because this node fell back",
    Code.LOCK_RELEASED: "the agent released the fleet lock",
    Code.GIVEN_UP: "the agent could not install a version for max_attempts times and does not try it again",
    Code.RESTART_FAILED: "the restart into an update failed or did not happen; the update does not boot next",
    Code.WAITS_LONG: "a release has waited too long to be installed, or for its restart; what for is said",
    Code.CHECKS_FAILED: "the repository could not be read, or not be trusted, by three checks in a row",
    Code.CHECKS_RECOVERED: "a check succeeded after that",
    Code.HOOK_PASSED: "an executable in pre-restart.d or post-confirm.d passed; what it said last",
    Code.HOOK_FAILED: "an executable in post-confirm.d failed, or one in pre-restart.d: no restart then",
    Code.PERMITTED: "an operator let updates install and restart until a given time",
    Code.POSTPONED: "an operator postponed the restart until a given time",
    Code.HELD_BY_HAND: "an operator held updates of this node, with a reason",
    Code.RESUMED: "an operator took back a hold, a postponement or a permit",
    Code.CHECK_ASKED: "an operator asked for a check of the repository",
    Code.LOCK_RELEASE_ASKED: "an operator asked for the release of the fleet lock",
}

SEVERITIES = {
    Code.INSTALL_FAILED: Severity.ERROR,
    Code.BOOT_FAILED: Severity.ERROR,
    Code.HEALTH_FAILED: Severity.ERROR,
    Code.STATE_LOST: Severity.ERROR,
    Code.PASSED_OVER: Severity.ERROR,
    Code.RECALLED: Severity.WARNING,
    Code.ROLLED_BACK_BY_HAND: Severity.WARNING,
    Code.EXPIRED_ACCEPTED: Severity.WARNING,
    Code.LOCK_KEPT: Severity.WARNING,
    Code.GIVEN_UP: Severity.WARNING,
    Code.RESTART_FAILED: Severity.WARNING,
    Code.WAITS_LONG: Severity.WARNING,
    Code.CHECKS_FAILED: Severity.WARNING,
    Code.CHECKS_RECOVERED: Severity.NOTICE,
    Code.HOOK_FAILED: Severity.WARNING,
}
"""How serious an event is in the journal; informational, if it is not listed."""

UP, CHECKING = "up", "checking"
"""How far an update on trial came: its updog was run, and its health checks were started."""

ROLLBACKS = frozenset({Code.BOOT_FAILED, Code.HEALTH_FAILED, Code.ROLLED_BACK_BY_HAND})


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotRecord:
    """What was written to a slot and read back from it: the content of each image."""

    variant: str
    arch: str
    version: Version
    images: Mapping[ImageKind, Content]

    @classmethod
    def of(cls, update: Update, images: Mapping[ImageKind, Content]) -> Self:
        """Return the record of a slot with ``images`` of ``update``."""
        return cls(variant=update.variant, arch=update.arch, version=update.version, images=images)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        images = {
            str(kind): {"size": image.size, "sha256": image.sha256} for kind, image in self.images.items()
        }
        return {"variant": self.variant, "arch": self.arch, "version": str(self.version), "images": images}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            variant=value["variant"],
            arch=value["arch"],
            version=Version.parse(value["version"]),
            images={ImageKind(name): Content(**content) for name, content in value["images"].items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingUpdate:
    """An update that is installed but not confirmed.

    Attributes:
        previous: the version that ran when it was installed.
        boot_id: the boot during which it was applied, which shows whether the machine has been restarted
            since; None: it is not applied.
        reached: how far it came by its own record: :data:`UP`, :data:`CHECKING`, or empty.
        recalled: why its publisher withdrew or held it before it ran, as a sentence; empty: it did not.
    """

    version: Version
    slot: Slot
    previous: Version
    boot_id: str | None = None
    reached: str = ""
    recalled: str = ""

    def __post_init__(self) -> None:
        """Cut what the publisher says, and make it one printable line."""
        object.__setattr__(self, "recalled", text.line(self.recalled))

    def to_json(self) -> dict[str, Any]:
        """Return the pending update as JSON values."""
        versions = {"version": str(self.version), "previous": str(self.previous)}
        reached = {"reached": self.reached} if self.reached else {}
        recalled = {"recalled": self.recalled} if self.recalled else {}
        return {**versions, "slot": self.slot.value, "boot_id": self.boot_id, **reached, **recalled}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            version=Version.parse(value["version"]),
            slot=Slot(value["slot"]),
            previous=Version.parse(value["previous"]),
            boot_id=value["boot_id"],
            reached=str(value.get("reached", "")),
            recalled=str(value.get("recalled", "")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        time: UTC. code: what happened. version: which one it concerns, if any. sentence: what to show.
        cause: why a version was left, as a stable name: for a failed boot a
            :class:`~updog.failed_boot.cause.Cause`, for a failed health check the name of the check.
        by: who asked for it, as one line (:mod:`updog.daemon.caller`); None: nobody, or it is not known.
    """

    time: datetime
    code: Code
    version: Version | None
    sentence: str
    cause: str | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        """Cut what may repeat foreign text, and make it one printable line."""
        object.__setattr__(self, "sentence", text.line(self.sentence))
        if self.cause is not None:
            object.__setattr__(self, "cause", text.line(self.cause, MAX_NAME))
        if self.by is not None:
            object.__setattr__(self, "by", text.line(self.by, text.FOREIGN_CHARACTERS) or None)

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values."""
        version = str(self.version) if self.version else None
        document = {
            "time": self.time.isoformat(timespec="seconds"),
            "code": self.code.value,
            "version": version,
            "sentence": self.sentence,
        }
        later = {"cause": self.cause, "by": self.by}
        return document | {name: value for name, value in later.items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            time=_parse_time(value["time"]),
            code=Code(value["code"]),
            version=Version.parse(value["version"]) if value["version"] else None,
            sentence=value["sentence"],
            cause=value.get("cause"),
            by=value.get("by"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRecord:
    """How the last check of the repository ended.

    Attributes:
        time: UTC. result: ``update``, ``no-update``, or the code of the error. message: of the error.
        available: what the last check that succeeded chose for this node; None: nothing.
        failed: how many checks failed in a row. failing_since: when the first of them did (UTC).
    """

    time: datetime
    result: str
    message: str = ""
    available: Version | None = None
    failed: int = 0
    failing_since: datetime | None = None

    def __post_init__(self) -> None:
        """Cut what a server may have said, and make it one printable line."""
        object.__setattr__(self, "message", text.line(self.message))

    @property
    def is_failing(self) -> bool:
        """Whether so many checks failed in a row that an operator is told."""
        return self.failed >= CHECKS_BEFORE_WARNING

    @property
    def sentence(self) -> str:
        """What an operator is told."""
        since = f", since {readable_time(self.failing_since)}" if self.failing_since else ""
        return f"The last {self.failed} checks of the repository failed{since}: {self.message.rstrip('.')}."

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "time": self.time.isoformat(timespec="seconds"),
            "result": self.result,
            "message": self.message,
            "available": str(self.available) if self.available else None,
            "failed": self.failed,
            "failing_since": self.failing_since and self.failing_since.isoformat(timespec="seconds"),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        available, since = value["available"], value["failing_since"]
        return cls(
            time=_parse_time(value["time"]),
            result=str(value["result"]),
            message=str(value["message"]),
            available=Version.parse(available) if available else None,
            failed=int(value["failed"]),
            failing_since=_parse_time(since) if since else None,
        )


def _replaces(later: Event, left: Event) -> bool:
    """Whether a newer version than the one that was left was confirmed."""
    confirmed = later.version if later.code is Code.CONFIRMED else None
    return confirmed is not None and left.version is not None and confirmed > left.version


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeState:
    """The whole state of a node.

    Attributes:
        disk_guid: the node's own disk. slots: what updog wrote to each slot.
        ran: the version that last ran in each slot, also where updog did not write it.
        pending: the update that is installed but not confirmed.
        denied: versions that are not installed again → the event in which each was left.
        history: what happened, oldest first.
        last_check: when a repository was last verified, by this node's clock (UTC). It is only shown: a clock
            may have been wrong, and what it showed decides nothing later.
        signed_time: when the last verified timestamp was signed (UTC); a clock behind it is wrong.
        records_seen: digests of pstore records that do not explain a later failure.
        outbox: outcome lines that are not sent yet, oldest first.
        retried: versions that were tried again after they had fallen back without a known cause.
        failed_units: the systemd units that had failed on the last confirmed boot.
        check: how the last check ended; None: there was none.
    """

    disk_guid: str | None = None
    slots: Mapping[Slot, SlotRecord] = field(default_factory=dict)
    pending: PendingUpdate | None = None
    denied: Mapping[Version, Event] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    last_check: datetime | None = None
    signed_time: datetime | None = None
    records_seen: frozenset[str] = frozenset()
    outbox: tuple[OutcomeLine, ...] = ()
    ran: Mapping[Slot, Version] = field(default_factory=dict)
    retried: frozenset[Version] = frozenset()
    failed_units: frozenset[str] = frozenset()
    check: CheckRecord | None = None

    @property
    def last_rollback(self) -> Event | None:
        """The newest event in which a version was left; None once a newer version is confirmed."""
        later: list[Event] = []
        for event in reversed(self.history):
            if event.code in ROLLBACKS:
                return None if any(_replaces(other, event) for other in later) else event
            later.append(event)
        return None

    @property
    def confirmed_at(self) -> datetime | None:
        """When a version was last confirmed; None: not within the history."""
        confirmed = (event.time for event in reversed(self.history) if event.code is Code.CONFIRMED)
        return next(confirmed, None)

    def available_to(self, running: Version) -> Version | None:
        """Return what the last check chose, unless it runs by now or has failed here since."""
        version = self.check.available if self.check else None
        return None if version in {None, running, *self.denied} else version

    def version_in(self, slot: Slot) -> Version | None:
        """Return the version recorded for a slot, or that ran in it, if any."""
        record = self.slots.get(slot)
        return record.version if record else self.ran.get(slot)

    def with_running(self, slot: Slot, version: Version) -> NodeState:
        """Return the state in which ``version`` runs from ``slot``."""
        return replace(self, ran={**self.ran, slot: version})

    def with_event(self, event: Event) -> NodeState:
        """Return the state with ``event`` added to its bounded history."""
        return replace(self, history=(*self.history, event)[-MAX_HISTORY:])

    def with_check(self, time: datetime, available: Version | None) -> NodeState:
        """Return the state after a check that chose ``available``; if checks had failed, it says so."""
        before = self.check
        check = CheckRecord(time=time, result="update" if available else "no-update", available=available)
        state = replace(self, check=check)
        if before is None or not before.is_failing:
            return state
        since = f" since {readable_time(before.failing_since)}" if before.failing_since else ""
        sentence = f"The repository can be read again; {before.failed} checks had failed{since}."
        return state.with_event(Event(time=time, code=Code.CHECKS_RECOVERED, version=None, sentence=sentence))

    def with_failed_check(self, time: datetime, code: str, message: str) -> NodeState:
        """Return the state after a check that failed; after several in a row, one event says so."""
        before = self.check
        check = CheckRecord(
            time=time,
            result=code,
            message=message,
            available=before.available if before else None,
            failed=before.failed + 1 if before else 1,
            failing_since=(before.failing_since if before else None) or time,
        )
        state = replace(self, check=check)
        if check.failed != CHECKS_BEFORE_WARNING:
            return state
        return state.with_event(
            Event(time=time, code=Code.CHECKS_FAILED, version=None, sentence=check.sentence)
        )

    def with_slot_emptied(self, slot: Slot) -> NodeState:
        """Return the state before the first byte is written to ``slot``: it has no record of the slot."""
        slots = {other: record for other, record in self.slots.items() if other is not slot}
        ran = {other: version for other, version in self.ran.items() if other is not slot}
        return replace(self, slots=slots, ran=ran, pending=None)

    def with_installed(self, slot: Slot, record: SlotRecord, previous: Version) -> NodeState:
        """Return the state after ``record`` was verified to be in ``slot``."""
        pending = PendingUpdate(version=record.version, slot=slot, previous=previous)
        return replace(self, slots={**self.slots, slot: record}, pending=pending)

    def with_applied(self, boot_id: str | None) -> NodeState:
        """Return the state in which the pending slot boots next (with None: no longer boots next)."""
        pending = replace(self.pending, boot_id=boot_id, reached="") if self.pending else None
        return replace(self, pending=pending)

    def with_recalled(self, reason: str) -> NodeState:
        """Return the state in which the pending update does not boot next and must not be applied.

        With an empty ``reason`` it may be applied again.
        """
        if self.pending is None:
            return self
        boot_id = None if reason else self.pending.boot_id
        return replace(self, pending=replace(self.pending, boot_id=boot_id, recalled=reason))

    def with_reached(self, stage: str) -> NodeState:
        """Return the state after the pending update, on trial, came as far as ``stage``."""
        if self.pending is None or self.pending.reached in {stage, CHECKING}:
            return self
        return replace(self, pending=replace(self.pending, reached=stage))

    def with_records_seen(self, digests: Iterable[str]) -> NodeState:
        """Return the state in which the pstore records with these digests do not explain later failures."""
        return replace(self, records_seen=frozenset(digests))

    def with_report(self, line: OutcomeLine | None) -> NodeState:
        """Return the state with ``line``, if there is one, added to the bounded queue of lines to send."""
        if line is None:
            return self
        return replace(self, outbox=(*self.outbox, line)[-MAX_OUTBOX:])

    def without_reports(self, lines: Collection[OutcomeLine]) -> NodeState:
        """Return the state after ``lines`` were sent."""
        return replace(self, outbox=tuple(line for line in self.outbox if line not in lines))

    def with_confirmed(self, version: Version) -> NodeState:
        """Return the state after ``version`` was found healthy; denials of older versions are dropped."""
        newer = {denied: event for denied, event in self.denied.items() if denied > version}
        retried = frozenset(other for other in self.retried if other > version)
        return replace(self, pending=None, denied=newer, retried=retried)

    def with_left(self, event: Event) -> NodeState:
        """Return the state after the version of ``event`` was left: it is denied, with the event."""
        denied = {**self.denied, event.version: event} if event.version else self.denied
        return replace(self.with_event(event), pending=None, denied=denied)

    def without_denial(self, version: Version) -> NodeState:
        """Return the state without the denial of ``version``."""
        return replace(
            self,
            denied={v: event for v, event in self.denied.items() if v != version},
            retried=self.retried - {version},
        )

    def due_again(self, now: datetime, after: timedelta, unexplained: Collection[str]) -> frozenset[Version]:
        """Return the denied versions that may be tried once more.

        Args:
            now: the current time.
            after: how long after its fallback a version may be tried again.
            unexplained: the causes that are no evidence against the release.
        """
        return frozenset(
            version
            for version, event in self.denied.items()
            if event.code is Code.BOOT_FAILED
            and (event.cause is None or event.cause in unexplained)
            and version not in self.retried
            and not now - after < event.time <= now  # a fallback in the future: the clock was ahead
        )

    def with_retry(self, version: Version) -> NodeState:
        """Return the state in which ``version``, which was denied, is tried for the second and last time."""
        return replace(self.without_denial(version), retried=self.retried | {version})

    def with_failed_units(self, names: Iterable[str]) -> NodeState:
        """Return the state after these systemd units had failed on a confirmed boot."""
        return replace(self, failed_units=frozenset(sorted(names)[:MAX_FAILED_UNITS]))

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values; members that were added later only if they are not empty."""
        later: dict[str, Any] = {}
        if self.records_seen:
            later["records_seen"] = sorted(self.records_seen)
        if self.outbox:
            later["outbox"] = [line.members() for line in self.outbox]
        if self.ran:
            later["ran"] = {slot.value: str(version) for slot, version in self.ran.items()}
        if self.signed_time:
            later["signed_time"] = self.signed_time.isoformat()
        if self.retried:
            later["retried"] = sorted(str(version) for version in self.retried)
        if self.failed_units:
            later["failed_units"] = sorted(self.failed_units)
        if self.check:
            later["check"] = self.check.to_json()
        return {
            "format": FORMAT,
            "disk_guid": self.disk_guid,
            "slots": {slot.value: record.to_json() for slot, record in self.slots.items()},
            "pending": self.pending.to_json() if self.pending else None,
            "denied": [event.to_json() for event in self.denied.values()],
            "latest_time": self.last_check.isoformat() if self.last_check else None,
            "history": [event.to_json() for event in self.history],
            **later,
        }

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse what :meth:`to_json` wrote.

        Raises:
            StateFormatError: a newer updog wrote it.
            ConfigError: the text is not a state document of this format.
        """
        try:
            value = json.loads(data)
            if isinstance(value["format"], int) and value["format"] > FORMAT:
                raise StateFormatError(f"the state has format {value['format']}; this updog knows {FORMAT}")
            if value["format"] != FORMAT:
                raise ConfigError(f"state format {value['format']!r} is not {FORMAT}")
            denials = [Event.from_json(event) for event in value["denied"]]
            return cls(
                disk_guid=value["disk_guid"],
                slots={Slot(name): SlotRecord.from_json(item) for name, item in value["slots"].items()},
                pending=PendingUpdate.from_json(value["pending"]) if value["pending"] else None,
                denied={event.version: event for event in denials if event.version},
                history=tuple(Event.from_json(event) for event in value["history"]),
                last_check=_parse_time(value["latest_time"]) if value["latest_time"] else None,
                signed_time=_parse_time(signed) if (signed := value.get("signed_time")) else None,
                records_seen=frozenset(str(digest) for digest in value.get("records_seen", ())),
                outbox=_parse_outbox(value.get("outbox", ())),
                retried=frozenset(Version.parse(version) for version in value.get("retried", ())),
                failed_units=frozenset(str(name) for name in value.get("failed_units", ())),
                check=CheckRecord.from_json(check) if (check := value.get("check")) else None,
                ran={Slot(slot): Version.parse(version) for slot, version in value.get("ran", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"the state document is damaged: {error!r}") from error


def _parse_outbox(values: Iterable[Any]) -> tuple[OutcomeLine, ...]:
    """Parse the queue of lines; an invalid one is dropped, so that the rest of the state is not lost."""
    lines = []
    for value in values:
        with suppress(FaultsError):
            lines.append(OutcomeLine.from_json(json.dumps(value)))
    return tuple(lines)


def _parse_time(value: str) -> datetime:
    """Parse a time with a time zone. Raises TypeError or ValueError."""
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment
