"""The node as the API sees it: its status, history and last decision.

Status and history are asked of a child, and again when something may have changed: the state files, the end
of a job, or :data:`MAX_AGE` (the partition table may be changed by hand). Nobody waits for the last of these
while there are clients: they get what is known, up to :data:`OLDEST`. Clients that ask at the same time share
one child.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from signpost.errors import MediumError
from signpost.medium import OsMedium
from signpost.text import line
from updog import durable
from updog.daemon import decision
from updog.daemon.api import problems
from updog.daemon.api.documents import UNREADABLE, Decision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from updog.daemon.children import Children

log = logging.getLogger(__name__)

MAX_AGE = 30.0
"""Seconds after which the status is asked for again for clients, even if nothing seems to have changed."""

OLDEST = 2 * MAX_AGE
"""Seconds up to which an answer does not wait for that."""


class _Answer:
    """The document of one command, asked for again when it may have changed."""

    def __init__(self, kind: str, words: Sequence[str], children: Children, watched: Sequence[Path]) -> None:
        self._kind = kind
        self._words = tuple(words)
        self._children = children
        self._watched = tuple(watched)
        self._lock = threading.Lock()
        self._changes = 0  # that were told; an answer from before one is not kept
        self._document: Any = None  # None: not known; replaced as a whole, so any thread may read it
        self._stamp: object = None
        self._asked = 0.0

    def forget(self) -> None:
        """Let the next call ask again."""
        self._changes += 1
        self._document = None

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing is known to have happened since it was asked."""
        return self._document is not None and self._stamp == self._stamp_now()

    def is_fresh(self, max_age: float) -> bool:
        """Whether it can be given without asking, where it may be ``max_age`` seconds old."""
        return self.is_unchanged and time.monotonic() - self._asked < max_age

    def _stamp_now(self) -> tuple[object, ...]:
        return tuple(durable.stamp(path) for path in self._watched)

    def get(self, max_age: float) -> Any:
        """Return the document, at most ``max_age`` seconds old. Raises ApiError if the command failed."""
        document = self._document
        if document is not None and self.is_fresh(max_age):
            return document
        with self._lock:
            document = self._document
            if document is not None and self.is_fresh(max_age):  # another thread asked meanwhile
                return document
            seen, asked, changes = self._stamp_now(), time.monotonic(), self._changes
            try:
                self._children.start(self._kind, self._words)
            except OSError as error:
                raise problems.of_own_question({}, f"cannot ask for the status: {error.strerror}") from error
            ended = self._children.wait(self._kind)
            if ended.status != 0:
                raise problems.of_own_question(ended.document, f"`updog {self._words[0]}` failed")
            try:
                document = msgspec.json.decode(self._children.output(self._kind).read_bytes())
            except (OSError, *UNREADABLE) as error:
                raise problems.of_own_question({}, f"cannot read the status: {line(str(error))}") from error
            if changes == self._changes:
                self._document, self._stamp, self._asked = document, seen, asked
            return document


class NodeReader:
    """Reads the node. Any thread may call.

    Args:
        children: ask for status and history; they are used here only.
        state_dir: folder of the state.
    """

    def __init__(self, children: Children, state_dir: Path) -> None:
        state, auto, asked = (state_dir / name for name in ("state.json", "auto.json", "wishes.json"))
        self._status = _Answer("api-status", ("status", "--json"), children, [state])
        self._history = _Answer("api-history", ("history", "--json"), children, [state, auto, asked])
        self._decision_path = decision.path_in(state_dir)
        self._decision: tuple[object, Decision | None] | None = None
        self._release: tuple[str, str] | None = None

    @property
    def is_changed(self) -> bool:
        """Whether something has happened since status and history were read."""
        return not (self._status.is_unchanged and self._history.is_unchanged)

    def forget(self) -> None:
        """Let status and history be read again: something has changed."""
        self._status.forget()
        self._history.forget()

    @property
    def is_old(self) -> bool:
        """Whether the status has to be read again before clients have to wait for that."""
        return not self._status.is_fresh(MAX_AGE)

    def status(self, max_age: float | None = None) -> Mapping[str, Any]:
        """Return the document of `updog status --json`, by default of :data:`OLDEST`. Raises ApiError."""
        document: Mapping[str, Any] = self._status.get(OLDEST if max_age is None else max_age)
        return document

    def running_release(self) -> tuple[str, str]:
        """Return variant and version of what runs: they are the same for as long as this process.

        Raises:
            ApiError: they are not known.
        """
        if self._release is None:
            running = self.status()["running"]
            self._release = (running["variant"], running["version"])
        return self._release

    def history(self) -> list[dict[str, Any]]:
        """Return the events of `updog history --json`, oldest first, each with an ``id``. Raises ApiError."""
        seen: Counter[str] = Counter()
        found = []
        for event in self._history.get(OLDEST):
            name = _event_id(event)
            seen[name] += 1
            found.append({"id": name if seen[name] == 1 else f"{name}-{seen[name]}", **event})
        return found

    def decision(self) -> Decision | None:
        """Return what the last check found; None before the first one, and if it cannot be read."""
        now = durable.stamp(self._decision_path)
        if self._decision is None or self._decision[0] != now:
            self._decision = (now, self._read_decision())
        return self._decision[1]

    def _read_decision(self) -> Decision | None:
        try:
            data = durable.read_own(OsMedium(), self._decision_path)
            return msgspec.json.decode(data, type=Decision)
        except (MediumError, *UNREADABLE) as error:
            if self._decision_path.exists():
                log.warning("cannot read %s: %s", self._decision_path, error)
            return None


def _event_id(event: Mapping[str, Any]) -> str:
    """Return a name for an event: they have no numbers, and old ones are no longer kept.

    What is asked twice within a second has the same name twice.
    """
    checksum = zlib.crc32(msgspec.json.encode(event, order="sorted"))  # hashlib would take 4 MB of memory
    time_of_it = str(event["time"]).replace("+00:00", "Z")  # in a query + is a blank
    return f"{time_of_it}-{checksum:08x}"
