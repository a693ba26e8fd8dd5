"""Writing an image into its place: never a byte outside it, and only trusted once it was read back."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus, MediumError
from signpost.medium import OsMedium, opened
from tests.support.nodes import FailingMedium, LosingMedium, LyingMedium
from updog.errors import DigestError, ImageError, ReadBackError
from updog.image.region import IO_BYTES, Region, prove, write_image
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from signpost.medium import Medium

OFFSET, SIZE, DISK = 4096, 16384, 65536
BACKGROUND = random.Random(0).randbytes(DISK)
IMAGE = random.Random(1).randbytes(10_000)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk full of foreign bytes."""
    path = tmp_path / "disk.img"
    path.write_bytes(BACKGROUND)
    return path


def _content(data: bytes) -> Content:
    return Content(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _write(
    path: Path, data: bytes, *, medium: Medium | None = None, expected: Content | None = None
) -> Content:
    """Write ``data`` into the region of a disk, and prove it."""
    medium = medium or OsMedium()
    with opened(medium, str(path), write=True) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=OFFSET, size=SIZE, name="ROOT-B")
        content = write_image(_pieces(data), region, expected=expected, advance=lambda _count: None)
        prove(region, content, advance=lambda _count: None)
        return content


def _assert_only_region_changed(path: Path) -> None:
    now = path.read_bytes()
    assert now[:OFFSET] == BACKGROUND[:OFFSET]
    assert now[OFFSET + SIZE :] == BACKGROUND[OFFSET + SIZE :]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 10_000, SIZE - 1, SIZE])
def test_an_image_lies_in_its_region_and_nothing_beside_it_changes(disk: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert _write(disk, data) == _content(data)
    assert disk.read_bytes()[OFFSET : OFFSET + size] == data
    _assert_only_region_changed(disk)


@pytest.mark.parametrize("size", [SIZE + 1, SIZE + 999, DISK, 3 * DISK])
def test_an_image_larger_than_its_region_is_refused_before_a_byte_beyond(disk: Path, size: int) -> None:
    """D73."""
    with pytest.raises(ImageError, match=f"larger than its {SIZE} bytes"):
        _write(disk, random.Random(size).randbytes(size))
    _assert_only_region_changed(disk)
    assert disk.stat().st_size == DISK


def test_a_block_that_would_end_outside_is_not_written_in_part(disk: Path) -> None:
    medium = OsMedium()
    with opened(medium, str(disk), write=True) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=OFFSET, size=SIZE, name="ROOT-B")
        with pytest.raises(ImageError):
            region.write(bytes(2), SIZE - 1)
    assert disk.read_bytes() == BACKGROUND


def test_an_image_with_the_signed_content_is_accepted(disk: Path) -> None:
    assert _write(disk, IMAGE, expected=_content(IMAGE)) == _content(IMAGE)


@pytest.mark.parametrize(
    "expected",
    [Content(size=10_000, sha256="0" * 64), Content(size=9_999, sha256=_content(IMAGE).sha256)],
    ids=["another hash", "another size"],
)
def test_an_image_that_unpacks_to_something_else_than_signed_is_refused(
    disk: Path, expected: Content
) -> None:
    with pytest.raises(DigestError, match="signed are"):
        _write(disk, IMAGE, expected=expected)


def test_every_byte_is_reported_as_progress(disk: Path) -> None:
    medium, told = OsMedium(), list[int]()
    with opened(medium, str(disk), write=True) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=OFFSET, size=SIZE, name="ROOT-B")
        content = write_image(_pieces(IMAGE), region, expected=None, advance=told.append)
        assert sum(told) == len(IMAGE)
        prove(region, content, advance=told.append)
    assert sum(told) == 2 * len(IMAGE)


def test_reading_back_goes_in_bounded_blocks(tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    path.write_bytes(bytes(3 * IO_BYTES + 5))
    medium = OsMedium()
    with opened(medium, str(path)) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=0, size=4 * IO_BYTES, name="ROOT-A")
        assert [len(block) for block in region.blocks(3 * IO_BYTES + 5)] == [*[IO_BYTES] * 3, 5]


def test_a_disk_that_ends_too_early_does_not_read_back_as_the_image(disk: Path) -> None:
    """D78."""
    content = _content(BACKGROUND[OFFSET:])
    medium = OsMedium()
    with disk.open("r+b") as file:
        file.truncate(DISK - 1)
    with opened(medium, str(disk)) as descriptor:
        region = Region(medium=medium, descriptor=descriptor, offset=OFFSET, size=DISK, name="ROOT-B")
        assert region.content(content.size, advance=lambda _count: None).size == content.size - 1
        with pytest.raises(ReadBackError):
            prove(region, content, advance=lambda _count: None)


@pytest.mark.parametrize("position", [OFFSET, OFFSET + 5000, OFFSET + len(IMAGE) - 1])
def test_a_disk_that_returns_other_bytes_is_not_trusted(disk: Path, position: int) -> None:
    """D79."""
    with pytest.raises(ReadBackError) as caught:
        _write(disk, IMAGE, medium=LyingMedium(position))
    assert caught.value.status is ExitStatus.REFUSED
    assert "ROOT-B reads back as" in caught.value.message
    assert "SMART" in caught.value.next_step


@pytest.mark.parametrize("position", [OFFSET, OFFSET + 5000, OFFSET + len(IMAGE) - 1])
def test_what_the_disk_lost_is_found_out_although_the_kernel_still_has_it(disk: Path, position: int) -> None:
    with pytest.raises(ReadBackError, match="ROOT-B reads back as"):
        _write(disk, IMAGE, medium=LosingMedium(disk, position))


def test_a_lie_behind_the_image_does_not_matter(disk: Path) -> None:
    _write(disk, IMAGE, medium=LyingMedium(OFFSET + len(IMAGE)))


def test_bytes_go_out_in_order_are_flushed_and_only_then_read(disk: Path) -> None:
    medium = FailingMedium()
    _write(disk, IMAGE, medium=medium)
    names = [step.name for step in medium.steps]
    assert names == ["write"] * 10 + ["flush", "drop_cache", "read"]
    places = [step.offset for step in medium.steps if step.name == "write"]
    assert places == [OFFSET + number * 1000 for number in range(10)]


@pytest.mark.parametrize("number", range(13))
def test_a_failure_of_any_call_is_passed_on_as_what_it_is(disk: Path, number: int) -> None:
    """D71."""
    with pytest.raises(MediumError, match="Input/output error"):
        _write(disk, IMAGE, medium=FailingMedium(at=number))
    _assert_only_region_changed(disk)
