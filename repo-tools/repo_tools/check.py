"""Is a repository whole? Everything a client will rely on, checked as a client checks it, all faults at once.

Rules:

* the chain of trust first (:mod:`repo_tools.chain`); what rests on a broken link is not judged;
* then the targets (:mod:`repo_tools.check_targets`), then the manifest's own sense
  (:mod:`repo_tools.check_manifest`): every supported version reaches the newest release, with what it needs;
* files that no signature covers are reported; only a folder can be asked for them;
* nothing is written, and the clock is a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from repo_tools import channels, check_manifest, check_targets
from repo_tools.chain import MAX_METADATA_BYTES, Chain, numbered, walk
from repo_tools.channels import TARGETS, name_in
from repo_tools.errors import BrokenRepositoryError
from repo_tools.expiry import SOON, expirations
from repo_tools.findings import Finding, Severity
from repo_tools.listing import TIMESTAMP
from repo_tools.progress import Progress, silent
from repo_tools.session import MANIFEST, read_manifest
from repo_tools.store import listed_in, lists_among
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.times import spoken_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from tuf.api.metadata import Role, Targets

    from repo_tools.chain import Source, Verified
    from updog.update_metadata.manifest import Manifest

LONGEST_CACHING = 3600
"""Seconds a cache may keep the timestamp: above it a withdrawal reaches nobody for too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        findings: in the order of the checks. targets: how many were looked at. updates: how many releases.
    """

    findings: tuple[Finding, ...]
    targets: int
    updates: int

    @property
    def clean(self) -> bool:
        """Whether there is nothing worse than a note."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checking:
    """How thoroughly to look.

    Attributes:
        deep: read every target, and unpack every image; else only look whether they are there.
        slots: role → bytes of the nodes' partitions; nothing is said about sizes of roles not named.
    """

    deep: bool = True
    slots: Mapping[str, int] = field(default_factory=dict)


def check(
    source: Source, *, now: datetime, how: Checking | None = None, progress: Progress = silent
) -> Report:
    """Return everything that is wrong with the repository at ``source``.

    Args:
        source: a folder or a web server.
        now: what expiries are compared with.
        how: how thoroughly to look; the defaults read everything.
        progress: told after every block.

    Raises:
        RepositoryUnreachableError, MediumError: it cannot be read, so nothing can be said.
    """
    how = how or Checking()
    chain = walk(source)
    findings = [
        *chain.findings,
        *_expired(chain, now),
        *_root_settings(chain),
        *_shared_keys(chain),
        *_strays(source, chain),
        *_server(source, chain),
    ]
    if chain.targets is None:
        return Report(findings=tuple(findings), targets=0, updates=0)
    seen: set[tuple[str, str]] = set()
    updates = 0
    for link in chain.lists():
        listed = link.signed.targets
        files = {(name, item.hashes.get("sha256", "")) for name, item in listed.items()}
        known = {name for name, _ in files & seen}  # channels share images
        seen |= files
        manifest = _manifest(source, link, findings)
        findings += check_targets.faults(
            source, listed, manifest, known=known, deep=how.deep, progress=progress
        )
        if manifest:
            updates += len(manifest.updates)
            found = check_manifest.faults(manifest, listed, how.slots)
            findings += (replace(fault, place=name_in(_channel(link), fault.place)) for fault in found)
    if not chain.findings:  # else a list is missing that may cover them
        findings += _orphans(source)
    return Report(findings=tuple(dict.fromkeys(findings)), targets=len(seen), updates=updates)


def _channel(link: Verified[Targets]) -> str | None:
    return None if link.role == TARGETS else link.role


def _expired(chain: Chain, now: datetime) -> Iterator[Finding]:
    for row in expirations(chain, now=now):
        place = f"metadata/{row.name}"
        if row.expired:
            code = "root-expired" if row.role == "root" else "metadata-expired"
            yield Finding(code=code, place=place, message=f"expired {row.expires:%Y-%m-%d %H:%M} UTC")
        elif row.within(SOON):
            yield Finding(code="expires-soon", place=place, message=f"expires in {spoken_duration(row.left)}")


