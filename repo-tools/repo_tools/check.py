"""Is a repository whole? Everything a client will rely on, checked as a client checks it, all faults at once.

Rules:

* the chain of trust first (:mod:`repo_tools.chain`); what rests on a broken link is not judged;
* every target listed is there with its length and SHA-256; every image that the manifest names is listed
  and unpacks to the raw size and SHA-256 that the manifest says, if it says so;
* the manifest's own sense: waves rise, one max_version a family, migrations connect and are listed;
* files that no signature covers are reported; only a folder can be asked for them;
* nothing is written, and the clock is a parameter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain as chained
from typing import TYPE_CHECKING

from repo_tools.chain import MAX_METADATA_BYTES, Chain, numbered, walk
from repo_tools.errors import BrokenRepositoryError, StoredImageError
from repo_tools.expiry import expirations
from repo_tools.findings import Finding, Severity
from repo_tools.images import Measured, unpacked
from repo_tools.progress import Progress, Step, silent
from repo_tools.session import MANIFEST, read_manifest
from repo_tools.store import file_of, listed_in
from updog.update_metadata.errors import ManifestError, MigrationError
from updog.update_metadata.migrations import find_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from tuf.api.metadata import TargetFile

    from repo_tools.chain import Source
    from updog.update_metadata.manifest import Content, Manifest, Update

_IMAGES = ("boot", "root", "hash")


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


def check(source: Source, *, now: datetime, deep: bool = True, progress: Progress = silent) -> Report:
    """Return everything that is wrong with the repository at ``source``.

    Args:
        source: a folder or a web server.
        now: what expiries are compared with.
        deep: read every target, and unpack every image; else only look whether they are there.
        progress: told after every block.

    Raises:
        RepositoryUnreachableError, MediumError: it cannot be read, so nothing can be said.
    """
    chain = walk(source)
    findings = [*chain.findings, *_expired(chain, now), *_root_settings(chain), *_strays(source, chain)]
    if chain.targets is None:
        return Report(findings=tuple(findings), targets=0, updates=0)
    listed = chain.targets.signed.targets
    manifest = _manifest(source, chain, findings)
    raw = _contents(manifest) if manifest else {}
    looking = _Targets(source=source, images=raw, deep=deep, progress=progress)
    findings += chained.from_iterable(looking.faults(name, listed[name]) for name in sorted(listed))
    findings += _orphans(source)
    if manifest:
        findings += chained.from_iterable(
            _update_faults(manifest, update, listed) for update in manifest.updates
        )
        findings += _family_faults(manifest)
        findings += _migration_faults(manifest, listed)
    return Report(
        findings=tuple(findings), targets=len(listed), updates=len(manifest.updates) if manifest else 0
    )


def _expired(chain: Chain, now: datetime) -> Iterator[Finding]:
    for row in expirations(chain, now=now):
        if row.expired:
            code = "root-expired" if row.role == "root" else "metadata-expired"
            yield Finding(
                code=code, place=f"metadata/{row.name}", message=f"expired {row.expires:%Y-%m-%d %H:%M} UTC"
            )


def _root_settings(chain: Chain) -> Iterator[Finding]:
    if chain.root and not chain.root.consistent_snapshot:
        yield Finding(
            code="consistent-snapshot-off",
            place=f"metadata/{chain.roots[-1].name}",
            message="consistent_snapshot is false",
        )


def _strays(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield metadata that no timestamp leads to, above what is published, and temporary files."""
    names = source.names("metadata") or []
    published = {"snapshot": chain.snapshot, "targets": chain.targets}
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


def _orphans(source: Source) -> Iterator[Finding]:
    """Yield files in ``targets`` that no targets metadata, old ones included, leads to."""
    names = source.names("metadata") or []
    covered: set[str] = set()
    for version in numbered(names, "targets"):
        covered |= listed_in(source.read(f"metadata/{version}.targets.json", MAX_METADATA_BYTES) or b"")
    for name in source.names("targets") or []:
        if name not in covered:
            yield Finding(code="target-orphan", place=f"targets/{name}", message="no signed metadata list it")


def _manifest(source: Source, chain: Chain, findings: list[Finding]) -> Manifest | None:
    """Return the manifest, or None with a finding that says why not."""
    targets = chain.targets
    if targets is None:
        return None
    place = f"metadata/{targets.name}"
    if MANIFEST not in targets.signed.targets:
        findings.append(Finding(code="manifest-missing", place=place, message=f"{MANIFEST} is not listed"))
        return None
    try:
        return read_manifest(source, targets.signed)
    except ManifestError as error:
        found = (
            Finding(code="manifest-invalid", place=f"{MANIFEST} {fault.path}".strip(), message=fault.problem)
            for fault in error.faults
        )
        findings.extend(found)
    except BrokenRepositoryError:
        pass  # the target itself is not what was signed; that is found with the other targets
    return None


