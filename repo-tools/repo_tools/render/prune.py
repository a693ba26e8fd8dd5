"""PURE: what was cleared away, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.render.text import size_text, versions_text

if TYPE_CHECKING:
    from repo_tools.prune import Pruned


def pruned_text(done: Pruned, *, dry_run: bool) -> str:
    """Return what `prune` did, or would do."""
    would = "would be " if dry_run else ""
    plan = done.plan
    lines = [f"{would}taken off the manifest: {update}" for update in plan.releases]
    if plan.names:
        lines.append(f"{would}offered no more: {len(plan.names)} targets")
    if plan.files:
        lines.append(f"{would}removed: {len(plan.files)} files, {size_text(plan.length)}")
    if plan.waiting:
        lines.append(f"{plan.waiting} files wait until no reader can be on the way to them; prune again then")
    if done.committed.versions:
        lines.append(versions_text(done.committed.versions))
    if done.committed.pending:
        lines.append(f"waits for more signatures: {done.committed.pending}")
    return "\n".join(lines)
