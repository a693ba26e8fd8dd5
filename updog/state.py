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
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from signpost.sets import Slot
from updog.errors import ConfigError
from updog.update_metadata.manifest import Content
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
MAX_HISTORY = 500  # events; about 100 KiB, years of updates


class Code(Enum):
    """What can happen to a node, by its stable name."""

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


ROLLBACKS = frozenset({Code.BOOT_FAILED, Code.HEALTH_FAILED, Code.ROLLED_BACK_BY_HAND})


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotRecord:
    """What was written to a slot and read back from it: raw sizes in bytes and SHA-256 by image."""

    variant: str
    arch: str
    version: Version
    images: Mapping[str, Content]

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
    tell whether the machine has been restarted since.
    """

    version: Version
    slot: Slot
    previous: Version
    boot_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the pending update as JSON values."""
        versions = {"version": str(self.version), "previous": str(self.previous)}
        return {**versions, "slot": self.slot.value, "boot_id": self.boot_id}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            version=Version.parse(value["version"]),
            slot=Slot(value["slot"]),
            previous=Version.parse(value["previous"]),
            boot_id=value["boot_id"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened: when (UTC), its code, the version it happened to, and one sentence."""

    time: datetime
    code: Code
    version: Version | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values."""
        version = str(self.version) if self.version else None
        return {
            "time": self.time.isoformat(timespec="seconds"),
            "code": self.code.value,
            "version": version,
            "sentence": self.sentence,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            time=_moment(value["time"]),
            code=Code(value["code"]),
            version=Version.parse(value["version"]) if value["version"] else None,
            sentence=value["sentence"],
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
        return replace(self, pending=replace(self.pending, boot_id=boot_id) if self.pending else None)

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
        """Return the state as JSON values."""
        return {
            "format": FORMAT,
            "disk_guid": self.disk_guid,
            "slots": {slot.value: record.to_json() for slot, record in self.slots.items()},
            "pending": self.pending.to_json() if self.pending else None,
            "denied": [event.to_json() for event in self.denied.values()],
            "latest_time": self.latest_time.isoformat() if self.latest_time else None,
            "history": [event.to_json() for event in self.history],
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
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"the state document is damaged: {error!r}") from error


def _moment(text: str) -> datetime:
    """Read an aware time, which can be compared with any other. Raises TypeError or ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
