"""``push``: bring the repository to where it is served from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import current_time, emit_last, existing
from signpost.console import example, json_option
from signpost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("destination", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be uploaded.")
@click.option("--delete", is_flag=True, help="Also delete targets there that `prune` removed here.")
@json_option
@click.pass_obj
@example("repo-tools push s3://updates-example/os", "repo-tools push /srv/www/updates")
def push(repo: Path, /, *, destination: str | None, dry_run: bool, delete: bool, as_json: bool) -> int:
    """Upload what is published here to s3://BUCKET/PREFIX or a folder, in a safe order.

    Targets first, timestamp.json last; what is there already is not uploaded again. A killed push leaves
    readers with the old release, and the next one completes it. What another publisher wrote stays.
    Without DESTINATION the one in repo.toml is taken.

    Exit status: 0 done, 1 not fit to be read, or another publisher was first, 2 wrong usage, 3 nothing to
    do, 5 destination unreachable.
    """
    from repo_tools import config
    from repo_tools.bar import reporting
    from repo_tools.destination import destination_of
    from repo_tools.push import GRACE, push
    from repo_tools.render.push import pushed_text

    place = destination or config.load(existing(repo)).destination
    if not place:
        raise UsageError(
            "no destination is given",
            next_step='Name one, or write destination = "s3://BUCKET/PREFIX" into repo.toml.',
        )
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        done = push(
            existing(repo),
            destination_of(place),
            now=current_time(),
            dry_run=dry_run,
            delete=GRACE if delete else None,
            progress=progress,
        )
    emit_last(done.to_json() | {"dry_run": dry_run}, pushed_text(done, dry_run=dry_run), as_json=as_json)
    return 0
