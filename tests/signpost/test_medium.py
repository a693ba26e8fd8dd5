"""The operating system's storage: short reads and writes are continued, errors translated."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from signpost.errors import DiskBusyError, MediumError
from signpost.medium import OsMedium, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def medium() -> OsMedium:
    return OsMedium()


def test_what_is_written_is_read(medium: OsMedium, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    descriptor = medium.create(path)
    medium.write_at(descriptor, b"behind", 100)
    medium.write_at(descriptor, memoryview(b"front"), 0)
    medium.flush(descriptor)
    medium.drop_cache(descriptor)
    assert medium.read_at(descriptor, 5, 0) == b"front"
    assert medium.read_at(descriptor, 50, 100) == b"behind"
    assert medium.read_at(descriptor, 5, 1000) == b""
    assert medium.size(descriptor) == 106
    assert medium.sector_size(descriptor) is None
    medium.close(descriptor)
    medium.flush_folder(str(tmp_path))


def cached(path: Path) -> int:
    """Return how many bytes of a file are in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.check_output(command))


def test_dropping_the_cache_of_a_range_drops_whole_folios_and_nothing_else(
    medium: OsMedium, tmp_path: Path
) -> None:
    path, mebibyte = tmp_path / "file", 1 << 20
    kind = subprocess.check_output(["findmnt", "-n", "-o", "FSTYPE", "-T", str(tmp_path)], text=True).strip()
    if kind in {"tmpfs", "ramfs"}:
        pytest.skip(f"{tmp_path} is on {kind}, which keeps everything in memory")
    descriptor = medium.create(str(path))
    medium.write_at(descriptor, bytes(8 * mebibyte), 0)
    medium.flush(descriptor)
    assert cached(path) == 8 * mebibyte
    medium.drop_cache(descriptor, 3 * mebibyte, 4096)
    forgotten = 8 * mebibyte - cached(path)
    medium.drop_cache(descriptor)
    assert forgotten == 2 * mebibyte
    assert cached(path) == 0


def test_a_new_file_has_its_mode_and_must_be_new(medium: OsMedium, tmp_path: Path) -> None:
    path = tmp_path / "file"
    medium.close(medium.create(str(path), 0o600))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(MediumError, match=f"cannot create {path}: File exists"):
        medium.create(str(path))


def test_opening_neither_creates_nor_truncates(medium: OsMedium, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    with opened(medium, str(path), write=True):
        pass
    assert path.read_bytes() == b"kept"
    with pytest.raises(MediumError, match="No such file"):
        medium.open(str(tmp_path / "other"), write=True)
    assert not (tmp_path / "other").exists()


def test_rename_and_remove(medium: OsMedium, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"x")
    new.write_bytes(b"y")
    medium.rename(str(old), str(new))
    assert new.read_bytes() == b"x"
    medium.remove(str(new))
    medium.remove(str(new))
    assert not new.exists()


def test_closing_releases_the_lock_even_if_a_forked_child_has_a_copy_of_the_descriptor(
    medium: OsMedium, tmp_path: Path
) -> None:
    path = str(tmp_path / "file")
    medium.close(medium.create(path))
    descriptor = medium.open(path, write=True)
    medium.lock(descriptor)
    copy = os.dup(descriptor)
    medium.close(descriptor)
    with opened(medium, path, write=True) as again:
        medium.lock(again)
    os.close(copy)


def test_closing_the_descriptor_releases_the_lock(medium: OsMedium, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    first, second = medium.open(str(path), write=False), medium.open(str(path), write=True)
    medium.lock(first)
    medium.lock(first)
    with pytest.raises(DiskBusyError, match=str(path)):
        medium.lock(second)
    medium.close(first)
    medium.lock(second)
    medium.close(second)


def test_short_reads_and_writes_of_a_pipe_are_errors_that_name_it(medium: OsMedium) -> None:
    reading, writing = os.pipe()
    with pytest.raises(MediumError, match="cannot read pipe:"):
        medium.read_at(reading, 10, 0)
    with pytest.raises(MediumError, match="cannot write pipe:"):
        medium.write_at(writing, b"x", 0)
    with pytest.raises(MediumError, match="cannot find the size of"):
        medium.size(reading)
    os.close(reading)
    os.close(writing)


def test_a_closed_descriptor_is_named_by_its_number(medium: OsMedium) -> None:
    with pytest.raises(MediumError, match="cannot close descriptor 987654"):
        medium.close(987654)


@pytest.mark.parametrize(
    "call",
    [
        lambda medium, path: medium.rename(path, path + "2"),
        lambda medium, path: medium.flush_folder(path),
        lambda medium, path: medium.remove(path + "/x/"),
        lambda medium, path: medium.open(path, write=False),
    ],
)
def test_every_failure_has_its_cause(
    medium: OsMedium, tmp_path: Path, call: Callable[[OsMedium, str], object]
) -> None:
    place = tmp_path / "plain"
    if "remove" in call.__code__.co_names:
        place.touch()
    with pytest.raises(MediumError) as caught:
        call(medium, str(place))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_read_across_the_end_returns_what_there_is(medium: OsMedium, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    with opened(medium, str(path)) as descriptor:
        assert len(medium.read_at(descriptor, 512, 800)) == 200


def test_a_folder_has_no_size(medium: OsMedium, tmp_path: Path) -> None:
    descriptor = medium.open(str(tmp_path), write=False)
    try:
        with pytest.raises(MediumError, match="Is a directory") as caught:
            medium.size(descriptor)
    finally:
        medium.close(descriptor)
    assert "Check this path" in caught.value.next_step
