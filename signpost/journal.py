"""Severities of what is printed, for the systemd journal.

Rules it enforces:

* a line on stderr begins with ``<N>`` (sd-daemon(3)) only if stderr is connected to the journal, which
  ``JOURNAL_STREAM`` states (systemd.exec(5)): a terminal or a log file never sees it;
* every line of a text has the prefix, because the journal stores each line on its own.
"""

from __future__ import annotations

import os
from enum import IntEnum

_STDERR = 2


class Severity(IntEnum):
    """How serious a message is: the numbers of syslog (RFC 5424, 6.2.1)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


def is_connected() -> bool:
    """Return whether stderr is connected to the journal."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(_STDERR)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def marked(text: str, severity: Severity) -> str:
    """Return a text whose lines have a severity, if stderr is connected to the journal; else the text."""
    if not is_connected():
        return text
    return "\n".join(f"<{severity.value}>{line}" for line in text.split("\n"))
