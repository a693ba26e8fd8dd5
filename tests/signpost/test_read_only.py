"""A read-only file system is named by the place where it is mounted."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from signpost.errors import MediumError
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextmanager
def read_only(folder: Path, *, bound: bool) -> Iterator[Path]:
    """Mount a read-only file system at a folder: one of its own, or the folder itself once more."""
    folder.mkdir()
    mount = ["--bind", str(folder)] if bound else ["-t", "tmpfs", "none"]
    subprocess.run(["mount", *mount, str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro" + ",bind" * bound, str(folder)], check=True)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@needs_root
@pytest.mark.parametrize("bound", [False, True], ids=["a file system", "a bind mount"])
@pytest.mark.parametrize("name", ["data", "name with spaces"])
def test_the_mount_point_is_named(tmp_path: Path, name: str, *, bound: bool) -> None:
    with read_only(tmp_path / name, bound=bound) as folder:
        with pytest.raises(MediumError, match="Read-only file system") as caught:
            OsMedium().create(str(folder / "file"))
        with pytest.raises(OSError, match="Read-only") as deeper:
            (folder / "not/there").mkdir(parents=True)
    assert f"Mount the file system at {folder} read-write" in caught.value.next_step
    assert deeper.value.errno == errno.EROFS


@needs_root
def test_the_mount_point_is_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with (
        read_only(tmp_path / "data", bound=False) as folder,
        pytest.raises(MediumError) as caught,
    ):
        OsMedium().create(str(tmp_path / "link/file"))
    assert f"Mount the file system at {folder} read-write" in caught.value.next_step


@pytest.mark.parametrize("name", [None, 5])
def test_without_the_name_of_a_file_the_command_that_shows_it_is_named(name: object) -> None:
    error = OSError(errno.EROFS, "Read-only file system", name)
    assert "findmnt --target PATH" in MediumError.of("cannot write", error).next_step
