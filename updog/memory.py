"""Where the node's state lies: one file, one lock.

Rules it enforces:

* whoever changes anything holds the lock; a second updog is told so at once (exit status 75);
* reading needs neither the lock nor a writable disk, so `status` always answers;
* a damaged file is put aside, not deleted and not in the way: what boots is in the partition table.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from signpost.errors import DiskBusyError, MediumError
from updog import durable
from updog.errors import BusyError, ConfigError
from updog.state import Code, Event, NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium

log = logging.getLogger(__name__)


class Memory:
    """The state folder of a node.

    Args:
        folder: ``state_dir`` of the configuration.
        medium: how it is written.
        clock: this moment, UTC.
    """

    def __init__(self, folder: Path, *, medium: Medium, clock: Callable[[], datetime]) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._aside = folder / "state.json.damaged"
        self._damaged = False
        self._medium = medium
        self._clock = clock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the node's lock for the length of a ``with`` block.

        Raises:
            BusyError: another updog holds it.
            MediumError: the state folder cannot be written.
        """
        path = self.folder / "lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            message = f"cannot write the state folder {self.folder}: {error.strerror}"
            raise MediumError(message, next_step="Mount it read-write, or set state_dir.") from error
        with durable.opened(self._medium, str(path), write=True) as descriptor:
            try:
                self._medium.lock(descriptor)
            except DiskBusyError as error:
                raise BusyError(f"another updog is at work on {self.folder}") from error
            yield

    def load(self) -> NodeState:
        """Return what is remembered; nothing if nothing, or nothing readable, is there."""
        if not self._path.exists():
            return self._lost(f"it was put aside as {self._aside}") if self._aside.exists() else NodeState()
        try:
            return NodeState.from_json(durable.read_bytes(self._medium, self._path))
        except (ConfigError, MediumError) as error:
            log.warning("%s: %s", self._path, error)
            self._damaged = True
            return self._lost(str(error))

    def _lost(self, cause: str) -> NodeState:
        """Return the state of a node that knows only that it once knew more."""
        sentence = f"The state file could not be read ({cause}); history and deny-list start anew."
        return NodeState().noting(
            Event(time=self._clock(), code=Code.STATE_LOST, version=None, sentence=sentence)
        )

    def save(self, state: NodeState) -> None:
        """Replace what is remembered, durably; a damaged predecessor is kept. Raises MediumError."""
        if self._damaged:
            self._medium.rename(str(self._path), str(self._aside))
            self._damaged = False
        durable.write_json(self._medium, self._path, state.to_json())
