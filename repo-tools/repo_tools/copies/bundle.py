"""Bundles: what nodes at given versions need to reach the newest release, for places without a network.

Rules:

* a bundle is a repository with a part of its targets: all roots, the current metadata, the manifest, what
  the channel's brake holds, and the targets that nodes at the start versions fetch on their upgrade path. A
  folder can be used directly, with ``file:`` URLs; a single file is a plain tar archive of that folder;
* nothing is trusted because it is in the bundle: importing verifies what a client verifies;
* ``bundle.json`` says what the bundle is for. It is not signed: it is information for people, and shows
  whether the bundle is complete.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.copies.clone import VerifiedSource, copy, verify_source
from repo_tools.errors import BundleError
from repo_tools.readable import readable_medium
from repo_tools.releases.upgrade_path import needed, upgrade_path
from repo_tools.repository.published import (
    MANIFEST,
    TIMESTAMP,
    PublishedTarget,
    numbered_files,
    published_targets,
    read_offered,
    require_complete,
    require_intact,
    targets_in,
)
from repo_tools.trust.chain import MAX_METADATA_BYTES, versions_among
from repo_tools.trust.channels import target_name
from repo_tools.trust.source import READ_BYTES, FolderSource
from signpost.errors import MediumError, UsageError
from signpost.medium import OsMedium
from signpost.progress import Action, Progress, ProgressStep, silent
from updog import durable
from updog.update_metadata.holds import brake_role
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.releases.upgrade_path import UpgradePath
    from repo_tools.trust.source import ServerBehaviour
    from updog.update_metadata.manifest import Manifest
    from updog.update_metadata.version import Version

CONTENTS = "bundle.json"
_FILE_ENDING = ".tar"
_MAX_CONTENTS_BYTES = 1 << 20
_NAMES_SHOWN = 3  # of missing targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """The nodes that a bundle is for.

    Attributes:
        starts: versions that they run; empty for every published version.
        variant, arch: of the nodes; None for all.
        channel: that they follow; None for the top-level releases.
    """

    starts: Sequence[Version] = ()
    variant: str | None = None
    arch: str | None = None
    channel: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodePath:
    """The upgrade path of the nodes of one variant and architecture at one version."""

    variant: str
    arch: str
    path: UpgradePath

    def to_json(self) -> dict[str, Any]:
        """Return the path as ``bundle.json`` and ``--json`` have it."""
        return {
            "variant": self.variant,
            "arch": self.arch,
            "from": str(self.path.start),
            "through": [str(step.version) for step in self.path.steps],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """An exported bundle.

    Attributes:
        place: its file or folder. paths: the upgrade paths that it is for.
        targets: number of targets. length: their total size in bytes.
    """

    place: Path
    paths: tuple[NodePath, ...]
    targets: int
    length: int

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        ways = [path.to_json() for path in self.paths]
        return {"bundle": str(self.place), "ways": ways, "targets": self.targets, "bytes": self.length}


def export(
    folder: Path,
    place: Path,
    nodes: Nodes,
    *,
    now: datetime,
    progress: Progress = silent,
) -> Bundle:
    """Create a bundle from a repository, or a mirror, in ``folder``.

    Args:
        folder: is only read.
        place: the bundle: a tar archive if its name ends in ``.tar``, otherwise a folder; files that a folder
            already has are kept.
        nodes: the nodes that it is for.
        now: the time that expiries are compared with.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        BundleError: a start version does not reach the newest release.
        TargetError: a target is missing or is not what was signed; nothing was created.
        ChannelError, MigrationError, MediumError, and those of ``clone.verify_source``.
    """
    bundle, verified, targets = _verified(folder, place, nodes, now)
    facts = bundle.to_json() | {"made_at": format_time(now.replace(microsecond=0))}
    del facts["bundle"]
    contents = (json.dumps(facts, indent=2) + "\n").encode()
    if place.name.endswith(_FILE_ENDING):
        _write_archive(place, verified, targets, contents, progress)
    else:
        copy(verified, place, targets, progress=progress)
        durable.write_bytes(readable_medium(), place / CONTENTS, contents)
    return bundle


def plan_export(folder: Path, place: Path, nodes: Nodes, *, now: datetime) -> Bundle:
    """Return what :func:`export` would create. Reads and compares the targets, writes nothing.

    Raises what it raises, but not MediumError of ``place``.
    """
    return _verified(folder, place, nodes, now)[0]


def _verified(
    folder: Path, place: Path, nodes: Nodes, now: datetime
) -> tuple[Bundle, VerifiedSource, list[PublishedTarget]]:
    """Return the bundle to create, the verified source of it, and its targets, which are what was signed."""
    source = FolderSource(folder)
    oldest = min(versions_among(source.names("metadata") or [], "root"), default=1)
    root = source.read(f"metadata/{oldest}.root.json", MAX_METADATA_BYTES)
    verified = verify_source(source, place, trusted_root=root, now=now)
    published = require_complete(verified.chain)
    listed = published.targets_of(nodes.channel)
    manifest = read_offered(source, published, nodes.channel)
    paths = tuple(_node_paths(manifest, nodes))
    names = {target_name(nodes.channel, MANIFEST)}.union(*(needed(manifest, item.path) for item in paths))
    targets = [item for item in targets_in(listed) if item.name in names]
    if missing := sorted(names - {item.name for item in targets}):
        raise BundleError(f"not listed in the signed metadata: {', '.join(missing[:_NAMES_SHOWN])}")
    if brake := published.brakes.get(brake_role(nodes.channel)):  # nodes do not update without its file
        targets += targets_in(brake.signed)
    length = sum(item.length for item in targets)
    bundle = Bundle(place=place, paths=paths, targets=len(targets), length=length)
    require_intact(folder, targets)
    return bundle, verified, targets


def _node_paths(manifest: Manifest, nodes: Nodes) -> Iterator[NodePath]:
    """Yield the upgrade path of each variant and architecture from each start version. Raises BundleError."""
    families = dict.fromkeys((update.variant, update.arch) for update in manifest.updates)
    chosen = [key for key in families if nodes.variant in {None, key[0]} and nodes.arch in {None, key[1]}]
    if not chosen:
        raise UsageError(
            "nothing is published for these nodes", next_step="Check --channel, --variant and --arch."
        )
    for variant, arch in chosen:
        family = manifest.updates_of(variant, arch)
        for start in nodes.starts or [update.version for update in reversed(family)]:
            path = upgrade_path(family, start)
            if not path.arrives:
                reached = path.steps[-1].version if path.steps else start
                raise BundleError(
                    f"a node at {start} cannot get further than {reached}: a floor blocks it",
                    next_step="See `repo-tools validate`; publish a release in between, or omit this one.",
                )
            yield NodePath(variant=variant, arch=arch, path=path)


def _write_archive(
    place: Path,
    verified: VerifiedSource,
    targets: Sequence[PublishedTarget],
    contents: bytes,
    progress: Progress,
) -> None:
    """Write the archive to a temporary file in the same folder and rename it. Raises MediumError."""
    temporary = place.with_name(place.name + ".tmp")
    files = {CONTENTS: contents} | numbered_files(verified.chain)
    if verified.chain.timestamp:
        files[TIMESTAMP] = verified.chain.timestamp.data
    medium = OsMedium()
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            for path, data in files.items():
                archive.addfile(_member(path, len(data)), io.BytesIO(data))
            for item in targets:
                stream = _TargetStream(verified, item, progress)
                archive.addfile(_member(item.path, item.length), stream)  # type: ignore[arg-type]
        with durable.opened(medium, str(temporary), write=True) as descriptor:
            medium.flush(descriptor)
    except OSError as error:
        medium.remove(str(temporary))
        raise MediumError.of(f"cannot write {place}: {error.strerror or error}", error) from error
    except tarfile.TarError as error:
        medium.remove(str(temporary))
        raise MediumError(f"cannot write {place}: {error}") from error
    medium.rename(str(temporary), str(place))
    medium.flush_folder(str(place.parent))


def _member(path: str, length: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size, member.mode = length, 0o644
    return member


class _TargetStream:
    """A target as the file object that tarfile reads from."""

    def __init__(self, verified: VerifiedSource, item: PublishedTarget, progress: Progress) -> None:
        self._blocks = verified.source.blocks(item.path) or iter(())
        self._rest = b""
        self._step = ProgressStep(action=Action.EXPORT, item=item.name, total=item.length)
        self._progress = progress
        progress(self._step)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        while len(self._rest) < size and (block := next(self._blocks, b"")):
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        self._step = self._step.at(self._step.done + len(data))
        self._progress(self._step)
        return data


class BundleSource:
    """A bundle in one file, as a source. Members are read directly from the archive; nothing is unpacked.

    Args:
        place: the archive.

    Raises:
        BundleError: it is not a bundle.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        try:
            with tarfile.open(place, "r:") as archive:
                self._members = {
                    member.name: (member.offset_data, member.size)
                    for member in archive
                    if member.isreg() and not member.issparse()
                }
        except (OSError, tarfile.TarError) as error:
            raise BundleError(f"{place} is not a bundle: {error}") from error

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file of at limit ``limit`` bytes. Raises BundleError."""
        if self._members.get(path, (0, 0))[1] > limit:
            raise BundleError(f"{path} in {self._place} is longer than {limit} bytes")
        blocks = self.blocks(path)
        return None if blocks is None else b"".join(blocks)

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file block by block from byte ``start``. Raises BundleError."""
        return self._blocks(*self._members[path], start) if path in self._members else None

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes."""
        return self._members[path][1] if path in self._members else None

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in a folder, sorted."""
        return sorted(name.partition("/")[2] for name in self._members if name.startswith(f"{folder}/"))

    def server_behaviour(self, path: str) -> ServerBehaviour | None:
        """Return None: a bundle has no server."""
        del path
        return None

    def _blocks(self, offset: int, length: int, start: int) -> Iterator[bytes]:
        try:
            with self._place.open("rb") as stream:
                stream.seek(offset + start)
                rest = length - start
                while rest > 0 and (block := stream.read(min(rest, READ_BYTES))):
                    yield block
                    rest -= len(block)
        except OSError as error:
            raise BundleError(f"cannot read {self._place}: {error.strerror}") from error


def bundled_targets(verified: VerifiedSource) -> list[PublishedTarget]:
    """Return the signed targets that a bundle contains.

    Raises:
        BundleError: the bundle is incomplete: it contains fewer targets than were exported.
    """
    contained = [
        item for item in published_targets(verified.chain) if verified.source.size(item.path) == item.length
    ]
    exported = _exported_targets(verified.source.read(CONTENTS, _MAX_CONTENTS_BYTES))
    if len(contained) < exported:
        raise BundleError(
            f"the bundle contains {len(contained)} of the {exported} exported targets",
            next_step="The copy of the bundle is incomplete, or its medium is damaged: copy it again.",
        )
    return contained


def _exported_targets(contents: bytes | None) -> int:
    """Return the number of targets in ``bundle.json``, 0 if it does not state a valid number."""
    try:
        count = json.loads(contents or b"{}")["targets"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return count if isinstance(count, int) else 0
