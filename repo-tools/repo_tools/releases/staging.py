"""The images of one release on their way into the repository: packed, described, not yet published.

``.zst`` images are seekable and come with deltas from earlier releases; ``.lz4`` ones are whole, as
upstream's updog reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from repo_tools.errors import ImageError
from repo_tools.images.contents import ImageContents
from repo_tools.images.packing import Staged, pack_whole
from repo_tools.images.seekable import SeekableStager
from repo_tools.images.verity import make_hash_image, require_tree_of
from signpost.sets import ImageKind
from updog.update_metadata.manifest import Contents
from updog.update_metadata.packs import Packs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from repo_tools.releases.plan import ReleasePlan
    from signpost.progress import Progress
    from updog.durable import Medium


_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedImages:
    """The targets of a release that are on the medium, but not yet where readers look.

    Attributes:
        files: all of them, the three images first. contents: what the images unpack to.
        packs: what belongs to the images, None where they are whole.
        root_hash: of the dm-verity tree, if it was made here.
    """

    files: tuple[Staged, ...]
    contents: Contents
    packs: Packs | None
    root_hash: str | None


def stage_images(plan: ReleasePlan, folder: Path, medium: Medium, progress: Progress) -> StagedImages:
    """Pack the images of a release into files in ``folder``.

    Raises:
        ImageError, VerityError, StoredImageError, MediumError: of images, dm-verity, delta bases, the medium.
    """
    raws, root_hash = _raw_images(plan, folder)
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
    )


def _raw_images(plan: ReleasePlan, folder: Path) -> tuple[dict[ImageKind, Path], str | None]:
    """Return the raw images, and the root hash where the dm-verity image was made here."""
    given = {kind: image.raw for kind, image in plan.images.items() if image.raw is not None}
    if ImageKind.HASH in given:
        image = require_tree_of(given[ImageKind.ROOT], given[ImageKind.HASH])
        _require_fitting(given, lambda boot: boot.names_root_other_than(image) if image else "")
        return given, None
    made = folder / "hash.raw"
    root_hash = make_hash_image(given[ImageKind.ROOT], made, name=plan.name)
    _require_fitting(given, lambda boot: boot.names_other_root(root_hash))
    return {**given, ImageKind.HASH: made}, root_hash


def _require_fitting(raws: Mapping[ImageKind, Path], other_root: Callable[[ImageContents], str]) -> None:
    """Refuse images that were exchanged, and a boot image that starts another root. Raises ImageError."""
    for kind in sorted(raws, key=lambda kind: kind is ImageKind.BOOT):  # exchanged images explain the rest
        path, contents = raws[kind], ImageContents()
        try:
            with path.open("rb") as stream:
                for _ in contents.watched(iter(partial(stream.read, _READ_BYTES), b"")):
                    if kind is not ImageKind.BOOT:  # the first block tells the format
                        break
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        if fault := contents.misplaced(kind):
            raise ImageError(f"{path}: {fault}")
        if kind is ImageKind.BOOT and (fault := other_root(contents)):
            raise ImageError(
                f"{path}: {fault}",
                next_step="Pass the three images of one build; a boot image is built after its hash image.",
            )
