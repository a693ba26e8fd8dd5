"""Files that show the status of this node to others: the login message and the metrics.

Rules it enforces:

* each file has one writer: the commands one, the agent another one, since both may write at the same time;
* each file is replaced as a whole, so that a reader never sees half of one;
* updog never reads them, so a file that cannot be written is logged and fails nothing.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from signpost.text import printable
from updog import metrics, render

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from updog.config import Config
    from updog.views import Status

log = logging.getLogger(__name__)


def post(config: Config, status: Status, agent: Mapping[str, Any] | None, now: datetime) -> None:
    """Write the files that the configuration asks for.

    Args:
        config: names them.
        status: of the node.
        agent: what the running agent says of itself; None: it does not run.
        now: the time, UTC.
    """
    if config.motd_file is not None:
        _replace_text(config.motd_file, render.login_text(status, agent, now) + "\n")
    if config.metrics_file is not None:
        _replace_text(config.metrics_file, metrics.node_text(render.status_document(status)))


def agent_metrics_file(metrics_file: Path) -> Path:
    """Return the agent's file beside that of the commands: ``updog-agent.prom`` beside ``updog.prom``."""
    return metrics_file.with_name(f"{metrics_file.stem}-agent{metrics_file.suffix}")


def post_agent_metrics(config: Config, agent: Mapping[str, Any], now: datetime) -> None:
    """Write the agent's metrics from its document, if the configuration asks for metrics."""
    if config.metrics_file is not None:
        _replace_text(agent_metrics_file(config.metrics_file), metrics.agent_text(agent, now))


def remove_agent_metrics(config: Config) -> None:
    """Remove the agent's metrics, where it ends."""
    if config.metrics_file is not None:
        with suppress(OSError):
            agent_metrics_file(config.metrics_file).unlink(missing_ok=True)


def _replace_text(path: Path, text: str) -> None:
    """Replace a file for everyone to read by what can be printed of ``text``."""
    replace(path, printable(text).encode(errors="backslashreplace"))


def replace(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step, with this mode whatever the umask is; one that cannot be is logged.

    The new file never goes through a link that is already there: the folder may belong to another program.
    Nothing is flushed: after a power cut the next command writes it again.
    """
    temporary = path.parent / f".{path.name}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(content)
            os.fchmod(file.fileno(), mode)
        temporary.replace(path)
    except OSError as error:
        log.warning("cannot write %s: %s", path, error)
