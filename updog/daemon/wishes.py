"""What operators ask of the agent: ``wishes.json``, which the commands write and the daemon reads.

Rules:

* it works without a running daemon: what was asked is there when it starts;
* a permit and a postponement end by themselves; a hold stays until it is taken back;
* a request that is done once (check, release the lock) is a time: it is done if it is later than the last
  one that was done;
* what was asked, and by whom, is kept with it as a bounded list of events: only the daemon writes its own;
* a file that cannot be read or does not parse is a hold: nobody knows what an operator wanted.

What each command does to the requests: :mod:`updog.daemon.asked`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from signpost import text
from signpost.errors import MediumError, ToolError
from signpost.medium import OsMedium
from updog import durable
from updog.auto.gates import Wishes
from updog.errors import ConfigError
from updog.state import Event
from updog.update_metadata.times import format_optional, parse_optional

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """All that operators asked for.

    Attributes:
        wishes: what the gates look at.
        check_at, release_lock_at: when a check, or the release of the lock, was last asked for.
        events: what was asked, oldest first.
    """

    wishes: Wishes = field(default_factory=Wishes)
    check_at: datetime | None = None
    release_lock_at: datetime | None = None
    events: tuple[Event, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the requests as JSON values."""
        wishes = self.wishes
        document = {
            "permit": format_optional(wishes.permit),
            "even_frozen": wishes.even_frozen,
            "without_lock": wishes.without_lock,
            "postpone": format_optional(wishes.postpone),
            "hold": wishes.hold,
            "held_since": format_optional(wishes.held_since),
            "check_at": format_optional(self.check_at),
            "release_lock_at": format_optional(self.release_lock_at),
            "events": [event.to_json() for event in self.events],
        }
        return {name: value for name, value in document.items() if value not in (None, False, [])}

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse what :meth:`to_json` wrote. Raises ValueError, TypeError, KeyError or AttributeError."""
        value = json.loads(data)
        hold = value.get("hold")
        return cls(
            wishes=Wishes(
                permit=parse_optional(value.get("permit")),
                even_frozen=value.get("even_frozen", False) is True,
                without_lock=value.get("without_lock", False) is True,
                postpone=parse_optional(value.get("postpone")),
                hold=None if hold is None else text.line(str(hold)),
                held_since=parse_optional(value.get("held_since")),
            ),
            check_at=parse_optional(value.get("check_at")),
            release_lock_at=parse_optional(value.get("release_lock_at")),
            events=tuple(Event.from_json(event) for event in value.get("events", ())),
        )


def load(folder: Path) -> Requests:
    """Return what operators asked for.

    Raises:
        MediumError: the file cannot be read. ConfigError: it does not parse.
    """
    path = folder / "wishes.json"
    if not os.path.lexists(path):
        return Requests()
    data = durable.read_own(OsMedium(), path)
    try:
        return Requests.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from error


def read(folder: Path) -> Requests:
    """Return what operators asked for; a hold if that is not known."""
    try:
        return load(folder)
    except ToolError as error:
        return Requests(wishes=Wishes(hold=text.line(error.message)))


def change(folder: Path, changed: Callable[[Requests], Requests]) -> Requests:
    """Replace the requests by what ``changed`` makes of them, and return that.

    What cannot be read is replaced: an operator says now what is wanted.

    Raises:
        MediumError: the folder cannot be written, or others can write to it.
    """
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise MediumError.of(f"cannot write {folder}: {error.strerror}", error) from error
    durable.require_private(folder)
    medium = OsMedium()
    with durable.opened_own(medium, _lock_file(folder), write=True) as descriptor:
        medium.lock(descriptor)
        requests = changed(read(folder))
        durable.write_json(medium, folder / "wishes.json", requests.to_json(), mode=0o600)
    return requests


def _lock_file(folder: Path) -> Path:
    path = folder / "wishes.lock"
    if not os.path.lexists(path):
        path.touch(0o600)
    return path
