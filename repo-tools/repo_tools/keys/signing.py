"""Signing metadata, and verifying the result at once.

Rules:

* every available key of a role signs: one signature too many costs nothing, one too few costs a release;
* a key that cannot be used is a warning if the others are enough, otherwise its fault is the error;
* right after signing, the result is verified against the delegator's keys and threshold; too few valid
  signatures are an error, and such metadata never reach the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from repo_tools.errors import ThresholdError
from repo_tools.keys.holders import Holder, holder_names
from repo_tools.trust.chain import missing_signatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from securesystemslib.signer import Key, Signer

    from repo_tools.keys.signers import SignerStore

_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


def sign(signed: _S, signers: SignerStore, *delegators: Root) -> bytes:
    """Return the metadata file of ``signed``, signed by the available keys of its role in every delegator.

    Raises:
        ThresholdError: too few keys are available.
        SigningKeyError: one of them cannot be used.
    """
    metadata: Metadata[_S] = Metadata(signed)
    keys = {keyid: root.keys[keyid] for root in delegators for keyid in root.roles[signed.type].keyids}
    add_signatures(metadata, signers, keys.values())
    for root in delegators:
        missing = missing_signatures(root, signed.type, metadata)
        name = f"{signed.type} version {signed.version}"
        require_signatures(signers, keys.values(), name, missing, names=holder_names(root))
    return metadata.to_bytes()


def add_signatures(metadata: Metadata[_S], signers: SignerStore, keys: Iterable[Key]) -> None:
    """Sign with each of these keys that is available; what fails is in ``signers.failed``."""
    for key in keys:
        signers.attempt(key, lambda signer: _sign_with(metadata, signer))


def _sign_with(metadata: Metadata[_S], signer: Signer) -> None:
    try:
        metadata.sign(signer, append=True)
    except RepositoryError as error:  # python-tuf hides what a token or key service reported
        raise error.__cause__ or error from None


def require_signatures(
    signers: SignerStore,
    keys: Iterable[Key],
    name: str,
    missing: str,
    *,
    names: Mapping[str, str],
    shown_by: str = "root show",
) -> None:
    """Refuse metadata for which signatures are missing; warn about keys that were not needed.

    Args:
        signers: have signed.
        keys: of the role.
        name: of the metadata, for the message.
        missing: how many are missing, as text; "" for none.
        names: keyid → name of the key's holder, where known.
        shown_by: the command that lists the keys.

    Raises:
        SigningKeyError: a key that is listed in ``repo.toml`` could not be used.
        ThresholdError: too few keys are available.
    """
    keys = list(keys)
    if missing:
        signers.raise_failed(keys)
        away = [Holder(name=names.get(key.keyid, ""), key=key) for key in keys if not signers.has(key.keyid)]
        raise ThresholdError(
            f"{name} {missing}; not in repo.toml: {', '.join(map(str, away)) or 'none'}",
            next_step=f"Make the missing keys available in repo.toml; `repo-tools {shown_by}` lists them.",
        )
    signers.report_failed(keys, name)
