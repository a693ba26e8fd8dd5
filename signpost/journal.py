"""The systemd journal: severities of what is printed, and messages with fields of their own.

Rules it enforces:

* a line on stderr begins with ``<N>`` (sd-daemon(3)) only if stderr is connected to the journal, which
  ``JOURNAL_STREAM`` states (systemd.exec(5)): a terminal or a log file never sees it;
* every line of a text has the prefix, because the journal stores each line on its own;
* a message with fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) is sent by a service alone, whose stderr
  is the journal's own socket: what an operator runs at a terminal, or a test, writes into no journal.
"""

from __future__ import annotations

import os
import stat
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_STDERR = 2
_SEND_SECONDS = 1.0  # for a journal that takes nothing: no update waits for its log


class Severity(IntEnum):
    """How serious a message is: the numbers of syslog (RFC 5424, 6.2.1)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


def is_connected() -> bool:
    """Return whether stderr is connected to the journal."""
    return _stderr() is not None


def takes_fields() -> bool:
    """Return whether this process is a service whose messages go to the journal with their fields."""
    found = _stderr()
    return found is not None and stat.S_ISSOCK(found.st_mode) and os.path.exists(SOCKET)


def _stderr() -> os.stat_result | None:
    """Return the status of stderr if it is connected to the journal; else None."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(_STDERR)
    except OSError:
        return None
    return found if (device, inode) == (str(found.st_dev), str(found.st_ino)) else None


def send(fields: Mapping[str, str]) -> bool:
    """Send one message to the journal; return whether it took it.

    Args:
        fields: by their names (systemd.journal-fields(7)): upper case letters, digits and ``_``.
    """
    import socket  # not for programs that send nothing

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(_SEND_SECONDS)
            connection.connect(SOCKET)
            connection.send(b"".join(_serialized(name, value) for name, value in fields.items()))
    except OSError:
        return False
    return True


def _serialized(name: str, value: str) -> bytes:
    """Return a field as the journal reads it; one of several lines has its length before it."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def marked(text: str, severity: Severity) -> str:
    """Return a text whose lines have a severity, if stderr is connected to the journal; else the text."""
    if not is_connected():
        return text
    return "\n".join(f"<{severity.value}>{line}" for line in text.split("\n"))


def start_logging(level: str) -> None:
    """Send log records of ``level`` and above to stderr, each with its severity, a word or the journal's."""
    import logging  # not for programs that log nothing
    import sys

    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
    if is_connected():

        class JournalFormatter(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                return marked(super().format(record), _severity_of_log(record.levelno))

        for handler in logging.getLogger().handlers:
            handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))


def _severity_of_log(level: int) -> Severity:
    """Return the severity of a level of ``logging``, whose levels are multiples of ten."""
    by_tens = {0: Severity.DEBUG, 1: Severity.DEBUG, 2: Severity.INFO, 3: Severity.WARNING}
    return by_tens.get(level // 10, Severity.ERROR)
