"""Check everything in a repository that a client relies on, as a client checks it; report all faults at once.

Rules:

* first the chain of trust (:mod:`repo_tools.trust.chain`); what depends on a broken link is not checked;
* then the targets (:mod:`repo_tools.upkeep.check_targets`), then whether the manifest is consistent
  (:mod:`repo_tools.upkeep.check_manifest`): every supported version reaches the newest release, with the
  targets that this needs;
* files that no signature covers are reported; only a folder can be searched for them;
* nothing is written, and the time is a parameter.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from repo_tools.errors import BrokenRepositoryError
from repo_tools.keys.holders import short_keyid
from repo_tools.repository.published import MANIFEST, TIMESTAMP, read_manifest, read_target
from repo_tools.repository.store import paths_listed_in, targets_metadata_among
from repo_tools.trust import channels
from repo_tools.trust.chain import MAX_METADATA_BYTES, Chain, versions_among, walk
from repo_tools.trust.channels import TARGETS, target_name
from repo_tools.trust.expirations import DEFAULT_WINDOW, expirations
from repo_tools.trust.findings import Finding, Severity
from repo_tools.upkeep import check_files, check_manifest, check_settings, check_targets
from repo_tools.upkeep.check_targets import Depth
from signpost.progress import Progress, silent
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.holds import HOLDS, MAX_HOLDS_BYTES, Holds
from updog.update_metadata.times import readable_time_left

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from tuf.api.metadata import Role, Targets

    from repo_tools.trust.chain import Verified
    from repo_tools.trust.source import Source
    from updog.update_metadata.manifest import Manifest

__all__ = ["CheckOptions", "Report", "check"]

LONGEST_CACHING = 3600
"""Longest time in seconds that caches should keep the timestamp: it delays a withdrawal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of a check.

    Attributes:
        findings: in the order of the checks. targets: number of targets. updates: number of releases.
    """

    findings: tuple[Finding, ...]
    targets: int
    updates: int

    @property
    def clean(self) -> bool:
        """Whether there is nothing more severe than a note."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """How thorough a check is.

    Attributes:
        deep: read every target and unpack every image; otherwise only check that they exist.
        settings: look also for what is correctly signed but dangerous, in all files that are there.
        slots: image → size in bytes of the nodes' partition for it; a missing image is not checked.
        inspect: look whether the boot stage can start the boot images (deep checks only).
    """

    deep: bool = True
    settings: bool = True
    slots: Mapping[str, int] = field(default_factory=dict)
    inspect: bool = True

    @property
    def depth(self) -> Depth:
        """How much of the targets is read."""
        if not self.deep:
            return Depth.SIZES
        return Depth.INSPECTED if self.inspect else Depth.CONTENTS


def check(
    source: Source, *, now: datetime, options: CheckOptions | None = None, progress: Progress = silent
) -> Report:
    """Return all faults of the repository at ``source``.

    Args:
        source: a folder or a web server.
        now: the time that expiries are compared with.
        options: how thorough the check is; the defaults read everything.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        RepositoryUnreachableError, MediumError: the repository cannot be read, so nothing can be checked.
    """
    options = options or CheckOptions()
    chain = walk(source)
    findings = [
        *chain.findings,
        *_expiry(chain, now),
        *_root_settings(chain),
        *_shared_keys(chain),
        *(check_settings.faults(source, chain, now) if options.settings else ()),
        *(check_files.faults(source) if options.settings else ()),
        *_leftovers(source, chain),
        *_server(source, chain),
    ]
    if chain.targets is None:
        return Report(findings=tuple(findings), targets=0, updates=0)
    seen: set[tuple[str, str]] = set()
    updates = 0
    for link in chain.all_targets():
        listed = link.signed.targets
        files = {(name, item.hashes.get("sha256", "")) for name, item in listed.items()}
        known = {name for name, _ in files & seen}  # channels share images
        seen |= files
        if link.role in chain.brakes or link.role in chain.delegated:
            findings += check_targets.faults(
                source, listed, None, known=known, depth=options.depth, progress=progress
            )
            findings += _brake(source, link, now) if link.role in chain.brakes else ()
            continue
        channel = None if link.role == TARGETS else link.role
        manifest = _manifest(source, link, channel, findings)
        findings += check_targets.faults(
            source, listed, manifest, known=known, depth=options.depth, progress=progress
        )
        if manifest:
            updates += len(manifest.updates)
            found = check_manifest.faults(manifest, listed, options.slots, now)
            findings += (replace(fault, place=target_name(channel, fault.place)) for fault in found)
    if not chain.findings:  # otherwise targets metadata are missing that may list these files
        findings += _orphans(source)
    return Report(findings=tuple(dict.fromkeys(findings)), targets=len(seen), updates=updates)


def _expiry(chain: Chain, now: datetime) -> Iterator[Finding]:
    for row in expirations(chain, now=now):
        place = f"metadata/{row.name}"
        if row.expired:
            code = "root-expired" if row.role == "root" else "metadata-expired"
            yield Finding(code=code, place=place, message=f"expired {row.expires:%Y-%m-%d %H:%M} UTC")
        elif row.left <= DEFAULT_WINDOW:
            yield Finding(
                code="expires-soon", place=place, message=f"expires in {readable_time_left(row.left)}"
            )


def _root_settings(chain: Chain) -> Iterator[Finding]:
    if chain.root is None:
        return
    place = f"metadata/{chain.roots[-1].name}"
    if not chain.root.consistent_snapshot:
        yield Finding(code="consistent-snapshot-off", place=place, message="consistent_snapshot is false")
    for name, role in _delegations(chain):
        if role.threshold > len(role.keyids):
            message = f"{name} requires {role.threshold} signatures but has {len(role.keyids)} keys"
            yield Finding(code="threshold-unreachable", place=place, message=message, subject=name)


def _delegations(chain: Chain) -> Iterator[tuple[str, Role]]:
    """Yield every role with its keys and threshold, including channels."""
    yield from chain.root.roles.items() if chain.root else ()
    if chain.targets:
        for name in (*channels.names(chain.targets.signed), *channels.brakes(chain.targets.signed)):
            yield name, channels.delegated_role(chain.targets.signed, name)


def _shared_keys(chain: Chain) -> Iterator[Finding]:
    """Yield roles that share a key; only snapshot and timestamp may: both are online (TUF spec §6.1)."""
    if chain.root is None:
        return
    keyids = {name: set(role.keyids) for name, role in _delegations(chain)}
    for one, other in combinations(sorted(keyids), 2):
        shared = keyids[one] & keyids[other]
        if shared and {one, other} != {"snapshot", "timestamp"}:
            code = "root-key-shared" if "root" in {one, other} else "key-shared"
            message = f"{one} and {other} share {', '.join(sorted(map(short_keyid, shared)))}"
            yield Finding(code=code, place=f"metadata/{chain.roots[-1].name}", message=message)


def _leftovers(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield metadata files above the published version, and temporary files."""
    names = source.names("metadata") or []
    published = {"snapshot": chain.snapshot, **{link.role: link for link in chain.all_targets()}}
    for role, link in published.items():
        newer = [version for version in versions_among(names, role) if link and version > link.signed.version]
        for version in newer:
            name = f"{version}.{role}.json"
            yield Finding(
                code="metadata-unnamed", place=f"metadata/{name}", message="no timestamp leads to it"
            )
    for name in names:
        if name.endswith(".tmp"):
            yield Finding(code="leftover", place=f"metadata/{name}", message="temporary file")


