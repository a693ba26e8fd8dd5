"""What a publish will do, decided once from the repository and the request, before an image is read.

Rules:

* what can be refused is refused here: a version that was used before, waves that do not rise, an image that
  does not fit the nodes' partitions, a delta base that is not published, keys that are too few to sign;
* a version number is never used a second time: under one name there is one content;
* an image's target is named ``<name>-<variant>-<arch>-<version>-<image><suffix>.<zst or lz4>``;
* deltas are made from the last releases below the new one that are on offer for the same variant and
  architecture, and from any other that is named; chunks are cut along the last ones even without deltas;
* what a node would refuse in the manifest is refused here: the manifest with the release is written and read
  back. Afterwards only what the images contain is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.config import target_word
from repo_tools.errors import ImageError, ReleaseError
from repo_tools.images.packing import Packing, size_of
from repo_tools.images.seekable import DeltaBase
from repo_tools.images.verity import hash_image_size
from repo_tools.releases.release import AddedRelease, add_release, policy_named, waves_of
from repo_tools.repository.published import PublishedTarget, logged_changes
from repo_tools.trust.channels import role_of
from signpost.errors import UsageError
from signpost.sets import ImageKind
from updog.update_metadata.by_image import ByImage
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.manifest import Images, Update

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Targets

    from repo_tools.releases.release import NewRelease
    from repo_tools.repository.session import Session
    from updog.update_metadata.manifest import Manifest
    from updog.update_metadata.version import Version

CUT_ALONG = 3  # earlier releases; more only make shorter chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedImage:
    """One image of a release.

    Attributes:
        raw: path of the raw image; None for a dm-verity image that is made from root.
        target: name of its target.
        cut_along, deltas_from: the same image of earlier releases.
    """

    raw: Path | None
    target: str
    cut_along: tuple[DeltaBase, ...]
    deltas_from: tuple[DeltaBase, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasePlan:
    """How a release is published, once nothing known beforehand forbids it.

    Attributes:
        release: as it was requested. name: how all its targets begin.
        packing: of its images. images: how each is made.
        added: the manifest with the release, without what the images contain.
    """

    release: NewRelease
    name: str
    packing: Packing
    images: ByImage[PlannedImage]
    added: AddedRelease

    def to_json(self, now: datetime) -> dict[str, Any]:
        """Return the plan as ``publish --dry-run --json`` prints it."""
        update = self.added.update
        return {
            "variant": update.variant,
            "arch": update.arch,
            "version": str(update.version),
            "max_version": str(update.max_version),
            "waves": update.waves.to_json(),
            "urgent": update.urgent or None,
            "images": [image.target for image in self.images.values()],
            "deltas_from": sorted(
                {str(base.version) for image in self.images.values() for base in image.deltas_from}
            ),
            "effects": list(self.added.effects(now)),
            "dropped": [str(version) for version in self.added.dropped],
            "dry_run": True,
        }


def plan_release(session: Session, release: NewRelease, *, now: datetime) -> ReleasePlan:
    """Return how a release is published. Reads and writes no image.

    Raises:
        UsageError: a word cannot be part of a target's name. PolicyError: the waves do not rise.
        ReleaseError: the version was used before, or a base is not there.
        DuplicateUpdateError: the version is published. ManifestError: the entry has faults.
        ImageError: an image cannot be read or does not fit. VerityError: root has no whole blocks.
        ThresholdError: too few keys are available. SigningKeyError: one of them cannot be used.
    """
    session.require_live_root(now)
    _require_target_words(release)
    raws: ByImage[Path | None] = ByImage(boot=release.boot, root=release.root, hash=release.hash)
    _require_room(session.config.slots, raws)
    packing = release.packing or Packing(compression=session.config.compression, level=session.config.level)
    # "+" of a version is "_" in names, because buckets treat it as a space.
    name = f"{session.config.name}-{release.variant}-{release.arch}-{release.version}".replace("+", "_")
    targets = Images.made(lambda kind: f"{name}-{kind}{_suffix(raws.of(kind))}{packing.ending}")
    policy = policy_named(release.waves or session.config.waves)
    draft = Update(
        variant=release.variant,
        arch=release.arch,
        version=release.version,
        max_version=release.version,
        waves=waves_of(policy, release.start_at or now),
        images=targets,
        floor=_floor(session.manifest, release),
        urgent=release.urgent,
        published=now.replace(microsecond=0),
    )
    added = add_release(session.manifest, draft, release.max_version)
    _require_unused(session, draft, beginning=f"{name}-{ImageKind.BOOT}")
    cut_along, deltas_from = _predecessors(session, release)
    session.require_signers()
    return ReleasePlan(
        release=release,
        name=name,
        packing=packing,
        images=ByImage.made(
            lambda kind: PlannedImage(
                raw=raws.of(kind),
                target=targets.of(kind),
                cut_along=_bases(session, cut_along, kind),
                deltas_from=_bases(session, deltas_from, kind),
            )
        ),
        added=added,
    )


def _floor(manifest: Manifest, release: NewRelease) -> Version | None:
    """Return the floor of a new release: the given one, or that of the release below it: it is still needed.

    Raises ReleaseError for a floor that is not below the release.
    """
    family = manifest.updates_of(release.variant, release.arch)
    below = [old for old in family if old.version < release.version and old.version <= old.max_version]
    if release.floor is None:
        return below[0].floor if below and not release.no_floor else None
    if release.floor >= release.version:
        offered = ", ".join(str(old.version) for old in below) or "none"
        raise ReleaseError(
            f"--floor {release.floor}: no such release is published below {release.version}, so that no node "
            "could reach this one",
            next_step=f"Name one of the releases below {release.version} that are on offer: {offered}.",
        )
    return release.floor


def require_unchanged(session: Session, before: ReleasePlan, after: ReleasePlan) -> None:
    """Refuse images that were made by a plan which is outdated. Raises ReleaseError.

    Args:
        session: what is published now.
        before: what the images were made by.
        after: the plan for what is published now.
    """
    again = "Run the command again."
    names = [image.target for image in before.images.values()]
    if names != [image.target for image in after.images.values()]:
        raise ReleaseError("repo.toml was changed while the images were compressed", next_step=again)
    release = before.release
    for kind, image in before.images.items():
        for base in image.deltas_from:
            old = session.manifest.find(release.variant, release.arch, base.version)
            listed = session.current_targets.targets.get(base.name)
            if (
                old is None
                or old.contents is None
                or old.contents.of(kind) != base.content
                or listed is None
                or listed.hashes.get("sha256") != base.sha256
            ):
                raise ReleaseError(
                    f"{base.version} was removed while a delta from it was made", next_step=again
                )


def _require_target_words(release: NewRelease) -> None:
    for option, word in (("--variant", release.variant), ("--arch", release.arch)):
        try:
            target_word(word)
        except FaultsError as error:
            raise UsageError(
                f"{option}: {error.faults[0]}", next_step="Use letters, digits, '.', '_', '-'."
            ) from error


def _require_room(slots: Mapping[str, int], raws: ByImage[Path | None]) -> None:
    """Refuse images that are missing, empty, or larger than the nodes' partitions in repo.toml.

    Raises ImageError, and VerityError where no dm-verity image can be made from root.
    """
    sizes = {kind: size_of(raw) for kind, raw in raws.items() if raw is not None}
    if ImageKind.HASH not in sizes:
        sizes[ImageKind.HASH] = hash_image_size(sizes[ImageKind.ROOT])
    for kind, size in sizes.items():
        if size > slots.get(kind, size):
            image = raws.of(kind) or "the dm-verity image"
            raise ImageError(
                f"{image} has {size} bytes; [slots] gives {kind} {slots[kind]}",
                next_step="Make the image smaller; or, if the nodes have more room, correct [slots].",
            )


def _suffix(raw: Path | None) -> str:
    """Return the part of an image's file name that its target keeps."""
    suffix = raw.suffix if raw else ".verity"
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""


