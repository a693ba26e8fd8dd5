"""PURE: copies and bundles, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.render.text import size_text

if TYPE_CHECKING:
    from repo_tools.bundle import Bundle
    from repo_tools.replica import Copied


def copied_text(done: Copied) -> str:
    """Return what `mirror` or `bundle import` did."""
    new = f"{len(done.targets)} targets new ({size_text(done.length)}), {done.kept} there already"
    lines = [f"{done.folder} holds timestamp {done.version}: {new}"]
    lines += [f"removed {len(done.removed)} that nothing leads to"] if done.removed else []
    lines += [f"EXPIRED, accepted and recorded: {', '.join(done.waived)}"] if done.waived else []
    return "\n".join(lines)


def bundle_text(done: Bundle) -> str:
    """Return what `bundle export` put together."""
    lines = [f"made {done.place}: {done.targets} targets, {size_text(done.length)}"]
    for way in done.ways:
        through = " -> ".join(str(step.version) for step in way.journey.steps) or "is the newest"
        lines.append(f"  {way.variant} {way.arch} {way.journey.start} -> {through}")
    return "\n".join(lines).replace("-> is the newest", "is the newest")
