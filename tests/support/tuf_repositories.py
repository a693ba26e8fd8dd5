"""A TUF repository in memory, signed with real ed25519 keys. Tests use it as publisher and as attacker.

    repository = TufRepository({"a": b"content"})   # root 1 and everything below it, signed
    repository.put("b", b"more"); repository.publish()
    repository.files                                # what a mirror serves: metadata/… and targets/…

An attack is a change of :attr:`TufRepository.files` (a mirror without keys) or of a field of a role's payload
before :meth:`TufRepository.publish` (a publisher who makes a mistake, or stolen keys).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tuf.api.metadata import Signed

ROLES = ("root", "timestamp", "snapshot", "targets")
_COMPACT = JSONSerializer(compact=True)


@cache
def signer(name: str) -> CryptoSigner:
    """Return the signer of this name, which always has the same key. TEST ONLY."""
    secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return CryptoSigner(secret)


def in_days(days: float) -> datetime:
    """Return the time so many days from now, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def signed_bytes(payload: Signed, signers: Sequence[CryptoSigner]) -> bytes:
    """Return the payload as a metadata file with these signatures."""
    metadata: Metadata[Any] = Metadata(payload)
    for one in signers:
        metadata.sign(one, append=True)
    return metadata.to_bytes(_COMPACT)


class TufRepository:
    """The four top-level roles, by default with one key each, and their files.

    Args:
        targets: name → content.
        expires: when all metadata expire.
        thresholds: role → threshold; the role has as many keys.

    Attributes:
        root, timestamp, snapshot, targets: the payloads that :meth:`publish` signs next.
        signers: role → its signers.
        delegated: delegated role → payload.
        files: path → bytes: everything that was ever published.
    """

    def __init__(
        self,
        targets: Mapping[str, bytes] | None = None,
        *,
        expires: datetime | None = None,
        thresholds: Mapping[str, int] | None = None,
    ) -> None:
        end = expires or in_days(30)
        thresholds = thresholds or {}
        self.files: dict[str, bytes] = {}
        self.signers = {
            role: [signer(f"{role} {number}") for number in range(thresholds.get(role, 1))] for role in ROLES
        }
        self.root = Root(expires=end)
        for role in ROLES:
            self.root.roles[role].threshold = thresholds.get(role, 1)
            for one in self.signers[role]:
                self.root.add_key(one.public_key, role)
        self.timestamp = Timestamp(expires=end)
        self.snapshot = Snapshot(expires=end)
        self.targets = Targets(expires=end)
        for payload in (self.timestamp, self.snapshot, self.targets):
            payload.version = 0  # publish makes it 1
        self.delegated: dict[str, Targets] = {}
        self.publish_root(self.signers["root"])
        for name, content in (targets or {}).items():
            self.put(name, content)
        self.publish()

    # -- what a publisher does ---------------------------------------------------------------------

    @property
    def first_root(self) -> bytes:
        """Root version 1, with which a node is shipped."""
        return self.files["metadata/1.root.json"]

    def put(self, name: str, content: bytes, *, role: str = "targets") -> TargetFile:
        """Add a target and its file; :meth:`publish` signs it."""
        target = TargetFile.from_data(name, content, ["sha256"])
        payload = self.targets if role == "targets" else self.delegated[role]
        payload.targets[name] = target
        self.files[self.target_path(name, content)] = content
        return target

    @staticmethod
    def target_path(name: str, content: bytes) -> str:
        """Return the path at which a target is served."""
        folder, slash, base = name.rpartition("/")
        return f"targets/{folder}{slash}{hashlib.sha256(content).hexdigest()}.{base}"

    def delegate(self, role: str, paths: Sequence[str], *, expires: datetime | None = None) -> None:
        """Delegate ``paths`` from targets to a role with its own key."""
        own = signer(role)
        self.signers[role] = [own]
        delegated = DelegatedRole(role, [own.public_key.keyid], 1, True, paths=list(paths))
        delegations = self.targets.delegations or Delegations({}, {})
        delegations.keys[own.public_key.keyid] = own.public_key
        roles = {**(delegations.roles or {}), role: delegated}
        self.targets.delegations = Delegations(delegations.keys, roles)
        self.delegated[role] = Targets(expires=expires or self.targets.expires)
        self.delegated[role].version = 0

    def publish(self, *, expires: datetime | None = None) -> None:
        """Sign and publish a new version of all roles but root; ``expires`` is set for all of them."""
        for name, payload in {"targets": self.targets, **self.delegated}.items():
            self._next(payload, expires)
            self.snapshot.meta[f"{name}.json"] = MetaFile(version=payload.version)
            self._write(name, payload)
        self._next(self.snapshot, expires)
        data = self._write("snapshot", self.snapshot)
        self._next(self.timestamp, expires)
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        self.files["metadata/timestamp.json"] = signed_bytes(self.timestamp, self.signers["timestamp"])

    def publish_timestamp(self) -> None:
        """Sign a new timestamp of the same snapshot."""
        self._next(self.timestamp, None)
        self.files["metadata/timestamp.json"] = signed_bytes(self.timestamp, self.signers["timestamp"])

    def publish_root(self, signers: Sequence[CryptoSigner]) -> bytes:
        """Sign and publish the root as it is; return its bytes."""
        data = signed_bytes(self.root, signers)
        self.files[f"metadata/{self.root.version}.root.json"] = data
        return data

    def rotate(self, role: str, *, times: int = 1) -> None:
        """Replace a role's keys with new ones, ``times`` times; publish a new root each time."""
        for _ in range(times):
            before = self.signers["root"]
            self.root.version += 1
            fresh = [
                signer(f"{role} {number} of root {self.root.version}")
                for number in range(len(self.signers[role]))
            ]
            for one in self.signers[role]:
                self.root.revoke_key(one.public_key.keyid, role)
            for one in fresh:
                self.root.add_key(one.public_key, role)
            self.signers = {**self.signers, role: fresh}
            keyed = {one.public_key.keyid: one for one in (*before, *self.signers["root"])}
            self.publish_root(list(keyed.values()))

    def write_to(self, folder: Path) -> Path:
        """Write everything that is served now into a folder, and return the folder."""
        for path, data in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def _next(self, payload: Signed, expires: datetime | None) -> None:
        payload.version += 1
        payload.expires = expires or payload.expires

    def _write(self, role: str, payload: Signed) -> bytes:
        data = signed_bytes(payload, self.signers[role])
        self.files[f"metadata/{payload.version}.{role}.json"] = data
        return data

    # -- what an attacker does ----------------------------------------------------------------------

    def snapshot_of_files(self) -> dict[str, bytes]:
        """Return a copy of everything that is served now, to restore it later."""
        return dict(self.files)

    def resign(self, path: str, signers: Sequence[CryptoSigner]) -> None:
        """Replace the signatures of a metadata file that is served."""
        payload = Metadata[Any].from_bytes(self.files[path]).signed
        self.files[path] = signed_bytes(payload, signers)
