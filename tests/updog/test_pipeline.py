"""Carrying out a plan: from every source, in bounded memory, nothing unverified, nothing unproven."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from repo_tools.images.delta import make_delta
from repo_tools.images.frames import known_blocks, pack
from signpost.errors import MediumError
from signpost.medium import OsMedium, opened
from tests.support.nodes import FailingMedium, LosingMedium, LyingMedium
from updog.errors import DigestError, ImageError, ReadBackError
from updog.image.index import Span
from updog.image.pipeline import Work, carry_out, pieces
from updog.image.plan import ChunkSource, SlotScan, plan_chunks, recipes_by_delta, recipes_by_fingerprint
from updog.image.region import Region
from updog.image.slot_scan import blocks_of, first_fingerprints, in_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from signpost.medium import Medium
    from updog.image.delta import Delta
    from updog.image.index import Fingerprints, Index

_chance = random.Random(3)
OLD = _chance.randbytes(900_000) + bytes(400_000)
NEW = OLD[4096:499_712] + _chance.randbytes(204_800) + OLD[499_712:897_024] + bytes(300_000) + b"end"
SLOT = 2 << 20
A, B = 4096, 4096 + SLOT  # where the slots are


class Release:
    """The new image as it is published, and the delta from the old one."""

    def __init__(self) -> None:
        old = pack(iter([OLD]), lambda _data: None, level=1)
        stored = bytearray()
        made = pack(iter([NEW]), stored.extend, level=1, known=(known_blocks(old.fingerprints),))
        self.index: Index = made.index
        self.marks: Fingerprints = made.fingerprints
        self.pack = bytes(stored)
        file: dict[int, bytes] = {}
        self.delta: Delta = make_delta(self.index, NEW, OLD, lambda data, at: file.update({at: data}))
        self.delta_file = b"".join(file[at] for at in sorted(file))
        self.asked = 0

    def fetch(self, source: ChunkSource, spans: Sequence[Span]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield what a server would send, in small blocks."""
        data = self.delta_file if source is ChunkSource.DELTA else self.pack
        for number, span in enumerate(spans):
            self.asked += span.length
            body = data[span.offset : span.end]
            yield number, (body[at : at + 1000] for at in range(0, len(body), 1000))


