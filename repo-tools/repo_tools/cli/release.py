"""``release``: from a root file system or a container image to a signed release, for CI."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.disk import disk_text
from repo_tools.cli.images import read_source, said, source_options
from repo_tools.cli.options import (
    PATH,
    ask_secrets,
    leave_if_pending,
    require_repository,
    which_release,
)
from repo_tools.cli.publish import OFFER, offered, release_options
from signpost.console import QuickCommand, emit_last, example, json_option, quiet_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("release", cls=QuickCommand)
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option(
    "--out", metavar="DIR", type=PATH, help="Folder that keeps the images.  [default: they are removed]"
)
@click.option(
    "--disk",
    metavar="FILE",
    type=PATH,
    help="Also create a disk image with this release, which boots by itself, by SOURCE's own kernel.",
)
@source_options
@release_options
@quiet_option
@json_option
@click.pass_obj
@example(
    "repo-tools release box.tar --variant box --version 1.0.0 --disk node.img",
    "repo-tools release box.tar --variant box --version 1.1.0 --waves default",
)
def release(
    repo: Path,
    /,
    *,
    source: Path,
    out: Path | None,
    disk: Path | None,
    quiet: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Build images from a root file system, and publish them.

    This is `images build` and `publish` in one. SOURCE is what `images build` takes. Nodes trust this
    repository, unless --trusted-root is given. With --json: one JSON object per line; the last one is the
    result.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the version or FILE already exists, 3 NOT in force yet:
    other holders must sign, 75 busy.
    """
    from repo_tools.image_build.build import build, scratch_in
    from repo_tools.image_build.stage import build_stage
    from repo_tools.releases import first_disk
    from repo_tools.releases.publish import publish
    from repo_tools.releases.release import NewRelease
    from repo_tools.render.releases import published_text
    from updog.progress import reporting
    from updog.update_metadata.version import Version

    folder = require_repository(repo)
    offer = offered({name: chosen.pop(name) for name in OFFER})
    chosen["trusted_root"] = chosen["trusted_root"] or newest_root(folder)
    secrets, say = ask_secrets(), said(quiet=quiet or as_json)
    if disk is not None:
        first_disk.require_absent(disk)
    with scratch_in(out or folder.absolute().parent) as scratch:
        found, request = read_source(source, scratch, say, **chosen)
        stage = build_stage(found.tree, scratch, kernel=request.kernel) if disk else None
        built = build(found.tree, out or scratch / "images", request, source=found.facts, progress=say)
        images: dict[str, Any] = {str(kind): image.path for kind, image in built.images.items()}
        version = Version.parse(built.version)
        new = NewRelease(variant=built.variant, arch=built.arch, version=version, **images, **offer)
        with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
            outcome = publish(folder, new, secrets=secrets, progress=progress)
            created = None
            if disk is not None and outcome.committed.pending is None:
                which = which_release(version, built.variant, built.arch)
                plan = first_disk.DiskPlan(boot_stage=stage, channel=offer["channel"])
                created = first_disk.create(folder, disk, which, plan=plan, progress=progress)
    document = {**outcome.to_json(), **({"disk": created.to_json()} if created else {})}
    text = published_text(outcome) + (f"\n{disk_text(created)}" if created else "")
    emit_last(document, text, as_json=as_json)
    leave_if_pending(outcome.committed)


def newest_root(folder: Path) -> Path:
    """Return the file of a repository's newest root role. Raises BrokenRepositoryError."""
    from repo_tools.errors import BrokenRepositoryError
    from repo_tools.trust.chain import versions_among

    metadata = folder / "metadata"
    found = versions_among([path.name for path in metadata.glob("*")], "root")
    if not found:
        raise BrokenRepositoryError(f"{metadata} has no root.json")
    return metadata / f"{found[-1]}.root.json"
