"""The images of one release on their way into the repository: named, packed, described, not yet published.

Rules:

* an image's target is named ``<name>-<variant>-<arch>-<version>-<role><suffix>.<zst or lz4>``;
* ``.zst`` images are seekable and come with deltas from earlier releases; ``.lz4`` ones are whole, as
  upstream's updog reads them;
* deltas are made from the last releases of the same family below the new one that are on offer, and from
  any other that is named; images are cut along the last ones whether or not deltas are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools import verity
from repo_tools.errors import ReleaseError
from repo_tools.images import Packing, Staged, pack_whole
from repo_tools.seekable import Base, Bench, Seekable
from repo_tools.store import file_of
from updog.update_metadata.manifest import Contents, Images
from updog.update_metadata.packs import Packs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from repo_tools.progress import Progress
    from repo_tools.release import NewRelease
    from repo_tools.session import Session
    from updog.update_metadata.manifest import Update

ROLES = ("boot", "root", "hash")
CUT_ALONG = 3  # earlier releases; more only make shorter chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedImages:
    """The targets of a release that are on the medium, but not yet where readers look.

    Attributes:
        images: by role. packs: what belongs to them, None where they are whole. others: its targets.
        root_hash: of the dm-verity tree, if it was made here.
    """

    images: Mapping[str, Staged]
    packs: Packs | None
    others: tuple[Staged, ...]
    root_hash: str | None

    @property
    def files(self) -> tuple[Staged, ...]:
        """All of them."""
        return (*self.images.values(), *self.others)

    @property
    def contents(self) -> Contents:
        """What the images unpack to."""
        contents = {role: item.content for role, item in self.images.items() if item.content}
        return Contents(boot=contents["boot"], root=contents["root"], hash=contents["hash"])


def packing_of(session: Session, release: NewRelease) -> Packing:
    """Return how the images of a release are compressed."""
    config = session.config
    return release.packing or Packing(compression=config.compression, level=config.level)


def image_names(session: Session, release: NewRelease) -> Images:
    """Return the target names of a release's images."""
    names = {role: _target_name(session, release, role) for role in ROLES}
    return Images(boot=names["boot"], root=names["root"], hash=names["hash"])


def bases_of(session: Session, release: NewRelease) -> tuple[list[Update], list[Update]]:
    """Return the earlier releases to cut along and those to make deltas from. Raises ReleaseError."""
    family = session.manifest.updates_of(release.variant, release.arch)
    below = [old for old in family if old.version < release.version and old.version <= old.max_version]
    wanted = session.config.deltas if release.deltas is None else release.deltas
    chosen = dict.fromkeys([*release.delta_from, *(old.version for old in below[:wanted])])
    known = {old.version: old for old in family if old.contents}
    for version in release.delta_from:
        if version not in known:
            raise ReleaseError(
                f"no delta can be made from {version}: nothing of it is published for this variant",
                next_step="Name a published version with --delta-from.",
            )
    return below[:CUT_ALONG], [known[version] for version in chosen if version in known]


def stage_images(session: Session, release: NewRelease, progress: Progress) -> StagedImages:
    """Pack the images of a release. Raises ToolError: of images, bases, dm-verity or the medium."""
    images, root_hash = _raw_images(session, release)
    packing = packing_of(session, release)
    names = {role: _target_name(session, release, role) for role in ROLES}
    if not packing.seekable:
        medium, folder = session.store.medium, session.store.staging
        whole = {
            role: pack_whole(
                medium, images[role], folder / name, name=name, level=packing.level, progress=progress
            )
            for role, name in names.items()
        }
        return StagedImages(images=whole, packs=None, others=(), root_hash=root_hash)
    made = {role: _seekable(session, release, role, images[role], progress) for role in ROLES}
    return StagedImages(
        images={role: item.image for role, item in made.items()},
        packs=Packs(boot=made["boot"].pack, root=made["root"].pack, hash=made["hash"].pack),
        others=tuple(file for item in made.values() for file in item.others),
        root_hash=root_hash,
    )


def _seekable(session: Session, release: NewRelease, role: str, image: Path, progress: Progress) -> Seekable:
    cut_along, deltas_from = bases_of(session, release)
    bench = Bench(
        medium=session.store.medium,
        folder=session.store.staging,
        level=packing_of(session, release).level,
        progress=progress,
    )
    return bench.stage(
        image,
        _target_name(session, release, role),
        cut_along=_bases(session, cut_along, role),
        deltas_from=_bases(session, deltas_from, role),
    )


def _bases(session: Session, updates: list[Update], role: str) -> Iterator[Base]:
    """Yield one image of earlier releases, where the manifest says what it unpacks to."""
    for update in updates:
        if update.contents is None:
            continue
        belongings = getattr(update.packs, role) if update.packs else None
        name = getattr(update.images, role)
        yield Base(
            version=update.version,
            name=name,
            content=getattr(update.contents, role),
            pack=_stored(session, name),
            index=_stored(session, belongings.index) if belongings else None,
            fingerprints=_stored(session, belongings.fingerprints) if belongings else None,
        )


def _stored(session: Session, name: str) -> Path:
    """Return where a published target is. Raises ReleaseError if nothing signed lists it."""
    listed = session.listing.targets.get(name)
    if listed is None:
        raise ReleaseError(f"{name} is in the manifest, but not signed; see `repo-tools validate`")
    return session.store.targets / file_of(name, listed.hashes["sha256"])


def _raw_images(session: Session, release: NewRelease) -> tuple[dict[str, Path], str | None]:
    """Return the raw images by role, and the root hash where the hash image was made here."""
    images = {"boot": release.boot, "root": release.root}
    if release.hash is not None:
        return {**images, "hash": release.hash}, None
    images["hash"] = session.store.staging / "hash.raw"
    name = release.name(session.config.name)
    return images, verity.make_hash_image(release.root, images["hash"], name=name)


def _target_name(session: Session, release: NewRelease, role: str) -> str:
    image = {"boot": release.boot, "root": release.root, "hash": release.hash}[role]
    suffix = image.suffix if image else ".verity"
    suffix = suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""
    return f"{release.name(session.config.name)}-{role}{suffix}{packing_of(session, release).ending}"
