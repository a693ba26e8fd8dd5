"""The images of one release on their way into the repository: packed, described, not yet published.

``.zst`` images are seekable and come with deltas from earlier releases; ``.lz4`` ones are whole, as
upstream's updog reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.images.inspection import inspect_images
from repo_tools.images.packing import Staged, pack_whole
from repo_tools.images.seekable import SeekableStager
from repo_tools.images.verity import make_hash_image, require_tree_of
from signpost.sets import ImageKind
from updog.update_metadata.manifest import Contents
from updog.update_metadata.packs import Packs

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.images.verity import HashImage
    from repo_tools.releases.plan import ReleasePlan
    from signpost.progress import Progress
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedImages:
    """The targets of a release that are on the medium, but not yet where readers look.

    Attributes:
        files: all of them, the three images first. contents: what the images unpack to.
        packs: what belongs to the images, None where they are whole.
        root_hash: of the dm-verity tree, if it was made here.
        not_inspected: which images were not inspected and why, one sentence each.
    """

    files: tuple[Staged, ...]
    contents: Contents
    packs: Packs | None
    root_hash: str | None
    not_inspected: tuple[str, ...]


def stage_images(plan: ReleasePlan, folder: Path, medium: Medium, progress: Progress) -> StagedImages:
    """Pack the images of a release into files in ``folder``.

    Raises:
        ImageError, VerityError, StoredImageError, MediumError: of images, dm-verity, delta bases, the medium.
    """
    raws, root_hash, not_inspected = _raw_images(plan, folder)
    level = plan.packing.level
    if plan.packing.seekable:
        stager = SeekableStager(medium=medium, folder=folder, level=level, progress=progress)
        made = {
            kind: stager.stage(
                raws[kind], image.target, cut_along=image.cut_along, deltas_from=image.deltas_from
            )
            for kind, image in plan.images.items()
        }
        images = {kind: item.image for kind, item in made.items()}
        others = [file for item in made.values() for file in item.others]
        packs = Packs.made(lambda kind: made[kind].pack)
    else:
        images = {
            kind: pack_whole(
                medium,
                raws[kind],
                folder / image.target,
                name=image.target,
                level=level,
                progress=progress,
            )
            for kind, image in plan.images.items()
        }
        others, packs = [], None
    contents = {kind: image.content for kind, image in images.items() if image.content}
    return StagedImages(
        files=(*images.values(), *others),
        contents=Contents.made(contents.__getitem__),
        packs=packs,
        root_hash=root_hash,
        not_inspected=not_inspected,
    )


def _raw_images(plan: ReleasePlan, folder: Path) -> tuple[dict[ImageKind, Path], str | None, tuple[str, ...]]:
    """Return the raw images, the root hash where the dm-verity image was made here, what was not inspected.

    Raises ImageError and VerityError for images that are not of one release, or that do not boot.
    """
    given = {kind: image.raw for kind, image in plan.images.items() if image.raw is not None}
    made: dict[ImageKind, Path] = {}
    root_hash: str | None = None
    tree: HashImage | str | None
    if ImageKind.HASH in given:
        tree = require_tree_of(given[ImageKind.ROOT], given[ImageKind.HASH])
    else:
        made[ImageKind.HASH] = folder / "hash.raw"
        tree = root_hash = make_hash_image(given[ImageKind.ROOT], made[ImageKind.HASH], name=plan.name)
    release = plan.release
    inspection = inspect_images(given, tree, release.arch, deep=release.inspect)
    inspection.require(given)
    return {**given, **made}, root_hash, inspection.notes
