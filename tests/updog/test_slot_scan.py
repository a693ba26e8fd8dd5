"""Examining both slots: what is in place is proven by the medium, with few reads."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from repo_tools.images.frames import pack
from signpost.medium import OsMedium, opened
from updog.image.index import BLOCK_BYTES, Fingerprints, Index, fingerprint
from updog.image.region import Region
from updog.image.slot_scan import blocks_of, first_fingerprints, first_fingerprints_of_copies, in_place

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = random.Random(5).randbytes(600_000) + bytes(300_000) + random.Random(6).randbytes(500_001)
OFFSET = 8192


class CountingMedium(OsMedium):
    """The real storage, counting what is read and remembering when its cache was dropped."""

    def __init__(self) -> None:
        self.read = 0
        self.forgot_first: bool | None = None

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        self.read += length
        if self.forgot_first is None:
            self.forgot_first = False
        return super().read_at(descriptor, length, offset)

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        if self.forgot_first is None:
            self.forgot_first = True
        super().drop_cache(descriptor, offset, length)


@pytest.fixture(scope="module")
def packed() -> tuple[Index, Fingerprints]:
    made = pack(iter([IMAGE]), lambda _data: None, level=1)
    return made.index, made.fingerprints


def _look(
    path: Path, content: bytes, packed: tuple[Index, Fingerprints], *, marks: bool
) -> tuple[frozenset[int], CountingMedium]:
    path.write_bytes(bytes(OFFSET) + content)
    medium = CountingMedium()
    firsts = first_fingerprints(*packed) if marks else {}
    seen = 0

    def advance(count: int) -> None:
        nonlocal seen
        seen += count

    with opened(medium, str(path)) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=OFFSET, size=len(content), name="ROOT-B")
        there = in_place(packed[0], firsts, region, advance=advance)
    assert seen == len(IMAGE)
    return there, medium


@pytest.mark.parametrize("marks", [True, False])
def test_every_chunk_of_a_whole_image_is_in_place(
    tmp_path: Path,
    packed: tuple[Index, Fingerprints],
    marks: bool,  # noqa: FBT001 - parametrized
) -> None:
    there, medium = _look(tmp_path / "disk", IMAGE, packed, marks=marks)
    assert there == frozenset(range(len(packed[0].chunks)))
    assert medium.forgot_first, "what the kernel remembers proves nothing about the medium"


@pytest.mark.parametrize("marks", [True, False])
def test_a_chunk_with_one_wrong_byte_is_not_in_place(
    tmp_path: Path,
    packed: tuple[Index, Fingerprints],
    marks: bool,  # noqa: FBT001 - parametrized
) -> None:
    index = packed[0]
    for number, chunk in enumerate(index.chunks):
        damaged = bytearray(IMAGE)
        damaged[chunk.place.end - 1] ^= 1
        there, _ = _look(tmp_path / "disk", bytes(damaged), packed, marks=marks)
        assert there == frozenset(range(len(index.chunks))) - {number}


def test_with_fingerprints_a_foreign_slot_is_hardly_read(
    tmp_path: Path, packed: tuple[Index, Fingerprints]
) -> None:
    foreign = random.Random(9).randbytes(len(IMAGE))
    there, medium = _look(tmp_path / "disk", foreign, packed, marks=True)
    assert not there
    assert medium.read <= len(packed[0].chunks) * BLOCK_BYTES


def test_a_region_shorter_than_the_image_has_only_its_beginning(
    tmp_path: Path, packed: tuple[Index, Fingerprints]
) -> None:
    there, _ = _look(tmp_path / "disk", IMAGE[:200_000], packed, marks=True)
    assert there == {n for n, chunk in enumerate(packed[0].chunks) if chunk.place.end <= 200_000}


def test_the_running_slot_is_told_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(OFFSET) + IMAGE)
    with opened(OsMedium(), str(path)) as descriptor:
        region = Region(
            medium=OsMedium(), descriptor=descriptor, offset=OFFSET, size=len(IMAGE), name="ROOT-A"
        )
        blocks = list(blocks_of(region, len(IMAGE), advance=lambda _count: None))
    assert blocks == [
        (fingerprint(IMAGE[at : at + BLOCK_BYTES]), at) for at in range(0, len(IMAGE), BLOCK_BYTES)
    ]


def test_what_the_running_slot_has_is_marked_as_the_publisher_would(
    tmp_path: Path, packed: tuple[Index, Fingerprints]
) -> None:
    index = packed[0]
    path = tmp_path / "disk"
    path.write_bytes(bytes(OFFSET) + IMAGE)
    copied = {number: (chunk.place,) for number, chunk in enumerate(index.chunks) if not chunk.zeros}
    with opened(OsMedium(), str(path)) as descriptor:
        running = Region(
            medium=OsMedium(), descriptor=descriptor, offset=OFFSET, size=len(IMAGE), name="ROOT-A"
        )
        assert first_fingerprints_of_copies(copied, running) == first_fingerprints(*packed)
