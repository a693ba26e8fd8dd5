"""What drills are played with, taken from a repository as a node takes it: nothing unsigned is believed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from signpost.medium import OsMedium
from updog.config import parse
from updog.drill.script import Kind
from updog.errors import ConfigError, DrillSkippedError
from updog.repository import Repository, http_settings
from updog.transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from updog.config import Config
    from updog.drill.machine import Supply
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version

ROLES = ("boot", "root", "hash")
_MAX_ROOT_BYTES = 1 << 20
_HINT = "`repo-tools publish` records what an image contains; publish it anew."


def find(wanted: Supply, *, now: datetime) -> Supply:
    """Return ``wanted`` with what the repository says: contents of the releases, age of the root.

    Raises:
        UnreachableError, TrustError, ManifestError: the repository is not to be had or believed.
        ConfigError: it lacks a release that was named, or does not say what one contains.
    """
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        config = _config(wanted, Path(scratch))
        config.trusted_root.write_bytes(wanted.root)
        settings = http_settings(config, wanted.releases[Kind.FIRST])
        repository = Repository(config, settings, medium=OsMedium(), now=now, latest_known=None)
        newest = _root_version((config.state_dir / "tuf" / "root.json").read_bytes())
        updates = {v: _update(repository.manifest(), wanted, v) for v in wanted.releases.values()}
    return replace(
        wanted,
        contents={version: _contents(update) for version, update in updates.items()},
        roots_behind=newest - _root_version(wanted.root),
    )


def older_root(supply: Supply, rotations: int) -> Supply:
    """Return the supply of a node whose trusted root is this many versions behind the repository's.

    Raises:
        DrillSkippedError: the root was not rotated so often.
        UnreachableError: the older root is no longer in the repository.
    """
    if supply.roots_behind >= rotations:
        return supply
    number = _root_version(supply.root) + supply.roots_behind - rotations
    if number < 1:
        raise DrillSkippedError(f"the repository's root was rotated less than {rotations} times")
    config = _config(supply, Path())
    transport = HttpTransport(http_settings(config, supply.releases[Kind.FIRST]))
    root = b"".join(transport.stream(f"{config.metadata_base_url}{number}.root.json", limit=_MAX_ROOT_BYTES))
    return replace(supply, root=root, roots_behind=rotations)


def _config(supply: Supply, folder: Path) -> Config:
    """Return the configuration of somebody who only looks."""
    lines = (
        f'metadata_base_url = "{supply.metadata_url}"',
        f'targets_base_url = "{supply.targets_url}"',
        'trusted_root = "root.json"\nstate_dir = "state"\nsend_query = false\nseed = 0',
    )
    return parse("\n".join(lines), folder)


def _update(manifest: Manifest, supply: Supply, version: Version) -> Update:
    """Return a release, which says what it contains. Raises ConfigError."""
    update = manifest.find(supply.variant, supply.arch, version)
    name = f"{supply.variant} {supply.arch} {version}"
    if update is None:
        raise ConfigError(f"the repository has no {name}", next_step="Check --release, --variant and --arch.")
    if update.contents is None:
        raise ConfigError(f"the repository does not say what {name} contains", next_step=_HINT)
    return update


def _contents(update: Update) -> Mapping[str, Content]:
    """Return what is signed about a release's raw images."""
    return {role: getattr(update.contents, role) for role in ROLES}


def _root_version(data: bytes) -> int:
    """Return the version of a TUF root."""
    from tuf.api.metadata import Metadata, Root

    return Metadata[Root].from_bytes(data).signed.version
