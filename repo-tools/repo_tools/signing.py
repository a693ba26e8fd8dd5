"""Signing, and looking at once whether what was signed verifies.

Rules:

* every key at hand of a role signs, up to all of them: one too many costs nothing, one too few a release;
* right after signing the result is verified by the delegator's own rule; a signature that is too few or
  does not verify is an error here and never reaches the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from repo_tools.chain import unsigned_by
from repo_tools.errors import SigningKeyError, ThresholdError
from repo_tools.keys import cause_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from securesystemslib.signer import Key

    from repo_tools.keys import SignerStore

_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


def sign(signed: _S, signers: SignerStore, *delegators: Root) -> bytes:
    """Return the metadata file of ``signed``, signed by the keys at hand of its role in every delegator.

    Raises:
        ThresholdError: the keys at hand are too few.
        SigningKeyError: one of them cannot be used.
    """
    metadata: Metadata[_S] = Metadata(signed)
    keys = {keyid: root.keys[keyid] for root in delegators for keyid in root.roles[signed.type].keyids}
    add_signatures(metadata, signers, keys.values())
    for root in delegators:
        require_signed(metadata, signed.type, root)
    return metadata.to_bytes()


def add_signatures(metadata: Metadata[_S], signers: SignerStore, keys: Iterable[Key]) -> None:
    """Sign with every one of these keys that is at hand. Raises SigningKeyError."""
    for signer in signers.of(keys):
        try:
            metadata.sign(signer, append=True)
        except RepositoryError as error:
            keyid = signer.public_key.keyid
            cause = cause_of(error.__cause__ or error)
            raise SigningKeyError(f"the key {keyid} does not sign: {cause}") from error


def require_signed(metadata: Metadata[_S], role: str, delegator: Root | Targets) -> None:
    """Refuse metadata that too few of a role's keys have signed. Raises ThresholdError."""
    if missing := unsigned_by(delegator, role, metadata):
        version = metadata.signed.version
        raise ThresholdError(f"{role} version {version} {missing} of {delegator.type} {delegator.version}")
