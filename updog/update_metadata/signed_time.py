"""When a publisher signed a timestamp: an additional member of timestamp.json. PURE.

Rules:

* TUF metadata have an end, ``expires``, but no beginning. ``x-updog-signed-at`` is the time at which a
  timestamp was signed, by the publisher's clock, as RFC 3339. Clients ignore it (TUF
  specification, 4.3);
* a verified timestamp is a proof that it is not earlier than that, whatever the node's clock says. It is the
  only time that a node remembers in order to judge a clock;
* a repository without the member, or with another content of it, vouches for no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SIGNED_AT = "x-updog-signed-at"
"""The member of the signed part of timestamp.json."""


def signed_time(members: Mapping[str, Any]) -> datetime | None:
    """Return the time in the additional members of a verified timestamp, UTC; None if there is none."""
    text = members.get(SIGNED_AT)
    if not isinstance(text, str):
        return None
    try:
        return parse_time(text)
    except TimeError:
        return None
