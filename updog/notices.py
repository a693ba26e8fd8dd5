"""Files that tell others how this node stands: the login message and the metrics.

Each is replaced as a whole, so that a reader never sees half of one. They are for people and monitoring, not
for updog, which never reads them: that they cannot be written is logged and fails nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from updog import durable, metrics, render

if TYPE_CHECKING:
    from pathlib import Path

    from signpost.medium import Medium
    from updog.agent import Status
    from updog.config import Config

log = logging.getLogger(__name__)


def post(config: Config, medium: Medium, status: Status) -> None:
    """Write the files that the configuration asks for."""
    texts = (
        (config.motd_file, render.login_text(status) + "\n"),
        (config.metrics_file, metrics.text(status)),
    )
    for path, text in texts:
        if path is not None:
            _replace(path, text, medium)


def _replace(path: Path, text: str, medium: Medium) -> None:
    """Replace one file, in a folder that may not be there yet (/run is empty after a start)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(medium, path, text.encode())
    except (MediumError, OSError) as error:
        log.warning("%s was not written: %s", path, error)
