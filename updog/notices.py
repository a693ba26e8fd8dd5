"""Files that tell others how this node stands: the login message and the metrics.

Each is replaced as a whole, so that a reader never sees half of one. They are for people and monitoring, not
for updog, which never reads them: that they cannot be written is logged and fails nothing.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from updog import metrics, render

if TYPE_CHECKING:
    from pathlib import Path

    from updog.agent import Status
    from updog.config import Config

log = logging.getLogger(__name__)


def post(config: Config, status: Status) -> None:
    """Write the files that the configuration asks for."""
    if config.motd_file is not None:
        _replace(config.motd_file, render.login_text(status) + "\n")
    if config.metrics_file is not None:
        _replace(config.metrics_file, metrics.text(status))


def _replace(path: Path, text: str) -> None:
    """Replace one file in one step, readable by all whatever the umask is.

    It is created anew, never through a link that is there: the folder may be another program's. Nothing is
    flushed: after a power cut the next command writes it again.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(text.encode())
            os.fchmod(file.fileno(), 0o644)
        temporary.replace(path)
    except OSError as error:
        log.warning("%s was not written: %s", path, error)
