"""PURE: create and edit a root proposal.

Rules:

* a proposal with a signature is not edited any more: the signature would become invalid;
* a role's keys and threshold are never changed so that the threshold cannot be met;
* two keys of a role never have the same holder's name, and no key is listed under two keyids.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from tuf.api.metadata import Metadata

from repo_tools.ceremony.root_proposal import Proposal
from repo_tools.errors import ProposalError
from repo_tools.keys.holders import FIELD, Holder, find_holder, holder_of, holders, set_holder_name
from repo_tools.keys.signers import is_same_key, require_usable
from repo_tools.repository import editor
from signpost.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tuf.api.metadata import Root


def first(
    members: Mapping[str, Sequence[Holder]], thresholds: Mapping[str, int], expires: datetime
) -> Proposal:
    """Return the proposal of root 1.

    Args:
        members: role → holders of its keys.
        thresholds: role → threshold, where it is not 1.
        expires: when it expires.

    Raises:
        ProposalError: a threshold cannot be met, a role has no key, or a holder's name is not valid.
        SigningKeyError: some client does not verify a key.
    """
    keys = {role: [holder.key for holder in group] for role, group in members.items()}
    root = editor.first_root(keys, root_threshold=1, expires=expires)
    for role, threshold in thresholds.items():
        root.roles[role].threshold = threshold
    for role in root.roles:
        _require_possible_threshold(root, role)
    for role, group in members.items():
        for at, holder in enumerate(group):
            same = next((other for other in group[:at] if is_same_key(other.key, holder.key)), None)
            if same:
                raise ProposalError(
                    f"{role}: {same} and {holder} are the same key",
                    next_step="Each holder creates a key of their own: `repo-tools root make-key`.",
                )
            set_holder_name(root, holder)
    for key in root.keys.values():
        require_usable(key)
    return Proposal(base=None, new=Metadata(root))


def following(base: Metadata[Root], expires: datetime) -> Proposal:
    """Return the proposal of the root after ``base``: so far only version and expiry differ."""
    return Proposal(base=base, new=Metadata(editor.root_after(base.signed, expires=expires)))


def with_expiry(proposal: Proposal, expires: datetime | None) -> Proposal:
    """Return an unsigned proposal, with another expiry if one is given. Raises ProposalError."""
    edited = _editable_copy(proposal)
    edited.root.expires = expires or edited.root.expires
    return edited


def with_key(proposal: Proposal, role: str, holder: Holder) -> Proposal:
    """Return the proposal with one more key in a role. Raises ProposalError."""
    edited = _editable_copy(proposal)
    if holder.key.keyid in edited.root.roles[role].keyids:
        raise ProposalError(f"{holder_of(edited.root, holder.key.keyid)} is already a key of {role}")
    for role_of_other in edited.root.roles:
        for other in holders(edited.root, role_of_other):
            if other.key.keyid != holder.key.keyid and is_same_key(other.key, holder.key):
                raise ProposalError(
                    f"this is the key of {other}, a key of {role_of_other} already, under another keyid: "
                    "its holder alone would make two signatures",
                    next_step=f"Have {holder.name} create a key of their own: `repo-tools root make-key`.",
                )
    if any(other.name == holder.name for other in holders(edited.root, role)):
        raise ProposalError(
            f"{role} already has a key of {holder.name}",
            next_step="Replace that key with `repo-tools root rotate`, or choose another name.",
        )
    require_usable(holder.key)
    edited.root.add_key(holder.key, role)
    set_holder_name(edited.root, holder)
    return edited


def without_key(proposal: Proposal, role: str, name_or_keyid: str) -> Proposal:
    """Return the proposal without a key, given by its holder's name or the start of its keyid.

    Raises:
        ProposalError: there is no such key, or too few keys would remain.
    """
    edited = _remove_key(proposal, role, name_or_keyid)
    _require_possible_threshold(edited.root, role)
    return edited


def with_key_replaced(proposal: Proposal, role: str, name_or_keyid: str, holder: Holder) -> Proposal:
    """Return the proposal with one key of a role replaced by another. Raises ProposalError."""
    return with_key(_remove_key(proposal, role, name_or_keyid), role, holder)


def with_threshold(proposal: Proposal, role: str, threshold: int) -> Proposal:
    """Return the proposal with another threshold of a role. Raises ProposalError."""
    edited = _editable_copy(proposal)
    edited.root.roles[role].threshold = threshold
    _require_possible_threshold(edited.root, role)
    return edited


def _editable_copy(proposal: Proposal) -> Proposal:
    """Return a copy of a proposal that nobody has signed. Raises ProposalError."""
    if proposal.new.signatures:
        signers = ", ".join(proposal.holder_text(keyid) for keyid in proposal.new.signatures)
        raise ProposalError(
            f"it is already signed by {signers}: a change would invalidate the signatures",
            next_step="Create a new proposal file with all changes, and have it signed.",
        )
    return deepcopy(proposal)


def _remove_key(proposal: Proposal, role: str, name_or_keyid: str) -> Proposal:
    edited = _editable_copy(proposal)
    keyid = find_holder(edited.root, role, name_or_keyid).key.keyid
    edited.root.revoke_key(keyid, role)
    if keyid not in edited.root.keys:
        edited.root.unrecognized_fields.get(FIELD, {}).pop(keyid, None)
    return edited


def _require_possible_threshold(root: Root, role: str) -> None:
    threshold, count = root.roles[role].threshold, len(root.roles[role].keyids)
    if not 1 <= threshold <= count:
        raise ProposalError(
            f"{role}: a threshold of {threshold} with {counted(count, 'key')} can never be met",
            next_step="First add a key or lower the threshold, or replace a key: `repo-tools root rotate`.",
        )
