"""PURE: a root proposal: a new root, as a value and as a file, that its key holders sign one after the other.

A proposal contains the root that it starts from, the roots before that one, and the proposed root with the
signatures so far. A holder can see what changes, sign it, and pass it on, without a repository and without a
network, also if the last root that the holder trusts is an old one.

Rules (section numbers are those of the TUF specification):

* the proposed root is exactly one version above the one that it starts from (§5.3.5), or it is version 1;
* it is complete when a threshold of the old root's keys and of its own keys have signed (§5.3.4);
* the earlier roots are trusted only as a client trusts them: each is signed by a threshold of the keys of the
  root before it, starting at a root that the holder trusts, and by its own (§5.3.4);
* a file is checked before it is shown: an invalid signature, a signature by a key of neither root, a root
  that does not follow its base, a key under a wrong keyid, and a new key that is listed twice are errors.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import Error as SslibError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.errors import (
    IncompleteProposalError,
    KeyNotOfRoleError,
    NothingToSignError,
    ProposalError,
    SigningKeyError,
    StaleProposalError,
    TamperedProposalError,
)
from repo_tools.keys.holders import Holder, holder_names, holder_of, short_keyid
from repo_tools.keys.signers import cause_of, is_same_key, public_pem, require_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key, Signer

MAX_PROPOSAL_BYTES = 4 * 1024 * 1024
"""Two roots; a root of a thousand keys is a quarter of this."""

_FORMAT = "root proposal 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureStatus:
    """Which keys of one root have signed a proposal.

    Attributes:
        version: of the root. threshold: number of its keys that must sign.
        signed: holders with a valid signature. unsigned: the other holders.
    """

    version: int
    threshold: int
    signed: tuple[Holder, ...]
    unsigned: tuple[Holder, ...]

    @property
    def missing(self) -> int:
        """How many more signatures are required."""
        return max(0, self.threshold - len(self.signed))

    def to_json(self) -> dict[str, Any]:
        """Return the status as ``--json`` prints it."""
        return {
            "root": self.version,
            "threshold": self.threshold,
            "missing": self.missing,
            "signed": [holder.to_json() for holder in self.signed],
            "unsigned": [holder.to_json() for holder in self.unsigned],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A proposed root.

    Attributes:
        base: the root that it starts from, None for version 1.
        new: the proposed root, with the signatures so far.
        earlier: the roots before ``base``, oldest first, as many as fit into the file.
    """

    base: Metadata[Root] | None
    new: Metadata[Root]
    earlier: tuple[Metadata[Root], ...] = ()

    @property
    def root(self) -> Root:
        """The proposed root."""
        return self.new.signed

    def roots(self) -> tuple[Root, ...]:
        """Return the roots whose keys must sign: the old one, if any, and the new one."""
        return (self.base.signed, self.root) if self.base else (self.root,)

    def holder_text(self, keyid: str) -> str:
        """Return the holder of a key of either root as text."""
        for root in reversed(self.roots()):
            if keyid in root.keys:
                return str(holder_of(root, keyid))
        return f"key {short_keyid(keyid)}"

    def signature_status(self) -> tuple[SignatureStatus, ...]:
        """Return which keys of the old root and of the new one have signed; version 1 has no old root."""
        return tuple(_signature_status(root, self.new) for root in self.roots())

    @property
    def complete(self) -> bool:
        """Whether both thresholds are met."""
        return not any(status.missing for status in self.signature_status())

    def require_complete(self) -> None:
        """Refuse a proposal that lacks signatures. Raises IncompleteProposalError, which says whose."""
        needed = []
        for status in self.signature_status():
            if status.missing:
                word = "signature" if status.missing == 1 else "signatures"
                holders = " or ".join(map(str, status.unsigned))
                needed.append(
                    f"{status.missing} more {word} from the keys of root {status.version}: {holders}"
                )
        if needed:
            raise IncompleteProposalError(f"root {self.root.version} needs {'; '.join(needed)}")

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        document = {
            "format": _FORMAT,
            "base": self.base.to_dict() if self.base else None,
            "root": self.new.to_dict(),
            "earlier": [metadata.to_dict() for metadata in self.earlier],
        }
        return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Proposal:
        """Return the checked proposal in a file.

        Raises:
            ProposalError: the file is not a proposal.
            TamperedProposalError: it differs from what its signers signed, or contradicts itself.
            SigningKeyError: not every client verifies a new key in it.
        """
        proposal = _parse(data)
        _check_roots(proposal)
        _check_new_keys(proposal)
        _check_signatures(proposal)
        return proposal


