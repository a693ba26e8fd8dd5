"""The source's dracut runs in the tree, with namespaces of its own; nothing of it stays on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from repo_tools.errors import ImageBuildError
from repo_tools.image_build.dracut import run_dracut
from repo_tools.image_build.elf import read_elf
from repo_tools.image_build.kernels import TreeKernel

KERNEL = TreeKernel(version="6.1.0-1-test", image="", modules={}, builtin=frozenset())
DRACUT = """#!/bin/sh
for last; do :; done
{ echo "$@"; ls /; cat /proc/self/comm; } > "$last"
echo x > /tmp/scratch
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an unpacked tree with a shell and a program in the place of dracut."""
    busybox = Path(shutil.which("busybox") or "/")
    elf = read_elf(busybox.read_bytes()) if busybox.is_file() else None
    if os.geteuid() != 0 or shutil.which("unshare") is None or elf is None or elf.loader:
        pytest.skip("needs root, unshare and a static busybox")
    for name in ("bin", "dev", "proc", "tmp"):
        (tmp_path / name).mkdir()
    for name in ("busybox", "sh", "ls", "cat"):
        shutil.copy(busybox, tmp_path / "bin" / name)
    program = tmp_path / "bin" / "dracut"
    program.write_text(DRACUT)
    program.chmod(0o755)
    return tmp_path


def test_it_is_asked_for_an_initrd_of_any_machine_that_opens_root(folder: Path) -> None:
    words, *rest = run_dracut(folder, KERNEL).decode().splitlines()
    assert "--no-hostonly --reproducible" in words
    assert "--kver 6.1.0-1-test" in words
    assert "systemd-veritysetup" in words
    assert {"bin", "cat"} <= set(rest)  # its root is the tree, and /proc is there


def test_no_mount_and_no_file_of_it_is_left(folder: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run_dracut(folder, KERNEL)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert list((folder / "tmp").iterdir()) == []
    assert list((folder / "proc").iterdir()) == []


def test_what_it_says_when_it_fails_is_told(folder: Path) -> None:
    (folder / "bin/dracut").write_text("#!/bin/sh\necho 'no space for it' >&2\nexit 1\n")
    with pytest.raises(ImageBuildError, match="no space for it"):
        run_dracut(folder, KERNEL)


def test_without_an_unpacked_tree_root_is_asked_for() -> None:
    with pytest.raises(ImageBuildError, match="needs root"):
        run_dracut(None, KERNEL)
