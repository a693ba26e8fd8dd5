"""The chain of trust of a repository, walked as a client walks it, without stopping at the first fault.

Rules (numbers are those of the TUF specification's client workflow):

* roots 1 … N, each signed by a threshold of the one before it and of itself (§5.3);
* the timestamp is signed by root N (§5.4); the snapshot has the length, SHA-256 and version that the
  timestamp says, and its own signature (§5.5); targets the same under the snapshot (§5.6);
* every channel the same under the snapshot, signed by a threshold of the keys that targets give it (§5.6.7);
* expiry is not judged here: what to do about it depends on who asks (a publisher re-signs);
* what did not verify is never used: the walk ends there, with a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tuf.api.exceptions import DownloadLengthMismatchError, LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from repo_tools.channels import names
from repo_tools.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.source import Manners

MAX_METADATA_BYTES = 64 * 1024 * 1024
"""One metadata file. python-tuf's default is 5 MB for targets; a publisher's check may look at more."""

MAX_ROOTS = 1024
"""Versions of root. The clients' own limits are 256 (python-tuf) and 1024 (tough)."""

_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.([a-z][a-z0-9_-]*)\.json")
_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


class Source(Protocol):
    """Where a repository can be read: a folder or a web server. Paths begin with metadata/ or targets/."""

    def read(self, path: str, most: int) -> bytes | None:
        """Return a whole file of at most ``most`` bytes, None where there is none."""
        ...

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file's content from byte ``start`` in blocks of bounded size, None where there is none."""
        ...

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None where there is none."""
        ...

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in ``metadata`` or ``targets``, None where that cannot be asked."""
        ...

    def manners(self, path: str) -> Manners | None:
        """Return how a web server serves this file, None where there is no server or no such file."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified(Generic[_S]):
    """A metadata file whose signatures hold. ``data`` are its bytes, ``name`` is its file's."""

    role: str
    name: str
    data: bytes
    signed: _S


