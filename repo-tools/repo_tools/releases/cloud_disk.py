"""A first disk as hypervisors and clouds take it: qcow2 or vmdk, made by ``qemu-img`` from the raw image.

Rules:

* the raw image is :mod:`first_disk`'s, complete and flushed before it is converted, beside the new file;
* the tool is looked for before anything is made;
* the file gets its name when it is complete and flushed; an existing one is never touched, a failure leaves
  none.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.image_build import tools
from repo_tools.releases import first_disk
from signpost.medium import OsMedium, opened
from signpost.progress import Progress, silent

if TYPE_CHECKING:
    from repo_tools.releases.first_disk import CreatedDisk, DiskPlan
    from repo_tools.releases.release import ReleaseName


class CloudFormat(StrEnum):
    """A format that clouds import."""

    QCOW2 = "qcow2"
    VMDK = "vmdk"


_OPTIONS = {
    CloudFormat.QCOW2: ("-c",),  # compressed, which every reader of qcow2 knows
    CloudFormat.VMDK: ("-o", "subformat=streamOptimized"),  # what an OVF package and importers take
}
_TOOL = "qemu-img"


def create(
    repository: Path,
    disk: Path,
    which: ReleaseName,
    *,
    form: CloudFormat,
    plan: DiskPlan | None = None,
    progress: Progress = silent,
) -> CreatedDisk:
    """Make ``disk`` in a cloud's format. Arguments and errors are those of :func:`first_disk.create`.

    Args:
        repository: folder of the repository.
        disk: path of the new file; must not exist.
        which: the release.
        form: the format.
        plan: what the disk should be like.
        progress: called as the raw image is written.

    Raises:
        ImageBuildError: qemu-img is missing, or failed.
    """
    tools.require([_TOOL])
    first_disk.require_absent(disk)
    medium = OsMedium()
    with tempfile.TemporaryDirectory(prefix=f".{disk.name}.", dir=disk.parent) as name:
        raw, made = Path(name, "raw"), Path(name, "made")
        created = first_disk.create(repository, raw, which, plan=plan, progress=progress)
        tools.run([_TOOL, "convert", "-f", "raw", "-O", form, *_OPTIONS[form], raw, made])
        with opened(medium, str(made), write=True) as descriptor:
            medium.flush(descriptor)
        first_disk.require_absent(disk)
        medium.rename(str(made), str(disk))
    medium.flush_folder(str(disk.parent))
    return replace(created, path=disk, format=form)