def _server(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield what a web server should do differently."""
    behaviour = source.server_behaviour(TIMESTAMP) if chain.timestamp else None
    if behaviour is None:
        return
    if not behaviour.ranges:
        yield Finding(code="ranges-unsupported", place=TIMESTAMP, message="the server ignores Range requests")
    if behaviour.max_age > LONGEST_CACHING:
        message = f"caches may keep it for {behaviour.max_age} seconds"
        yield Finding(code="timestamp-cached", place=TIMESTAMP, message=message)


def _orphans(source: Source) -> Iterator[Finding]:
    """Yield files in ``targets`` that no targets metadata, of any version, list."""
    names = source.names("metadata") or []
    covered: set[str] = set()
    for name in targets_metadata_among(names):
        covered |= paths_listed_in(source.read(f"metadata/{name}", MAX_METADATA_BYTES) or b"")
    for name in source.names("targets") or []:
        if name not in covered:
            message = "no signed metadata list this file"
            yield Finding(code="target-orphan", place=f"targets/{name}", message=message)


def _brake(source: Source, link: Verified[Targets], now: datetime) -> Iterator[Finding]:
    """Yield why nodes cannot read what a brake holds, and holds that begin in the future."""
    name = target_name(link.role, HOLDS)
    if name not in link.signed.targets:
        yield Finding(code="brake-invalid", place=f"metadata/{link.name}", message=f"{name} is not listed")
        return
    with suppress(BrokenRepositoryError):  # the file is not what was signed: check_targets reports that
        try:
            holds = Holds.from_json(read_target(source, link.signed, name, MAX_HOLDS_BYTES) or b"")
        except ManifestError as error:
            for fault in error.faults:
                yield Finding(
                    code="brake-invalid", place=f"{name} {fault.path}".strip(), message=fault.problem
                )
        else:
            for number, release in enumerate(holds.releases):
                if release.hold.since > now + check_manifest.CLOCK_DIFFERENCE:
                    yield check_manifest.hold_ahead(release.hold, f"{name} holds[{number}].since")


def _manifest(
    source: Source, link: Verified[Targets], channel: str | None, findings: list[Finding]
) -> Manifest | None:
    """Return the manifest that targets metadata list, or None and add a finding that says why."""
    name = target_name(channel, MANIFEST)
    if name not in link.signed.targets:
        place = f"metadata/{link.name}"
        findings.append(Finding(code="manifest-missing", place=place, message=f"{name} is not listed"))
        return None
    try:
        return read_manifest(source, link.signed, channel)
    except ManifestError as error:
        found = (
            Finding(code="manifest-invalid", place=f"{name} {fault.path}".strip(), message=fault.problem)
            for fault in error.faults
        )
        findings.extend(found)
    except BrokenRepositoryError:
        pass  # the file is not what was signed: check_targets reports that
    return None