def _contents(manifest: Manifest) -> dict[str, Content | None]:
    """Return image name → what it unpacks to, None where the manifest does not say."""
    return {
        getattr(update.images, image): getattr(update.contents, image) if update.contents else None
        for update in manifest.updates
        for image in _IMAGES
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Targets:
    """Looks at targets one by one: stored bytes, and what images unpack to."""

    source: Source
    images: Mapping[str, Content | None]
    deep: bool
    progress: Progress

    def faults(self, name: str, listed: TargetFile) -> Iterator[Finding]:
        """Yield what is wrong with one target: at most one thing, the first that explains the others."""
        place = f"targets/{file_of(name, listed.hashes.get('sha256', ''))}"
        found = self._read(place, name, listed) if self.deep else self._looked_at(place, listed)
        if found:
            code, message = found
            yield Finding(code=code, place=place, message=message, subject=name)

    def _looked_at(self, place: str, listed: TargetFile) -> tuple[str, str] | None:
        length = self.source.size(place)
        if length is None:
            return "target-missing", "not there"
        return None if length == listed.length else _wrong_length(length, listed)

    def _read(self, place: str, name: str, listed: TargetFile) -> tuple[str, str] | None:
        blocks = self.source.blocks(place)
        if blocks is None:
            return "target-missing", "not there"
        stored = Measured(blocks, Step(action="check", item=name, total=listed.length), self.progress)
        malformed, raw = _measure_raw(stored, name) if name in self.images else ("", None)
        stored.drain()
        if stored.length != listed.length:
            return _wrong_length(stored.length, listed)
        if stored.sha256 != listed.hashes.get("sha256"):
            return "target-digest", f"SHA-256 is {stored.sha256}"
        if malformed:
            return "image-malformed", malformed
        return _wrong_content(raw, self.images.get(name))


def _wrong_length(length: int, listed: TargetFile) -> tuple[str, str]:
    return "target-length", f"{length} bytes, signed are {listed.length}"


def _wrong_content(raw: tuple[int, str] | None, said: Content | None) -> tuple[str, str] | None:
    if raw is None or said is None or raw == (said.size, said.sha256):
        return None
    found = f"unpacks to {raw[0]} bytes of SHA-256 {raw[1]}"
    return "content-mismatch", f"{found}; the manifest says {said.size} of {said.sha256}"


def _measure_raw(stored: Measured, name: str) -> tuple[str, tuple[int, str] | None]:
    """Return why an image cannot be unpacked, or the size and SHA-256 of what it unpacks to."""
    size, digest = 0, hashlib.sha256()
    try:
        for block in unpacked(iter(stored), name):
            size += len(block)
            digest.update(block)
    except StoredImageError as error:
        return error.message, None
    return "", (size, digest.hexdigest())


def _update_faults(manifest: Manifest, update: Update, listed: Mapping[str, TargetFile]) -> Iterator[Finding]:
    place = f"{MANIFEST} updates[{manifest.updates.index(update)}]"
    for image in _IMAGES:
        name = getattr(update.images, image)
        if name not in listed:
            yield Finding(
                code="image-unlisted",
                place=f"{place}.images.{image}",
                message=f"{name} is not listed",
                subject=name,
            )
    if update.contents is None:
        yield Finding(
            code="content-unstated", place=place, message="size and SHA-256 of its raw images are not said"
        )
    for fault in update.waves.disorder():
        yield Finding(code="waves-unordered", place=f"{place}.waves.{fault.path}", message=fault.problem)
    family = manifest.updates_of(update.variant, update.arch)
    if update.floor and not any(update.floor <= other.version < update.version for other in family):
        message = f"no release from {update.floor} up to {update.version} is published"
        yield Finding(code="floor-unpublished", place=f"{place}.floor", message=message)


def _families(manifest: Manifest) -> Iterator[tuple[Update, ...]]:
    """Yield the releases of every variant and architecture, newest first."""
    for variant, arch in dict.fromkeys((update.variant, update.arch) for update in manifest.updates):
        yield manifest.updates_of(variant, arch)


def _family_faults(manifest: Manifest) -> Iterator[Finding]:
    for family in _families(manifest):
        newest = family[0]
        place = f"{MANIFEST} {newest.variant} {newest.arch}"
        limits = sorted({update.max_version for update in family})
        if len(limits) > 1:
            message = f"max_version is {' and '.join(map(str, limits))} in releases of one family"
            yield Finding(code="max-version-mixed", place=place, message=message)
        elif limits[0] > newest.version:
            message = f"max_version {limits[0]} is above the newest release, {newest.version}"
            yield Finding(code="max-version-high", place=place, message=message)
        if all(update.version > update.max_version for update in family):
            yield Finding(
                code="nothing-on-offer", place=place, message="every release is above its max_version"
            )


def _migration_faults(manifest: Manifest, listed: Mapping[str, TargetFile]) -> Iterator[Finding]:
    for hop, names in manifest.migrations.items():
        for name in names:
            if name not in listed:
                place = f"{MANIFEST} migrations.({hop[0]}, {hop[1]})"
                yield Finding(
                    code="migration-unlisted", place=place, message=f"{name} is not listed", subject=name
                )
    if manifest.migrations:  # none at all: this repository does without them
        for family in _families(manifest):
            yield from _gaps(manifest, family)


def _gaps(manifest: Manifest, family: tuple[Update, ...]) -> Iterator[Finding]:
    """Yield the releases that cannot reach the newest one on offer."""
    offered = [update for update in family if update.version <= update.max_version]
    for older in offered[1:]:
        try:
            find_migrations(manifest.migrations, older.version, offered[0].version)
        except MigrationError as error:
            place = f"{MANIFEST} {older.variant} {older.arch}"
            yield Finding(code="migration-missing", place=place, message=error.message)
