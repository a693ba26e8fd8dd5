"""Telling the fleet's owner what became of an update: one small line, when and if it can be sent.

Rules it enforces:

* nothing is sent without ``report_url``;
* a line is queued in the node's state in the same write that records what it tells, so that neither a cut nor
  a missing network loses it; the queue is bounded, oldest first out;
* sending is given :data:`SECONDS` in all, whatever server, network or name service do, and never fails.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from updog.errors import ConfigError
from updog.update_metadata.errors import SeedError
from updog.update_metadata.outcomes import COUNTS, MAX_NAME, OutcomeLine, pseudonym

if TYPE_CHECKING:
    from collections.abc import Sequence

    from updog.config import Config
    from updog.host import Running
    from updog.state import Event, NodeState
    from updog.update_metadata.version import Version

log = logging.getLogger(__name__)

SECONDS = 10.0  # for all lines together: a node with a broken network is still confirmed in good time
_BODY_BYTES = 1 << 20  # of an answer, of which nothing is used


def line(config: Config, state: NodeState, event: Event, running: Running) -> OutcomeLine | None:
    """Return the line for an event, or None where there is nothing to report or nobody to report as.

    Args:
        config: where to report, and who this node is.
        state: what was remembered before the event.
        event: what happened.
        running: what runs now.
    """
    if config.report_url is None or event.version is None or event.code.value not in COUNTS:
        return None
    pending = state.pending
    try:
        return OutcomeLine(
            time=event.time.replace(microsecond=0),
            node=pseudonym(config.machine_id.read_text(encoding="ascii")),
            variant=running.variant,
            arch=config.arch,
            channel=config.channel,
            seed=config.wave_seed(),
            code=event.code.value,
            cause=event.cause[:MAX_NAME] if event.cause else None,
            before=pending.previous if pending and pending.version == event.version else None,
            to=event.version,
        )
    except (OSError, UnicodeDecodeError, SeedError, ConfigError) as error:
        log.warning("no outcome is reported: %s", error)
        return None


def send(config: Config, running: Version, lines: Sequence[OutcomeLine]) -> tuple[OutcomeLine, ...]:
    """Send lines, oldest first, until one fails or the time is over; return those that went."""
    sent: list[OutcomeLine] = []
    thread = threading.Thread(target=_send_all, args=(config, running, lines, sent), daemon=True)
    thread.start()
    thread.join(SECONDS)  # a resolver's time-outs are longer than ours and cannot be set
    return tuple(sent)


def _send_all(
    config: Config, running: Version, lines: Sequence[OutcomeLine], sent: list[OutcomeLine]
) -> None:
    """Send lines one by one, and note each that went. The thread's boundary: nothing leaves it."""
    try:
        for each in lines:
            _send(config, running, each)
            sent.append(each)
    except Exception as error:  # noqa: BLE001 - a report is never worth a failure, whatever went wrong
        log.warning("%d outcome lines wait: %s", len(lines) - len(sent), error)


def _send(config: Config, running: Version, each: OutcomeLine) -> None:
    """Send one line. Raises UnreachableError."""
    from updog.errors import HttpStatusError
    from updog.repository import http_settings
    from updog.transport import HttpTransport

    query = {name: str(value) for name, value in each.members().items()}
    patient = http_settings(config, running)
    settings = replace(patient, query=query, tries=1, connect_timeout=SECONDS / 2, stall_timeout=SECONDS / 2)
    body = HttpTransport(settings).stream(config.report_url or "", limit=_BODY_BYTES)
    try:
        next(iter(body), b"")
    except HttpStatusError as error:
        if error.http_status // 100 != 2:  # noqa: PLR2004 - 204 No Content is the best of answers
            raise
