"""Re-sign the roles whose signatures expire soon.

Rules:

* which roles are due is decided by :class:`repo_tools.trust.expirations.RenewalWindow`;
* only what was verified is re-signed, and nothing in a repository with faults: a missing target or a broken
  chain is reported instead (expiry is the only fault that a refresh fixes). This is also checked when no role
  is due: a job with nothing to do must not hide a fault;
* only metadata are needed: in a copy of the repository without any image (a checkout in CI), targets are not
  checked. In one that has images, all must be there with their signed lengths;
* a repository that was signed with a clock that was ahead is re-signed only if the operator says so;
* a role that is due and whose keys are not available is always reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.config import ONLINE_ROLES
from repo_tools.errors import BrokenRepositoryError, NothingToRefreshError
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.repository.session import reading, versions_of, writing
from repo_tools.trust.chain import walk
from repo_tools.trust.expirations import DEFAULT_ROOT_WINDOW, RenewalWindow, expirations
from repo_tools.trust.findings import Severity
from repo_tools.upkeep.check import CheckOptions, check
from updog.update_metadata.times import readable_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from repo_tools.repository.session import Session
    from repo_tools.trust.expirations import Expiration
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """The result of a refresh.

    Attributes:
        versions: role → its new version. had_expired: roles that had already expired.
        unsigned: role that is due and could not be signed → reason.
    """

    versions: Mapping[str, int]
    had_expired: tuple[str, ...]
    unsigned: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "metadata": dict(self.versions),
            "had_expired": list(self.had_expired),
            "unsigned": dict(self.unsigned),
        }


def refresh(
    folder: Path,
    *,
    within: timedelta,
    now: datetime,
    root_within: timedelta = DEFAULT_ROOT_WINDOW,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Refreshed:
    """Re-sign every role that is due.

    If a root or a channel cannot be signed here, the other roles are re-signed; see ``unsigned``.

    Raises:
        NothingToRefreshError: no role is due.
        BrokenRepositoryError: the repository has faults; nothing was signed.
        ClockBehindError: the repository was last signed at a later time than ``now``.
        ThresholdError, SigningKeyError, RepositoryBusyError, MediumError: see :mod:`repo_tools.errors`.
    """
    with writing(folder, medium or readable_medium(), secrets, now=now, needs_manifest=False) as session:
        due = _due(session, RenewalWindow(within=within, root=root_within), now)
        return _re_signed(session, due, now, session.re_sign)


def plan_refresh(
    folder: Path, window: RenewalWindow, *, now: datetime, secrets: Secrets = no_secrets
) -> Refreshed:
    """Return what a refresh would do. Signs in memory, takes no lock, writes nothing.

    Raises what :func:`refresh` raises, but never RepositoryBusyError or MediumError of a write.
    """
    session = reading(folder, readable_medium(), secrets, now=now, needs_manifest=False)
    due = _due(session, window, now)
    return _re_signed(session, due, now, lambda roles, now: versions_of(session.signed_again(roles, now)))


def _due(session: Session, window: RenewalWindow, now: datetime) -> list[Expiration]:
    """Return what is due in a sound repository. Raises NothingToRefreshError, BrokenRepositoryError."""
    rows = expirations(walk(session.store.source), now=now)
    _require_no_fault(session, now)
    due = [row for row in rows if window.is_due(row)]
    if not due:
        raise NothingToRefreshError(f"nothing expires within {readable_duration(window.within)}")
    return due


def refresh_by_this_clock(
    folder: Path, *, now: datetime, medium: Medium | None = None, secrets: Secrets = no_secrets
) -> Refreshed:
    """Re-sign every role but root, even if the last signature is of a later time: that clock was ahead.

    Later changes are compared with the time of these signatures.

    Raises:
        BrokenRepositoryError: the repository has faults; nothing was signed.
        ThresholdError, SigningKeyError, RepositoryBusyError, MediumError: see :mod:`repo_tools.errors`.
    """
    with writing(
        folder, medium or readable_medium(), secrets, now=now, clock_is_right=True, needs_manifest=False
    ) as session:
        rows = expirations(walk(session.store.source), now=now)
        _require_no_fault(session, now)
        return _re_signed(session, [row for row in rows if row.role != "root"], now, session.re_sign)


def _re_signed(
    session: Session,
    due: Sequence[Expiration],
    now: datetime,
    re_sign: Callable[[Collection[str], datetime], Mapping[str, int]],
) -> Refreshed:
    """Re-sign these roles, without those that cannot be signed here."""
    unsigned = _unsigned(session, due)
    roles = [row.role for row in due if row.role not in unsigned]
    return Refreshed(
        versions=re_sign(roles, now) if roles else {},
        had_expired=tuple(row.role for row in due if row.expired),
        unsigned=unsigned,
    )


def _unsigned(session: Session, due: Sequence[Expiration]) -> dict[str, str]:
    """Return role → reason for roots and channels that cannot be signed here."""
    unsigned = {}
    for row in due:
        keys, threshold = session.keys_of(row.role), session.threshold_of(row.role)
        usable = sum([session.signers.prove(key) for key in keys])
        if row.role not in ONLINE_ROLES and usable < threshold:
            failed = [
                session.signers.failed[key.keyid] for key in keys if key.keyid in session.signers.failed
            ]
            hint = "; start a ceremony with `repo-tools root renew`" if row.role == "root" else ""
            because = "".join(f"; {error.message}" for error in failed)
            unsigned[row.role] = f"{usable} of the {threshold} required keys are available{because}{hint}"
    return unsigned


def _require_no_fault(session: Session, now: datetime) -> None:
    """Refuse to re-sign a repository that has faults other than expiry. Raises BrokenRepositoryError."""
    # Settings, strays and logs are for `validate` to find, and so is a shrunk snapshot, which a killed
    # `channel add` can leave: to refuse for them would let the repository expire.
    report = check(session.store.source, now=now, options=CheckOptions(deep=False, settings=False))
    harmless = {"root-expired", "metadata-expired"}
    if _has_only_metadata(session):
        harmless.add("target-missing")
    for finding in report.findings:
        if finding.severity is Severity.ERROR and finding.code not in harmless:
            raise BrokenRepositoryError(
                f"{finding.place}: {finding.message} ({finding.code})", next_step=finding.next_step
            )


def _has_only_metadata(session: Session) -> bool:
    """Whether no target is here, or none but what is small enough for a version control system."""
    links = (session.published.targets, *session.published.channels.values())
    images = {name for link in links for name in link.signed.targets if not name.endswith(".json")}
    files = [path.rpartition("/")[2] for path in session.store.source.names("targets") or []]
    there = {file.partition(".")[2] for file in files}  # without the hash
    return not files or (bool(images) and not any(name.rpartition("/")[2] in there for name in images))
