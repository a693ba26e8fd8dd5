"""PURE: check that a manifest is consistent, and that every supported version reaches the newest release.

A *supported* version is one that has an entry in the manifest: nodes may run it.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from repo_tools.releases.upgrade_path import upgrade_path
from repo_tools.repository.published import MANIFEST
from repo_tools.trust.findings import Finding
from updog.update_metadata.errors import MigrationError
from updog.update_metadata.migrations import find_migrations
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_time, readable_duration

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from datetime import datetime

    from updog.update_metadata.manifest import Hold, Manifest, Update

LONGEST_PAUSE_DAYS = 30
"""Longest usual pause between two waves: a longer one is a typing error more often than a plan."""


LONGEST_LEAD = timedelta(days=366)
"""Longest usual time from now to a wave."""

CLOCK_DIFFERENCE = timedelta(hours=1)
"""How far the clock of the publisher that published or held a release may be ahead of this one."""


def faults(
    manifest: Manifest, listed: Container[str], slots: Mapping[str, int], now: datetime
) -> Iterator[Finding]:
    """Yield the faults of a manifest.

    Args:
        manifest: the manifest.
        listed: names of the signed targets.
        slots: image → size in bytes of the nodes' partition for it, where declared.
        now: what the times of waves, holds and publications are compared with.
    """
    for update in manifest.updates:
        place = _place_of(manifest, update)
        yield from _images(update, place, listed, slots)
        yield from _waves(update, place)
        yield from _far_waves(update, place, now)
        if update.hold and update.hold.since > now + CLOCK_DIFFERENCE:
            yield hold_ahead(update.hold, f"{place}.hold.since")
        if update.published and update.published > now + CLOCK_DIFFERENCE:
            message = f"was published at {format_time(update.published)}, which is in the future"
            yield Finding(code="published-ahead", place=f"{place}.published", message=message)
        yield from _floor(manifest, update, place)
    for key in dict.fromkeys((update.variant, update.arch) for update in manifest.updates):
        family = manifest.updates_of(*key)
        yield from _max_versions(family)
        yield from _upgrade_paths(manifest, family)
    for hop, names in manifest.migrations.items():
        for name in names:
            if name not in listed:
                yield Finding(
                    code="migration-unlisted",
                    place=f"{MANIFEST} migrations.({hop[0]}, {hop[1]})",
                    message=f"{name} is not listed",
                    subject=name,
                )


def _place_of(manifest: Manifest, update: Update) -> str:
    """Return the place of an entry in the file: held releases have a list of their own."""
    for name, held in (("held", True), ("updates", False)):
        entries = [other for other in manifest.updates if bool(other.hold) is held]
        if update in entries:
            return f"{MANIFEST} {name}[{entries.index(update)}]"
    return MANIFEST


def _images(
    update: Update, place: str, listed: Container[str], slots: Mapping[str, int]
) -> Iterator[Finding]:
    """Yield unsigned images and packs, missing digests of raw images, and images that are too large."""
    for kind, name in update.images.items():
        if name not in listed:
            where, message = f"{place}.images.{kind}", f"{name} is not listed"
            yield Finding(code="image-unlisted", place=where, message=message, subject=name)
        elif other := next((k for k, n in update.images.items() if n == name and k != kind), None):
            message = f"{name} is the {other} image too"
            yield Finding(code="image-misplaced", place=f"{place}.images.{kind}", message=message)
    if update.contents is None:
        message = "size and SHA-256 of its raw images are not stated"
        yield Finding(code="content-unstated", place=place, message=message)
    for kind, pack in update.packs.items() if update.packs else ():
        for name in pack.targets():
            if name not in listed:
                where, message = f"{place}.packs.{kind}", f"{name} is not listed"
                yield Finding(code="pack-unlisted", place=where, message=message, subject=name)
    for kind, content in update.contents.items() if update.contents else ():
        partition_size = slots.get(kind)
        if partition_size is not None and content.size > partition_size:
            message = f"{content.size} bytes; the nodes' partition has {partition_size}"
            yield Finding(code="image-too-large", place=f"{place}.contents.{kind}.size", message=message)


def _waves(update: Update, place: str) -> Iterator[Finding]:
    for fault in update.waves.order_faults():
        yield Finding(code="waves-unordered", place=f"{place}.waves.{fault.path}", message=fault.problem)
    starts = update.waves.starts
    if starts and starts[0].seed:
        message = f"seeds below {starts[0].seed} are in no wave: other clients update them at once"
        yield Finding(code="waves-gap", place=f"{place}.waves", message=message)
    for start in starts:
        if start.seed > MAX_SEED:
            message = f"no node has seed {start.seed}; the highest is {MAX_SEED - 1}"
            yield Finding(code="waves-gap", place=f"{place}.waves.{start.seed}", message=message)
    for earlier, later in pairwise(starts):
        if (later.at - earlier.at).days > LONGEST_PAUSE_DAYS and later != update.waves.stop:
            message = f"starts {readable_duration(later.at - earlier.at)} after wave {earlier.seed}"
            yield Finding(code="waves-gap", place=f"{place}.waves.{later.seed}", message=message)


def _far_waves(update: Update, place: str, now: datetime) -> Iterator[Finding]:
    """Yield waves that start so late that the date is probably wrong; a policy's stop is meant."""
    stop = update.waves.stop
    for start in update.waves.starts:
        if start.at - now > LONGEST_LEAD and (stop is None or start.seed < stop.seed):
            message = f"starts in {readable_duration(start.at - now)}, at {format_time(start.at)}"
            yield Finding(code="waves-far", place=f"{place}.waves.{start.seed}", message=message)


