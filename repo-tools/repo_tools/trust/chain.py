"""The chain of trust of a repository, verified as a client verifies it; every fault found is collected.

Rules (section numbers are those of the TUF specification's client workflow):

* roots 1 … N, each signed by a threshold of the keys of the root before it and of its own (§5.3);
* the timestamp is signed by the keys in root N (§5.4); the snapshot has the length, SHA-256 and version that
  the timestamp lists, and its own signatures (§5.5); the same for targets, listed in the snapshot (§5.6);
* the same for every channel, listed in the snapshot, signed by a threshold of the keys that the top-level
  targets delegate to (§5.6.7);
* expiry is not checked here: what it means depends on the caller (a publisher re-signs);
* metadata that did not verify are never used: the walk ends there, with a finding.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

from tuf.api.exceptions import DownloadLengthMismatchError, LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from repo_tools.trust import channels
from repo_tools.trust.findings import Finding
from updog.tuf_dialects import malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.trust.source import Source


MAX_METADATA_BYTES = 64 * 1024 * 1024
"""Largest metadata file. python-tuf's limit for targets is 5 MB; a publisher's check may read more."""

MAX_ROOTS = 1024
"""Most versions of root. The limits of the clients are 256 (python-tuf) and 1024 (tough)."""

MAX_DELEGATED = 1 << 14
"""Most roles below the channels: TAP 15 gives an example of 16384 bins."""

_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.([a-z][a-z0-9_-]*)\.json")
_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified(Generic[_S]):
    """A metadata file whose signatures are valid. ``data`` is its content, ``name`` its file name."""

    role: str
    name: str
    data: bytes
    signed: _S


@dataclass(slots=True)
class Chain:
    """The metadata that a walk has verified; None for what it did not reach, with the reason in ``findings``.

    ``channels`` are the verified delegated roles, in the order of the delegations; ``brakes`` those that are
    brakes; ``delegated`` those further down, and hashed bins: this project makes none, others do.
    """

    roots: list[Verified[Root]] = field(default_factory=list)
    timestamp: Verified[Timestamp] | None = None
    snapshot: Verified[Snapshot] | None = None
    targets: Verified[Targets] | None = None
    channels: dict[str, Verified[Targets]] = field(default_factory=dict)
    brakes: dict[str, Verified[Targets]] = field(default_factory=dict)
    delegated: dict[str, Verified[Targets]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def root(self) -> Root | None:
        """The newest verified root."""
        return self.roots[-1].signed if self.roots else None

    def verified(
        self,
    ) -> Iterator[Verified[Root] | Verified[Timestamp] | Verified[Snapshot] | Verified[Targets]]:
        """Yield the newest root and all other verified metadata, from the root down."""
        yield from self.roots[-1:]
        yield from self.all_targets()
        for link in (self.snapshot, self.timestamp):
            if link is not None:
                yield link

    def all_targets(self) -> Iterator[Verified[Targets]]:
        """Yield the targets metadata: the top-level role's, those of channels and brakes, then the deeper."""
        if self.targets is not None:
            yield self.targets
        yield from self.channels.values()
        yield from self.brakes.values()
        yield from self.delegated.values()


def walk(source: Source, *, last_root: int = MAX_ROOTS, trusted_root: bytes | None = None) -> Chain:
    """Return the verified chain of the repository at ``source``, with a finding for every fault.

    Args:
        source: where to read.
        last_root: the newest root version to read, to verify what was signed before a change of keys.
        trusted_root: start at this root instead of root 1 (§5.3). Older roots that the source still has are
            taken as far back as each is the one that the next was signed from; a missing one is not a fault.
    """
    chain = Chain()
    reader = _Reader(source=source, chain=chain)
    if trusted_root is None:
        reader.read_roots(last_root)
    else:
        reader.read_roots_from(trusted_root, last_root)
    root = chain.root
    if root is None or any(finding.code.startswith("root-") for finding in chain.findings):
        return chain
    chain.timestamp = reader.read(Timestamp, "timestamp", None, root)
    if chain.timestamp:
        chain.snapshot = reader.read(Snapshot, "snapshot", chain.timestamp.signed.snapshot_meta, root)
    if chain.snapshot:
        chain.targets = reader.read_listed("targets", chain.snapshot.signed, root)
    if chain.snapshot and chain.targets:
        targets = chain.targets.signed
        for channel in channels.names(targets):
            if verified := reader.read_listed(channel, chain.snapshot.signed, targets):
                chain.channels[channel] = verified
        for brake in channels.brakes(targets):
            if verified := reader.read_listed(brake, chain.snapshot.signed, targets):
                chain.brakes[brake] = verified
        reader.read_deeper(chain.snapshot.signed, [link.signed for link in chain.all_targets()])
    return chain


