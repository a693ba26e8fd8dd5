"""The one history of a node: what updog did (``state.json``), the agent (``auto.json``), and who asked.

Each of the three files has one kind of writer and a bounded list of its own, so that none waits for another
and nothing is copied; they are put together where they are shown. Times are whole seconds: of what happened
within one second, what was asked comes first and what the agent did last.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING

from signpost.errors import ToolError
from updog.daemon import wishes
from updog.daemon.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from updog.state import Event

log = logging.getLogger(__name__)


def merged(*histories: Iterable[Event]) -> tuple[Event, ...]:
    """Return the events of several histories, oldest first; within a second in the order of the arguments."""
    return tuple(sorted(chain(*histories), key=lambda event: event.time.replace(microsecond=0)))


def whole(folder: Path, done: Iterable[Event]) -> tuple[Event, ...]:
    """Return the history of a node; of a file that cannot be read, nothing, and a warning is logged.

    Args:
        folder: ``state_dir`` of the configuration.
        done: what updog did (:attr:`updog.state.NodeState.history`).
    """
    asked: tuple[Event, ...] = ()
    agents: tuple[Event, ...] = ()
    try:
        asked = wishes.load(folder).events
    except ToolError as error:
        log.warning("what operators asked is not shown: %s", error.message)
    try:
        agents = MemoryStore(folder).events()
    except ToolError as error:
        log.warning("what the agent did is not shown: %s", error.message)
    return merged(asked, done, agents)
