"""Target names of the chunk indexes, fingerprints and deltas, by which a node fetches only parts of images.

An older reader ignores them and fetches whole images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from updog.update_metadata import fields
from updog.update_metadata.by_image import ByImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from updog.update_metadata.version import Version

MAX_DELTAS = 256
"""Base versions that one image has deltas from; a publisher makes a few."""

MAX_HEAD_BYTES = 1 << 30
"""Size of a delta's head: above that of any image (a reader that has the index uses a smaller limit)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaFile:
    """A delta, and the hash that verifies its head before the rest is fetched.

    Attributes:
        target: name of the delta file. head_size: bytes of its head. head_sha256: of the head, hexadecimal.
    """

    target: str
    head_size: int
    head_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """The files that belong to one seekable image.

    Attributes:
        index: target name of its chunk index. fingerprints: target name of its blocks' fingerprints.
        deltas: version of the base → the delta that rebuilds the image from that version's image.
        extra: members of a later format.
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
class Packs(ByImage[Pack]):
    """The seekable images of an update."""

    def targets(self) -> Iterator[str]:
        """Yield the names of all targets that belong to them."""
        for pack in self.values():
            yield from pack.targets()


def packs_from_json(value: object) -> Packs:
    """Parse the member ``packs`` of an update. Raises FaultsError."""
    return Packs.from_json(value, _pack)


def packs_to_json(packs: Packs) -> dict[str, Any]:
    """Return the member ``packs`` of an update as JSON values."""
    return packs.to_json(_pack_to_json)


def _pack(value: object) -> Pack:
    members = fields.Fields(value)
    pack = Pack(
        index=members.required("index", fields.text),
        fingerprints=members.required("fingerprints", fields.text),
        deltas=dict(
            members.optional("deltas", lambda deltas: fields.pairs(deltas, _delta, limit=MAX_DELTAS)) or ()
        ),
        extra=members.extra(),
    )
    members.raise_faults()
    return pack


def _delta(member: tuple[str, object]) -> tuple[Version, DeltaFile]:
    base, value = member
    version = fields.version(base)
    members = fields.Fields(value)
    delta = DeltaFile(
        target=members.required("target", fields.text),
        head_size=members.required("head_size", fields.whole_number_in(1, MAX_HEAD_BYTES)),
        head_sha256=members.required("head_sha256", fields.sha256),
    )
    members.raise_faults()
    return version, delta


def _pack_to_json(pack: Pack) -> dict[str, Any]:
    document: dict[str, Any] = {"index": pack.index, "fingerprints": pack.fingerprints}
    if pack.deltas:
        document["deltas"] = {
            str(base): {
                "target": delta.target,
                "head_size": delta.head_size,
                "head_sha256": delta.head_sha256,
            }
            for base, delta in pack.deltas.items()
        }
    return document | dict(pack.extra)
