"""``push``: upload the repository to where it is served from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import current_time, require_repository
from signpost.console import QuickCommand, emit_last, example, json_option, quiet_option
from signpost.errors import UsageError
from signpost.text import traffic_text

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.copies.push import Pushed


@click.command(cls=QuickCommand)
@click.argument("destination", required=False)
@click.option("--dry-run", is_flag=True, help="Only show what would be uploaded.")
@click.option("--delete", is_flag=True, help="Also delete targets there that `prune` removed here.")
@quiet_option
@json_option
@click.pass_obj
@example("repo-tools push s3://updates-example/os", "repo-tools push /srv/www/updates")
def push(
    repo: Path, /, *, destination: str | None, dry_run: bool, delete: bool, quiet: bool, as_json: bool
) -> int:
    """Upload the repository to s3://BUCKET/PREFIX or a folder.

    Uploads in a safe order: targets first, timestamp.json last; files that are already there are not uploaded
    again. If it is killed, readers see the old release, and the next push completes it. It never overwrites
    another publisher's files. DESTINATION is by default the one in repo.toml.

    Exit status: 0 done, 1 clients would refuse it, or another publisher was faster, 2 wrong usage, 3 nothing
    to do, 5 destination unreachable.
    """
    from repo_tools import config
    from repo_tools.copies.locations import destination_of
    from repo_tools.copies.push import GRACE, push
    from updog.progress import reporting

    folder = require_repository(repo)
    place = destination or config.load(folder).destination
    if not place:
        raise UsageError(
            "no destination is given",
            next_step='Name one, or write destination = "s3://BUCKET/PREFIX" into repo.toml.',
        )
    with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
        done = push(
            folder,
            destination_of(place),
            now=current_time(),
            dry_run=dry_run,
            delete=GRACE if delete else None,
            progress=progress,
        )
    emit_last(done.to_json() | {"dry_run": dry_run}, pushed_text(done, dry_run=dry_run), as_json=as_json)
    return 0


def pushed_text(done: Pushed, *, dry_run: bool) -> str:
    """Return what `push` did, or would do."""
    verb = "would upload" if dry_run else "uploaded"
    lines = [f"{verb} to {done.destination}: {len(done.targets)} targets, {traffic_text(done.length)}"]
    lines += [f"  {path}" for path in (*done.targets, *done.metadata)] if dry_run else []
    if done.deleted:
        lines.append(f"{'would delete' if dry_run else 'deleted'} {len(done.deleted)} targets there")
    if "metadata/timestamp.json" in done.metadata and not dry_run:
        lines.append("readers now see this repository")
    return "\n".join(lines)
