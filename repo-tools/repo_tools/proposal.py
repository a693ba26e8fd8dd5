"""PURE: a new root on its way from hand to hand, as a value and as a file.

A proposal carries the root it starts from and the root it proposes, with the signatures gathered so far.
Whoever holds one can see what changes, sign, and hand it on, without a repository and without a network.

Rules (numbers are those of the TUF specification):

* the proposed root is exactly one version above the one it starts from (§5.3.5), or version 1 from nothing;
* it counts as signed when a threshold of the old root's keys and of its own have signed (§5.3.4);
* what is read is checked before it is shown: a signature that does not verify, a signature by a key of
  neither root, a root that does not follow from its base, a key under another's keyid are errors.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import Error as SslibError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.errors import (
    ForeignKeyError,
    IncompleteProposalError,
    NothingToSignError,
    ProposalError,
    SigningKeyError,
    TamperedProposalError,
)
from repo_tools.holders import Holder, holder_of, names_in, short
from repo_tools.keys import cause_of, public_pem, require_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key, Signer

MAX_PROPOSAL_BYTES = 4 * 1024 * 1024
"""Two roots; a root of a thousand keys is a quarter of this."""

_FORMAT = "root proposal 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Who has signed by the rule of one root, and who could.

    Attributes:
        version: of the root whose rule it is. threshold: signatures it needs.
        signed: holders whose valid signature is there. unsigned: the others.
    """

    version: int
    threshold: int
    signed: tuple[Holder, ...]
    unsigned: tuple[Holder, ...]

    @property
    def missing(self) -> int:
        """How many more signatures are needed."""
        return max(0, self.threshold - len(self.signed))

    def to_json(self) -> dict[str, Any]:
        """Return the side as ``--json`` prints it."""
        return {
            "root": self.version,
            "threshold": self.threshold,
            "missing": self.missing,
            "signed": [holder.to_json() for holder in self.signed],
            "unsigned": [holder.to_json() for holder in self.unsigned],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A root that is proposed.

    Attributes:
        base: the root it starts from, None for version 1. new: the proposed root, signed so far.
    """

    base: Metadata[Root] | None
    new: Metadata[Root]

    @property
    def root(self) -> Root:
        """The proposed root."""
        return self.new.signed

    def roots(self) -> tuple[Root, ...]:
        """Return the roots whose keys count: the old one, if any, and the new one."""
        return (self.base.signed, self.root) if self.base else (self.root,)

    def whose(self, keyid: str) -> str:
        """Return whose a key of either root is, in words."""
        for root in reversed(self.roots()):
            if keyid in root.keys:
                return str(holder_of(root, keyid))
        return f"key {short(keyid)}"

    def sides(self) -> tuple[Side, ...]:
        """Return who has signed by the old root's rule and by the new one's; one side for version 1."""
        return tuple(_side(root, self.new) for root in self.roots())

    @property
    def complete(self) -> bool:
        """Whether both thresholds are met."""
        return not any(side.missing for side in self.sides())

    def require_complete(self) -> None:
        """Refuse a proposal that lacks signatures. Raises IncompleteProposalError, which says whose."""
        lacking = [missing_words(side) for side in self.sides() if side.missing]
        if lacking:
            raise IncompleteProposalError(f"root {self.root.version} lacks {'; '.join(lacking)}")

    def to_bytes(self) -> bytes:
        """Return the file."""
        document = {
            "format": _FORMAT,
            "base": self.base.to_dict() if self.base else None,
            "root": self.new.to_dict(),
        }
        return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Proposal:
        """Return the proposal in a file, checked.

        Raises:
            ProposalError: it is none. TamperedProposalError: it is not what its signers signed.
            SigningKeyError: a new key in it is not one that every client verifies.
        """
        proposal = _parsed(data)
        _check_listed(proposal)
        _check_step(proposal)
        _check_base(proposal)
        _check_names(proposal)
        _check_keys(proposal)
        _check_signatures(proposal)
        return proposal


def missing_words(side: Side) -> str:
    """Return what a side lacks, such as ``1 more signature by root 1: boris or clara``."""
    could = " or ".join(str(holder) for holder in side.unsigned)
    word = "signature" if side.missing == 1 else "signatures"
    return f"{side.missing} more {word} by the keys of root {side.version}: {could}"


def signed_with(proposal: Proposal, signer: Signer) -> Proposal:
    """Return the proposal with one more signature, by a key of :func:`counted_key`, verified.

    Raises:
        SigningKeyError: the key does not sign.
    """
    signed = deepcopy(proposal)
    try:
        signed.new.sign(signer, append=True)
    except RepositoryError as error:
        raise SigningKeyError(f"the key does not sign: {cause_of(error.__cause__ or error)}") from error
    _check_signatures(signed)
    return signed


def counted_key(proposal: Proposal, key: Key) -> Key:
    """Return the root key that this public key is. Raises ForeignKeyError or NothingToSignError."""
    pem = public_pem(key)
    for root in proposal.roots():
        for keyid in root.roles["root"].keyids:
            if _pem_of(root.keys[keyid]) == pem:
                _check_not_signed(proposal, keyid)
                return root.keys[keyid]
    versions = " and ".join(f"root {root.version}" for root in proposal.roots())
    raise ForeignKeyError(f"the key {short(key.keyid)} is not among the root keys of {versions}")


def _pem_of(key: Key) -> bytes | None:
    """Return a root's key as PEM; None for a kind that only others of its holders' tools can use."""
    try:
        return public_pem(key)
    except SigningKeyError:
        return None


def _check_not_signed(proposal: Proposal, keyid: str) -> None:
    if keyid in proposal.new.signatures:
        raise NothingToSignError(f"{proposal.whose(keyid)} has signed already")


def joined(proposals: Sequence[Proposal]) -> Proposal:
    """Return one proposal with the signatures of all, where they were signed side by side.

    Raises:
        ProposalError: they do not propose the same root.
    """
    one = deepcopy(proposals[0])
    for other in proposals[1:]:
        if other.new.signed_bytes != one.new.signed_bytes or _base_bytes(other) != _base_bytes(one):
            raise ProposalError("these files propose different roots; only signatures may differ")
        one.new.signatures.update(other.new.signatures)
    return one


def _parsed(data: bytes) -> Proposal:
    if len(data) > MAX_PROPOSAL_BYTES:
        raise ProposalError(f"a proposal has at most {MAX_PROPOSAL_BYTES} bytes")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise ProposalError(f"of the unknown format {document['format']!r}")
        base = Metadata[Root].from_dict(document["base"]) if document["base"] is not None else None
        new = Metadata[Root].from_dict(document["root"])
        for metadata in (base, new):
            _require_signable(metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RepositoryError) as error:
        raise ProposalError(f"no proposal of a root: {type(error).__name__} {error}") from error
    if any(metadata.signed.type != Root.type for metadata in (base, new) if metadata):
        raise ProposalError("it holds metadata of another role than root")
    return Proposal(base=base, new=new)


def _require_signable(metadata: Metadata[Root] | None) -> None:
    """Refuse what has no canonical form, such as a fraction, for it cannot be what anybody signed."""
    if metadata and not metadata.signed_bytes:
        raise ProposalError("it holds metadata without content")


def _check_listed(proposal: Proposal) -> None:
    for root in proposal.roots():
        for role, rule in root.roles.items():
            if not set(rule.keyids) <= set(root.keys):
                raise TamperedProposalError(f"{role} of root {root.version} names a key that is not in it")


def _check_step(proposal: Proposal) -> None:
    # §5.3.5: exactly one above the version before it.
    before = proposal.base.signed.version if proposal.base else 0
    if proposal.root.version != before + 1:
        raise TamperedProposalError(f"it proposes root {proposal.root.version} to follow root {before}")
    for role in proposal.root.roles:
        if len(proposal.root.roles[role].keyids) < proposal.root.roles[role].threshold:
            raise TamperedProposalError(f"{role}: its threshold cannot be met by its keys")


def _check_base(proposal: Proposal) -> None:
    if proposal.base is None:
        return
    side = _side(proposal.base.signed, proposal.base)
    if side.missing:
        raise TamperedProposalError(
            f"root {side.version}, from which it starts, has {len(side.signed)} of {side.threshold} "
            "valid signatures of its own: it was never published"
        )


def _check_names(proposal: Proposal) -> None:
    for metadata in (proposal.base, proposal.new):
        if metadata:
            names_in(metadata.signed)


def _check_keys(proposal: Proposal) -> None:
    """Refuse a new key that some client does not verify; keys that were there before are left alone."""
    old = proposal.base.signed.keys if proposal.base else {}
    for keyid, key in proposal.root.keys.items():
        if old.get(keyid) != key:
            require_usable(key)


def _check_signatures(proposal: Proposal) -> None:
    payload = proposal.new.signed_bytes
    for keyid, signature in proposal.new.signatures.items():
        for root in proposal.roots():
            if keyid in root.roles["root"].keyids:
                _check_signature(root, keyid, signature, payload)
                break
        else:
            raise TamperedProposalError(
                f"it carries a signature by {proposal.whose(keyid)}, which is a root key of neither "
                "the old root nor the new one",
                next_step="Was the key removed earlier? Ask who signed with it, and make the proposal anew.",
            )


def _check_signature(root: Root, keyid: str, signature: Any, payload: bytes) -> None:
    try:
        root.keys[keyid].verify_signature(signature, payload)
    except SslibError as error:
        raise TamperedProposalError(
            f"the signature of {holder_of(root, keyid)} is not for this root: one of them was changed since"
        ) from error


def _side(root: Root, metadata: Metadata[Root]) -> Side:
    result = root.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
    return Side(
        version=root.version,
        threshold=result.threshold,
        signed=tuple(holder_of(root, keyid) for keyid in result.signed),
        unsigned=tuple(holder_of(root, keyid) for keyid in result.unsigned),
    )


def _base_bytes(proposal: Proposal) -> bytes | None:
    return proposal.base.signed_bytes if proposal.base else None