def _require_unused(session: Session, update: Update, *, beginning: str) -> None:
    """Refuse a version that is off the manifest but was published before: its name means other bytes."""
    for other in session.manifest.updates:
        if other.key != update.key and other.images.boot.startswith(beginning):
            raise ReleaseError(
                f"{update} and {other}, which is published, give the same file names, {beginning}…",
                next_step="Choose a --variant or an --arch whose words do not run into each other.",
            )
    if _lists(session.current_targets, beginning):
        raise ReleaseError(
            f"{update} was published and withdrawn before", next_step="Publish under a new version number."
        )
    channels: list[str | None] = [None, *session.published.channels]
    for channel in channels:
        if _lists(session.published.targets_of(channel), beginning):
            raise ReleaseError(
                f"{update} is published in {role_of(channel)}, and one version has one content",
                next_step=f"`repo-tools promote {update.version}` brings it into another channel.",
            )
    for channel in channels:
        entries = logged_changes(session.store.source, session.published.targets_of(channel), channel)
        if any(entry.change.action == "publish" and entry.change.subject == str(update) for entry in entries):
            raise ReleaseError(
                f"{update} was published and cleared away before",
                next_step="Publish under a new version number.",
            )


def _lists(targets: Targets, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in targets.targets)


def _predecessors(session: Session, release: NewRelease) -> tuple[list[Update], list[Update]]:
    """Return the earlier releases to cut along and those to make deltas from. Raises ReleaseError."""
    family = session.manifest.updates_of(release.variant, release.arch)
    known = {old.version: old for old in family if old.contents}
    for version in release.delta_from:
        if version not in known:
            raise ReleaseError(
                f"no delta can be made from {version}: nothing of it is published for this variant",
                next_step="Name a published version with --delta-from.",
            )
    below = [old for old in family if old.version < release.version and old.version <= old.max_version]
    count = session.config.deltas if release.deltas is None else release.deltas
    chosen = dict.fromkeys([*release.delta_from, *(old.version for old in below[:count] if old.contents)])
    return below[:CUT_ALONG], [known[version] for version in chosen]


def _bases(session: Session, updates: list[Update], kind: ImageKind) -> tuple[DeltaBase, ...]:
    """Return one image of earlier releases, of those where the manifest says what it unpacks to."""
    bases = []
    for update in updates:
        if update.contents is None:
            continue
        image = _published(session, update.images.of(kind))
        beside = update.packs.of(kind) if update.packs else None
        bases.append(
            DeltaBase(
                version=update.version,
                name=image.name,
                length=image.length,
                sha256=image.sha256,
                content=update.contents.of(kind),
                pack=_path(session, image.name),
                index=_path(session, beside.index) if beside else None,
                fingerprints=_path(session, beside.fingerprints) if beside else None,
            )
        )
    return tuple(bases)


def _path(session: Session, name: str) -> Path:
    return session.store.folder / _published(session, name).path


def _published(session: Session, name: str) -> PublishedTarget:
    """Return a target that the manifest names.

    Raises:
        ReleaseError: no signed metadata list it.
        TargetError: what they list is not a file's name and SHA-256.
    """
    listed = session.current_targets.targets.get(name)
    if listed is None:
        raise ReleaseError(f"{name} is in the manifest, but not signed; see `repo-tools validate`")
    return PublishedTarget.of(name, listed)
