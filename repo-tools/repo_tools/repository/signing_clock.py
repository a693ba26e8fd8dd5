"""When a repository was last signed, and whether the clock of this machine can sign after that.

Rules:

* every timestamp says when it was signed, in its signed field ``x-updog-signed-at``. In a repository that was
  signed by another program the newest change of its logs says so instead;
* nothing is signed by a clock that is behind the last signature: its signatures could be expired on arrival,
  and its waves would start in the past. Clocks of two publishers may differ by :data:`MAX_CLOCK_SKEW`;
* the recorded time never goes back by itself, so that many small steps cannot add up.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from repo_tools.errors import ClockBehindError
from repo_tools.repository.change_log import LOG
from repo_tools.repository.published import read_log
from repo_tools.trust.channels import target_name
from updog.update_metadata.signed_time import signed_time
from updog.update_metadata.times import readable_duration, readable_time

if TYPE_CHECKING:
    from datetime import datetime

    from repo_tools.repository.published import Published
    from repo_tools.trust.source import Source

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far the clocks of two publishers may differ; the usual limit of Kerberos."""


def last_signed(source: Source, published: Published) -> datetime | None:
    """Return when a repository was last signed, by its own account; None if nothing in it says so.

    Raises:
        BrokenRepositoryError, ManifestError: a log of changes is not what was signed, or has faults.
    """
    if signed := signed_time(published.timestamp.signed.unrecognized_fields):
        return signed
    logs = [
        read_log(source, published.targets_of(channel), target_name(channel, LOG))
        for channel in (None, *published.channels)
    ]
    return max((log.entries[-1].at for log in logs if log.entries), default=None)


def require_clock(last: datetime | None, now: datetime) -> None:
    """Refuse to sign at a time before the last signature. Raises ClockBehindError."""
    if last is not None and now < last - MAX_CLOCK_SKEW:
        raise ClockBehindError(
            f"the clock of this machine says {readable_time(now)}; this repository was last signed at "
            f"{readable_time(last)}, {readable_duration(last - now)} later"
        )
