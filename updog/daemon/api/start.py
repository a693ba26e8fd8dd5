"""The API of one daemon, put together."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from updog.api_keys import Grantee, Kind
from updog.daemon import decision
from updog.daemon.api.documents import Do, EventName
from updog.daemon.api.events import Events
from updog.daemon.api.jobs import JobRunner, tell
from updog.daemon.api.node import MAX_AGE, OLDEST, NodeReader
from updog.daemon.api.problems import ApiError
from updog.daemon.api.route import Right
from updog.daemon.api.routes import BOTTLEROCKET, ROUTES, Grants, Router
from updog.daemon.api.server import Listener, Server
from updog.daemon.api.tail import Tail
from updog.daemon.api.v1 import Node
from updog.daemon.children import JOB, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from updog.config import Config
    from updog.daemon.api.documents import Job
    from updog.daemon.api.door import Door

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""Without automatic updates, a daemon that was started for a client ends so long after the last one."""

_LOOK_SECONDS, _BUSY_LOOK_SECONDS = 1.0, 0.25
_RETRY_SECONDS = 10.0  # where `updog status` fails: each time is a child
_ANYBODY = (Grantee(kind=Kind.ANY),)  # the mode of the socket says who can open it


class Api:
    """Serves clients until the process ends.

    Args:
        config: of the node.
        path: the configuration file.
        run: folder of what is forgotten at a restart of the machine.
        door: where clients come in.
        is_busy: tells whether automatic work runs.
    """

    def __init__(
        self, config: Config, path: Path, run: Path, door: Door, *, is_busy: Callable[[], bool]
    ) -> None:
        self._events = Events()
        self._known: set[str] | None = None  # events of the history
        self._before: Mapping[str, Any] | None = None  # the status
        self._automatic = Tail(Children.of(path, run).output(JOB))
        reader = NodeReader(Children.of(path, run), config.state_dir)
        jobs = JobRunner(
            Children.of(path, run), run / "jobs.json", self._events, is_busy=is_busy, on_end=self._after_job
        )
        self._node = Node(
            config_path=path,
            state_dir=config.state_dir,
            os_release=config.os_release,
            arch=config.arch,
            reader=reader,
            jobs=jobs,
            events=self._events,
        )
        rights = {Right.READ: config.api.read, Right.CONTROL: config.api.control}
        own = Router(ROUTES, self._node, Grants(by_right=rights))
        upstream = Router(BOTTLEROCKET, self._node, Grants(by_right=dict.fromkeys(Right, _ANYBODY)))
        listeners = [
            *(Listener(socket=each, router=own) for each in door.own),
            *(Listener(socket=each, router=upstream) for each in door.bottlerocket),
        ]
        self._server = Server(listeners=listeners, max_clients=config.api.max_clients)

    def start(self, auto: Mapping[str, Any]) -> None:
        """Begin to answer, and to tell what happens from now on; ``auto`` as for :meth:`tell`."""
        self._node.auto = _without_events(auto)
        self._automatic.lines()  # of work before this
        self._look()
        self._server.start()
        threading.Thread(target=self._watch, name="api-watch", daemon=True).start()

    def close(self) -> None:
        """End the streams; accept nobody; answer who is here."""
        self._server.close()
        self._events.close()
        self._server.finish()

    @property
    def is_wanted(self) -> bool:
        """Whether a client or a job needs the daemon, or did a short while ago."""
        return self._node.jobs.running is not None or self._server.idle_seconds < IDLE_SECONDS

    def tell(self, auto: Mapping[str, Any]) -> None:
        """Take what the agent says of itself, and tell those who listen if more than its time is new."""
        before, after = self._node.auto, _without_events(auto)
        if before is None or {**before, "time": None} != {**after, "time": None}:
            self._node.auto = after
            self._events.add(EventName.AUTO, after)

    # -- what changes

    def _after_job(self, job: Job, document: Mapping[str, Any]) -> None:
        self._node.reader.forget()
        os.kill(os.getpid(), signal.SIGUSR1)  # the agent has to look at what the job has changed
        if job.do is Do.REFRESH and "releases" in document:
            decision.keep(self._node.state_dir, document, datetime.now(UTC))

    def _watch(self) -> None:
        """Tell those who listen of automatic work, and when the status or the history has changed."""
        not_before = 0.0
        while True:
            idle = self._server.idle_seconds
            time.sleep(_LOOK_SECONDS if idle else _BUSY_LOOK_SECONDS)
            reader = self._node.reader
            try:
                is_due = reader.is_changed or (idle < OLDEST and reader.is_old)
                if is_due and time.monotonic() >= not_before and not self._look():
                    not_before = time.monotonic() + _RETRY_SECONDS
                tell(self._events, self._automatic.lines(), None)
            except Exception:  # one odd file must not silence the events for ever
                log.exception("what changes was not told")
                time.sleep(_LOOK_SECONDS)

    def _look(self) -> bool:
        """Read status and history, tell what is new since the last time; return whether they are known."""
        try:
            status, history = self._node.reader.status(MAX_AGE), self._node.reader.history()
        except ApiError as error:
            log.debug("the status is not known: %s", error)
            return False
        tell(self._events, self._automatic.lines(), None)  # first what led to this
        known, self._known = self._known, {event["id"] for event in history}
        before, self._before = self._before, status
        if known is not None:
            for event in history:
                if event["id"] not in known:
                    self._events.add(EventName.HISTORY, event)
            if status != before:
                self._events.add(EventName.STATE, self._node.status())
        return True


def _without_events(auto: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the agent says of itself without what it did, which the history tells.

    That may be 50 KB, and a status and each of 256 kept events would have all of it.
    """
    return {name: value for name, value in auto.items() if name != "events"}
