"""Which releases a node passes through on its way to the newest, and which of their targets it needs. PURE.

Rules:

* a step is the release that a node takes once all waves are open: of the releases on offer, not held, whose
  floor is not above the version it runs, the highest one above that version; or, if that version is
  withdrawn, the highest one of all;
* the path ends where there is no further step. It *arrives* if that is the highest release on offer, or a
  held one above it: a node that runs a held release keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from updog.update_metadata.migrations import find_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class UpgradePath:
    """The path of a node from ``start``: its steps in order, and whether it arrives at the newest release."""

    start: Version
    steps: tuple[Update, ...]
    arrives: bool

    def hops(self) -> Iterator[tuple[Version, Update]]:
        """Yield each step with the version it is taken from."""
        version = self.start
        for step in self.steps:
            yield version, step
            version = step.version


def upgrade_path(family: Sequence[Update], start: Version) -> UpgradePath:
    """Return the path of a node that runs ``start`` through the releases of its variant and architecture."""
    offered = [update for update in family if update.version <= update.max_version and not update.hold]
    steps: list[Update] = []
    version = start
    while (step := _step(offered, family, version)) is not None:
        steps.append(step)
        version = step.version
    newest = max((update.version for update in offered), default=version)
    return UpgradePath(start=start, steps=tuple(steps), arrives=version >= newest)


def _step(offered: Sequence[Update], family: Sequence[Update], running: Version) -> Update | None:
    withdrawn = any(running > update.max_version for update in family)
    open_to_it = [
        update
        for update in offered
        if update.version != running
        and (update.version > running or withdrawn)
        and (update.floor is None or running >= update.floor)
    ]
    return max(open_to_it, key=lambda update: update.version, default=None)


def needed(manifest: Manifest, path: UpgradePath) -> set[str]:
    """Return the names of the targets that a node on this path fetches, besides the manifest itself.

    Raises:
        MigrationError: a hop has no complete chain of migrations.
    """
    names: set[str] = set()
    for version, step in path.hops():
        names |= image_targets(step) | pack_targets(step, version)
        if manifest.migrations:
            names |= set(find_migrations(manifest.migrations, version, step.version))
    return names


def image_targets(update: Update) -> set[str]:
    """Return the names of the three images of an update."""
    return set(update.images.values())


def pack_targets(update: Update, base: Version) -> set[str]:
    """Return the names of what lets a node at ``base`` fetch parts: indexes, fingerprints, its deltas."""
    packs = update.packs
    if packs is None:
        return set()
    names: set[str] = set()
    for pack in packs.values():
        names |= {pack.index, pack.fingerprints}
        names |= {pack.deltas[base].target} if base in pack.deltas else set()
    return names