def _delegated_by(targets: Targets) -> Iterator[str]:
    """Yield the names of all roles that targets metadata delegate to."""
    if targets.delegations is not None:
        yield from targets.delegations.roles or ()
        if targets.delegations.succinct_roles is not None:
            yield from targets.delegations.succinct_roles.get_roles()


def versions_among(names: list[str], role: str) -> list[int]:
    """Return the versions of ``role`` among file names such as ``3.root.json``, in ascending order."""
    matches = (_NUMBERED.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match and match[2] == role)


def missing_signatures(delegator: Root | Targets, role: str, metadata: Metadata[_S]) -> str:
    """Return as text how many valid signatures ``metadata`` has of those required; "" if it has enough."""
    try:
        payload = metadata.signed_bytes
    except RepositoryError:  # it has no canonical form
        return "has a value that nobody can have signed: a number with a fraction, or a part of a character"
    result = delegator.get_verification_result(role, payload, metadata.signatures)
    if result.verified:
        return ""
    keys = f"the keys of {delegator.type} {delegator.version}"
    return f"has {len(result.signed)} of the {result.threshold} valid signatures required from {keys}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """Reads and verifies metadata files, one after the other; faults are added to the chain's findings."""

    source: Source
    chain: Chain

    def report(self, code: str, name: str, message: str) -> None:
        """Add a finding about a metadata file."""
        self.chain.findings.append(Finding(code=code, place=f"metadata/{name}", message=message))

    def read_deeper(self, snapshot: Snapshot, delegators: list[Targets]) -> None:
        """Add the roles that delegated roles delegate to, and hashed bins (TAP 15), breadth first (§5.6.7).

        A role that several delegate to is verified with the keys of the first.
        """
        waiting = deque(delegators)
        while waiting:
            delegator = waiting.popleft()
            for name in _delegated_by(delegator):
                if name in self.chain.channels or name in self.chain.brakes or name in self.chain.delegated:
                    continue
                if len(self.chain.delegated) >= MAX_DELEGATED:
                    message = f"more than {MAX_DELEGATED} delegated roles are not supported"
                    self.report("metadata-invalid", f"{name}.json", message)
                    return
                verified = self.read_listed(name, snapshot, delegator)
                if verified:
                    self.chain.delegated[name] = verified
                    waiting.append(verified.signed)

    def read_roots_from(self, trusted: bytes, last_root: int) -> None:
        """Add the roots from a trusted one on, then the older ones that lead to it."""
        metadata = self._parse(Root, "trusted root", trusted, "root-invalid")
        if metadata is None:
            return
        first = metadata.signed.version
        link = self._root(f"{first}.root.json", trusted, first)
        if link is None:
            return
        self.chain.roots.append(link)
        self.read_roots(last_root, first=first + 1)
        while self.chain.roots[0].signed.version > 1:
            following = self.chain.roots[0]
            older = self._older_root(following)
            if older is None:
                return
            self.chain.roots.insert(0, older)

    def _older_root(self, following: Verified[Root]) -> Verified[Root] | None:
        """Return the root before one, if the source has it and both were signed with its keys."""
        version = following.signed.version - 1
        name = f"{version}.root.json"
        data = self.source.read(f"metadata/{name}", MAX_METADATA_BYTES)
        aside = _Reader(source=self.source, chain=Chain())  # its faults do not count
        older = aside._root(name, data, version) if data is not None else None
        if older is None:
            return None
        newer = Metadata[Root].from_bytes(following.data)
        return None if missing_signatures(older.signed, "root", newer) else older

    def read_roots(self, last_root: int, *, first: int = 1) -> None:
        """Add the roots from version ``first`` on to the chain, up to the first that does not verify."""
        names = self.source.names("metadata")
        highest = max(versions_among(names, "root"), default=1) if names is not None else None
        for version in range(first, last_root + 1):
            name = f"{version}.root.json"
            data = self.source.read(f"metadata/{name}", MAX_METADATA_BYTES)
            if data is None:
                # must exist: the first root, and every root below the highest one in the folder
                if version == 1 or (highest is not None and version <= highest):
                    later = f", but {highest}.root.json exists" if highest and highest > version else ""
                    self.report("root-missing", name, f"does not exist{later}")
                return
            link = self._root(name, data, version)
            if link is None:
                return
            self.chain.roots.append(link)
        if last_root == MAX_ROOTS:
            message = f"there are more than {MAX_ROOTS} roots: no client reads that many"
            self.report("root-invalid", f"{MAX_ROOTS}.root.json", message)

    def _root(self, name: str, data: bytes, version: int) -> Verified[Root] | None:
        metadata = self._parse(Root, name, data, "root-invalid")
        if metadata is None:
            return None
        signed = metadata.signed
        # §5.3.5: exactly one above the version before it.
        if signed.version != version:
            self.report("root-invalid", name, f"says that it is version {signed.version}")
            return None
        # §5.3.4: a threshold of the keys of the root before it, and of its own.
        for delegator in [*(link.signed for link in self.chain.roots[-1:]), signed]:
            if missing := missing_signatures(delegator, "root", metadata):
                self.report("root-invalid", name, missing)
                return None
        return Verified(role="root", name=name, data=data, signed=signed)

    def read_listed(
        self, role: str, snapshot: Snapshot, delegator: Root | Targets
    ) -> Verified[Targets] | None:
        """Return a list of targets as :meth:`read` does, if the snapshot lists it (§5.6.1)."""
        meta = snapshot.meta.get(f"{role}.json")
        if meta is None:
            self.report("metadata-missing", f"{role}.json", "is not listed in the snapshot")
            return None
        return self.read(Targets, role, meta, delegator)

    def read(
        self, kind: type[_S], role: str, meta: MetaFile | None, delegator: Root | Targets
    ) -> Verified[_S] | None:
        """Return a role's metadata if they match ``meta`` and the delegator's keys have signed them."""
        # clients ask for role names percent-encoded, and so they never leave the folder
        file = f"{quote(role, safe='')}.json"
        name = f"{meta.version}.{file}" if meta else file
        data = self.source.read(f"metadata/{name}", MAX_METADATA_BYTES)
        if data is None:
            if meta is None or self.chain.root is None or self.chain.root.consistent_snapshot:
                self.report("metadata-missing", name, "does not exist")
            else:
                message = f"does not exist: root {self.chain.root.version} has no consistent_snapshot"
                self.report("consistent-snapshot-off", name, message)
            return None
        if meta is not None:
            # §5.5.2, §5.6.2: length and hashes, where listed.
            try:
                meta.verify_length_and_hashes(data)
            except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
                self.report("metadata-digest", name, str(error))
                return None
        metadata = self._parse(kind, name, data, "metadata-invalid")
        if metadata is None:
            return None
        # §5.4.2, §5.5.3, §5.6.3: signatures.
        if missing := missing_signatures(delegator, role, metadata):
            self.report("metadata-signature", name, missing)
            return None
        # §5.5.4, §5.6.4: the version that was listed.
        signed: Signed = metadata.signed
        if meta is not None and signed.version != meta.version:
            self.report("metadata-version", name, f"says that it is version {signed.version}")
            return None
        return Verified(role=role, name=name, data=data, signed=metadata.signed)

    def _parse(self, kind: type[_S], name: str, data: bytes, code: str) -> Metadata[_S] | None:
        try:
            metadata = Metadata[_S].from_bytes(data)
        except RepositoryError as error:
            self.report(code, name, f"cannot be read: {malformed(error, data)}")
            return None
        if not isinstance(metadata.signed, kind):
            self.report(code, name, f"is {metadata.signed.type} metadata")
            return None
        return metadata
