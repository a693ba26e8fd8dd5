"""What lets a node fetch parts of an update's images: chunk indexes, fingerprints and deltas, by target name.

An older reader ignores all of it and fetches whole images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from updog.update_metadata import fields
from updog.update_metadata.by_role import by_role_from_json, by_role_to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from updog.update_metadata.version import Version

MAX_DELTAS = 256
"""Bases that one image has deltas from; a publisher makes a handful."""

MAX_HEAD_BYTES = 1 << 30
"""Head of a delta: no head of any image is longer (a reader has a sharper limit once it has the index)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaFile:
    """A delta: what it is and how to believe its beginning without fetching all of it.

    Attributes:
        target: name of the delta file. head_size: bytes of its head. head_sha256: of the head, hexadecimal.
    """

    target: str
    head_size: int
    head_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """What belongs to one seekable image.

    Attributes:
        index: name of its chunk index. fingerprints: name of its blocks' fingerprints.
        deltas: version of the base → the delta that makes the image out of the base's.
    """

    index: str
    fingerprints: str
    deltas: Mapping[Version, DeltaFile] = field(default_factory=dict, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def targets(self) -> Iterator[str]:
        """Yield the names of all targets that belong to it."""
        yield from (self.index, self.fingerprints)
        yield from (delta.target for delta in self.deltas.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Packs:
    """The seekable images of an update."""

    boot: Pack
    root: Pack
    hash: Pack
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def each(self) -> tuple[Pack, Pack, Pack]:
        """Return the three."""
        return (self.boot, self.root, self.hash)

    def targets(self) -> Iterator[str]:
        """Yield the names of all targets that belong to them."""
        for pack in self.each():
            yield from pack.targets()


def packs_from_json(value: object) -> Packs:
    """Return what the member ``packs`` of an update says. Raises FaultsError."""
    return by_role_from_json(value, Packs, _pack)


def packs_to_json(packs: Packs) -> dict[str, Any]:
    """Return the member ``packs`` of an update as JSON values."""
    return by_role_to_json(packs, _pack_to_json)


def _pack(value: object) -> Pack:
    members = fields.Fields(value)
    pack = Pack(
        index=members.take("index", fields.text),
        fingerprints=members.take("fingerprints", fields.text),
        deltas=members.maybe("deltas", _deltas) or {},
        extra=members.rest(),
    )
    members.done()
    return pack


def _deltas(value: object) -> dict[Version, DeltaFile]:
    return dict(fields.pairs(value, _delta, most=MAX_DELTAS))


def _delta(member: tuple[str, object]) -> tuple[Version, DeltaFile]:
    base, value = member
    version = fields.version(base)
    members = fields.Fields(value)
    delta = DeltaFile(
        target=members.take("target", fields.text),
        head_size=members.take("head_size", _head_size),
        head_sha256=members.take("head_sha256", fields.sha256),
    )
    members.done()
    return version, delta


def _head_size(value: object) -> int:
    size = fields.whole_number(value)
    if not 0 < size <= MAX_HEAD_BYTES:
        raise fields.wrong(f"{size} bytes; the head of a delta has 1 to {MAX_HEAD_BYTES}")
    return size


def _pack_to_json(pack: Pack) -> dict[str, Any]:
    document: dict[str, Any] = {"index": pack.index, "fingerprints": pack.fingerprints}
    if pack.deltas:
        document["deltas"] = {str(base): _delta_to_json(delta) for base, delta in pack.deltas.items()}
    return document | dict(pack.extra)


def _delta_to_json(delta: DeltaFile) -> dict[str, Any]:
    return {"target": delta.target, "head_size": delta.head_size, "head_sha256": delta.head_sha256}
