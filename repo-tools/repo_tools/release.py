"""Releases: publish one, change its waves, take it back.

Rules:

* what can be refused is refused before the first image is read: a version that is there already, waves that
  do not rise, keys that cannot be used;
* the manifest says of every image what it unpacks to, so that a node can read a slot back against it;
* taking back means lowering ``max_version`` to the release below: nodes above it go down to that one. Only
  the newest release on offer can be taken back; an older one is passed over anyway;
* a release that was taken back never comes back by itself: the next publish, which raises ``max_version``
  again, takes its entry off the manifest; and its version number is not used a second time;
* a command that names a release by version alone is refused where several variants have that version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools.chain import walk
from repo_tools.config import target_word
from repo_tools.errors import NothingToWithdrawError, ReleaseError
from repo_tools.images import Packing, Staged, size_of
from repo_tools.keys import Secrets, no_secrets
from repo_tools.progress import Progress, silent
from repo_tools.release_images import bases_of, image_names, stage_images
from repo_tools.session import Session, complete, read_manifest, writing
from repo_tools.source import source_of
from signpost.errors import MediumError, UsageError
from signpost.medium import OsMedium
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.manifest import Manifest, Update
from updog.update_metadata.version import Version
from updog.update_metadata.waves import BUILT_IN_POLICIES, WavePolicy, Waves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from updog.durable import Medium

OPEN_AT_ONCE = "none"
LOWEST_VERSION = Version.parse("0.0.0-0")
"""Below every version there can be (semver §11): as ``max_version`` it takes everything off offer."""


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
        versions: role → its new version; empty if nothing was written.
        targets: what was added. root_hash: of the dm-verity tree, if it was made here.
        dropped: withdrawn releases that were taken off the manifest, so as not to come back.
    """

    update: Update
    versions: Mapping[str, int]
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
            "metadata": dict(self.versions),
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
    with writing(folder, medium or OsMedium(), secrets) as session:
        return _publish(session, release, now, progress)


def _publish(session: Session, release: NewRelease, now: datetime, progress: Progress) -> Outcome:
    policy = policy_named(release.waves or session.config.waves)
    draft = _entry(release, session, waves_of(policy, release.start_at or now))
    _require_new_version(session, draft)
    _with(session.manifest, draft, release)  # refuses what can be refused
    bases_of(session, release)  # the same
    session.require_signers()
    staged = stage_images(session, release, progress)
    update = replace(draft, contents=staged.contents, packs=staged.packs)
    manifest = _with(session.manifest, update, release)
    versions = session.commit(manifest, staged.files, now)
    final = manifest.find(*update.key) or update
    gone = tuple(old.version for old in session.manifest.updates if not manifest.find(*old.key))
    return Outcome(
        update=final, versions=versions, targets=staged.files, root_hash=staged.root_hash, dropped=gone
    )


def _require_new_version(session: Session, draft: Update) -> None:
    """Refuse a version that was published before and is off the manifest: its name means other bytes."""
    if session.manifest.find(*draft.key):
        return  # the manifest itself refuses that, in better words
    stem = draft.images.boot.rpartition("-boot")[0]
    if any(name.startswith(f"{stem}-boot") for name in session.published.targets.signed.targets):
        raise ReleaseError(
            f"{draft} was published and withdrawn before", next_step="Publish under a new version number."
        )


def _check_words(release: NewRelease) -> None:
    for option, word in (("--variant", release.variant), ("--arch", release.arch)):
        try:
            target_word(word)
        except FaultsError as error:
            raise UsageError(
                f"{option}: {error.faults[0]}", next_step="Use letters, digits, '.', '_', '-'."
            ) from error


def _with(manifest: Manifest, update: Update, release: NewRelease) -> Manifest:
    """Return the manifest with the release, read back so that nothing a node refuses is ever signed.

    Withdrawn releases that the new ``max_version`` would offer again are taken off.
    """
    after = manifest.with_update(update, max_version=release.max_version)
    limit = after.updates[-1].max_version
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


def set_waves(
    folder: Path,
    which: Which,
    waves: Waves,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Outcome:
    """Give a published release other waves.

    Raises:
        ToolError: ReleaseError, ManifestError, SigningKeyError, ThresholdError, RepositoryBusyError,
            BrokenRepositoryError or MediumError.
    """
    with writing(folder, medium or OsMedium(), secrets) as session:
        update = which.of(session.manifest)
        manifest = session.manifest.with_waves(*update.key, waves)
        versions = session.commit(manifest, [], now)
        return Outcome(update=replace(update, waves=waves), versions=versions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """What taking a release back means.

    Attributes:
        update: the release. before: max_version now. after: max_version then.
        falls_to: the release its nodes go down to; None if there is none below it.
    """

    update: Update
    before: Version
    after: Version
    falls_to: Update | None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as ``--json`` prints it."""
        return {
            "variant": self.update.variant,
            "arch": self.update.arch,
            "version": str(self.update.version),
            "max_version": {"before": str(self.before), "after": str(self.after)},
            "nodes_go_to": str(self.falls_to.version) if self.falls_to else None,
        }


def plan_withdrawal(manifest: Manifest, which: Which) -> Withdrawal:
    """Return what withdrawing a release would change. PURE.

    Raises:
        ReleaseError: it is not published, or a newer one is on offer.
        NothingToWithdrawError: it is withdrawn already.
    """
    update = which.of(manifest)
    family = manifest.updates_of(update.variant, update.arch)
    if update.version > update.max_version:
        raise NothingToWithdrawError(f"{update} is withdrawn already (max_version {update.max_version})")
    newer = [other for other in family if update.version < other.version <= other.max_version]
    if newer:
        raise ReleaseError(
            f"{newer[0].version} is on offer above {update.version}, so nodes pass {update.version} over",
            next_step=f"If {newer[0].version} is bad as well, withdraw that first.",
        )
    below = next((other for other in family if other.version < update.version), None)
    after = below.version if below else LOWEST_VERSION
    return Withdrawal(update=update, before=update.max_version, after=after, falls_to=below)


def withdraw(
    folder: Path,
    which: Which,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[Withdrawal, Mapping[str, int]]:
    """Take a release back; return what changed and the new metadata versions by role.

    Raises:
        ToolError: those of :func:`plan_withdrawal`, and SigningKeyError, ThresholdError,
            RepositoryBusyError, BrokenRepositoryError or MediumError.
    """
    with writing(folder, medium or OsMedium(), secrets) as session:
        plan = plan_withdrawal(session.manifest, which)
        manifest = session.manifest.with_max_version(plan.update.variant, plan.update.arch, plan.after)
        return plan, session.commit(manifest, [], now)


def manifest_of(place: Path | str) -> Manifest:
    """Return the verified manifest of a repository in a folder or behind a URL; expiry is not judged.

    Raises:
        BrokenRepositoryError: it does not verify. ManifestError: the manifest has faults.
        RepositoryUnreachableError, MediumError: it cannot be read.
    """
    source = source_of(place)
    return read_manifest(source, complete(walk(source)).targets.signed)