def with_signature(proposal: Proposal, signer: Signer) -> Proposal:
    """Return the proposal with one more verified signature, by a key of :func:`matching_root_key`.

    Raises:
        SigningKeyError: signing failed.
    """
    signed = deepcopy(proposal)
    try:
        signed.new.sign(signer, append=True)
    except RepositoryError as error:
        raise SigningKeyError(f"signing with the key failed: {cause_of(error.__cause__ or error)}") from error
    _check_signatures(signed)
    return signed


def matching_root_key(proposal: Proposal, key: Key) -> Key:
    """Return the root key with this public key. Raises KeyNotOfRoleError or NothingToSignError."""
    pem = public_pem(key)
    for root in proposal.roots():
        for keyid in root.roles["root"].keyids:
            if _pem_of(root.keys[keyid]) != pem:
                continue
            if keyid in proposal.new.signatures:
                raise NothingToSignError(f"{proposal.holder_text(keyid)} has already signed")
            return root.keys[keyid]
    versions = " and ".join(f"root {root.version}" for root in proposal.roots())
    raise KeyNotOfRoleError(f"the key {short_keyid(key.keyid)} is not one of the root keys of {versions}")


def _pem_of(key: Key) -> bytes | None:
    """Return a root's key as PEM; None for a type that only other tools can use."""
    try:
        return public_pem(key)
    except SigningKeyError:
        return None


def with_earlier_roots(proposal: Proposal, roots: Sequence[Metadata[Root]]) -> Proposal:
    """Return the proposal with the roots before its base, the newest ones if not all fit into the file."""
    fitting: list[Metadata[Root]] = []
    room = MAX_PROPOSAL_BYTES // 2
    for metadata in reversed(roots):
        room -= 2 * len(metadata.to_bytes())  # indented in the file
        if room < 0:
            break
        fitting.insert(0, metadata)
    return replace(proposal, earlier=tuple(fitting))


def walk_to_base(trusted: Metadata[Root], proposal: Proposal) -> int:
    """Verify the roots from a trusted one to the one that a proposal starts from; return the number of steps.

    Raises:
        StaleProposalError: the proposal starts from another root than the trusted one, or from an older one,
            or does not have all roots in between.
        TamperedProposalError: a root in between is not signed by the one before it.
    """
    start, base = trusted.signed.version, proposal.base
    if base is None or base.signed.version < start:
        version = base.signed.version if base else 0
        raise StaleProposalError(f"it starts from root {version}, but the current root is root {start}")
    known = {metadata.signed.version: metadata for metadata in (*proposal.earlier, base)}
    if start in known and known[start].signed_bytes != trusted.signed_bytes:
        raise StaleProposalError(f"the root {start} that it starts from is not the current root {start}")
    here = trusted
    for version in range(start + 1, base.signed.version + 1):
        following = known.get(version)
        if following is None:
            raise StaleProposalError(
                f"it starts from root {base.signed.version}, and has no root {version} to lead there from "
                f"root {start}",
                next_step=f"Pass --trusted-root with root {version} or a later one that you have verified.",
            )
        for delegator in (here.signed, following.signed):  # §5.3.4
            status = _signature_status(delegator, following)
            if status.missing:
                raise TamperedProposalError(
                    f"root {version} in it has {len(status.signed)} of the {status.threshold} signatures "
                    f"required from the keys of root {delegator.version}"
                )
        here = following
    return base.signed.version - start


def merge_signatures(proposals: Sequence[Proposal]) -> Proposal:
    """Return one proposal with the signatures of all copies of it.

    Raises:
        ProposalError: they do not propose the same root.
    """

    def content(proposal: Proposal) -> tuple[bytes, bytes | None]:
        return proposal.new.signed_bytes, proposal.base.signed_bytes if proposal.base else None

    merged = deepcopy(proposals[0])
    for other in proposals[1:]:
        if content(other) != content(merged):
            raise ProposalError("these files propose different roots; only signatures may differ")
        merged.new.signatures.update(other.new.signatures)
    return merged


