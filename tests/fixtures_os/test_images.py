"""An image is a function of what goes in: not of the clock, the owner, or the order of a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fixtures.os.images import boot_entry, write_erofs, write_ext4, write_verity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILES = {"usr/bin/a": b"a" * 5000, "usr/bin/b": b"b" * 100, "etc/c": b"c" * 9000, "d": b""}
ELSEWHEN = 1_000_000_000

pytestmark = pytest.mark.usefixtures("tools")


def lay(folder: Path, names: Iterable[str], *, moment: int) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(FILES[name])
        os.utime(folder / name, (moment, moment))
    return folder


def test_erofs_repeats_whatever_the_order_and_times_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "1.erofs", tmp_path / "2.erofs"
    write_erofs(lay(tmp_path / "one", FILES, moment=ELSEWHEN), first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(ELSEWHEN))
    write_erofs(lay(tmp_path / "two", reversed(FILES), moment=2 * ELSEWHEN), second)
    assert first.read_bytes() == second.read_bytes()


def test_verity_repeats_and_its_hash_follows_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(8 * 4096))
    hashes = [write_verity(data, tmp_path / name) for name in ("1", "2")]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert hashes[0] == hashes[1]
    data.write_bytes(bytes(8 * 4096 - 1) + b"x")
    assert write_verity(data, tmp_path / "3") != hashes[0]


def test_ext4_repeats_whatever_the_order_and_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_ext4(FILES, tmp_path / "1.ext4", size=2**20)
    finally:
        os.umask(before)
    write_ext4(dict(reversed(FILES.items())), tmp_path / "2.ext4", size=2**20)
    assert (tmp_path / "1.ext4").read_bytes() == (tmp_path / "2.ext4").read_bytes()


def test_boot_entry_has_a_line_for_each_key() -> None:
    text = boot_entry(title="T (broken)", version="1.2.3", root_hash="ab" * 32)
    lines = dict(line.split(" ", 1) for line in text.splitlines())
    assert lines["title"] == "T (broken)"
    assert lines["version"] == "1.2.3"
    assert f"roothash={'ab' * 32}" in lines["options"].split()