def hold_ahead(hold: Hold, place: str) -> Finding:
    """Return the finding for a hold that begins later than now."""
    message = f"is held since {format_time(hold.since)}, which is in the future"
    return Finding(code="hold-ahead", place=place, message=message)


def _floor(manifest: Manifest, update: Update, place: str) -> Iterator[Finding]:
    family = manifest.updates_of(update.variant, update.arch)
    if update.floor and not any(update.floor <= other.version < update.version for other in family):
        message = f"no release from {update.floor} up to {update.version} is published"
        yield Finding(code="floor-unpublished", place=f"{place}.floor", message=message)


def _max_versions(family: tuple[Update, ...]) -> Iterator[Finding]:
    """Check the max_version of all releases of one variant and architecture, newest first."""
    newest = family[0]
    place = f"{MANIFEST} {newest.variant} {newest.arch}"
    limits = sorted({update.max_version for update in family})
    if len(limits) > 1:
        message = f"releases have different max_versions: {' and '.join(map(str, limits))}"
        yield Finding(code="max-version-mixed", place=place, message=message)
    elif limits[0] > newest.version:
        message = f"max_version {limits[0]} is above the newest release, {newest.version}"
        yield Finding(code="max-version-high", place=place, message=message)
    if all(update.version > update.max_version for update in family):
        yield Finding(code="nothing-on-offer", place=place, message="every release is above its max_version")


def _upgrade_paths(manifest: Manifest, family: tuple[Update, ...]) -> Iterator[Finding]:
    """Yield the versions that do not reach the newest release, and steps without their migrations."""
    place = f"{MANIFEST} {family[0].variant} {family[0].arch}"
    paths = [upgrade_path(family, update.version) for update in family]
    for path in paths:
        if not path.arrives:
            reached = path.steps[-1].version if path.steps else path.start
            message = f"a node at {path.start} cannot get further than {reached}: a floor blocks it"
            yield Finding(code="newest-unreachable", place=place, message=message)
    if not manifest.migrations:  # this repository does not use migrations
        return
    for version, step in sorted({hop for path in paths for hop in path.hops()}, key=lambda hop: hop[0]):
        try:
            find_migrations(manifest.migrations, version, step.version)
        except MigrationError as error:
            yield Finding(code="migration-missing", place=place, message=error.message)
