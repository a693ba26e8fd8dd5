"""Clear away old releases: first off the manifest, signed; later, when no reader is on the way, their files.

Rules:

* of every variant and architecture the newest releases on offer stay; so does every release that a version
  still in the manifest, or any older one, passes through on its way (:mod:`repo_tools.journey`), and what is
  held or withdrawn;
* a file of ``targets/`` is removed when no list of targets leads to it that is current, or was until less
  than a grace ago: a reader may be half-way through it. What no list ever led to stays: `validate` tells;
* metadata are never removed: roots are needed for ever, the numbers of the others show what is spent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.chain import walk
from repo_tools.changes import Change
from repo_tools.channel_session import writing_in
from repo_tools.errors import NothingToPruneError
from repo_tools.journey import ROLES, journey
from repo_tools.keys import Secrets, no_secrets
from repo_tools.session import Committed
from repo_tools.steer import LOWEST_VERSION
from repo_tools.store import listed_in, lists_among
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from repo_tools.session import Session
    from repo_tools.store import Store
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version

KEEP = 3
"""Releases on offer that stay unless told otherwise: the newest, the one to fall back to, and one more."""

GRACE = timedelta(days=1)
"""How long a file outlives the last list that led to it: longer than any download takes."""

_LIST = re.compile(r"([1-9][0-9]*)\.(.+)\.json")
_IMAGE = r"-.+-(boot|root|hash)(\.[A-Za-z0-9]+)?\.(zst|lz4)(\.index|\.fingerprints|\.delta-.+)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is not needed any more.

    Attributes:
        releases: taken off the manifest. names: targets taken off the signed list.
        files: paths in ``targets/`` to be removed now. length: of those together, in bytes.
        waiting: how many more files will go when their grace is over, run again then.
    """

    releases: tuple[Update, ...] = ()
    names: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    length: int = 0
    waiting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was cleared away, or would be."""

    plan: Plan
    committed: Committed

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "releases": [str(update) for update in self.plan.releases],
            "unlisted": sorted(self.plan.names),
            "removed": list(self.plan.files),
            "bytes": self.plan.length,
            "waiting": self.plan.waiting,
            **self.committed.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How much to clear away.

    Attributes:
        keep: newest releases on offer that stay, of each variant and architecture.
        grace: how long files outlive the last list that led to them.
        channel: whose releases; None for the top-level ones.
        dry_run: only find out.
    """

    keep: int = KEEP
    grace: timedelta = GRACE
    channel: str | None = None
    dry_run: bool = False


def prune(
    folder: Path,
    wish: Wish,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Pruned:
    """Clear away what no supported version needs.

    Raises:
        NothingToPruneError: everything is needed.
        ToolError: ChannelError, SigningKeyError, ThresholdError, RepositoryBusyError, MediumError or
            BrokenRepositoryError; what was not signed off keeps its files.
    """
    with writing_in(folder, medium or OsMedium(), secrets, wish.channel) as session:
        releases = retired(session.manifest, wish.keep)
        names = frozenset(_unneeded(session, releases))
        committed = Committed(versions={})
        if names and not wish.dry_run:
            committed = _take_off(session, releases, names, now)
        files, waiting = _unlisted(session.store, now - wish.grace)
        if not (releases or names or files):
            raise NothingToPruneError(_why_nothing(waiting))
        plan = Plan(
            releases=releases,
            names=names,
            files=files,
            length=sum((session.store.targets / file).stat().st_size for file in files),
            waiting=waiting,
        )
        if not wish.dry_run:
            for file in files:
                session.store.medium.remove(str(session.store.targets / file))
        return Pruned(plan=plan, committed=committed)


def _why_nothing(waiting: int) -> str:
    return f"{waiting} files wait for their grace to end" if waiting else "every release and file is needed"


def retired(manifest: Manifest, keep: int) -> tuple[Update, ...]:
    """Return the releases that no node needs, of all variants and architectures. PURE."""
    families = dict.fromkeys((update.variant, update.arch) for update in manifest.updates)
    return tuple(update for key in families for update in _retired(manifest.updates_of(*key), max(1, keep)))


def _retired(family: Sequence[Update], keep: int) -> Iterator[Update]:
    offered = [update for update in family if update.version <= update.max_version and not update.hold]
    starts: set[Version] = {LOWEST_VERSION, *(update.version for update in family)}
    stones = {step.version for start in starts for step in journey(family, start).steps}
    kept = stones | {update.version for update in offered[:keep]}
    return (update for update in reversed(offered) if update.version not in kept)


def _take_off(
    session: Session, releases: Sequence[Update], names: frozenset[str], now: datetime
) -> Committed:
    manifest = session.manifest
    for update in releases:
        manifest = manifest.without_update(*update.key)
    change = Change(
        action="prune",
        subject=", ".join(map(str, releases)) or "images of releases taken off before",
        effects=(f"{len(names)} targets are no longer offered",),
    )
    return session.commit(manifest, [], now, change, dropped=names)


def _unneeded(session: Session, releases: Sequence[Update]) -> Iterator[str]:
    """Yield the images, and what belongs to them, that only retired releases use, or none at all."""
    kept = [update for update in session.manifest.updates if update not in releases]
    needed = {name for update in kept for name in targets_of(update)}
    needed |= {name for names in session.manifest.migrations.values() for name in names}
    gone = {name for update in releases for name in targets_of(update)}
    image = re.compile(re.escape(session.config.name) + _IMAGE)
    for name in session.listing.targets:
        if name not in needed and (name in gone or image.fullmatch(name)):
            yield name


def targets_of(update: Update) -> set[str]:
    """Return the names of the images of a release and of all that belongs to them. PURE."""
    return {
        *(getattr(update.images, role) for role in ROLES),
        *(update.packs.targets() if update.packs else ()),
    }


def _unlisted(store: Store, since: datetime) -> tuple[tuple[str, ...], int]:
    """Return the files that no list has led to since then, and how many more only old lists lead to."""
    published = {link.name for link in walk(store.source).lists()}
    lists = {name: None if name in published else ended for name, ended in _lists(store).items()}
    files = {name: listed_in((store.metadata / name).read_bytes()) for name in lists}
    current = set().union(*(files[name] for name, ended in lists.items() if ended is None))
    lately = set().union(*(files[name] for name, ended in lists.items() if ended and ended > since))
    ever = set().union(*files.values())
    there = {str(path.relative_to(store.targets)) for path in store.targets.rglob("*") if path.is_file()}
    old = there & ever - current
    return tuple(sorted(old - lately)), len(old & lately)


def _lists(store: Store) -> dict[str, datetime | None]:
    """Return every list of targets on disk and when the next version took its place; None for the last.

    Versions above the published one count as well: a reader may have seen them (:mod:`repo_tools.store`).
    """
    ended: dict[str, datetime | None] = {}
    last: dict[str, str] = {}
    for name in sorted(lists_among(store.source.names("metadata") or []), key=_version):
        role = _LIST.sub(r"\2", name)
        if role in last:
            written = (store.metadata / name).stat().st_mtime
            ended[last[role]] = datetime.fromtimestamp(written, UTC)
        ended[name], last[role] = None, name
    return ended


def _version(name: str) -> int:
    return int(name.partition(".")[0])