def _root_settings(chain: Chain) -> Iterator[Finding]:
    if chain.root is None:
        return
    place = f"metadata/{chain.roots[-1].name}"
    if not chain.root.consistent_snapshot:
        yield Finding(code="consistent-snapshot-off", place=place, message="consistent_snapshot is false")
    for name, facts in _delegations(chain):
        if facts.threshold > len(facts.keyids):
            message = f"{name} needs {facts.threshold} signatures and has {len(facts.keyids)} keys"
            yield Finding(code="threshold-unreachable", place=place, message=message, subject=name)


def _delegations(chain: Chain) -> Iterator[tuple[str, Role]]:
    """Yield every role with its keys and threshold, channels included."""
    yield from chain.root.roles.items() if chain.root else ()
    if chain.targets:
        for name in channels.names(chain.targets.signed):
            yield name, channels.role(chain.targets.signed, name)


def _shared_keys(chain: Chain) -> Iterator[Finding]:
    """Yield roles that share a key; snapshot and timestamp, both online, may (TUF specification §6.1)."""
    if chain.root is None:
        return
    keyids = {name: set(facts.keyids) for name, facts in _delegations(chain)}
    for one, other in combinations(sorted(keyids), 2):
        shared = keyids[one] & keyids[other]
        if shared and {one, other} != {"snapshot", "timestamp"}:
            code = "root-key-shared" if "root" in {one, other} else "key-shared"
            message = f"{one} and {other} share {', '.join(sorted(keyid[:12] for keyid in shared))}"
            yield Finding(code=code, place=f"metadata/{chain.roots[-1].name}", message=message)


def _strays(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield metadata that no timestamp leads to, above what is published, and temporary files."""
    names = source.names("metadata") or []
    published = {"snapshot": chain.snapshot, **{link.role: link for link in chain.lists()}}
    for role, link in published.items():
        newer = [version for version in numbered(names, role) if link and version > link.signed.version]
        for version in newer:
            name = f"{version}.{role}.json"
            yield Finding(
                code="metadata-unnamed", place=f"metadata/{name}", message="no timestamp leads to it"
            )
    for name in names:
        if name.endswith(".tmp"):
            yield Finding(code="leftover", place=f"metadata/{name}", message="temporary file")


def _server(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield what a web server should do otherwise."""
    manners = source.manners(TIMESTAMP) if chain.timestamp else None
    if manners is None:
        return
    if not manners.ranges:
        yield Finding(
            code="ranges-unsupported", place=TIMESTAMP, message="asked for a part, the server sent all"
        )
    if manners.max_age > LONGEST_CACHING:
        message = f"caches may keep it for {manners.max_age} seconds"
        yield Finding(code="timestamp-cached", place=TIMESTAMP, message=message)


def _orphans(source: Source) -> Iterator[Finding]:
    """Yield files in ``targets`` that no targets metadata, old ones included, leads to."""
    names = source.names("metadata") or []
    covered: set[str] = set()
    for name in lists_among(names):
        covered |= listed_in(source.read(f"metadata/{name}", MAX_METADATA_BYTES) or b"")
    for name in source.names("targets") or []:
        if name not in covered:
            yield Finding(code="target-orphan", place=f"targets/{name}", message="no signed metadata list it")


def _manifest(source: Source, link: Verified[Targets], findings: list[Finding]) -> Manifest | None:
    """Return the manifest of a list of targets, or None with a finding that says why not."""
    name = name_in(_channel(link), MANIFEST)
    if name not in link.signed.targets:
        place = f"metadata/{link.name}"
        findings.append(Finding(code="manifest-missing", place=place, message=f"{name} is not listed"))
        return None
    try:
        return read_manifest(source, link.signed, _channel(link))
    except ManifestError as error:
        found = (
            Finding(code="manifest-invalid", place=f"{name} {fault.path}".strip(), message=fault.problem)
            for fault in error.faults
        )
        findings.extend(found)
    except BrokenRepositoryError:
        pass  # the target itself is not what was signed; that is found with the other targets
    return None
