"""PURE: what went to a destination, and what was cleared away, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.render.text import size_text

if TYPE_CHECKING:
    from repo_tools.push import Pushed


def pushed_text(done: Pushed, *, dry_run: bool) -> str:
    """Return what `push` did, or would do."""
    verb = "would upload" if dry_run else "uploaded"
    lines = [f"{verb} to {done.destination}: {len(done.targets)} targets, {size_text(done.length)}"]
    lines += [f"  {path}" for path in (*done.targets, *done.metadata)] if dry_run else []
    if done.deleted:
        lines.append(f"{'would delete' if dry_run else 'deleted'} {len(done.deleted)} targets there")
    if "metadata/timestamp.json" in done.metadata and not dry_run:
        lines.append("readers now see this repository")
    return "\n".join(lines)
