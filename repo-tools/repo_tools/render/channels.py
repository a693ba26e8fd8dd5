"""Channels, and changes that wait for their signatures, as text. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.keys.holders import short_keyid
from repo_tools.text import versions_text
from signpost.text import size_text, table
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from repo_tools.keys.holders import Holder
    from repo_tools.releases.finish import Finished
    from repo_tools.releases.promote import Promoted
    from repo_tools.repository.channel_proposal import ChannelProposal
    from repo_tools.repository.session import Committed

_SHORT = 12  # characters of a digest


def committed_text(done: Committed, *, dry_run: bool = False) -> str:
    """Return the result of a change: the metadata that were signed, or what has to happen next."""
    if done.pending is None:
        return versions_text(done.versions, dry_run=dry_run)
    if dry_run:
        signatures = f"{len(done.signed_by)} of {done.threshold} signatures"
        who = _who_signed_lines(done.signed_by, done.not_signed_by)
        return "\n".join([f"would wait in {done.pending}: {signatures}", *who])
    others = [
        f"  also waiting:     {path}: only one of these changes can be finished" for path in done.others
    ]
    latest = []
    if done.finish_before:
        latest = [f"  not later than:   {readable_time(done.finish_before)}, when its first wave starts"]
    return "\n".join(
        [
            f"NOT in force yet: {len(done.signed_by)} of {done.threshold} signatures",
            *_who_signed_lines(done.signed_by, done.not_signed_by),
            f"  the next holder:  repo-tools channel sign {done.pending} --key URI",
            f"  then here:        repo-tools channel finish {done.pending}",
            *latest,
            *others,
        ]
    )


def _who_signed_lines(signed: Sequence[Holder], unsigned: Sequence[Holder]) -> list[str]:
    lines = [f"  signed by:        {', '.join(map(str, signed))}"] if signed else []
    return lines + ([f"  not by:           {', '.join(map(str, unsigned))}"] if unsigned else [])


def channels_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `channel list`."""
    if not rows:
        return "no channels"
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
    return table([("channel", "signatures", "available", "version", "expires", "offers"), *cells])


def channel_text(row: Mapping[str, Any]) -> str:
    """Return a channel after `channel add` or a change of it."""
    signatures = f"{row['threshold']} of {len(row['keys'])} signatures"
    lines = [
        f"{row['name']}: {signatures}, version {row['version']}, expires {row['expires']}",
        *(f"  {_key_text(key)}" for key in row["keys"]),
        f"  signs for {' and '.join(row['paths'])}",
        f"  offers {', '.join(row['offers']) or 'nothing'}",
    ]
    return "\n".join(lines)


def _key_text(key: Mapping[str, Any]) -> str:
    """Return one key of a channel: its holder, the start of its keyid, and whether it is available here."""
    short = f"key {short_keyid(key['keyid'])}"
    text = f"{key['holder']} ({short})" if key["holder"] else short
    return f"{text}, available" if key["at_hand"] else text


def brakes_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `brake show`."""
    if not rows:
        return "no brakes"
    lines = []
    for row in rows:
        lines.append(
            f"{row['channel'] or 'top-level releases'}: version {row['version']}, expires {row['expires']}"
        )
        lines += [f"  {_key_text(key)}" for key in row["keys"]]
        for item in row["holds"]:
            because = f", because: {item['reason']}" if item.get("reason") else ""
            release = f"{item['version']} for {item['variant']} on {item['arch']}"
            lines.append(f"  holds {release} since {item['since']}{because}")
        lines += [] if row["holds"] else ["  holds nothing"]
    return "\n".join(lines)


def pending_changes_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `channel pending`."""
    if not rows:
        return "no change is waiting for signatures"
    lines = []
    for row in rows:
        if row["fault"]:
            lines.append(f"{row['file']}: CANNOT BE READ: {row['fault']}")
            continue
        signed = f"{len(row['signed_by'])} of {row['threshold']} signatures"
        state = row["standing"] or (
            "ready for `channel finish`" if not row["missing"] else "NOT in force yet"
        )
        lines.append(f"{row['file']}: {row['channel']} version {row['version']}, {signed}: {state}")
        change = row["change"]
        lines.append(f"  {change['at']}  {change['action']} {change['subject']}")
        lines += [f"    {effect}" for effect in change["effects"]]
        lines += [f"    because: {change['reason']}"] if change["reason"] else []
        for word, holders in (("signed by", row["signed_by"]), ("not by", row["not_signed_by"])):
            names = [
                _key_text({"holder": item["name"], "keyid": item["keyid"], "at_hand": False})
                for item in holders
            ]
            lines += [f"  {word} {', '.join(names)}"] if names else []
    return "\n".join(lines)


def pending_text(pending: ChannelProposal, own: Sequence[str] = ()) -> str:
    """Return what is being signed, who has signed it, and how many signatures are missing."""
    signed = missing_signatures_text(pending)
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
    lines += [
        f"  signed by {holder}{' (now)' if holder.key.keyid in own else ''}" for holder in pending.signed_by
    ]
    lines += [f"  not signed by {holder}" for holder in pending.not_signed_by] if pending.missing else []
    return "\n".join(lines)


def finished_text(done: Finished, *, dry_run: bool = False) -> str:
    """Return what `channel finish` published, and which other changes of the channel it made outdated."""
    now = "would be outdated" if dry_run else "outdated now"
    outdated = [f"{now}: {item.path}: make that change again, and delete the file" for item in done.others]
    signed = committed_text(done.committed, dry_run=dry_run)
    return "\n".join([pending_text(done.proposal), signed, *outdated])


def missing_signatures_text(pending: ChannelProposal) -> str:
    """Return whether signatures are missing, and how many."""
    if not pending.missing:
        return "signed by enough of its holders"
    return f"{pending.missing} more signature{'s' if pending.missing > 1 else ''} needed"


def promoted_text(promoted: Promoted, done: Committed | None) -> str:
    """Return what `promote` does, or did."""
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
