"""The node's state on disk: one file, one lock.

Rules it enforces:

* every change requires the lock; a second updog fails at once (exit status 75);
* reading needs neither the lock nor a writable disk, so `status` always works;
* only a document that does not parse is damaged; it is renamed, not deleted, and does not stop updog: what
  boots is in the partition table;
* a file that cannot be read, or that a newer updog wrote, ends the command and is never replaced;
* only its owner may read it: it quotes checks and servers, whose texts may contain secrets;
* an event is sent to the journal once it is saved (:mod:`updog.event_journal`);
* the folder is private (:mod:`updog.durable`): what another user could have written is neither read nor used.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from signpost.errors import DiskBusyError, MediumError
from updog import durable, event_journal
from updog.errors import BusyError, ConfigError
from updog.state import Code, Event, NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium

log = logging.getLogger(__name__)


class StateStore:
    """The state folder of a node.

    Args:
        folder: ``state_dir`` of the configuration.
        medium: reads and writes it.
        clock: returns the current time, UTC.
    """

    def __init__(self, folder: Path, *, medium: Medium, clock: Callable[[], datetime]) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._damaged_path = folder / "state.json.damaged"
        self._lock_path = folder / "lock"
        self._is_damaged = False
        self._is_unknown = False
        self._told: tuple[Event, ...] = ()
        self._medium = medium
        self._clock = clock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the node's lock during a ``with`` block.

        Raises:
            BusyError: another updog holds it.
            MediumError: the state folder cannot be written, or another user can write to it.
        """
        path = self._lock_path
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            durable.require_private(self.folder)
            if not os.path.lexists(path):
                path.touch(0o644)
        except OSError as error:
            message = f"cannot write the state folder {self.folder}: {error.strerror}"
            raise MediumError.of(message, error, otherwise="Change `state_dir`.") from error
        with durable.opened_own(self._medium, path, write=True) as descriptor:
            try:
                self._medium.lock(descriptor)
            except DiskBusyError as error:
                raise BusyError(f"another updog is using {self.folder}") from error
            yield

    @contextmanager
    def locked_if_possible(self) -> Iterator[None]:
        """Hold the node's lock during a ``with`` block, or none where the state folder cannot be written.

        Raises:
            BusyError: another updog holds it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self.locked())
            except MediumError as error:
                log.warning("going on without the lock: %s", error)
            yield

    def load(self) -> NodeState:
        """Return the saved state; an empty one if there is none, or none that parses.

        Raises:
            MediumError: there is one, and it cannot be read, or another user can write to the folder.
            StateFormatError: it was written by a newer updog.
        """
        self._is_unknown = True  # until it was read
        if os.path.lexists(self.folder):
            durable.require_private(self.folder)
        if self._is_regular_file(self._path):
            try:
                state = NodeState.from_json(durable.read_own(self._medium, self._path))
            except ConfigError as error:
                log.warning("%s: %s", self._path, error)
                self._is_damaged = True
                cause = str(error)
            else:
                self._is_unknown = False
                self._told = state.history
                return state
        elif self._is_regular_file(self._damaged_path):
            cause = f"it was renamed to {self._damaged_path}"
        else:
            self._is_unknown = False
            return NodeState()
        self._is_unknown = False
        sentence = f"The state file could not be read ({cause}); history and deny-list are empty again."
        event = Event(time=self._clock(), code=Code.STATE_LOST, version=None, sentence=sentence)
        return NodeState().with_event(event)

    def record(self, events: Iterable[Event]) -> None:
        """Add events to the history, and change nothing else.

        Raises:
            BusyError: another updog is at work.
            MediumError, StateFormatError: as :meth:`load` and :meth:`save`.
        """
        with self.locked():
            state = self.load()
            for event in events:
                state = state.with_event(event)
            self.save(state)

    @staticmethod
    def _is_regular_file(path: Path) -> bool:
        """Whether there is a file; False if there is nothing. Raises MediumError for anything else.

        Opening a FIFO would block forever.
        """
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise MediumError.of(f"cannot read {path}: {error.strerror}", error) from error
        if not stat.S_ISREG(mode):
            raise MediumError(
                f"{path} is not a regular file", next_step="Move it away: updog writes a new state file."
            )
        return True

    def save(self, state: NodeState) -> None:
        """Replace the saved state durably; a damaged file is kept under another name.

        Raises:
            MediumError: it cannot be written, or what is there could not be read and may be sound.
        """
        if self._is_unknown:
            raise MediumError(f"{self._path} is not replaced, since it could not be read")
        if self._is_damaged:
            self._medium.rename(str(self._path), str(self._damaged_path))
            self._is_damaged = False
        durable.write_json(self._medium, self._path, state.to_json(), mode=0o600)
        self.tell(state)

    def tell(self, state: NodeState) -> None:
        """Send to the journal the events that were not in the file, once."""
        if state.history == self._told:
            return
        known = frozenset(self._told)
        self._told = state.history
        for event in state.history:
            if event not in known:
                event_journal.send(event)
