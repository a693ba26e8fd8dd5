"""PURE: does a manifest make sense, and does every supported version reach the newest release?

A *supported* version is one that the manifest has an entry for: nodes may run it.
"""

from __future__ import annotations

from itertools import chain as chained
from itertools import pairwise
from typing import TYPE_CHECKING

from repo_tools.findings import Finding
from repo_tools.journey import ROLES, journey
from repo_tools.session import MANIFEST
from updog.update_metadata.errors import MigrationError
from updog.update_metadata.migrations import find_migrations
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import spoken_duration

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from updog.update_metadata.manifest import Manifest, Update

LONGEST_PAUSE_DAYS = 30
"""Between two waves: a longer one is a slip of the pen more often than a plan."""


def faults(manifest: Manifest, listed: Container[str], slots: Mapping[str, int]) -> Iterator[Finding]:
    """Yield what is wrong with a manifest.

    Args:
        manifest: the manifest.
        listed: names of the signed targets.
        slots: role → bytes of the nodes' partitions, where they are declared.
    """
    for update in manifest.updates:
        place = place_of(manifest, update)
        yield from _images(update, place, listed)
        yield from _packs(update, place, listed)
        yield from _sizes(update, place, slots)
        yield from _waves(update, place)
        yield from _floor(manifest, update, place)
    for family in _families(manifest):
        yield from _limits(family)
        yield from _ways(manifest, family)
    yield from _migrations(manifest, listed)


def place_of(manifest: Manifest, update: Update) -> str:
    """Return where in the file an entry stands: held ones have a list of their own."""
    for name, kept in (("held", True), ("updates", False)):
        entries = [other for other in manifest.updates if bool(other.hold) is kept]
        if update in entries:
            return f"{MANIFEST} {name}[{entries.index(update)}]"
    return MANIFEST


def _images(update: Update, place: str, listed: Container[str]) -> Iterator[Finding]:
    for role in ROLES:
        name = getattr(update.images, role)
        if name not in listed:
            yield Finding(
                code="image-unlisted",
                place=f"{place}.images.{role}",
                message=f"{name} is not listed",
                subject=name,
            )
    if update.contents is None:
        yield Finding(
            code="content-unstated", place=place, message="size and SHA-256 of its raw images are not said"
        )


def _packs(update: Update, place: str, listed: Container[str]) -> Iterator[Finding]:
    for role in ROLES if update.packs else ():
        pack = getattr(update.packs, role)
        for name in pack.targets():
            if name not in listed:
                yield Finding(
                    code="pack-unlisted",
                    place=f"{place}.packs.{role}",
                    message=f"{name} is not listed",
                    subject=name,
                )


def _sizes(update: Update, place: str, slots: Mapping[str, int]) -> Iterator[Finding]:
    for role in ROLES if update.contents else ():
        size, room = getattr(update.contents, role).size, slots.get(role)
        if room is not None and size > room:
            message = f"{size} bytes; the nodes' partition has {room}"
            yield Finding(code="image-too-large", place=f"{place}.contents.{role}.size", message=message)


def _waves(update: Update, place: str) -> Iterator[Finding]:
    for fault in update.waves.disorder():
        yield Finding(code="waves-unordered", place=f"{place}.waves.{fault.path}", message=fault.problem)
    starts = update.waves.starts
    if starts and starts[0].seed:
        message = f"seeds below {starts[0].seed} are in no wave: other readers let them in at once"
        yield Finding(code="waves-gap", place=f"{place}.waves", message=message)
    for start in starts:
        if start.seed > MAX_SEED:
            message = f"no node has seed {start.seed}; the last is {MAX_SEED - 1}"
            yield Finding(code="waves-gap", place=f"{place}.waves.{start.seed}", message=message)
    for earlier, later in pairwise(starts):
        if (later.at - earlier.at).days > LONGEST_PAUSE_DAYS:
            message = f"starts {spoken_duration(later.at - earlier.at)} after wave {earlier.seed}"
            yield Finding(code="waves-gap", place=f"{place}.waves.{later.seed}", message=message)


def _floor(manifest: Manifest, update: Update, place: str) -> Iterator[Finding]:
    family = manifest.updates_of(update.variant, update.arch)
    if update.floor and not any(update.floor <= other.version < update.version for other in family):
        message = f"no release from {update.floor} up to {update.version} is published"
        yield Finding(code="floor-unpublished", place=f"{place}.floor", message=message)


def _families(manifest: Manifest) -> Iterator[tuple[Update, ...]]:
    """Yield the releases of every variant and architecture, newest first."""
    for variant, arch in dict.fromkeys((update.variant, update.arch) for update in manifest.updates):
        yield manifest.updates_of(variant, arch)


def _limits(family: tuple[Update, ...]) -> Iterator[Finding]:
    newest = family[0]
    place = f"{MANIFEST} {newest.variant} {newest.arch}"
    limits = sorted({update.max_version for update in family})
    if len(limits) > 1:
        message = f"max_version is {' and '.join(map(str, limits))} in releases of one family"
        yield Finding(code="max-version-mixed", place=place, message=message)
    elif limits[0] > newest.version:
        message = f"max_version {limits[0]} is above the newest release, {newest.version}"
        yield Finding(code="max-version-high", place=place, message=message)
    if all(update.version > update.max_version for update in family):
        yield Finding(code="nothing-on-offer", place=place, message="every release is above its max_version")


def _ways(manifest: Manifest, family: tuple[Update, ...]) -> Iterator[Finding]:
    """Yield the versions that do not reach the newest release, and hops without their migrations."""
    place = f"{MANIFEST} {family[0].variant} {family[0].arch}"
    ways = [journey(family, update.version) for update in family]
    for way in ways:
        if not way.arrives:
            reached = way.steps[-1].version if way.steps else way.start
            message = f"a node at {way.start} gets no further than {reached}: a floor is in the way"
            yield Finding(code="newest-unreachable", place=place, message=message)
    if not manifest.migrations:  # none at all: this repository does without them
        return
    for version, step in sorted({hop for way in ways for hop in way.hops()}, key=lambda hop: hop[0]):
        try:
            find_migrations(manifest.migrations, version, step.version)
        except MigrationError as error:
            yield Finding(code="migration-missing", place=place, message=error.message)


def _migrations(manifest: Manifest, listed: Container[str]) -> Iterator[Finding]:
    yield from chained.from_iterable(
        (
            Finding(
                code="migration-unlisted",
                place=f"{MANIFEST} migrations.({hop[0]}, {hop[1]})",
                message=f"{name} is not listed",
                subject=name,
            )
            for name in names
            if name not in listed
        )
        for hop, names in manifest.migrations.items()
    )
