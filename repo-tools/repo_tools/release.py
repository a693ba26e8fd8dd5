"""Releases: publish one. What is done with it later is in :mod:`repo_tools.steer`.

Rules:

* what can be refused is refused before the first image is read: a version that is there already, waves that
  do not rise, keys that cannot be used;
* the manifest says of every image what it unpacks to, so that a node can read a slot back against it;
* a release that was taken back never comes back by itself: the next publish, which raises ``max_version``
  again, takes its entry off the manifest; and its version number is not used a second time;
* a command that names a release by version alone is refused where several variants have that version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools.chain import walk
from repo_tools.changes import LOG, Change
from repo_tools.channel_session import writing_in
from repo_tools.channels import name_in, role_of
from repo_tools.config import target_word
from repo_tools.effects import reach
from repo_tools.errors import BrokenRepositoryError, ImageError, ReleaseError
from repo_tools.images import Packing, Staged, size_of
from repo_tools.keys import Secrets, no_secrets
from repo_tools.progress import Progress, silent
from repo_tools.release_images import bases_of, image_names, stage_images
from repo_tools.session import Committed, Session, complete, read_log, read_manifest
from repo_tools.source import source_of
from signpost.errors import MediumError, UsageError
from signpost.medium import OsMedium
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.manifest import Manifest, Update
from updog.update_metadata.waves import BUILT_IN_POLICIES, WavePolicy, Waves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Targets

    from repo_tools.chain import Source
    from repo_tools.changes import Entry
    from updog.durable import Medium
    from updog.update_metadata.version import Version

OPEN_AT_ONCE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRelease:
    """What to publish.

    Attributes:
        variant: flavour. arch: machine architecture. version: of the release.
        boot: raw boot image. root: raw root image. hash: raw dm-verity image; None makes it from root.
        waves: a built-in policy's name, a policy file's path, ``none``; empty for the repository's own.
        start_at: when the first wave's clock starts; None for now.
        max_version: above it versions are withdrawn; None raises it to this version if it is the highest.
        floor: a node below it must pass through it first.
        packing: compression and level; None for the repository's own.
        deltas: from how many of the last releases deltas are made; None for the repository's own number.
        delta_from: further releases to make deltas from.
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
    packing: Packing | None = None
    deltas: int | None = None
    delta_from: tuple[Version, ...] = ()
    reason: str = ""
    channel: str | None = None

    def name(self, first: str) -> str:
        """Return how the targets of this release begin; ``+`` of a version is ``_``, for buckets' sake."""
        return f"{first}-{self.variant}-{self.arch}-{self.version}".replace("+", "_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Which:
    """A published release by version, and by variant and architecture where that is not enough."""

    version: Version
    variant: str | None = None
    arch: str | None = None

    def of(self, manifest: Manifest) -> Update:
        """Return the one release this names. Raises ReleaseError."""
        found = [update for update in manifest.updates if self._names(update)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ReleaseError(f"{self} is not published")
        raise ReleaseError(f"{self} is published {len(found)} times: {'; '.join(map(str, found))}")

    def _names(self, update: Update) -> bool:
        wanted = (self.variant or update.variant, self.arch or update.arch, self.version)
        return update.key == wanted

    def __str__(self) -> str:
        return " ".join(filter(None, [str(self.version), self.variant, self.arch]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a change did.

    Attributes:
        update: the release concerned, as it now is in the manifest.
        committed: the new metadata, or the file that waits for signatures.
        targets: what was added. root_hash: of the dm-verity tree, if it was made here.
        dropped: withdrawn releases that were taken off the manifest, so as not to come back.
    """

    update: Update
    committed: Committed
    targets: tuple[Staged, ...] = ()
    root_hash: str | None = None
    dropped: tuple[Version, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        document: dict[str, Any] = {
            "variant": self.update.variant,
            "arch": self.update.arch,
            "version": str(self.update.version),
            "max_version": str(self.update.max_version),
            "waves": self.update.waves.to_json(),
            **self.committed.to_json(),
        }
        if self.targets:
            document["targets"] = [_target_to_json(item) for item in self.targets]
            document["dropped"] = [str(version) for version in self.dropped]
        return document | ({"root_hash": self.root_hash} if self.root_hash else {})


def _target_to_json(item: Staged) -> dict[str, Any]:
    document: dict[str, Any] = {"name": item.name, "length": item.length, "sha256": item.sha256}
    if item.content:
        document["raw"] = {"size": item.content.size, "sha256": item.content.sha256}
    return document


def publish(
    folder: Path,
    release: NewRelease,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
    progress: Progress = silent,
) -> Outcome:
    """Publish a release in the repository in ``folder``: old or new for a reader, at any moment.

    Args:
        folder: the repository.
        release: what to publish.
        now: when it is signed.
        medium: written through.
        secrets: asked for passphrases.
        progress: told after every block.

    Raises:
        ToolError: DuplicateUpdateError, PolicyError, ManifestError, ImageError, SigningKeyError,
            ThresholdError, VerityError, RepositoryBusyError, BrokenRepositoryError or MediumError.
    """
    _check_words(release)
    for image in filter(None, [release.boot, release.root, release.hash]):
        size_of(image)
    with writing_in(folder, medium or OsMedium(), secrets, release.channel) as session:
        return _publish(session, release, now, progress)


def _publish(session: Session, release: NewRelease, now: datetime, progress: Progress) -> Outcome:
    policy = policy_named(release.waves or session.config.waves)
    draft = _entry(release, session, waves_of(policy, release.start_at or now))
    _require_new_version(session, draft)
    _require_room(session.config.slots, release)
    joined(session.manifest, draft, release.max_version)  # refuses what can be refused
    bases_of(session, release)  # the same
    session.require_signers()
    staged = stage_images(session, release, progress)
    update = replace(draft, contents=staged.contents, packs=staged.packs)
    manifest = joined(session.manifest, update, release.max_version)
    final = manifest.find(*update.key) or update
    gone = tuple(old.version for old in session.manifest.updates if not manifest.find(*old.key))
    committed = session.commit(manifest, staged.files, now, _change(final, gone, release, now))
    return Outcome(
        update=final, committed=committed, targets=staged.files, root_hash=staged.root_hash, dropped=gone
    )


def _change(update: Update, dropped: Sequence[Version], release: NewRelease, now: datetime) -> Change:
    """Return the publication as the log of changes has it."""
    floor = (f"nodes below {update.floor} must pass through it first",) if update.floor else ()
    gone = tuple(f"took the withdrawn {version} off the manifest" for version in dropped)
    effects = (reach(update, now), *floor, *gone)
    return Change(action="publish", subject=str(update), effects=effects, reason=release.reason)


def _require_new_version(session: Session, draft: Update) -> None:
    """Refuse a version that was published before and is off the manifest: its name means other bytes."""
    if session.manifest.find(*draft.key):
        return  # the manifest itself refuses that, in better words
    stem = draft.images.boot.rpartition("-boot")[0]
    if _lists(session.listing, f"{stem}-boot"):
        raise ReleaseError(
            f"{draft} was published and withdrawn before", next_step="Publish under a new version number."
        )
    others: list[str | None] = [None, *session.published.channels]
    for other in others:
        if _lists(session.published.listing(other), f"{stem}-boot"):
            raise ReleaseError(
                f"{draft} is published in {role_of(other)}, and one version has one content",
                next_step=f"`repo-tools promote {draft.version}` brings it into another channel.",
            )
    if any(_logged(session, other, draft) for other in others):
        raise ReleaseError(
            f"{draft} was published and cleared away before", next_step="Publish under a new version number."
        )


def _lists(targets: Targets, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in targets.targets)


def _logged(session: Session, channel: str | None, draft: Update) -> bool:
    """Whether a log of changes tells that this release was published once."""
    entries = _entries(session.store.source, session.published.listing(channel), channel)
    published = (entry.change.subject for entry in entries if entry.change.action == "publish")
    return str(draft) in published


def _require_room(slots: Mapping[str, int], release: NewRelease) -> None:
    """Refuse images that do not fit the nodes' partitions, where repo.toml declares those."""
    for role, image in (("boot", release.boot), ("root", release.root), ("hash", release.hash)):
        if image is not None and role in slots and size_of(image) > slots[role]:
            raise ImageError(
                f"{image} has {size_of(image)} bytes; [slots] gives {role} {slots[role]}",
                next_step="Make the image smaller; or, if the nodes have more room, correct [slots].",
            )


def _check_words(release: NewRelease) -> None:
    for option, word in (("--variant", release.variant), ("--arch", release.arch)):
        try:
            target_word(word)
        except FaultsError as error:
            raise UsageError(
                f"{option}: {error.faults[0]}", next_step="Use letters, digits, '.', '_', '-'."
            ) from error


def joined(manifest: Manifest, update: Update, max_version: Version | None = None) -> Manifest:
    """Return the manifest with the release, read back so that nothing a node refuses is ever signed.

    Withdrawn releases that the new ``max_version`` would offer again are taken off.

    Raises:
        DuplicateUpdateError, ManifestError: it is there already, or does not fit.
    """
    after = manifest.with_update(update, max_version=max_version)
    limit = after.updates_of(update.variant, update.arch)[0].max_version  # the same on all of them
    for old in manifest.updates_of(update.variant, update.arch):
        if old.max_version < old.version <= limit:
            after = after.without_update(*old.key)
    return Manifest.from_json(after.to_json())


def _entry(release: NewRelease, session: Session, waves: Waves) -> Update:
    return Update(
        variant=release.variant,
        arch=release.arch,
        version=release.version,
        max_version=release.version,
        waves=waves,
        images=image_names(session, release),
        floor=release.floor,
    )


def policy_named(name: str) -> WavePolicy | None:
    """Return the policy of this built-in name or file path, None for ``none``. Raises PolicyError."""
    from pathlib import Path

    if name == OPEN_AT_ONCE:
        return None
    if name in BUILT_IN_POLICIES or not name.endswith(".toml"):
        return WavePolicy.built_in(name)
    try:
        return WavePolicy.from_toml(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MediumError(
            f"cannot read the wave policy {name}: {error}", next_step="Check --waves."
        ) from error


def waves_of(policy: WavePolicy | None, start: datetime) -> Waves:
    """Return the waves of a roll-out that starts at ``start``; none where there is no policy."""
    return policy.waves(start.replace(microsecond=0)) if policy else Waves()


def manifest_of(place: Path | str, channel: str | None = None) -> Manifest:
    """Return the verified manifest of a repository in a folder or behind a URL; expiry is not judged.

    Raises:
        ChannelError: there is no such channel.
        BrokenRepositoryError: it does not verify. ManifestError: the manifest has faults.
        RepositoryUnreachableError, MediumError: it cannot be read.
    """
    source = source_of(place)
    return read_manifest(source, complete(walk(source)).listing(channel), channel)


def log_of(place: Path | str, channel: str | None = None) -> list[Entry]:
    """Return the verified log of changes of a repository or channel, oldest first; expiry is not judged.

    Raises:
        ChannelError: there is no such channel.
        BrokenRepositoryError: it does not verify. ManifestError: the log has faults.
        RepositoryUnreachableError, MediumError: it cannot be read.
    """
    source = source_of(place)
    targets = complete(walk(source)).listing(channel)
    return _entries(source, targets, channel)


def _entries(source: Source, targets: Targets, channel: str | None) -> list[Entry]:
    """Return every change of a channel, oldest first, through all files of its log."""
    log = read_log(source, targets, name_in(channel, LOG))
    entries = list(log.entries)
    while log.earlier:
        name, following = log.earlier, entries[0].number
        log = read_log(source, targets, name_in(channel, name))
        if not log.entries or log.entries[-1].number != following - 1:
            raise BrokenRepositoryError(f"{name} does not end with change {following - 1}")
        entries = [*log.entries, *entries]
    return entries
