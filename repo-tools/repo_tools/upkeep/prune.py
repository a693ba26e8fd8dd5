"""Remove old releases: first from the signed manifest; later, when no reader can need them, their files.

Rules:

* the newest releases on offer of every variant and architecture stay; so does every release that a node at a
  version in the manifest, or at any older one, must pass through (:mod:`repo_tools.releases.upgrade_path`),
  and every release that is held or withdrawn;
* a file in ``targets/`` is removed if no targets metadata list it that are current, or were current within
  the grace period: a reader may still be fetching it. A file that no metadata ever listed stays: `validate`
  reports it;
* metadata are never removed: nodes need all roots, and the others show which version numbers are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.errors import NothingToPruneError
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.releases.rollout import LOWEST_VERSION
from repo_tools.releases.upgrade_path import upgrade_path
from repo_tools.repository import pending_changes
from repo_tools.repository.change_log import Change
from repo_tools.repository.channel_session import writing_channel
from repo_tools.repository.session import Committed
from repo_tools.repository.store import paths_listed_in, targets_metadata_among
from repo_tools.trust.chain import walk
from signpost.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from repo_tools.repository.session import Session
    from repo_tools.repository.store import Store
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version

KEEP = 3
"""Default number of releases on offer that stay: the newest, the one to fall back to, and one more."""

GRACE = timedelta(days=1)
"""How long a file stays after the last metadata that listed it: longer than any download takes."""

_METADATA_NAME = re.compile(r"([1-9][0-9]*)\.(.+)\.json")
_IMAGE = r"-.+-(boot|root|hash)(\.[A-Za-z0-9]+)?\.(zst|lz4)(\.index|\.fingerprints|\.delta-.+)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """What is no longer needed.

    Attributes:
        releases: to be removed from the manifest. names: targets to be removed from the signed metadata.
        files: paths in ``targets/`` to be removed now. length: their total size in bytes.
        waiting: number of further files that a later run removes, after their grace period.
    """

    releases: tuple[Update, ...] = ()
    names: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    length: int = 0
    waiting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was removed, or would be."""

    plan: PrunePlan
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
class PruneRequest:
    """How much to remove.

    Attributes:
        keep: number of newest releases on offer that stay, of each variant and architecture.
        grace: how long files stay after the last metadata that listed them.
        channel: the channel; None for the top-level releases.
        dry_run: change nothing, only return the plan.
    """

    keep: int = KEEP
    grace: timedelta = GRACE
    channel: str | None = None
    dry_run: bool = False


def prune(
    folder: Path,
    request: PruneRequest,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Pruned:
    """Remove what no supported version needs.

    Raises:
        NothingToPruneError: everything is needed.
        ToolError: ChannelError, SigningKeyError, ThresholdError, RepositoryBusyError, MediumError or
            BrokenRepositoryError; no file is removed that signed metadata still list.
    """
    with writing_channel(folder, medium or readable_medium(), secrets, request.channel, now=now) as session:
        releases = unneeded_releases(session.manifest, request.keep)
        names = frozenset(_unneeded_targets(session, releases))
        committed = Committed(versions={})
        if names and not request.dry_run:
            committed = _commit(session, releases, names, now)
        files, waiting = _removable_files(session.store, now - request.grace)
        if not (releases or names or files):
            if waiting:
                raise NothingToPruneError(
                    f"{waiting} files are still in their grace period", next_step="Run prune again after it."
                )
            raise NothingToPruneError("every release and file is needed")
        plan = PrunePlan(
            releases=releases,
            names=names,
            files=files,
            length=sum((session.store.targets / file).stat().st_size for file in files),
            waiting=waiting,
        )
        if not request.dry_run:
            for file in files:
                session.store.medium.remove(str(session.store.targets / file))
        return Pruned(plan=plan, committed=committed)


def unneeded_releases(manifest: Manifest, keep: int) -> tuple[Update, ...]:
    """Return the releases that no node needs, of all variants and architectures. PURE."""
    unneeded: list[Update] = []
    for key in dict.fromkeys((update.variant, update.arch) for update in manifest.updates):
        family = manifest.updates_of(*key)
        offered = [update for update in family if update.version <= update.max_version and not update.hold]
        starts: set[Version] = {LOWEST_VERSION, *(update.version for update in family)}
        on_a_path = {step.version for start in starts for step in upgrade_path(family, start).steps}
        kept = on_a_path | {update.version for update in offered[: max(1, keep)]}
        unneeded += (update for update in reversed(offered) if update.version not in kept)
    return tuple(unneeded)


def _commit(session: Session, releases: Sequence[Update], names: frozenset[str], now: datetime) -> Committed:
    manifest = session.manifest
    for update in releases:
        manifest = manifest.without_update(*update.key)
    change = Change(
        action="prune",
        subject=", ".join(map(str, releases)) or "images of releases removed before",
        effects=(f"no longer offered: {counted(len(names), 'target')}",),
    )
    return session.commit(manifest, [], now, change, dropped=names)


def _unneeded_targets(session: Session, releases: Sequence[Update]) -> Iterator[str]:
    """Yield the images, and their indexes and deltas, that only unneeded releases use, or no release."""
    kept = [update for update in session.manifest.updates if update not in releases]
    needed = {name for update in kept for name in _targets_of(update)}
    needed |= {name for names in session.manifest.migrations.values() for name in names}
    unneeded = {name for update in releases for name in _targets_of(update)}
    image = re.compile(re.escape(session.config.name) + _IMAGE)
    for name in session.current_targets.targets:
        if name not in needed and (name in unneeded or image.fullmatch(name)):
            yield name


def _targets_of(update: Update) -> set[str]:
    """Return the target names of the images of a release, and of their indexes and deltas."""
    return {
        *update.images.values(),
        *(update.packs.targets() if update.packs else ()),
    }


def _removable_files(store: Store, since: datetime) -> tuple[tuple[str, ...], int]:
    """Return the files that no metadata have listed since then, and how many will be removable later."""
    published = {link.name for link in walk(store.source).all_targets()}
    replaced = {name: None if name in published else at for name, at in _replacement_times(store).items()}
    files = {name: paths_listed_in((store.metadata / name).read_bytes()) for name in replaced}
    current = set().union(*(files[name] for name, at in replaced.items() if at is None))
    for item in pending_changes.changes_in(
        store.folder
    ):  # a change that waits for signatures needs its images
        current |= paths_listed_in(item.proposal.metadata.to_bytes()) if item.proposal else set()
    recent = set().union(*(files[name] for name, at in replaced.items() if at and at > since))
    ever_listed = set().union(*files.values())
    existing = {str(path.relative_to(store.targets)) for path in store.targets.rglob("*") if path.is_file()}
    old = existing & ever_listed - current
    return tuple(sorted(old - recent)), len(old & recent)


def _replacement_times(store: Store) -> dict[str, datetime | None]:
    """Return all targets metadata on disk: name → when the next version replaced it, None for the last one.

    Versions above the published one count as well: a reader may have seen them
    (:mod:`repo_tools.repository.store`).
    """
    replaced: dict[str, datetime | None] = {}
    last: dict[str, str] = {}
    names = targets_metadata_among(store.source.names("metadata") or [])
    for name in sorted(names, key=lambda name: int(name.partition(".")[0])):
        role = _METADATA_NAME.sub(r"\2", name)
        if role in last:
            written = (store.metadata / name).stat().st_mtime
            replaced[last[role]] = datetime.fromtimestamp(written, UTC)
        replaced[name], last[role] = None, name
    return replaced
