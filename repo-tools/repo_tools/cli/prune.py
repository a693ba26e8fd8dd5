"""``prune``: clear away old releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import SPAN, ask_secrets, current_time
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Newest releases on offer that stay, of each variant and architecture.",
)
@click.option(
    "--grace",
    type=SPAN,
    default="1d",
    show_default=True,
    help="How long files outlive the last metadata that led to them.",
)
@click.option("--channel", help="Whose releases.  [default: the top-level ones]")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
@example("repo-tools prune --keep 3 --dry-run", "repo-tools prune && repo-tools push --delete")
def prune(
    repo: Path, /, *, keep: int, grace: timedelta, channel: str | None, dry_run: bool, as_json: bool
) -> None:
    """Take old releases off the manifest, and remove files that no reader can be on the way to.

    A release that an older version has to pass through stays, whatever --keep says; so does what is held or
    withdrawn. Files go once their --grace is over: run it again, best daily. Metadata are never removed.

    Exit status: 0 done, 1 failed, 3 nothing to clear away, 75 another publisher is at work.
    """
    from repo_tools.prune import Wish, prune
    from repo_tools.render.prune import pruned_text

    wish = Wish(keep=keep, grace=grace, channel=channel, dry_run=dry_run)
    done = prune(repo, wish, now=current_time(), secrets=ask_secrets())
    emit(done.to_json() | {"dry_run": dry_run}, pruned_text(done, dry_run=dry_run), as_json=as_json)
