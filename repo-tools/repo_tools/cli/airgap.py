"""``mirror`` and ``bundle``: a verified copy of a repository, complete or for given nodes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import PATH, TIME, VERSION, current_time
from signpost.console import QuickCommand, QuickGroup, emit, emit_last, example, json_option, quiet_option
from signpost.text import size_text, traffic_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any

    from repo_tools.copies.bundle import Bundle
    from repo_tools.copies.clone import Copied
    from updog.update_metadata.version import Version


_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show what would be copied; write nothing.")


def _copy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of both commands that copy a repository."""
    for option in (
        click.option(
            "--trusted-root",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="A root.json that you trust; required the first time.",
        ),
        click.option(
            "--accept-expired-until",
            type=TIME,
            help="Accept expired metadata until this time; recorded in overrides.jsonl.",
        ),
        _DRY_RUN,
    ):
        command = option(command)
    return command


@click.command(cls=QuickCommand)
@click.argument("source", metavar="URL_OR_DIR")
@click.argument("folder", type=PATH)
@_copy_options
@click.option("--delete", is_flag=True, help="Remove targets that neither the old nor the new metadata list.")
@quiet_option
@json_option
@example(
    "repo-tools mirror https://updates.example.com /srv/mirror \\",
    "  --trusted-root root.json",
    "repo-tools mirror https://updates.example.com /srv/mirror",
)
def mirror(
    source: str,
    folder: Path,
    *,
    trusted_root: Path | None,
    accept_expired_until: datetime | None,
    delete: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Copy and verify a repository, or update the copy.

    Verifies the repository as a client does. Fetches only what is missing, and resumes interrupted downloads.
    Readers of the copy see the old state or the new one. --dry-run verifies the metadata only.
    With --json: one JSON object per line; the last one is the result.

    Exit status: 0 done, 1 it does not verify, 2 wrong usage, 5 unreachable, 75 another program is writing.
    """
    from repo_tools.repository.published import published_targets
    from repo_tools.trust.source import source_of

    _copy(
        source_of(source),
        folder,
        select_targets=lambda verified: published_targets(verified.chain),
        trusted_root=trusted_root,
        until=accept_expired_until,
        delete=delete,
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )


@click.group(cls=QuickGroup)
@example("repo-tools --repo demo bundle export bundle.tar --from 1.0.0")
def bundle() -> None:
    """Carry updates to places without a network."""


@bundle.command("export")
@click.argument("place", type=PATH)
@click.option(
    "--from",
    "starts",
    type=VERSION,
    multiple=True,
    help="A version that nodes run.  [default: all published]",
)
@click.option("--variant", help="Only for nodes of this variant.")
@click.option("--arch", help="Only for nodes of this architecture.")
@click.option("--channel", help="Channel that the nodes follow.  [default: the top-level releases]")
@_DRY_RUN
@quiet_option
@json_option
@click.pass_obj
@example("repo-tools --repo demo bundle export bundle.tar --from 1.0.0 --from 1.1.0")
def export(
    repo: Path,
    /,
    place: Path,
    *,
    starts: tuple[Version, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **nodes: Any,
) -> None:
    """Export what nodes need to reach the newest release.

    The bundle is for nodes at the versions given with --from. PLACE is a single file if its name ends in
    .tar, otherwise a folder that nodes can use with file:// URLs. It contains all roots, the current
    metadata, and the targets that these nodes fetch on their upgrade path.

    Exit status: 0 done, 1 the repository is incomplete or has expired, or a version cannot reach the newest.
    """
    from repo_tools.copies.bundle import Nodes, export, plan_export
    from updog.progress import reporting

    wanted, now = Nodes(starts=starts, **nodes), current_time()
    if dry_run:
        planned = plan_export(repo, place, wanted, now=now)
        emit(planned.to_json() | {"dry_run": True}, bundle_text(planned, dry_run=True), as_json=as_json)
        return
    with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
        done = export(repo, place, wanted, now=now, progress=progress)
    emit_last(done.to_json(), bundle_text(done), as_json=as_json)


@bundle.command("import")
@click.argument("place", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=PATH)
@_copy_options
@quiet_option
@json_option
@example("repo-tools bundle import bundle.tar /srv/updates --trusted-root root.json")
def import_(
    place: Path,
    folder: Path,
    *,
    trusted_root: Path | None,
    accept_expired_until: datetime | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Import a bundle into a folder that nodes read.

    Verifies the bundle as a client does. Readers of the folder see the old state or the new one.

    Exit status: 0 done, 1 it does not verify, 2 wrong usage, 75 another program is writing.
    """
    from repo_tools.copies.bundle import BundleSource, bundled_targets
    from repo_tools.trust.source import FolderSource

    _copy(
        FolderSource(place) if place.is_dir() else BundleSource(place),
        folder,
        select_targets=bundled_targets,
        trusted_root=trusted_root,
        until=accept_expired_until,
        delete=False,
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )


def _copy(
    source: Any,
    folder: Path,
    *,
    select_targets: Callable[[Any], Any],
    trusted_root: Path | None,
    until: datetime | None,
    delete: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from repo_tools.copies.clone import copy, plan_copy, verify_source
    from updog.progress import reporting

    now = current_time()
    root = trusted_root.read_bytes() if trusted_root else None
    verified = verify_source(source, folder, trusted_root=root, now=now, accept_expired_until=until)
    if dry_run:
        planned = plan_copy(verified, folder, select_targets(verified), delete=delete)
        emit(planned.to_json() | {"dry_run": True}, copied_text(planned, dry_run=True), as_json=as_json)
        return
    with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
        done = copy(verified, folder, select_targets(verified), delete=delete, progress=progress)
    emit_last(done.to_json(), copied_text(done), as_json=as_json)


def copied_text(done: Copied, *, dry_run: bool = False) -> str:
    """Return what `mirror` or `bundle import` did, or would do."""
    new = f"{len(done.targets)} new targets ({traffic_text(done.length)}), {done.kept} unchanged"
    lines = [f"{done.folder} {'would have' if dry_run else 'has'} timestamp {done.version}: {new}"]
    if done.removed:
        verb = "would remove" if dry_run else "removed"
        lines.append(f"{verb} {len(done.removed)} targets that no metadata list")
    if done.accepted_expired:
        recorded = "" if dry_run else " and recorded"
        lines.append(f"EXPIRED, accepted{recorded}: {', '.join(done.accepted_expired)}")
    return "\n".join(lines)


def bundle_text(done: Bundle, *, dry_run: bool = False) -> str:
    """Return what `bundle export` did, or would do."""
    verb = "would create" if dry_run else "created"
    lines = [f"{verb} {done.place}: {done.targets} targets, {size_text(done.length)}"]
    for item in done.paths:
        path = " -> ".join(
            str(version) for version in (item.path.start, *(s.version for s in item.path.steps))
        )
        newest = "" if item.path.steps else " is the newest"
        lines.append(f"  {item.variant} {item.arch} {path}{newest}")
    return "\n".join(lines)