@pytest.fixture
def release() -> Release:
    return Release()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk with the old image in slot A and foreign bytes in slot B and after it."""
    path = tmp_path / "disk"
    path.write_bytes(
        bytes(A) + OLD.ljust(SLOT, b"\0") + random.Random(8).randbytes(SLOT) + b"behind the slot"
    )
    return path


def _carry_out(
    disk: Path, release: Release, scan: SlotScan, *, delta: Delta | None = None, medium: Medium | None = None
) -> tuple[frozenset[int], int]:
    """Carry the plan out; return what failed, and how many bytes were proven."""
    medium = medium or OsMedium()
    proven = 0

    def proof(count: int) -> None:
        nonlocal proven
        proven += count

    with opened(medium, str(disk), write=True) as descriptor:
        work = Work(
            index=release.index,
            delta=delta,
            plan=plan_chunks(release.index, scan, delta=delta),
            region=Region(medium=medium, descriptor=descriptor, offset=B, size=SLOT, name="ROOT-B"),
            base=Region(medium=medium, descriptor=descriptor, offset=A, size=SLOT, name="ROOT-A"),
            fetch=release.fetch,
            spooled=release.fetch,
        )
        failed = carry_out(work, proof=proof)
    written = set(range(len(release.index.chunks))) - scan.in_place - failed
    assert proven == sum(release.index.chunks[number].place.length for number in written)
    return failed, proven


def _slot(disk: Path) -> bytes:
    data = disk.read_bytes()
    assert data[A:B] == OLD.ljust(SLOT, b"\0"), "the running slot is never written"
    assert data[B + SLOT :] == b"behind the slot"
    return data[B : B + len(NEW)]


def _found(disk: Path, release: Release) -> SlotScan:
    medium = OsMedium()
    with opened(medium, str(disk)) as descriptor:
        base = Region(medium=medium, descriptor=descriptor, offset=A, size=SLOT, name="ROOT-A")
        blocks = blocks_of(base, len(OLD), advance=lambda _count: None)
        return SlotScan(active=recipes_by_fingerprint(release.index, release.marks, blocks))


def test_an_image_comes_from_the_pack_alone(disk: Path, release: Release) -> None:
    scan = SlotScan()
    assert _carry_out(disk, release, scan) == (frozenset(), len(NEW))
    assert _slot(disk) == NEW
    assert release.asked == plan_chunks(release.index, scan).wire


def test_an_image_comes_from_the_running_slot_and_the_pack(disk: Path, release: Release) -> None:
    scan = _found(disk, release)
    assert not _carry_out(disk, release, scan)[0]
    assert _slot(disk) == NEW
    assert release.asked == plan_chunks(release.index, scan).wire < len(release.pack) / 2


def test_an_image_comes_from_the_running_slot_and_the_delta(disk: Path, release: Release) -> None:
    scan = SlotScan(active=recipes_by_delta(release.index, release.delta))
    assert not _carry_out(disk, release, scan, delta=release.delta)[0]
    assert _slot(disk) == NEW
    plan = plan_chunks(release.index, scan, delta=release.delta)
    assert release.asked == plan.wire
    assert plan.wire_of(ChunkSource.DELTA)


def test_what_is_in_place_is_neither_fetched_nor_written(disk: Path, release: Release) -> None:
    half = frozenset(range(0, len(release.index.chunks), 2))
    with disk.open("r+b") as file:
        for number in half:
            place = release.index.chunks[number].place
            file.seek(B + place.offset)
            file.write(NEW[place.offset : place.end])
    medium = FailingMedium(only=["write"])
    scan = SlotScan(in_place=half)
    assert not _carry_out(disk, release, scan, medium=medium)[0]
    assert _slot(disk) == NEW
    places = {step.offset - B for step in medium.steps}
    assert not places & {release.index.chunks[number].place.offset for number in half}


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "blocks"])
def test_what_the_running_slot_does_not_have_is_reported_and_not_written(
    disk: Path,
    release: Release,
    delta: bool,  # noqa: FBT001 - parametrized
) -> None:
    scan = SlotScan(active=recipes_by_delta(release.index, release.delta)) if delta else _found(disk, release)
    with disk.open("r+b") as file:  # D: the base is changed after the survey
        file.seek(A + 300_000)
        file.write(bytes(8192))
    before = disk.read_bytes()[B : B + SLOT]
    failed, proven = _carry_out(disk, release, scan, delta=release.delta if delta else None)
    assert failed
    missing = sum(release.index.chunks[number].place.length for number in failed)
    assert proven == len(NEW) - missing
    data = disk.read_bytes()[B : B + SLOT]
    for number in failed:
        place = release.index.chunks[number].place
        assert data[place.offset : place.end] == before[place.offset : place.end]
    rest = SlotScan(in_place=frozenset(range(len(release.index.chunks))) - failed)
    assert not _carry_out(disk, release, rest)[0]
    assert disk.read_bytes()[B : B + len(NEW)] == NEW


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-20] + bytes(20), id="other bytes"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: bytes(len(data)), id="zeros"),
    ],
)
def test_a_pack_that_lies_writes_no_byte_that_was_not_signed(
    disk: Path, release: Release, spoil: object
) -> None:
    release.pack = spoil(release.pack)  # type: ignore[operator]
    before = disk.read_bytes()[B : B + SLOT]
    with pytest.raises((DigestError, ImageError)):
        _carry_out(disk, release, SlotScan())
    data = disk.read_bytes()[B : B + SLOT]
    for chunk in release.index.chunks:
        now = data[chunk.place.offset : chunk.place.end]
        assert now in (
            NEW[chunk.place.offset : chunk.place.end],
            before[chunk.place.offset : chunk.place.end],
        )
    assert data[len(NEW) :] == before[len(NEW) :]


def test_a_delta_that_lies_is_refused(disk: Path, release: Release) -> None:
    release.delta_file = release.delta_file[:-9] + bytes(9)
    scan = SlotScan(active=recipes_by_delta(release.index, release.delta))
    with pytest.raises(DigestError, match="not what was signed"):
        _carry_out(disk, release, scan, delta=release.delta)


def test_a_disk_that_returns_other_bytes_is_found_out(disk: Path, release: Release) -> None:
    for position in (0, len(NEW) // 2, len(NEW) - 1):
        with pytest.raises(ReadBackError, match="ROOT-B"):
            _carry_out(disk, release, SlotScan(), medium=LyingMedium(B + position))


def test_what_the_disk_lost_is_found_out_although_the_kernel_still_has_it(
    disk: Path, release: Release
) -> None:
    for position in (0, len(NEW) // 2, len(NEW) - 1):
        with pytest.raises(ReadBackError, match="ROOT-B"):
            _carry_out(disk, release, SlotScan(), medium=LosingMedium(disk, B + position))


def test_a_write_that_fails_is_the_error_of_the_whole(disk: Path, release: Release) -> None:
    with pytest.raises(MediumError):
        _carry_out(disk, release, SlotScan(), medium=FailingMedium(3, only=["write"]))


def test_a_killed_pass_is_resumed_from_what_the_medium_has(disk: Path, release: Release) -> None:
    """After a cut at any write: what the survey finds is not requested again."""
    recorded = FailingMedium(only=["write"])
    _carry_out(disk, release, SlotScan(), medium=recorded)
    original = random.Random(8).randbytes(SLOT)
    firsts = first_fingerprints(release.index, release.marks)
    for at in range(len(recorded.steps)):
        with disk.open("r+b") as file:
            file.seek(B)
            file.write(original)
        with pytest.raises(MediumError):
            _carry_out(disk, release, SlotScan(), medium=FailingMedium(at, only=["write"]))
        medium = OsMedium()
        with opened(medium, str(disk)) as descriptor:
            region = Region(medium=medium, descriptor=descriptor, offset=B, size=SLOT, name="ROOT-B")
            there = in_place(release.index, firsts, region, advance=lambda _count: None)
        assert len(there) >= at
        release.asked = 0
        assert not _carry_out(disk, release, SlotScan(in_place=there))[0]
        assert _slot(disk) == NEW
        assert release.asked == plan_chunks(release.index, SlotScan(in_place=there)).wire


def test_pieces_are_cut_from_blocks_of_any_size() -> None:
    data = bytes(range(256))
    places = [Span(offset=110, length=5), Span(offset=115, length=1), Span(offset=300, length=56)]
    for size in (1, 7, 64, 1000):
        blocks = (data[at : at + size] for at in range(0, 256, size))
        cut = list(pieces(blocks, Span(offset=100, length=256), places))
        assert cut == [data[10:15], data[15:16], data[200:256]]


def test_blocks_that_end_early_are_an_error() -> None:
    with pytest.raises(ImageError, match="end before"):
        list(pieces(iter([b"abc"]), Span(offset=0, length=10), [Span(offset=0, length=10)]))
