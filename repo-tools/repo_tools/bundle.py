"""Bundles: what nodes at given versions need to reach the newest release, to be carried where no network is.

Rules:

* a bundle is a repository that lacks targets: all roots, the current metadata, the manifest, and the targets
  that nodes at the start versions fetch on their way. As a folder it can be used as it is, by ``file:`` URLs;
  as one file it is a plain tar archive of that folder;
* nothing in it is trusted because it is in it: importing verifies what a client verifies;
* ``bundle.json`` says what it is for. It is not signed: it is for people, and shows that nothing was cut off.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.channels import name_in
from repo_tools.errors import BundleError
from repo_tools.journey import journey, needed
from repo_tools.listing import TIMESTAMP, Listed, listed_by, listed_targets, numbered_files, require_whole
from repo_tools.progress import Progress, Step, silent
from repo_tools.replica import Believed, believe, copy
from repo_tools.session import MANIFEST, complete, read_manifest
from repo_tools.source import BLOCK_BYTES, FolderSource
from signpost.errors import MediumError, UsageError
from signpost.medium import OsMedium
from updog import durable
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Targets

    from repo_tools.journey import Journey
    from repo_tools.source import Manners
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version

CONTENTS = "bundle.json"
_FILE_ENDING = ".tar"
_MAX_CONTENTS_BYTES = 1 << 20
_SHOWN = 3  # missing names worth printing


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """Which nodes a bundle is for.

    Attributes:
        starts: versions that they run; none takes every published one.
        variant, arch: only theirs; None takes all.
        channel: that they follow; None for the top-level releases.
    """

    starts: Sequence[Version] = ()
    variant: str | None = None
    arch: str | None = None
    channel: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """The way of the nodes of one variant and architecture."""

    variant: str
    arch: str
    journey: Journey

    def to_json(self) -> dict[str, Any]:
        """Return the way as ``bundle.json`` and ``--json`` have it."""
        return {
            "variant": self.variant,
            "arch": self.arch,
            "from": str(self.journey.start),
            "through": [str(step.version) for step in self.journey.steps],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What was put together: where, for which ways, how many targets of how many bytes together."""

    place: Path
    ways: tuple[Way, ...]
    targets: int
    length: int

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        ways = [way.to_json() for way in self.ways]
        return {"bundle": str(self.place), "ways": ways, "targets": self.targets, "bytes": self.length}


def export(
    folder: Path,
    place: Path,
    nodes: Nodes,
    *,
    now: datetime,
    progress: Progress = silent,
) -> Bundle:
    """Put a bundle together from a repository, or a mirror, in ``folder``.

    Args:
        folder: read only.
        place: the bundle: a tar archive if its name ends in ``.tar``, else a folder; what a folder holds
            already is kept.
        nodes: whom it is for.
        now: what expiries are compared with.
        progress: told after every block.

    Raises:
        BundleError: a start version does not reach the newest release.
        TargetError: a target is missing or is not what was signed; nothing was made.
        ToolError: those of :func:`repo_tools.replica.believe`, ChannelError, MigrationError, MediumError.
    """
    source = FolderSource(folder)
    root = source.read("metadata/1.root.json", 1 << 20)
    believed = believe(source, place, trusted_root=root, now=now)
    listing = complete(believed.chain).listing(nodes.channel)
    manifest = read_manifest(source, listing, nodes.channel)
    ways = tuple(_ways(manifest, nodes))
    targets = _targets(listing, manifest, ways, name_in(nodes.channel, MANIFEST))
    bundle = Bundle(place=place, ways=ways, targets=len(targets), length=sum(item.length for item in targets))
    require_whole(folder, targets)
    contents = _contents(bundle, now)
    if place.name.endswith(_FILE_ENDING):
        _write_file(place, believed, targets, contents, progress)
    else:
        copy(believed, place, targets, progress=progress)
        durable.write_bytes(OsMedium(), place / CONTENTS, contents)
    return bundle


def _ways(manifest: Manifest, nodes: Nodes) -> Iterator[Way]:
    families = dict.fromkeys((update.variant, update.arch) for update in manifest.updates)
    chosen = [key for key in families if nodes.variant in {None, key[0]} and nodes.arch in {None, key[1]}]
    if not chosen:
        raise UsageError(
            "nothing is published for these nodes", next_step="Check --channel, --variant and --arch."
        )
    for key in chosen:
        family = manifest.updates_of(*key)
        for start in nodes.starts or [update.version for update in reversed(family)]:
            yield Way(variant=key[0], arch=key[1], journey=_arriving(family, start))


