"""A release as a command names it, as it is published, and the result of a change to it.

Rules:

* a command that names a release by version alone is refused if several variants have that version;
* a withdrawn release never comes back by itself: the next publish, which raises ``max_version`` again,
  removes its entry from the manifest.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ReleaseError, UnpublishedError
from repo_tools.repository.published import read_manifest, require_complete
from repo_tools.text import share_text
from repo_tools.trust.chain import walk
from repo_tools.trust.channels import TARGETS, role_of
from repo_tools.trust.source import source_of
from signpost.errors import MediumError
from signpost.toml_file import read_text
from updog.update_metadata.manifest import Manifest, Update
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_optional, readable_time
from updog.update_metadata.version import Version
from updog.update_metadata.waves import BUILT_IN_POLICIES, WavePolicy, Waves

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from repo_tools.images.packing import Packing, Staged
    from repo_tools.repository.session import Committed
    from updog.update_metadata.manifest import Update

__all__ = ["NewRelease", "ReleaseChange", "ReleaseName"]


OPEN_AT_ONCE = "none"
_JUST_NOW = timedelta(minutes=1)  # waves that start now have started when they are checked


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRelease:
    """What to publish.

    Attributes:
        variant: flavour. arch: machine architecture. version: of the release.
        boot: raw boot image. root: raw root image. hash: raw dm-verity image; None makes it from root.
        waves: a built-in policy's name, a policy file's path, ``none``; empty for the one in repo.toml.
        start_at: when the wave schedule starts; None for now.
        max_version: versions above it are withdrawn; None raises it to this version if that is the highest.
        floor: a node below it must pass through it first; None for that of the release below.
        no_floor: it has no floor, whatever the release below has.
        packing: compression and level; None for those in repo.toml.
        deltas: from how many of the last releases deltas are made; None for the number in repo.toml.
        delta_from: further releases to make deltas from.
        urgent: why nodes pass the gates that their operators named for urgent releases; empty: they do not.
        inspect: refuse images that the boot stage would not start.
        reason: why, for the log of changes.
        channel: where it is offered; None for the top-level manifest.
    """

    variant: str
    arch: str
    version: Version
    boot: Path
    root: Path
    hash: Path | None = None
    waves: str = ""
    start_at: datetime | None = None
    max_version: Version | None = None
    floor: Version | None = None
    no_floor: bool = False
    packing: Packing | None = None
    deltas: int | None = None
    delta_from: tuple[Version, ...] = ()
    urgent: str = ""
    inspect: bool = True
    reason: str = ""
    channel: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseName:
    """A published release by its version, with variant and architecture where the version is not enough."""

    version: Version
    variant: str | None = None
    arch: str | None = None

    def of(self, manifest: Manifest) -> Update:
        """Return the one release that this names. Raises ReleaseError."""
        found = [update for update in self._builds(manifest) if self.version.names(update.version)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise self.unpublished(manifest)
        raise ReleaseError(f"{self} is published {len(found)} times: {'; '.join(map(str, found))}")

    def unpublished(self, manifest: Manifest) -> UnpublishedError:
        """Return the error for a manifest that does not have it; it may have another build of the version."""
        others = self._builds(manifest)
        other = f", but {others[0].version} is, another build of this version" if others else ""
        return UnpublishedError(
            f"{self} is not published{other}",
            variant=self.variant,
            arch=self.arch,
            version=str(self.version),
        )

    def matches(self, manifest: Manifest) -> list[ReleaseName]:
        """Return the full names of all releases that this names."""
        return [
            ReleaseName(version=update.version, variant=update.variant, arch=update.arch)
            for update in self._builds(manifest)
            if self.version.names(update.version)
        ]

    def _builds(self, manifest: Manifest) -> list[Update]:
        """Return the releases of this version, whatever their build metadata are."""
        return [
            update
            for update in manifest.updates
            if update.key == (self.variant or update.variant, self.arch or update.arch, self.version)
        ]

    def __str__(self) -> str:
        return " ".join(filter(None, [str(self.version), self.variant, self.arch]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseChange:
    """What a publish did.

    Attributes:
        update: the release, as it now is in the manifest.
        committed: the new metadata, or the file that waits for signatures.
        targets: what was added. root_hash: of the dm-verity tree, if it was made here.
        cautions: what is unusual about its waves, one sentence each.
        dropped: withdrawn releases that were removed from the manifest, so that they do not come back.
        not_inspected: which images were not inspected and why, one sentence each.
    """

    update: Update
    committed: Committed
    targets: tuple[Staged, ...] = ()
    root_hash: str | None = None
    cautions: tuple[str, ...] = ()
    dropped: tuple[Version, ...] = ()
    not_inspected: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        document: dict[str, Any] = {
            "variant": self.update.variant,
            "arch": self.update.arch,
            "version": str(self.update.version),
            "max_version": str(self.update.max_version),
            "waves": self.update.waves.to_json(),
            "urgent": self.update.urgent or None,
            "published": format_optional(self.update.published),
            **self.committed.to_json(),
        }
        if self.targets:
            document["targets"] = [
                {"name": item.name, "length": item.length, "sha256": item.sha256}
                | ({"raw": {"size": raw.size, "sha256": raw.sha256}} if (raw := item.content) else {})
                for item in self.targets
            ]
            document["dropped"] = [str(version) for version in self.dropped]
            document["not_inspected"] = list(self.not_inspected)
        return document | ({"root_hash": self.root_hash} if self.root_hash else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedRelease:
    """A manifest with one more release.

    Attributes:
        manifest: all of it. update: the new release's entry, with its final ``max_version``.
        dropped: withdrawn releases that were removed, because the new ``max_version`` would offer them.
    """

    manifest: Manifest
    update: Update
    dropped: tuple[Version, ...]

    def effects(self, now: datetime, *, on: str = "") -> tuple[str, ...]:
        """Return what this does to the fleet, one sentence each; ``on`` names the nodes, if not all."""
        return (
            f"{on}: {reach_sentence(self.update, now)}" if on else reach_sentence(self.update, now),
            *cautions(self.update, now),
            *((urgent_sentence(self.update),) if self.update.urgent else ()),
            *((f"nodes below {self.update.floor} must pass through it first",) if self.update.floor else ()),
            *(f"removed the withdrawn {version} from the manifest" for version in self.dropped),
        )


def add_release(manifest: Manifest, update: Update, max_version: Version | None = None) -> AddedRelease:
    """Return the manifest with the release, read back so that nothing that a node refuses is ever signed.

    Withdrawn releases that the new ``max_version`` would offer again are removed.

    Raises:
        DuplicateUpdateError: it is published already. ManifestError: its entry has faults.
    """
    after = manifest.with_update(update, max_version=max_version)
    limit = after.updates_of(update.variant, update.arch)[0].max_version  # the same on all of them
    old = manifest.updates_of(update.variant, update.arch)
    dropped = tuple(other for other in old if other.max_version < other.version <= limit)
    for other in dropped:
        after = after.without_update(*other.key)
    return AddedRelease(
        manifest=Manifest.from_json(after.to_json()),
        update=replace(update, max_version=limit),
        dropped=tuple(other.version for other in dropped),
    )


def policy_named(name: str) -> WavePolicy | None:
    """Return the policy of this built-in name or file path, None for ``none``. Raises PolicyError."""
    if name == OPEN_AT_ONCE:
        return None
    if name in BUILT_IN_POLICIES or not name.endswith(".toml"):
        return WavePolicy.built_in(name)
    text = read_text(name, lambda problem: MediumError(problem, next_step="Check --waves."))
    return WavePolicy.from_toml(text)


def waves_of(policy: WavePolicy | None, start: datetime) -> Waves:
    """Return the waves of a roll-out that starts at ``start``; no waves where there is no policy."""
    return policy.waves(start.replace(microsecond=0)) if policy else Waves()


def share(update: Update, now: datetime) -> str:
    """Return to which part of the fleet the waves of a release are open, such as ``12.5 %``."""
    return share_text(float(update.waves.share_open(now)))


def cautions(update: Update, now: datetime) -> tuple[str, ...]:
    """Return what is unusual about the waves of a release, one sentence each."""
    sentences = []
    first = min((start.at for start in update.waves.starts), default=now)
    if first < now - _JUST_NOW:
        sentences.append(
            f"its waves started in the past, on {readable_time(first)}: {share(update, now)} of the fleet "
            "may take it at once"
        )
    if stop := update.waves.stop:
        reached = share_text(stop.seed / MAX_SEED)
        sentences.append(
            f"its waves stop at {reached} of the fleet: the rest waits for `waves open` or `waves set`"
        )
    return tuple(sentences)


def reach_sentence(update: Update, now: datetime) -> str:
    """Return to which nodes a release is open now, and when to all of them."""
    if update.version > update.max_version:
        return "it is withdrawn: no node takes it"
    if update.waves.share_open(now) == 1:
        return "it is open to the whole fleet now"
    if update.waves.stop:
        return f"it is open to {share(update, now)} of the fleet now"
    last = max(start.at for start in update.waves.starts)
    return f"it is open to {share(update, now)} of the fleet now, to all of it on {readable_time(last)}"


def urgent_sentence(update: Update) -> str:
    """Return what it does to the fleet that a release is urgent, and why it is."""
    return f"it is urgent: nodes pass the gates that their auto.urgent names. {update.urgent}"


@contextmanager
def telling_channels(place: Path | str) -> Iterator[None]:
    """Name the channels that have a release, if an error in the ``with`` block reports that one lacks it.

    Raises:
        UnpublishedError: the error, with the channels of the repository at ``place`` that have the release.
    """
    try:
        yield
    except UnpublishedError as error:
        which = ReleaseName(version=Version.parse(error.version), variant=error.variant, arch=error.arch)
        found = [role_of(channel) for channel in _channels_with(which, place)]
        if not found:
            raise
        options = [f"--channel {name}" if name != TARGETS else "no --channel" for name in found]
        raise UnpublishedError(
            f"{error.message} in the channel that was asked for, but in {', '.join(found)}",
            variant=error.variant,
            arch=error.arch,
            version=error.version,
            next_step=f"Pass {' or '.join(options)}.",
        ) from error


def _channels_with(which: ReleaseName, place: Path | str) -> Iterator[str | None]:
    """Yield the channels that have this release once or several times; None: the top-level releases."""
    source = source_of(place)
    published = require_complete(walk(source))
    for channel in (None, *published.channels):
        try:
            which.of(read_manifest(source, published.targets_of(channel), channel))
        except UnpublishedError:
            continue
        except ReleaseError:
            pass
        yield channel
