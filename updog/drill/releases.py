"""The releases that drills run with, read from a repository as a node reads it: only what is signed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from signpost.medium import OsMedium
from updog.config import parse
from updog.drill.drill_file import Kind
from updog.errors import ConfigError, DrillSkippedError
from updog.repository import Repository, http_settings
from updog.transport import HttpTransport

if TYPE_CHECKING:
    from datetime import datetime

    from updog.config import Config
    from updog.drill.machine import DrillReleases
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version

_MAX_ROOT_BYTES = 1 << 20
_HINT = "`repo-tools publish` records the content of images; publish the release again."


def find(wanted: DrillReleases, *, now: datetime) -> DrillReleases:
    """Return ``wanted`` with what the repository adds: contents of the releases, age of the root.

    Raises:
        UnreachableError, TrustError, ManifestError: the repository is not available or not trusted.
        ConfigError: it lacks a named release, or has no record of the content of one.
    """
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        config = _config(wanted, Path(scratch))
        config.trusted_root.write_bytes(wanted.root)
        settings = http_settings(config, wanted.versions[Kind.FIRST])
        repository = Repository(config, settings, medium=OsMedium(), now=now, latest_known=None)
        newest = _root_version((config.state_dir / "tuf" / "root.json").read_bytes())
        updates = {v: _update(repository.manifest(), wanted, v) for v in wanted.versions.values()}
    return replace(
        wanted,
        contents={version: update.contents for version, update in updates.items() if update.contents},
        roots_behind=newest - _root_version(wanted.root),
    )


def older_root(releases: DrillReleases, rotations: int) -> DrillReleases:
    """Return the releases for a node whose trusted root is this many versions older than the repository's.

    Raises:
        DrillSkippedError: the repository's root has fewer versions.
        UnreachableError: the older root is no longer in the repository.
    """
    if releases.roots_behind >= rotations:
        return releases
    number = _root_version(releases.root) + releases.roots_behind - rotations
    if number < 1:
        raise DrillSkippedError(f"the repository's root was rotated fewer than {rotations} times")
    config = _config(releases, Path())
    transport = HttpTransport(http_settings(config, releases.versions[Kind.FIRST]))
    root = b"".join(transport.stream(f"{config.metadata_base_url}{number}.root.json", limit=_MAX_ROOT_BYTES))
    return replace(releases, root=root, roots_behind=rotations)


def _config(releases: DrillReleases, folder: Path) -> Config:
    """Return the configuration of a node that only reads."""
    lines = (
        f'metadata_base_url = "{releases.metadata_url}"',
        f'targets_base_url = "{releases.targets_url}"',
        'trusted_root = "root.json"\nstate_dir = "state"\nsend_query = false\nseed = 0',
    )
    return parse("\n".join(lines), folder)


def _update(manifest: Manifest, releases: DrillReleases, version: Version) -> Update:
    """Return a release whose content is recorded. Raises ConfigError."""
    update = manifest.find(releases.variant, releases.arch, version)
    name = f"{releases.variant} {releases.arch} {version}"
    if update is None:
        raise ConfigError(f"the repository has no {name}", next_step="Check --release, --variant and --arch.")
    if update.contents is None:
        raise ConfigError(f"the repository has no record of the content of {name}", next_step=_HINT)
    return update


def _root_version(data: bytes) -> int:
    """Return the version of a TUF root."""
    from tuf.api.metadata import Metadata, Root

    return Metadata[Root].from_bytes(data).signed.version