def _arriving(family: Sequence[Update], start: Version) -> Journey:
    way = journey(family, start)
    if not way.arrives:
        reached = way.steps[-1].version if way.steps else start
        raise BundleError(
            f"a node at {start} gets no further than {reached}: a floor is in the way",
            next_step="See `repo-tools validate`; publish a release between, or leave this version out.",
        )
    return way


def _targets(listing: Targets, manifest: Manifest, ways: Sequence[Way], name: str) -> list[Listed]:
    names = {name}.union(*(needed(manifest, way.journey) for way in ways))
    listed = [item for item in listed_by(listing) if item.name in names]
    missing = sorted(names - {item.name for item in listed})
    if missing:
        raise BundleError(f"not listed by the signed metadata: {', '.join(missing[:_SHOWN])}")
    return listed


def _contents(bundle: Bundle, now: datetime) -> bytes:
    facts = bundle.to_json() | {"made_at": format_time(now.replace(microsecond=0))}
    return (json.dumps({key: facts[key] for key in facts if key != "bundle"}, indent=2) + "\n").encode()


def _write_file(
    place: Path, believed: Believed, targets: Sequence[Listed], contents: bytes, progress: Progress
) -> None:
    """Write the archive beside its place and rename it. Raises MediumError."""
    temporary = place.with_name(place.name + ".tmp")
    files = {CONTENTS: contents} | numbered_files(believed.chain)
    if believed.chain.timestamp:
        files[TIMESTAMP] = believed.chain.timestamp.data
    medium = OsMedium()
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            for path, data in files.items():
                archive.addfile(_member(path, len(data)), io.BytesIO(data))
            for item in targets:
                stream = _Stream(believed, item, progress)
                archive.addfile(_member(item.path, item.length), stream)  # type: ignore[arg-type]
        with durable.opened(medium, str(temporary), write=True) as descriptor:
            medium.flush(descriptor)
    except (OSError, tarfile.TarError) as error:
        medium.remove(str(temporary))
        raise MediumError(f"cannot write {place}: {error}") from error
    medium.rename(str(temporary), str(place))
    medium.flush_folder(str(place.parent))


def _member(path: str, length: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size, member.mode = length, 0o644
    return member


class _Stream:
    """A target as the file object that tarfile reads from."""

    def __init__(self, believed: Believed, item: Listed, progress: Progress) -> None:
        self._blocks = believed.source.blocks(item.path) or iter(())
        self._rest = b""
        self._step = Step(action="export", item=item.name, total=item.length)
        self._progress = progress

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        while len(self._rest) < size and (block := next(self._blocks, b"")):
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        self._step = self._step.at(self._step.done + len(data))
        self._progress(self._step)
        return data


class BundleSource:
    """A bundle in one file. Members are found by their name and read in place; nothing is unpacked.

    Args:
        place: the archive.

    Raises:
        BundleError: it is none.
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
            raise BundleError(f"{place} is no bundle: {error}") from error

    def read(self, path: str, most: int) -> bytes | None:
        """Return a file of at most ``most`` bytes. Raises BundleError."""
        if self._members.get(path, (0, 0))[1] > most:
            raise BundleError(f"{path} in {self._place} is longer than {most} bytes")
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

    def manners(self, path: str) -> Manners | None:
        """Return None: nobody serves a bundle."""
        del path
        return None

    def _blocks(self, offset: int, length: int, start: int) -> Iterator[bytes]:
        try:
            with self._place.open("rb") as stream:
                stream.seek(offset + start)
                rest = length - start
                while rest > 0 and (block := stream.read(min(rest, BLOCK_BYTES))):
                    yield block
                    rest -= len(block)
        except OSError as error:
            raise BundleError(f"cannot read {self._place}: {error.strerror}") from error


def held_by(believed: Believed) -> list[Listed]:
    """Return those of the signed targets that a bundle has.

    Raises:
        BundleError: they are fewer than were put in: it was cut short on its way.
    """
    held = [item for item in listed_targets(believed.chain) if believed.source.size(item.path) == item.length]
    said = _said(believed.source.read(CONTENTS, _MAX_CONTENTS_BYTES))
    if len(held) < said:
        raise BundleError(
            f"the bundle holds {len(held)} of the {said} targets that were put in",
            next_step="It was cut short on its way, or its medium is damaged: copy it again.",
        )
    return held


def _said(contents: bytes | None) -> int:
    """Return how many targets ``bundle.json`` speaks of, 0 where it says nothing sensible."""
    try:
        count = json.loads(contents or b"{}")["targets"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return count if isinstance(count, int) else 0
