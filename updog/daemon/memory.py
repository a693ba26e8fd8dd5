"""What the agent remembers between two starts: values and their JSON, and the file that keeps them.

Rules:

* the file is replaced as a whole, durably, before anything that it announces is done;
* without a file, or with one that does not parse, the lock may be held: an unlock too many is harmless, a
  lock that stays stops a fleet. A damaged file is renamed, not deleted;
* a file that cannot be read, or that a newer updog wrote, ends the daemon and is not replaced.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from signpost.medium import OsMedium
from updog import durable
from updog.auto.gates import Offer
from updog.auto.table import AutoState, Lock, Phase
from updog.errors import ConfigError, StateFormatError
from updog.state import Event
from updog.update_metadata.times import format_optional, format_time, parse_optional, parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium

log = logging.getLogger(__name__)

FORMAT = 1
MAX_EVENTS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What the metrics count; it only grows, also over a restart of the agent.

    Attributes:
        checks: by their result: ``update``, ``no-update``, or the code of the error.
        restarts: that the agent ordered. postponed: by operators.
    """

    checks: Mapping[str, int] = field(default_factory=dict)
    restarts: int = 0
    postponed: int = 0

    def with_check(self, result: str) -> Counts:
        """Return the counts after one more check."""
        return replace(self, checks={**self.checks, result: self.checks.get(result, 0) + 1})

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"checks": dict(self.checks), "restarts": self.restarts, "postponed": self.postponed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_json` wrote. Raises TypeError, ValueError or AttributeError."""
        return cls(
            checks={str(result): int(number) for result, number in value.get("checks", {}).items()},
            restarts=int(value.get("restarts", 0)),
            postponed=int(value.get("postponed", 0)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """All that is kept.

    Attributes:
        state: of the table.
        offer: what the last check that ended well chose. offered: what the publisher offered then, neither
            held nor withdrawn; None: no check ended well yet. urgent: which of that it marked urgent → why.
        summary: its sentence. checked_at: when it was.
        failed_checks: how many ended badly in a row since.
        done: operators' requests up to this time were carried out. last_asked: the newest event of an
            operator that was seen.
        events: what the agent did, oldest first. counts: how often, for the metrics.
    """

    state: AutoState
    offer: Offer | None = None
    offered: frozenset[Version] | None = None
    urgent: Mapping[Version, str] = field(default_factory=dict, hash=False)
    summary: str = ""
    checked_at: datetime | None = None
    failed_checks: int = 0
    done: datetime | None = None
    last_asked: Event | None = None
    events: tuple[Event, ...] = ()
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def new(cls, now: datetime) -> Self:
        """Return what a node knows that remembers nothing: the lock may be held."""
        return cls(state=AutoState(phase=Phase.START, since=now, lock=Lock.ASKED))

    def with_event(self, event: Event) -> Memory:
        """Return the memory with one more event of a bounded number."""
        return replace(self, events=(*self.events, event)[-MAX_EVENTS:])

    @property
    def in_work(self) -> Offer | None:
        """The release in work, as its publisher describes it now; another one may be offered by now."""
        version = self.state.version
        return None if version is None else Offer(version=version, urgent=self.urgent.get(version, ""))

    def to_json(self) -> dict[str, Any]:
        """Return the memory as JSON values; members without a value are left out."""
        state = self.state
        offer = self.offer
        known: dict[str, Any] = {
            "phase": state.phase.value,
            "since": format_time(state.since),
            "back": state.back.value,
            "version": _text(state.version),
            "first_ready": format_optional(state.first_ready),
            "long_wait_told": state.long_wait_told,
            "attempts": state.attempts,
            "retry_at": format_optional(state.retry_at),
            "applied": _text(state.applied),
            "users_warned_at": format_optional(state.users_warned_at),
            "lock": state.lock.value,
            "kept_for": _text(state.kept_for),
            "unlock_tries": state.unlock_tries,
            "unlock_at": format_optional(state.unlock_at),
            "next_check": format_optional(state.next_check),
            "given_up": _text(state.given_up),
        }
        document: dict[str, Any] = {
            "format": FORMAT,
            "state": {name: value for name, value in known.items() if value is not None},
            "offer": offer
            and {
                "version": str(offer.version),
                "since": format_optional(offer.since),
                "urgent": offer.urgent,
            },
            "offered": None if self.offered is None else sorted(str(version) for version in self.offered),
            "urgent": {str(version): why for version, why in self.urgent.items()} or None,
            "summary": self.summary,
            "checked_at": format_optional(self.checked_at),
            "failed_checks": self.failed_checks,
            "done": format_optional(self.done),
            "last_asked": self.last_asked and self.last_asked.to_json(),
            "events": [event.to_json() for event in self.events],
            "counts": self.counts.to_json(),
        }
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse what :meth:`to_json` wrote.

        Raises:
            StateFormatError: a newer updog wrote it.
            ConfigError: it is damaged.
        """
        try:
            value = json.loads(data)
            if isinstance(value["format"], int) and value["format"] > FORMAT:
                raise StateFormatError(f"auto.json has format {value['format']}; this updog knows {FORMAT}")
            if value["format"] != FORMAT:
                raise ConfigError(f"the format of auto.json, {value['format']!r}, is not {FORMAT}")
            state, offer = value["state"], value.get("offer")
            offered, last_asked = value.get("offered"), value.get("last_asked")
            return cls(
                state=AutoState(
                    phase=Phase(state["phase"]),
                    since=parse_time(state["since"]),
                    back=Phase(state["back"]),
                    version=_version(state.get("version")),
                    first_ready=parse_optional(state.get("first_ready")),
                    long_wait_told=state.get("long_wait_told", False) is True,
                    attempts=int(state["attempts"]),
                    retry_at=parse_optional(state.get("retry_at")),
                    applied=_version(state.get("applied")),
                    users_warned_at=parse_optional(state.get("users_warned_at")),
                    lock=Lock(state["lock"]),
                    kept_for=_version(state.get("kept_for")),
                    unlock_tries=int(state["unlock_tries"]),
                    unlock_at=parse_optional(state.get("unlock_at")),
                    next_check=parse_optional(state.get("next_check")),
                    given_up=_version(state.get("given_up")),
                ),
                offer=Offer(
                    version=Version.parse(offer["version"]),
                    since=parse_optional(offer["since"]),
                    urgent=str(offer["urgent"]),
                )
                if offer
                else None,
                offered=None if offered is None else frozenset(Version.parse(text) for text in offered),
                urgent={Version.parse(text): str(why) for text, why in value.get("urgent", {}).items()},
                summary=str(value.get("summary", "")),
                checked_at=parse_optional(value.get("checked_at")),
                failed_checks=int(value.get("failed_checks", 0)),
                done=parse_optional(value.get("done")),
                last_asked=Event.from_json(last_asked) if last_asked else None,
                events=tuple(Event.from_json(event) for event in value["events"]),
                counts=Counts.from_json(value.get("counts", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"auto.json is damaged: {error!r}") from error


def _text(version: Version | None) -> str | None:
    return None if version is None else str(version)


def _version(text: str | None) -> Version | None:
    return None if text is None else Version.parse(text)


class MemoryStore:
    """``auto.json`` in the state folder. Only the daemon writes it.

    Args:
        folder: ``state_dir`` of the configuration.
        medium: reads and writes it.
    """

    def __init__(self, folder: Path, *, medium: Medium | None = None) -> None:
        self._folder = folder
        self.path = folder / "auto.json"
        self._medium = medium or OsMedium()

    def load(self, now: datetime) -> Memory:
        """Return what is kept; for a node without it, what :meth:`Memory.new` says.

        Raises:
            MediumError: the file is there and cannot be read, or others can write to the folder.
            StateFormatError: a newer updog wrote it.
        """
        data = self._read()
        if data is None:
            return Memory.new(now)
        try:
            return Memory.from_json(data)
        except ConfigError as error:
            log.warning("%s: %s", self.path, error)
            self._medium.rename(str(self.path), f"{self.path}.damaged")
            return Memory.new(now)

    def events(self) -> tuple[Event, ...]:
        """Return what the agent did, oldest first; changes nothing, whatever is there.

        Raises:
            MediumError, StateFormatError: as :meth:`load`. ConfigError: the file is damaged.
        """
        data = self._read()
        return () if data is None else Memory.from_json(data).events

    def _read(self) -> bytes | None:
        if os.path.lexists(self._folder):
            durable.require_private(self._folder)
        return durable.read_own(self._medium, self.path) if os.path.lexists(self.path) else None

    def save(self, memory: Memory) -> None:
        """Replace the file, durably. Raises MediumError."""
        durable.write_json(self._medium, self.path, memory.to_json(), mode=0o600)
