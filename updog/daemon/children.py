"""Work that takes time is done by children: ``updog … --json``, one at a time for each kind of work.

Rules:

* a child has its own session and writes to a file, so that a daemon that is killed neither takes its child
  with it nor cuts its output;
* its output file is locked for as long as it lives: a daemon that finds it locked waits for the child of the
  one before it;
* the last line of its output is its result or its error (docs/reference/events.md); how it ended is its exit
  status.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

JOB = "job"
"""The kind of automatic work; others may follow its output."""

MAX_OUTPUT = 64 << 20  # bytes that are read of a child's output


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A child that has ended: what it was asked for, its exit status, and its last document."""

    words: tuple[str, ...]
    status: int
    document: Mapping[str, Any]

    @property
    def code(self) -> str:
        """The code of the error; ``failed`` if it printed none."""
        error = self.document.get("error")
        return str(error.get("code", "failed")) if isinstance(error, dict) else "failed"

    @property
    def sentence(self) -> str:
        """The result or the error in one sentence; empty if it printed none."""
        error = self.document.get("error")
        told = error.get("message") if isinstance(error, dict) else self.document.get("sentence")
        return str(told or "")


class Children:
    """Starts ``updog`` as children and collects them.

    Args:
        program: the words before the command: interpreter, program and its options.
        folder: for their output; it is made if it is not there.
    """

    def __init__(self, program: Sequence[str], folder: Path) -> None:
        self._program = tuple(program)
        self._folder = folder
        self._running: dict[str, tuple[tuple[str, ...], subprocess.Popen[bytes]]] = {}

    @classmethod
    def of(cls, config: Path, folder: Path) -> Children:
        """Return the children of a node with this configuration file."""
        return cls([sys.executable, "-m", "updog", "--config", str(config)], folder)

    def start(self, kind: str, words: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        """Start a child for ``kind`` of work, of which none may be running.

        Args:
            kind: of the work.
            words: the command.
            environment: variables that it gets besides the daemon's own.

        Raises:
            OSError: it cannot be started.
        """
        if kind in self._running:
            raise RuntimeError(f"a child for {kind} is running already")
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self.output(kind)
        path.unlink(missing_ok=True)  # the former child, if it still runs, keeps its own file
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # kept by the child, which inherits the open file
            process = subprocess.Popen(
                [*self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        finally:
            os.close(descriptor)
        self._running[kind] = (tuple(words), process)

    def is_running(self, kind: str) -> bool:
        """Return whether a child for ``kind`` was started and not collected."""
        return kind in self._running

    def pid(self, kind: str) -> int:
        """Return the process of the running child for ``kind``."""
        return self._running[kind][1].pid

    def has_orphans(self, kinds: Collection[str]) -> bool:
        """Return whether a child that another daemon started for one of ``kinds`` still runs."""
        return any(_is_locked(self.output(kind)) for kind in kinds if kind not in self._running)

    def collect(self, kind: str) -> Ended | None:
        """Return the child for ``kind`` that has ended since the last look; None if there is none."""
        return self.wait(kind) if self.has_ended(kind) else None

    def has_ended(self, kind: str) -> bool:
        """Return whether a child for ``kind`` has ended and is to be collected."""
        return kind in self._running and self._running[kind][1].poll() is not None

    def wait(self, kind: str) -> Ended:
        """Return the child for ``kind`` once it has ended."""
        words, process = self._running.pop(kind)
        status = process.wait()
        return Ended(words=words, status=status, document=self.last_document(kind))

    def last_document(self, kind: str) -> Mapping[str, Any]:
        """Return the last document that a child for ``kind`` printed, also one of an earlier daemon."""
        return _last_document(self.output(kind))

    def output(self, kind: str) -> Path:
        """Return the file that a child for ``kind`` writes its output to."""
        return self._folder / f"{kind}.ndjson"


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _last_document(path: Path) -> Mapping[str, Any]:
    """Return the one document, or that of the last line, of a child's output; empty if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OUTPUT)
    except OSError:
        return {}
    for part in (data, data.strip().rpartition(b"\n")[2]):
        try:
            document = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    return {}
