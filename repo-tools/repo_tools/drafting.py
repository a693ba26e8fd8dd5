"""PURE: writing a proposal: what may be changed in a root, and what never.

Rules:

* once somebody has signed, a proposal is not edited any more: his signature would be for something else;
* a role never loses so many keys, nor is its threshold raised so far, that it cannot be met;
* two keys of a role never have the same name.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from tuf.api.metadata import Metadata

from repo_tools import editor
from repo_tools.errors import ProposalError
from repo_tools.holders import FIELD, Holder, found, holder_of, holders, set_name
from repo_tools.keys import require_usable
from repo_tools.proposal import Proposal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tuf.api.metadata import Root


def first(
    members: Mapping[str, Sequence[Holder]], thresholds: Mapping[str, int], expires: datetime
) -> Proposal:
    """Return the proposal of root 1: role → holders of its keys, thresholds where not 1.

    Raises:
        ProposalError: a threshold cannot be met, a role has no key, or a name is none.
        SigningKeyError: some client does not verify a key.
    """
    keys = {role: [holder.key for holder in group] for role, group in members.items()}
    root = editor.first_root(keys, root_threshold=1, expires=expires)
    for role, threshold in thresholds.items():
        root.roles[role].threshold = threshold
    for role in root.roles:
        _check_threshold(root, role)
    for holder in (holder for group in members.values() for holder in group):
        set_name(root, holder)
    for key in root.keys.values():
        require_usable(key)
    return Proposal(base=None, new=Metadata(root))


def begun(base: Metadata[Root], expires: datetime) -> Proposal:
    """Return the proposal of the next root: nothing changed yet but version and expiry."""
    return Proposal(base=base, new=Metadata(editor.root_after(base.signed, expires=expires)))


def lasting(proposal: Proposal, expires: datetime | None) -> Proposal:
    """Return a proposal that nobody has signed, with another expiry if one is given. Raises ProposalError."""
    edited = _unsigned(proposal)
    edited.root.expires = expires or edited.root.expires
    return edited


def with_key(proposal: Proposal, role: str, holder: Holder) -> Proposal:
    """Return the proposal with one more key in a role. Raises ProposalError."""
    edited = _unsigned(proposal)
    if holder.key.keyid in edited.root.roles[role].keyids:
        raise ProposalError(f"{holder_of(edited.root, holder.key.keyid)} is a key of {role} already")
    if any(other.name == holder.name for other in holders(edited.root, role)):
        raise ProposalError(
            f"{role} has a key of {holder.name} already",
            next_step="Put the new one in its place: `repo-tools root rotate`; or choose another name.",
        )
    require_usable(holder.key)
    edited.root.add_key(holder.key, role)
    set_name(edited.root, holder)
    return edited


def without_key(proposal: Proposal, role: str, word: str) -> Proposal:
    """Return the proposal with a key less; ``word`` is its holder's name or the start of its keyid.

    Raises:
        ProposalError: there is no such key, or too few would be left.
    """
    edited = _dropped(proposal, role, word)
    _check_threshold(edited.root, role)
    return edited


def with_key_replaced(proposal: Proposal, role: str, word: str, holder: Holder) -> Proposal:
    """Return the proposal with one key of a role in the place of another. Raises ProposalError."""
    return with_key(_dropped(proposal, role, word), role, holder)


def with_threshold(proposal: Proposal, role: str, threshold: int) -> Proposal:
    """Return the proposal with another threshold of a role. Raises ProposalError."""
    edited = _unsigned(proposal)
    edited.root.roles[role].threshold = threshold
    _check_threshold(edited.root, role)
    return edited


def _unsigned(proposal: Proposal) -> Proposal:
    if proposal.new.signatures:
        who = ", ".join(proposal.whose(keyid) for keyid in proposal.new.signatures)
        raise ProposalError(
            f"signed by {who} already: a change now would void that",
            next_step="Make a new proposal file with all the changes, and have that signed.",
        )
    return deepcopy(proposal)


def _dropped(proposal: Proposal, role: str, word: str) -> Proposal:
    edited = _unsigned(proposal)
    keyid = found(edited.root, role, word).key.keyid
    edited.root.revoke_key(keyid, role)
    if keyid not in edited.root.keys:
        edited.root.unrecognized_fields.get(FIELD, {}).pop(keyid, None)
    return edited


def _check_threshold(root: Root, role: str) -> None:
    threshold, count = root.roles[role].threshold, len(root.roles[role].keyids)
    if not 1 <= threshold <= count:
        raise ProposalError(
            f"{role}: a threshold of {threshold} with {count} keys can never be met",
            next_step="Add a key or lower the threshold first, or put a new key in the place of one.",
        )
