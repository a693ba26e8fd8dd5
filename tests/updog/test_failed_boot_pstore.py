"""What kernels left: read within bounds, whatever wrote it, and distinguished from what was there before."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from updog.failed_boot.pstore import MAX_BYTES, MAX_FILES, read_records

if TYPE_CHECKING:
    from pathlib import Path


def _put(path: Path, text: str, at: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at, at))
    return path


def test_records_are_read_newest_first_from_the_store_and_from_systemd_s_archive(tmp_path: Path) -> None:
    store, archive = tmp_path / "pstore", tmp_path / "archive"
    _put(store / "dmesg-efi_pstore-1", "new", 3000)
    _put(archive / "1700000000/dmesg.txt", "older", 2000)
    _put(archive / "1700000000/001/dmesg-efi-17", "oldest", 1000)
    _put(store / "console-ramoops-0", "console", 2500)
    records = read_records((store, archive))
    assert [record.text for record in records] == ["new", "console", "older", "oldest"]
    assert [record.is_console for record in records] == [False, True, False, False]


def test_where_there_is_nothing_there_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_records((tmp_path / "none", tmp_path / "file", tmp_path)) == ()


def test_a_record_is_the_same_wherever_it_was_moved_and_another_is_not(tmp_path: Path) -> None:
    first = _put(tmp_path / "a/dmesg-efi-1", "panic")
    (before,) = read_records((tmp_path / "a",))
    (tmp_path / "b/c").mkdir(parents=True)
    first.rename(tmp_path / "b/c/dmesg-efi-1")
    (after,) = read_records((tmp_path / "a", tmp_path / "b"))
    assert after.digest == before.digest
    _put(tmp_path / "a/dmesg-efi-1", "another panic")
    assert len({record.digest for record in read_records((tmp_path / "a", tmp_path / "b"))}) == 2


def test_the_same_record_in_both_places_counts_once(tmp_path: Path) -> None:
    _put(tmp_path / "a/dmesg-efi-1", "panic")
    _put(tmp_path / "b/dmesg-efi-1", "panic")
    assert len(read_records((tmp_path / "a", tmp_path / "b"))) == 1


def test_of_a_large_record_the_end_is_read(tmp_path: Path) -> None:
    _put(tmp_path / "console-ramoops-0", "x" * (3 * MAX_BYTES) + "the end")
    (record,) = read_records((tmp_path,))
    assert len(record.text) == MAX_BYTES
    assert record.text.endswith("xthe end")


def test_a_file_that_has_no_end_is_cut_off(tmp_path: Path) -> None:
    sparse = tmp_path / "dmesg-sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    (record,) = read_records((tmp_path,))
    assert len(record.text) == MAX_BYTES


def test_more_records_than_there_can_be_are_passed_over(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 20):
        _put(tmp_path / f"dmesg-{number}", str(number))
    assert len(read_records((tmp_path,))) == MAX_FILES


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder", "looping link", "other name", "deep"])
def test_what_is_not_a_record_is_passed_over_without_waiting(tmp_path: Path, kind: str) -> None:
    store, name = tmp_path / "pstore", tmp_path / "pstore/dmesg-1"
    store.mkdir()
    secret = _put(tmp_path / "secret", "not for us")
    if kind == "link":
        name.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(name))
    elif kind == "folder":
        name.mkdir()
    elif kind == "looping link":
        (store / "again").symlink_to(store)
    elif kind == "other name":
        _put(store / "pmsg-ramoops-0", "what programs wrote")
    else:
        _put(store / "1/2/3/dmesg-1", "too deep")
    assert read_records((store,)) == ()


def test_bytes_that_are_no_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "dmesg-1").write_bytes(b"\xff\xfe Kernel panic")
    (record,) = read_records((tmp_path,))
    assert record.text == "\ufffd\ufffd Kernel panic"
