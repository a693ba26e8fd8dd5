"""Reports to the fleet's operator how updates ended: one small line for each, sent when that is possible.

Rules it enforces:

* nothing is sent without ``report_url``;
* a line is queued in the node's state by the same write that records its event, so that neither an
  interruption nor a missing network loses it; the queue is bounded, the oldest line is dropped first;
* sending takes at most :data:`SECONDS` in all, whatever server, network or name service do, and never fails.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from signpost.text import counted
from updog.errors import ConfigError
from updog.update_metadata.errors import SeedError
from updog.update_metadata.outcomes import COUNTS, MAX_NAME, OutcomeLine, pseudonym

if TYPE_CHECKING:
    from collections.abc import Sequence

    from updog.config import Config
    from updog.host import RunningSlot
    from updog.state import Event, NodeState
    from updog.update_metadata.version import Version

log = logging.getLogger(__name__)

SECONDS = 10.0  # for all lines together: a broken network must not delay a confirm for long
_BODY_BYTES = 1 << 20  # limit of a response's body, which is not used


def outcome_line(config: Config, state: NodeState, event: Event, running: RunningSlot) -> OutcomeLine | None:
    """Return the line that reports an event, or None if there is none to send.

    Args:
        config: where to report, and the node's identity.
        state: the state before the event.
        event: what happened.
        running: what runs now.
    """
    if config.report_url is None or event.version is None or event.code.value not in COUNTS:
        return None
    pending = state.pending
    try:
        return OutcomeLine(
            time=event.time.replace(microsecond=0),
            node=pseudonym(config.read_machine_id()),
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
        log.warning("the outcome of the update is not reported: %s", error)
        return None


def send(config: Config, running: Version, lines: Sequence[OutcomeLine]) -> tuple[OutcomeLine, ...]:
    """Send lines, oldest first, until one fails or the time has expired; return those that were sent."""
    sent: list[OutcomeLine] = []
    thread = threading.Thread(target=_send_all, args=(config, running, lines, sent), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the limit of threads, or of memory
        log.warning("not sent yet: %s: %s", counted(len(lines), "outcome line"), error)
        return ()
    thread.join(SECONDS)  # the resolver's timeouts are longer and cannot be set
    return tuple(sent)


def _send_all(
    config: Config, running: Version, lines: Sequence[OutcomeLine], sent: list[OutcomeLine]
) -> None:
    """Send lines one by one, and add each that was sent to ``sent``. The thread's entry: raises nothing."""
    try:
        for line in lines:
            _send(config, running, line)
            sent.append(line)
    except Exception as error:  # noqa: BLE001 - a report must never make a command fail
        log.warning("not sent yet: %s: %s", counted(len(lines) - len(sent), "outcome line"), error)


def _send(config: Config, running: Version, line: OutcomeLine) -> None:
    """Send one line. Raises UnreachableError."""
    from updog.errors import HttpStatusError, WebPageError
    from updog.repository import http_settings
    from updog.transport import HttpTransport

    settings = replace(
        http_settings(config, running),
        urls=(config.report_url,) if config.report_url else (),
        query={name: str(value) for name, value in line.members().items()},
        tries=1,
        connect_timeout=SECONDS / 2,
        stall_timeout=SECONDS / 2,
    )
    body = HttpTransport(settings).stream(str(config.report_url), limit=_BODY_BYTES)
    try:
        next(iter(body), b"")
    except HttpStatusError as error:
        if error.http_status // 100 != 2:  # noqa: PLR2004 - any 2xx is a success, 204 No Content above all
            raise
    except WebPageError:
        log.debug("the server of report_url answers with a web page")  # it has seen the line all the same
