"""PURE: a proposal of a root, in words for whoever is to sign it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.differences import ONLINE, changed_roles, differences, warnings
from repo_tools.holders import holders
from repo_tools.render.text import versions_text
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from repo_tools.proposal import Proposal, Side
    from repo_tools.succession import Succession


PUBLISHED = "published already"
"""What a proposal is held against that is the published root itself."""


def proposal_document(proposal: Proposal, compared: str, now: datetime) -> dict[str, Any]:
    """Return a proposal as ``--json`` prints it; ``compared`` says what it was held against."""
    base = proposal.base.signed if proposal.base else None
    return {
        "root": proposal.root.version,
        "follows": base.version if base else None,
        "compared_with": compared or None,
        "expires": format_time(proposal.root.expires),
        "changes": [change.to_json() for change in differences(base, proposal.root)],
        "signed_anew": list(changed_roles(base, proposal.root)) if base else [],
        "warnings": warnings(base, proposal.root, now),
        "signatures": [side.to_json() for side in proposal.sides()],
        "complete": proposal.complete,
    }


def proposal_text(proposal: Proposal, compared: str, now: datetime) -> str:
    """Return what changes, who has signed, who is missing."""
    base = proposal.base.signed if proposal.base else None
    lines = [f"{_what(proposal)} {_held_against(proposal, compared)}", "what changes"]
    lines += [f"  {change.text}" for change in differences(base, proposal.root)]
    anew = changed_roles(base, proposal.root) if base else ()
    lines += [f"  publishing it signs anew: {', '.join(anew)}"] if anew else []
    lines += [f"warning: {text}" for text in warnings(base, proposal.root, now)]
    lines += [] if compared else _unchanged_lines(proposal)
    for side in proposal.sides():
        lines += _side_lines(side)
    return "\n".join([*lines, standing_text(proposal, compared)])


def standing_text(proposal: Proposal, compared: str) -> str:
    """Return whether a proposal can be published, and what is missing."""
    if compared == PUBLISHED:
        return PUBLISHED
    if proposal.complete:
        how = "root publish" if proposal.base else "new DIR --root"
        return f"complete: ready for `repo-tools {how}`"
    lacking = [f"{side.missing} of root {side.version}'s keys" for side in proposal.sides() if side.missing]
    return f"NOT complete: still to sign: {' and '.join(lacking)}"


def signed_text(proposal: Proposal, who: str) -> str:
    """Return what `sign` did."""
    return f"signed by {who}\n{standing_text(proposal, '')}"


def succession_text(done: Succession) -> str:
    """Return what `publish` did."""
    lines = [f"published {done.path}", *(f"  {change.text}" for change in done.changes)]
    return "\n".join([*lines, versions_text(done.versions)])


def _unchanged_lines(proposal: Proposal) -> Iterator[str]:
    """Yield the online keys that a proposal keeps: with nothing to compare, they are worth a look as well."""
    base = proposal.base.signed if proposal.base else None
    for role in ONLINE if base else ():
        for holder in holders(proposal.root, role):
            if base and holder.key.keyid in base.roles[role].keyids:
                yield f"  {role}: {holder} stays, as this file has it"


def _what(proposal: Proposal) -> str:
    if proposal.base is None:
        return f"root {proposal.root.version}, the first of a new repository"
    return f"root {proposal.root.version}, to follow root {proposal.base.signed.version}"


def _held_against(proposal: Proposal, compared: str) -> str:
    if proposal.base is None:
        return "(nothing to compare it with)"
    if compared:
        return f"({compared})"
    return "(as this file has it: nothing here to compare it with; --trusted-root FILE does)"


def _side_lines(side: Side) -> Iterator[str]:
    yield f"by the keys of root {side.version}: {side.threshold} must sign, {len(side.signed)} have"
    waiting = "not yet" if side.missing else "need not"
    yield from (f"  {'signed':<8}  {holder}" for holder in side.signed)
    yield from (f"  {waiting:<8}  {holder}" for holder in side.unsigned)
