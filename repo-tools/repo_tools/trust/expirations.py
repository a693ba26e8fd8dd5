"""When the signatures of a repository expire, and which roles are due for re-signing.

A role is *due* when it expires within the renewal window, or has already expired. The window of root is
longer: its keys are held by people, who need time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from updog.update_metadata.times import format_time, readable_time_left

if TYPE_CHECKING:
    from datetime import datetime

    from repo_tools.trust.chain import Chain


DEFAULT_WINDOW = timedelta(days=3)
"""Default renewal window of `refresh` and `expirations`: a long weekend."""


DEFAULT_ROOT_WINDOW = timedelta(days=30)
"""Default renewal window of root: long enough to reach the holders of its keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expiration:
    """When the signature of one role expires.

    Attributes:
        role: the role. name: its metadata file. version: of that file. expires: when it expires.
        left: time until then; negative if it has expired.
    """

    role: str
    name: str
    version: int
    expires: datetime
    left: timedelta

    @property
    def expired(self) -> bool:
        """Whether it has expired: a client refuses it from that second on (TUF specification §5.3.10)."""
        return self.left <= timedelta()

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``--json`` prints it."""
        return {
            "role": self.role,
            "file": self.name,
            "version": self.version,
            "expires": format_time(self.expires),
            "seconds_left": int(self.left.total_seconds()),
        }

    def left_text(self) -> str:
        """Return the time left as text, such as ``in 3 days``."""
        return (
            f"expired {readable_time_left(-self.left)} ago"
            if self.expired
            else f"in {readable_time_left(self.left)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RenewalWindow:
    """How long before it expires a signature is due for renewal: ``within``, and ``root`` for root's."""

    within: timedelta = DEFAULT_WINDOW
    root: timedelta = DEFAULT_ROOT_WINDOW

    def of(self, role: str) -> timedelta:
        """Return the window of a role; root's is never the shorter one."""
        return max(self.within, self.root) if role == "root" else self.within

    def is_due(self, expiration: Expiration) -> bool:
        """Whether this signature is due for renewal."""
        return expiration.left <= self.of(expiration.role)


def expirations(chain: Chain, *, now: datetime) -> list[Expiration]:
    """Return when the verified roles of a chain expire, from the root down."""
    return [
        Expiration(
            role=link.role,
            name=link.name,
            version=link.signed.version,
            expires=link.signed.expires,
            left=link.signed.expires - now,
        )
        for link in chain.verified()
    ]
