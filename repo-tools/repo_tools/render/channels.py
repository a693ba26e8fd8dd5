"""PURE: channels and what waits for their signatures, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.render.text import size_text, table_text, versions_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from repo_tools.pending import Pending
    from repo_tools.promote import Promoted
    from repo_tools.session import Committed

_SHORT = 12


def committed_text(done: Committed) -> str:
    """Return what came of a change: the metadata that were signed, or what has to happen next."""
    if done.pending is None:
        return versions_text(done.versions)
    return (
        "NOT published yet: signatures are missing\n"
        f"  the next holder:  repo-tools channel sign {done.pending} --key URI\n"
        f"  then here:        repo-tools channel finish {done.pending}"
    )


def channels_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the list of channels."""
    if not rows:
        return "there is no channel"
    cells = [
        (
            row["name"],
            f"{row['threshold']} of {len(row['keys'])}",
            str(sum(key["at_hand"] for key in row["keys"])),
            str(row["version"]),
            row["expires"],
            ", ".join(row["offers"]) or "nothing",
        )
        for row in rows
    ]
    return table_text(("channel", "signatures", "at hand", "version", "expires", "offers"), cells)


def channel_text(row: Mapping[str, Any]) -> str:
    """Return one channel."""
    signatures = f"{row['threshold']} of {len(row['keys'])} signatures"
    lines = [
        f"{row['name']}: {signatures}, version {row['version']}, expires {row['expires']}",
        *(f"  key {key['keyid'][:_SHORT]}{' (at hand)' if key['at_hand'] else ''}" for key in row["keys"]),
        f"  speaks for {' and '.join(row['paths'])}",
        f"  offers {', '.join(row['offers']) or 'nothing'}",
    ]
    return "\n".join(lines)


def pending_text(pending: Pending, own: Sequence[str] = ()) -> str:
    """Return what is being signed, by whom it is signed, and how many are missing."""
    signed = metadata_words(pending)
    lines = [f"{pending.channel}, version {pending.metadata.signed.version}: {signed}"]
    for entry in pending.log.entries[-1:]:
        change = entry.change
        lines += [f"  {change.action} {change.subject}", *(f"    {effect}" for effect in change.effects)]
        lines += [f"    because: {change.reason}"] if change.reason else []
    lines += [
        f"  lists {name}, {size_text(item.length)}, SHA-256 {item.hashes['sha256']}"
        for name, item in sorted(pending.metadata.signed.targets.items())
        if name not in pending.files
    ]
    lines += [f"  signed by {keyid[:_SHORT]}{' (now)' if keyid in own else ''}" for keyid in pending.signed]
    return "\n".join(lines)


def metadata_words(pending: Pending) -> str:
    """Return whether signatures are missing."""
    if not pending.missing:
        return "signed by enough of its holders"
    return f"{pending.missing} more signature{'s' if pending.missing > 1 else ''} needed"


def promoted_text(promoted: Promoted, done: Committed | None) -> str:
    """Return what promoting does, or did."""
    asked = promoted.promotion
    where = f"{promoted.update} from {asked.source or 'no channel'} to {asked.target or 'no channel'}"
    lines = [f"{'promoted' if done and not done.pending else 'would promote'} {where}"]
    lines += [f"  {effect}" for effect in promoted.effects]
    lines += [
        f"  approves {name}, {size_text(item.length)}, SHA-256 {item.hashes['sha256'][:_SHORT]}…"
        for name, item in sorted(promoted.targets.items())
    ]
    lines += [f"  because: {asked.reason}"] if asked.reason else []
    return "\n".join([*lines, *([committed_text(done)] if done else [])])
