"""PURE: a channel's next metadata while the holders of its keys sign them, one after the other.

A channel with a threshold above 1 may need holders in different places. The command that changes it then
writes this file instead of publishing: the metadata with the signatures so far, and the small targets that
belong to them, so that each holder sees what is signed, without the repository and without a network.

Rules:

* only the metadata are signed; the manifest and the log in the file must be the ones that the metadata list,
  by length and SHA-256, otherwise the file is refused;
* the file also says who can sign: the keys, their holders' names and the threshold. That is information for
  the holders only: the repository decides whether there are enough signatures, by the keys that its targets
  metadata delegate to;
* for a new channel the file contains the future delegation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Targets

from repo_tools.errors import ChannelProposalError, TargetError
from repo_tools.keys.holders import Holder, is_holder_name, short_keyid
from repo_tools.repository.change_log import LOG, ChangeLog
from repo_tools.repository.published import MANIFEST, targets_in
from repo_tools.trust.channels import require_name, target_name
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PROPOSAL_BYTES = 32 * 1024 * 1024
"""A manifest and a log of the largest size, and metadata that list about ten thousand targets."""

_FORMAT = "channel proposal 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelProposal:
    """A channel's next metadata, with the signatures so far.

    Attributes:
        role: the channel's delegation: threshold and paths. keys: the keys of the role.
        base: the channel's version that this starts from, 0 for a new channel.
        metadata: what is signed. files: target name → content of the small targets that belong to it.
        holders: keyid → name of the key's holder, where known.
    """

    role: DelegatedRole
    keys: Sequence[Key]
    base: int
    metadata: Metadata[Targets]
    files: Mapping[str, bytes]
    holders: Mapping[str, str] = field(default_factory=dict)

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return self.role.name

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return f"{self.channel}-{self.metadata.signed.version}.json"

    @property
    def signed(self) -> list[str]:
        """The keyids that have a valid signature."""
        return [key.keyid for key in self.keys if self._has_valid_signature(key)]

    @property
    def signed_by(self) -> tuple[Holder, ...]:
        """The holders whose signature is valid."""
        signed = self.signed
        return tuple(self.holder(key) for key in self.keys if key.keyid in signed)

    @property
    def not_signed_by(self) -> tuple[Holder, ...]:
        """The holders who have not signed."""
        signed = self.signed
        return tuple(self.holder(key) for key in self.keys if key.keyid not in signed)

    def holder(self, key: Key) -> Holder:
        """Return the holder of one of the keys."""
        return Holder(name=self.holders.get(key.keyid, ""), key=key)

    def is_same_change(self, other: ChannelProposal) -> bool:
        """Return whether another file asks for signatures of the same content."""
        return self.metadata.signed_bytes == other.metadata.signed_bytes

    def add_signatures_of(self, other: ChannelProposal) -> None:
        """Add the signatures of another copy of the same change. Raises ChannelProposalError."""
        if not self.is_same_change(other):
            raise ChannelProposalError("these files are different changes; only the signatures may differ")
        valid = other.signed
        self.metadata.signatures.update(
            {keyid: item for keyid, item in other.metadata.signatures.items() if keyid in valid}
        )

    @property
    def missing(self) -> int:
        """How many more signatures are required."""
        return max(0, self.role.threshold - len(self.signed))

    def _has_valid_signature(self, key: Key) -> bool:
        signature = self.metadata.signatures.get(key.keyid)
        try:
            if signature:
                key.verify_signature(signature, self.metadata.signed_bytes)
        except SslibError:
            return False
        return signature is not None

    @property
    def manifest(self) -> Manifest:
        """The channel's manifest after the change. Raises ManifestError."""
        return Manifest.from_json(self.files[target_name(self.channel, MANIFEST)])

    @property
    def log(self) -> ChangeLog:
        """The log of changes; its last entry is the change to be signed. Raises ManifestError."""
        return ChangeLog.from_json(self.files[target_name(self.channel, LOG)])

    def to_json(self) -> dict[str, Any]:
        """Return the document that `channel sign` and `channel finish` print with ``--json``."""
        return {
            "channel": self.channel,
            "version": self.metadata.signed.version,
            "threshold": self.role.threshold,
            "signed": self.signed,
            "signed_by": [holder.to_json() for holder in self.signed_by],
            "not_signed_by": [holder.to_json() for holder in self.not_signed_by],
            "missing": self.missing,
            "change": self.log.entries[-1].to_json() if self.log.entries else None,
        }

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        document = {
            "format": _FORMAT,
            "base": self.base,
            "role": self.role.to_dict(),
            "keys": {key.keyid: key.to_dict() for key in self.keys},
            "holders": dict(self.holders),
            "files": {name: data.decode() for name, data in self.files.items()},
            "metadata": self.metadata.to_dict(),
        }
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ChannelProposal:
        """Return the proposal in a file. Raises ChannelProposalError, ChannelError or ManifestError."""
        proposal = _parse(data)
        channel = require_name(proposal.channel)
        manifest, log = target_name(channel, MANIFEST), target_name(channel, LOG)
        for name in (manifest, log):
            if name not in proposal.files:
                raise ChannelProposalError(f"{name} is missing in it")
        for name, content in proposal.files.items():
            listed = proposal.metadata.signed.targets.get(name)
            if listed is None or listed.hashes.get("sha256") != hashlib.sha256(content).hexdigest():
                raise ChannelProposalError(f"{name} in it is not the one that is signed")
            if not proposal.role.is_delegated_path(name):
                raise ChannelProposalError(f"{name} is outside the delegation of the channel {channel}")
        try:
            targets_in(proposal.metadata.signed)
        except TargetError as error:
            raise ChannelProposalError(error.message) from error
        for keyid in set(proposal.metadata.signatures) - set(proposal.signed):
            raise ChannelProposalError(
                f"the signature of the key {short_keyid(keyid)} is not valid: it or the content was changed"
            )
        Manifest.from_json(proposal.files[manifest])
        if not ChangeLog.from_json(proposal.files[log]).entries:
            raise ChannelProposalError(f"{log} in it does not say what is changed")
        return proposal


def _parse(data: bytes) -> ChannelProposal:
    if len(data) > MAX_PROPOSAL_BYTES:
        raise ChannelProposalError(f"it has more than {MAX_PROPOSAL_BYTES} bytes")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise ChannelProposalError(f"its format {document['format']!r} is unknown")
        role = DelegatedRole.from_dict(document["role"])
        keys = {keyid: Key.from_dict(keyid, key) for keyid, key in document["keys"].items()}
        proposal = ChannelProposal(
            role=role,
            keys=[keys[keyid] for keyid in role.keyids],
            base=int(document["base"]),
            metadata=Metadata[Targets].from_dict(document["metadata"]),
            files={str(name): text.encode() for name, text in document["files"].items()},
            holders=dict(document.get("holders", {})),
        )
        # Fails for a value without a canonical form, such as a fraction: nobody can have signed that.
        if not proposal.metadata.signed_bytes:
            raise ChannelProposalError("it contains metadata without content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RepositoryError) as error:
        raise ChannelProposalError(f"it is not a channel proposal: {type(error).__name__} {error}") from error
    if proposal.metadata.signed.type != Targets.type:
        raise ChannelProposalError(f"it contains {proposal.metadata.signed.type} metadata")
    if not all(is_holder_name(name) for name in proposal.holders.values()):
        raise ChannelProposalError("it contains a holder's name that is not printable text")
    return proposal
