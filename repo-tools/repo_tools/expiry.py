"""When signatures run out, and signing anew what is near it.

Rules:

* a role is *near* when it expires within the span asked for; an expired one is near as well. Root is near
  earlier than the others: its keys are with people, who need time;
* refreshing signs nothing anew that it has not verified first, and nothing over a fault: a missing target
  or a broken chain is reported instead (expiry is the one fault it is there to mend), also when nothing is
  near: a job that finds nothing to do must not be the reason why nobody hears of it;
* a role whose keys are not at hand in time is said, never passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.errors import BrokenRepositoryError, NothingToRefreshError
from repo_tools.keys import Secrets, no_secrets
from repo_tools.session import writing
from signpost.medium import OsMedium
from updog.update_metadata.times import format_time, spoken_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.chain import Chain
    from repo_tools.session import Session
    from updog.durable import Medium

ONLINE = ("targets", "snapshot", "timestamp")
"""Roles whose keys have to be at hand where a repository is kept fresh."""

SOON = timedelta(days=3)
"""What `refresh` and `expirations` call near unless told otherwise: a long weekend."""

ROOT_SOON = timedelta(days=30)
"""The same of root: long enough for its holders to be found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expiration:
    """When one role's signature runs out.

    Attributes:
        role: whose. name: of the file. version: of it. expires: when. left: until then; negative if past.
    """

    role: str
    name: str
    version: int
    expires: datetime
    left: timedelta

    @property
    def expired(self) -> bool:
        """Whether it has run out: at that very second a client refuses it (TUF specification §5.3.10)."""
        return self.left <= timedelta()

    def within(self, span: timedelta) -> bool:
        """Whether it runs out in this time."""
        return self.left <= span

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``--json`` prints it."""
        return {
            "role": self.role,
            "file": self.name,
            "version": self.version,
            "expires": format_time(self.expires),
            "seconds_left": int(self.left.total_seconds()),
        }

    def spoken(self) -> str:
        """Return what is left, for a person."""
        return (
            f"expired {spoken_duration(-self.left)} ago"
            if self.expired
            else f"in {spoken_duration(self.left)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """How long before it runs out a signature is near: ``within``, and ``root`` for root's."""

    within: timedelta = SOON
    root: timedelta = ROOT_SOON

    def of(self, role: str) -> timedelta:
        """Return the span of a role; root's is never the shorter one."""
        return max(self.within, self.root) if role == "root" else self.within

    def near(self, row: Expiration) -> bool:
        """Whether this signature is near its end."""
        return row.within(self.of(row.role))


def expirations(chain: Chain, *, now: datetime) -> list[Expiration]:
    """Return when the verified roles of a chain run out, from the root down."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        versions: role → its new version. late: roles that had expired already.
        unsigned: roles that are near expiry and could not be signed, with the reason.
    """

    versions: Mapping[str, int]
    late: tuple[str, ...]
    unsigned: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "metadata": dict(self.versions),
            "had_expired": list(self.late),
            "unsigned": dict(self.unsigned),
        }


def refresh(
    folder: Path,
    *,
    within: timedelta,
    now: datetime,
    root_within: timedelta = ROOT_SOON,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Refreshed:
    """Sign anew every role that is near its end.

    A root or a channel that cannot be signed here does not keep the others from it; ``unsigned`` tells.

    Raises:
        NothingToRefreshError: none does.
        BrokenRepositoryError: the repository has faults; nothing was signed.
        ThresholdError, SigningKeyError, RepositoryBusyError, MediumError: as their names say.
    """
    from repo_tools.chain import walk

    with writing(folder, medium or OsMedium(), secrets) as session:
        rows = expirations(walk(session.store.source), now=now)
        _require_whole(session, now)
        notice = Notice(within=within, root=root_within)
        near = [row.role for row in rows if notice.near(row)]
        if not near:
            raise NothingToRefreshError(f"nothing expires within {spoken_duration(within)}")
        unsigned = _missing_keys(session, [role for role in near if role not in ONLINE])
        roles = [role for role in near if role not in unsigned]
        versions = session.resign(roles, now) if roles else {}
        late = tuple(row.role for row in rows if row.expired)
        return Refreshed(versions=versions, late=late, unsigned=unsigned)


def _require_whole(session: Session, now: datetime) -> None:
    """Refuse to put fresh signatures over a repository with faults other than expiry."""
    from repo_tools.check import Checking, check
    from repo_tools.findings import Severity

    report = check(session.store.source, now=now, how=Checking(deep=False))
    for finding in report.findings:
        if finding.severity is Severity.ERROR and not finding.code.endswith("-expired"):
            raise BrokenRepositoryError(
                f"{finding.place}: {finding.message} ({finding.code})", next_step=finding.next_step
            )


def _missing_keys(session: Session, roles: Sequence[str]) -> dict[str, str]:
    """Return why roles that may be signed elsewhere cannot be signed here, where they cannot."""
    unsigned = {}
    for role in roles:
        at_hand = sum(session.signers.has(key.keyid) for key in session.keys_of(role))
        if at_hand < (threshold := session.threshold_of(role)):
            ceremony = "; `repo-tools root renew` begins the ceremony" if role == "root" else ""
            unsigned[role] = f"{at_hand} of the {threshold} keys it needs are at hand{ceremony}"
    return unsigned