@dataclass(slots=True)
class Chain:
    """What a walk has verified so far; None where it did not get to. ``findings`` say why.

    ``channels`` are the delegated roles that verified, in the order of the delegations.
    """

    roots: list[Verified[Root]] = field(default_factory=list)
    timestamp: Verified[Timestamp] | None = None
    snapshot: Verified[Snapshot] | None = None
    targets: Verified[Targets] | None = None
    channels: dict[str, Verified[Targets]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def root(self) -> Root | None:
        """The newest root that verifies."""
        return self.roots[-1].signed if self.roots else None

    def verified(
        self,
    ) -> Iterator[Verified[Root] | Verified[Timestamp] | Verified[Snapshot] | Verified[Targets]]:
        """Yield the newest root and whatever else verified, from the root down."""
        yield from self.roots[-1:]
        yield from self.lists()
        for link in (self.snapshot, self.timestamp):
            if link is not None:
                yield link

    def lists(self) -> Iterator[Verified[Targets]]:
        """Yield what lists targets: the top-level role, then every channel."""
        if self.targets is not None:
            yield self.targets
        yield from self.channels.values()


def walk(source: Source, *, last_root: int = MAX_ROOTS) -> Chain:
    """Return the chain of the repository at ``source`` with everything found wrong on the way.

    ``last_root`` is the newest root to take, for what was signed before a change of keys.
    """
    chain = Chain()
    _walk_roots(source, chain, last_root)
    root = chain.root
    if root is None or any(finding.code.startswith("root-") for finding in chain.findings):
        return chain
    link = _Links(source=source, chain=chain)
    chain.timestamp = link.to(Timestamp, "timestamp", None, root)
    if chain.timestamp:
        chain.snapshot = link.to(Snapshot, "snapshot", chain.timestamp.signed.snapshot_meta, root)
    if chain.snapshot:
        chain.targets = link.to(Targets, "targets", chain.snapshot.signed.meta["targets.json"], root)
    if chain.snapshot and chain.targets:
        _walk_channels(link, chain.snapshot.signed, chain.targets.signed)
    return chain


def _walk_channels(link: _Links, snapshot: Snapshot, targets: Targets) -> None:
    for channel in names(targets):
        meta = snapshot.meta.get(f"{channel}.json")
        if meta is None:
            _note(link.chain, "metadata-missing", f"{channel}.json", "the snapshot does not list it")
        elif verified := link.to(Targets, channel, meta, targets):
            link.chain.channels[channel] = verified


def numbered(names: list[str], role: str) -> list[int]:
    """Return the versions of ``role`` among file names such as ``3.root.json``, rising."""
    matches = (_NUMBERED.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match and match[2] == role)


def _walk_roots(source: Source, chain: Chain, last_root: int) -> None:
    names = source.names("metadata")
    highest = max(numbered(names, "root"), default=1) if names is not None else None
    for version in range(1, last_root + 1):
        name = f"{version}.root.json"
        data = source.read(f"metadata/{name}", MAX_METADATA_BYTES)
        if data is None:
            _note_missing_root(chain, version, highest)
            return
        link = _root_link(chain, name, data, version)
        if link is None:
            return
        chain.roots.append(link)
    if last_root == MAX_ROOTS:
        message = f"more than {MAX_ROOTS} roots: no client walks so far"
        _note(chain, "root-invalid", f"{MAX_ROOTS}.root.json", message)


def _note_missing_root(chain: Chain, version: int, highest: int | None) -> None:
    """Note a root that must be there: the first, or one below the highest on disk."""
    if version == 1 or (highest is not None and version <= highest):
        reach = f", and {highest}.root.json is" if highest and highest > version else ""
        _note(chain, "root-missing", f"{version}.root.json", f"not there{reach}")


def _root_link(chain: Chain, name: str, data: bytes, version: int) -> Verified[Root] | None:
    metadata = _parsed(chain, Root, name, data, "root-invalid")
    if metadata is None:
        return None
    signed = metadata.signed
    # §5.3.5: exactly one above the version before it.
    if signed.version != version:
        _note(chain, "root-invalid", name, f"calls itself version {signed.version}")
        return None
    # §5.3.4: a threshold of the keys of the root before it, and of its own.
    for delegator in [*(link.signed for link in chain.roots[-1:]), signed]:
        if missing := unsigned_by(delegator, "root", metadata):
            _note(chain, "root-invalid", name, f"{missing} of root {delegator.version}")
            return None
    return Verified(role="root", name=name, data=data, signed=signed)


def unsigned_by(delegator: Root | Targets, role: str, metadata: Metadata[_S]) -> str:
    """Return how many signatures of a role are missing, in words; nothing where the threshold is met."""
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if result.verified:
        return ""
    return f"has {len(result.signed)} of the {result.threshold} valid signatures needed by the keys"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Links:
    """Reads and verifies one metadata file after the other; what is wrong goes to the chain's findings."""

    source: Source
    chain: Chain

    def to(
        self, kind: type[_S], role: str, meta: MetaFile | None, delegator: Root | Targets
    ) -> Verified[_S] | None:
        """Return the metadata of a role if they are what ``meta`` says and the delegator's keys signed."""
        name = f"{meta.version}.{role}.json" if meta else f"{role}.json"
        data = self.source.read(f"metadata/{name}", MAX_METADATA_BYTES)
        if data is None:
            _note(self.chain, "metadata-missing", name, "not there")
            return None
        if meta is not None and not _as_listed(self.chain, name, data, meta):
            return None
        metadata = _parsed(self.chain, kind, name, data, "metadata-invalid")
        if metadata is None or not self._as_signed(name, role, metadata, meta, delegator):
            return None
        return Verified(role=role, name=name, data=data, signed=metadata.signed)

    def _as_signed(
        self, name: str, role: str, metadata: Metadata[_S], meta: MetaFile | None, delegator: Root | Targets
    ) -> bool:
        # §5.4.2, §5.5.3, §5.6.3: signatures; §5.5.4, §5.6.4: the version that was listed.
        signed: Signed = metadata.signed
        if missing := unsigned_by(delegator, role, metadata):
            message = f"{missing} of {delegator.type} {delegator.version}"
            _note(self.chain, "metadata-signature", name, message)
            return False
        if meta is not None and signed.version != meta.version:
            _note(self.chain, "metadata-version", name, f"calls itself version {signed.version}")
            return False
        return True


def _as_listed(chain: Chain, name: str, data: bytes, meta: MetaFile) -> bool:
    # §5.5.2, §5.6.2: length and hashes, where listed.
    try:
        meta.verify_length_and_hashes(data)
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        _note(chain, "metadata-digest", name, str(error))
        return False
    return True


def _parsed(chain: Chain, kind: type[_S], name: str, data: bytes, code: str) -> Metadata[_S] | None:
    try:
        metadata = Metadata[_S].from_bytes(data)
    except RepositoryError as error:
        cause = error.__cause__ or error
        _note(chain, code, name, f"cannot be read: {cause}")
        return None
    if not isinstance(metadata.signed, kind):
        _note(chain, code, name, f"is {metadata.signed.type} metadata")
        return None
    return metadata


def _note(chain: Chain, code: str, name: str, message: str) -> None:
    chain.findings.append(Finding(code=code, place=f"metadata/{name}", message=message))