def _parse(data: bytes) -> Proposal:
    if len(data) > MAX_PROPOSAL_BYTES:
        raise ProposalError(f"it is longer than {MAX_PROPOSAL_BYTES} bytes, the limit of a proposal")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise ProposalError(f"its format {document['format']!r} is unknown")
        base = Metadata[Root].from_dict(document["base"]) if document["base"] is not None else None
        new = Metadata[Root].from_dict(document["root"])
        earlier = tuple(Metadata[Root].from_dict(item) for item in document.get("earlier", []))
        for metadata in (base, new, *earlier):
            # Fails for a value without a canonical form, such as a fraction: nobody can have signed that.
            if metadata and not metadata.signed_bytes:
                raise ProposalError("it contains metadata without content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RepositoryError) as error:
        raise ProposalError(f"it is not a root proposal: {type(error).__name__} {error}") from error
    if any(metadata.signed.type != Root.type for metadata in (base, new, *earlier) if metadata):
        raise ProposalError("it contains metadata of a role other than root")
    return Proposal(base=base, new=new, earlier=earlier)


def _check_roots(proposal: Proposal) -> None:
    """Refuse roots that contradict themselves or do not follow each other. Raises TamperedProposalError."""
    for root in proposal.roots():
        for role, rule in root.roles.items():
            if not set(rule.keyids) <= set(root.keys):
                raise TamperedProposalError(f"{role} of root {root.version} names a key that is not in it")
    # §5.3.5: exactly one above the version before it.
    base, new = proposal.base, proposal.root
    before = base.signed.version if base else 0
    if new.version != before + 1:
        raise TamperedProposalError(f"it proposes root {new.version} as the next root after root {before}")
    for role, rule in new.roles.items():
        if len(rule.keyids) < rule.threshold:
            raise TamperedProposalError(f"{role}: it has fewer keys than its threshold")
    if base:
        status = _signature_status(base.signed, base)
        if status.missing:
            raise TamperedProposalError(
                f"root {status.version}, from which it starts, has {len(status.signed)} of the "
                f"{status.threshold} valid signatures required from its own keys: it was never published"
            )


def _check_new_keys(proposal: Proposal) -> None:
    """Refuse invalid names of holders, and new keys that some client does not verify; old keys may stay."""
    for root in proposal.roots():
        holder_names(root)
    old = proposal.base.signed.keys if proposal.base else {}
    for keyid, key in proposal.root.keys.items():
        if old.get(keyid) != key:
            require_usable(key)
            for other in proposal.root.keys.values():
                if other.keyid != keyid and is_same_key(key, other):
                    raise TamperedProposalError(
                        f"the new key {short_keyid(keyid)} is listed once more, as "
                        f"{short_keyid(other.keyid)}: its holder alone would make two signatures"
                    )


def _check_signatures(proposal: Proposal) -> None:
    payload = proposal.new.signed_bytes
    for keyid, signature in proposal.new.signatures.items():
        root = next((root for root in proposal.roots() if keyid in root.roles["root"].keyids), None)
        if root is None:
            raise TamperedProposalError(
                f"it contains a signature by {proposal.holder_text(keyid)}, which is a root key of neither "
                "the old root nor the new one",
                next_step="If that key was removed earlier, ask who used it, and create the proposal again.",
            )
        try:
            root.keys[keyid].verify_signature(signature, payload)
        except SslibError as error:
            holder = holder_of(root, keyid)
            raise TamperedProposalError(
                f"the signature of {holder} is not valid for this root: one of them was changed"
            ) from error


def _signature_status(root: Root, metadata: Metadata[Root]) -> SignatureStatus:
    result = root.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
    return SignatureStatus(
        version=root.version,
        threshold=result.threshold,
        signed=tuple(holder_of(root, keyid) for keyid in result.signed),
        unsigned=tuple(holder_of(root, keyid) for keyid in result.unsigned),
    )
