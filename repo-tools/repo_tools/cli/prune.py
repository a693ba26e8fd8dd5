"""``prune``: remove old releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import SPAN, ask_secrets, current_time, leave_if_pending
from repo_tools.render.channels import committed_text
from repo_tools.text import versions_text
from signpost.console import QuickCommand, emit, example, json_option
from signpost.text import size_text

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from repo_tools.upkeep.prune import Pruned


@click.command(cls=QuickCommand)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of newest releases on offer that stay, per variant and architecture.",
)
@click.option(
    "--grace",
    type=SPAN,
    default="1d",
    show_default=True,
    help="How long files stay after the last metadata that listed them.",
)
@click.option("--channel", help="Channel of the releases.  [default: the top-level releases]")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@json_option
@click.pass_obj
@example("repo-tools prune --keep 3 --dry-run", "repo-tools prune && repo-tools push --delete")
def prune(
    repo: Path, /, *, keep: int, grace: timedelta, channel: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove old releases, and files that no reader needs.

    Releases are removed from the manifest at once; their files later, after --grace, when no reader can be
    fetching them any more: run this command regularly, for example daily. A release that older versions must
    pass through stays, whatever --keep is, and so do held and withdrawn releases. Metadata are never removed.

    Exit status: 0 done, 1 failed, 3 nothing to remove, or NOT in force yet, 75 another publisher is writing.
    """
    from repo_tools.upkeep.prune import PruneRequest, prune

    request = PruneRequest(keep=keep, grace=grace, channel=channel, dry_run=dry_run)
    done = prune(repo, request, now=current_time(), secrets=ask_secrets())
    emit(done.to_json() | {"dry_run": dry_run}, pruned_text(done, dry_run=dry_run), as_json=as_json)
    leave_if_pending(done.committed)


def pruned_text(done: Pruned, *, dry_run: bool) -> str:
    """Return what `prune` did, or would do."""
    would_be = "would be " if dry_run else ""
    plan = done.plan
    lines = [f"{would_be}removed from the manifest: {update}" for update in plan.releases]
    if plan.names:
        lines.append(f"{would_be}no longer listed: {len(plan.names)} targets")
    if plan.files:
        lines.append(f"{would_be}removed: {len(plan.files)} files, {size_text(plan.length)}")
    if plan.waiting:
        lines.append(f"{plan.waiting} files are still in their grace period; run prune again after it")
    if done.committed.versions:
        lines.append(versions_text(done.committed.versions))
    if done.committed.pending:
        lines.append(committed_text(done.committed))
    return "\n".join(lines)
