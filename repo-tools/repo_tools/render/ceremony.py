"""A proposal of a root, as text for the key holders who sign it. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.ceremony.root_diff import changed_roles, differences, warnings
from repo_tools.config import ONLINE_ROLES
from repo_tools.keys.holders import holders
from repo_tools.text import versions_text
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from repo_tools.ceremony.publish_root import RootChange
    from repo_tools.ceremony.root_proposal import Proposal, SignatureStatus


PUBLISHED = "published already"
"""What a proposal is compared with if it is the published root itself."""


def proposal_document(
    proposal: Proposal, compared: str, now: datetime, lacking: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a proposal as ``--json`` prints it.

    ``compared`` says what it was compared with, ``lacking`` which keys publishing it needs and are not here.
    """
    base = proposal.base.signed if proposal.base else None
    return {
        "root": proposal.root.version,
        "follows": base.version if base else None,
        "compared_with": compared or None,
        "expires": format_time(proposal.root.expires),
        "changes": [change.to_json() for change in differences(base, proposal.root)],
        "signed_anew": list(changed_roles(base, proposal.root)) if base else [],
        "warnings": warnings(base, proposal.root, now),
        "unavailable": list(lacking),
        "signatures": [status.to_json() for status in proposal.signature_status()],
        "complete": proposal.complete,
    }


def proposal_text(proposal: Proposal, compared: str, now: datetime, lacking: Sequence[str] = ()) -> str:
    """Return what changes, who has signed, and who still has to."""
    base = proposal.base.signed if proposal.base else None
    lines = [f"{_what(proposal)} {_held_against(proposal, compared)}", "what changes"]
    lines += [f"  {change.text}" for change in differences(base, proposal.root)]
    resigned = changed_roles(base, proposal.root) if base else ()
    lines += [f"  publishing it re-signs: {', '.join(resigned)}"] if resigned else []
    lines += [f"  repo.toml must name the keys for that first: {text}" for text in lacking]
    lines += [f"warning: {text}" for text in warnings(base, proposal.root, now)]
    lines += [] if compared else _unchanged_lines(proposal)
    for status in proposal.signature_status():
        lines += _signature_lines(status)
    return "\n".join([*lines, completeness_text(proposal, compared)])


def completeness_text(proposal: Proposal, compared: str) -> str:
    """Return whether a proposal can be published, or which signatures are missing."""
    if compared == PUBLISHED:
        return PUBLISHED
    if proposal.complete:
        how = "root publish" if proposal.base else "new DIR --root"
        return f"complete: ready for `repo-tools {how}`"
    missing = [
        f"{status.missing} of root {status.version}'s keys"
        for status in proposal.signature_status()
        if status.missing
    ]
    return f"NOT complete: still to sign: {' and '.join(missing)}"


def signed_text(proposal: Proposal, who: str) -> str:
    """Return what `root sign` did."""
    return f"signed by {who}\n{completeness_text(proposal, '')}"


def published_root_text(done: RootChange, *, dry_run: bool = False) -> str:
    """Return what `root publish` did, or would do."""
    head = f"{'would publish' if dry_run else 'published'} {done.path}"
    lines = [head, *(f"  {change.text}" for change in done.changes)]
    return "\n".join([*lines, versions_text(done.versions, dry_run=dry_run)])


def _unchanged_lines(proposal: Proposal) -> Iterator[str]:
    """Yield the online keys that a proposal keeps; with nothing to compare it with, they need a look too."""
    base = proposal.base.signed if proposal.base else None
    for role in ONLINE_ROLES if base else ():
        for holder in holders(proposal.root, role):
            if base and holder.key.keyid in base.roles[role].keyids:
                yield f"  {role}: {holder} stays, according to this file"


def _what(proposal: Proposal) -> str:
    if proposal.base is None:
        return f"root {proposal.root.version}, the first of a new repository"
    return f"root {proposal.root.version}, to follow root {proposal.base.signed.version}"


def _held_against(proposal: Proposal, compared: str) -> str:
    if proposal.base is None:
        return "(nothing to compare it with)"
    if compared:
        return f"({compared})"
    return "(according to this file: nothing here to compare it with; pass --trusted-root FILE)"


def _signature_lines(status: SignatureStatus) -> Iterator[str]:
    yield f"by the keys of root {status.version}: {status.threshold} must sign, {len(status.signed)} have"
    waiting = "not yet" if status.missing else "need not"
    yield from (f"  {'signed':<8}  {holder}" for holder in status.signed)
    yield from (f"  {waiting:<8}  {holder}" for holder in status.unsigned)
