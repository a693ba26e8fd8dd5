"""PURE: a channel's next metadata on their way from one holder of its keys to the next.

A channel with a threshold above 1 may need hands that are not in one place. Then the command that changes it
leaves this file instead of publishing: the metadata with the signatures so far, and the small targets that go
with them, so that each holder sees what is signed, without the repository and without a network.

Rules:

* what is signed is the metadata alone; the manifest and the log in the file are those it lists, by length
  and SHA-256, else the file is refused;
* it also says who may sign: the keys and the threshold. That is for the holders only. Whether the signatures
  are enough is decided in the repository, by the keys its targets metadata give to the channel;
* a channel that is new is in the file as it will be delegated to.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Targets

from repo_tools.changes import LOG, ChangeLog
from repo_tools.channels import name_in, require_name
from repo_tools.errors import PendingError
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PENDING_BYTES = 32 * 1024 * 1024
"""A manifest and a log of the greatest size, and metadata that list some ten thousand targets."""

_FORMAT = "channel proposal 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A channel's next metadata, signed so far.

    Attributes:
        role: the channel with its threshold and the paths it may speak for. keys: of the role.
        base: the channel's version this was made from, 0 for a new channel.
        metadata: what is signed. files: target name → content of the small targets that go with it.
    """

    role: DelegatedRole
    keys: Sequence[Key]
    base: int
    metadata: Metadata[Targets]
    files: Mapping[str, bytes]

    @property
    def channel(self) -> str:
        """Whose metadata it is."""
        return self.role.name

    @property
    def file_name(self) -> str:
        """What the file is called."""
        return f"{self.channel}-{self.metadata.signed.version}.json"

    @property
    def signed(self) -> list[str]:
        """The keyids whose signature is there and holds."""
        return [key.keyid for key in self.keys if self._holds(key)]

    @property
    def missing(self) -> int:
        """How many more signatures are needed."""
        return max(0, self.role.threshold - len(self.signed))

    def _holds(self, key: Key) -> bool:
        signature = self.metadata.signatures.get(key.keyid)
        try:
            if signature:
                key.verify_signature(signature, self.metadata.signed_bytes)
        except SslibError:
            return False
        return signature is not None

    @property
    def log(self) -> ChangeLog:
        """The log of changes, whose last entry is what the signature is for. Raises ManifestError."""
        return ChangeLog.from_json(self.files[name_in(self.channel, LOG)])

    def to_json(self) -> dict[str, Any]:
        """Return what `channel sign` and `channel finish` print with ``--json``."""
        return {
            "channel": self.channel,
            "version": self.metadata.signed.version,
            "threshold": self.role.threshold,
            "signed": self.signed,
            "missing": self.missing,
            "change": self.log.entries[-1].to_json() if self.log.entries else None,
        }

    def to_bytes(self) -> bytes:
        """Return the file."""
        document = {
            "format": _FORMAT,
            "base": self.base,
            "role": self.role.to_dict(),
            "keys": {key.keyid: key.to_dict() for key in self.keys},
            "files": {name: data.decode() for name, data in self.files.items()},
            "metadata": self.metadata.to_dict(),
        }
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Pending:
        """Return what a file holds. Raises PendingError, ChannelError or ManifestError."""
        pending = _parsed(data)
        require_name(pending.channel)
        for name in (name_in(pending.channel, "manifest.json"), name_in(pending.channel, LOG)):
            if name not in pending.files:
                raise PendingError(f"{name} is not in it")
        for name, content in pending.files.items():
            _check_file(pending, name, content)
        for keyid in set(pending.metadata.signatures) - set(pending.signed):
            raise PendingError(
                f"the signature of the key {keyid[:12]} is not for this: one of them was changed"
            )
        Manifest.from_json(pending.files[name_in(pending.channel, "manifest.json")])
        ChangeLog.from_json(pending.files[name_in(pending.channel, LOG)])
        return pending


def _parsed(data: bytes) -> Pending:
    if len(data) > MAX_PENDING_BYTES:
        raise PendingError(f"it has more than {MAX_PENDING_BYTES} bytes")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise PendingError(f"it is of the unknown format {document['format']!r}")
        pending = Pending(
            role=DelegatedRole.from_dict(document["role"]),
            keys=[Key.from_dict(keyid, key) for keyid, key in document["keys"].items()],
            base=int(document["base"]),
            metadata=Metadata[Targets].from_dict(document["metadata"]),
            files={str(name): text.encode() for name, text in document["files"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RepositoryError) as error:
        raise PendingError(f"no metadata of a channel: {type(error).__name__} {error}") from error
    if pending.metadata.signed.type != Targets.type:
        raise PendingError(f"it holds {pending.metadata.signed.type} metadata")
    return pending


def _check_file(pending: Pending, name: str, content: bytes) -> None:
    listed = pending.metadata.signed.targets.get(name)
    if listed is None or listed.hashes.get("sha256") != hashlib.sha256(content).hexdigest():
        raise PendingError(f"{name} in it is not the one that is signed")
    if not pending.role.is_delegated_path(name):
        raise PendingError(f"the channel {pending.channel} cannot speak for {name}")
