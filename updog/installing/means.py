"""What every image is installed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from updog.progress import Teller
    from updog.repository import Repository
    from updog.spool import Spool


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """Where bytes come from, where they are kept, and who is told.

    Attributes:
        repository: where they come from. spool: where they are kept.
        teller: told how far long work is. most: bytes that may be fetched for an update; None: any number.
    """

    repository: Repository
    spool: Spool
    teller: Teller
    most: int | None = None
