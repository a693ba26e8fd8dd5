"""What the last check found: ``decision.json``, whoever asked for the check. The API tells it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from signpost.errors import MediumError
from signpost.medium import OsMedium
from updog import durable
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

log = logging.getLogger(__name__)


def path_in(folder: Path) -> Path:
    """Return the file in the folder of the state."""
    return folder / "decision.json"


def keep(folder: Path, document: Mapping[str, Any], now: datetime) -> None:
    """Keep the document of `updog why --json` as the last decision. A failure is logged.

    Args:
        folder: ``state_dir`` of the configuration.
        document: of a check that succeeded.
        now: the time, UTC.
    """
    try:
        decision = {
            "checked_at": format_time(now),
            "summary": document["summary"],
            "update": document["chosen"],
            "verdicts": document["releases"],
        }
        durable.write_json(OsMedium(), path_in(folder), decision, mode=0o600)
    except (KeyError, MediumError) as error:
        log.warning("the decision is not kept: %s", error)
