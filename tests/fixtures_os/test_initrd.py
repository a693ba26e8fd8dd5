"""The initrd's parts: module order, library closure, and an archive the standard tool can read."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from fixtures.os import cpio
from fixtures.os.errors import BuildError
from fixtures.os.initrd import library_closure
from fixtures.os.kernel import depends, kernel_version, load_order, modules_dep, modules_in

if TYPE_CHECKING:
    from pathlib import Path


def module(folder: Path, name: str, needs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")


def test_depends_reads_the_names_a_module_carries() -> None:
    assert depends(b"\0depends=dm-bufio,reed_solomon\0") == ["dm_bufio", "reed_solomon"]
    assert depends(b"\0depends=\0") == []
    assert depends(b"no such section") == []


def test_each_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    for name, needs in (
        ("dm-verity", "dm-mod,dm-bufio"),
        ("dm-bufio", "dm-mod"),
        ("dm-mod", ""),
        ("other", ""),
    ):
        module(tmp_path / "kernel", name, needs)
    order = [path.stem for path in load_order(["dm_verity"], modules_in(tmp_path))]
    assert order == ["dm-mod", "dm-bufio", "dm-verity"]
    assert "kernel/dm-verity.ko: kernel/dm-bufio.ko kernel/dm-mod.ko\n" in modules_dep(tmp_path)


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="erofs"):
        load_order(["erofs"], modules_in(tmp_path))


def test_a_tree_with_two_kernels_is_refused(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "usr/lib/modules" / version).mkdir(parents=True)
    with pytest.raises(BuildError, match="2 kernels"):
        kernel_version(tmp_path)


def test_library_closure_follows_libraries_of_libraries(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\0libone.so.1\0text\0")
    (tmp_path / "libone.so.1").write_bytes(b"\0libtwo.so.2\0libabsent.so.9\0")
    (tmp_path / "libtwo.so.2").write_bytes(b"\0libone.so.1\0libc.so.6\0")
    (tmp_path / "libc.so.6").write_bytes(b"")
    assert set(library_closure(tmp_path / "program", tmp_path)) == {"libone.so.1", "libtwo.so.2", "libc.so.6"}


def test_archive_does_not_depend_on_the_order_of_entries() -> None:
    one, two = cpio.file(b"one"), cpio.link("one")
    assert cpio.archive({"b/one": one, "a": two}) == cpio.archive({"a": two, "b/one": one})


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_the_archive_back(tmp_path: Path) -> None:
    entries = {
        "bin/tool": cpio.file(b"data", executable=True),
        "sh": cpio.link("bin/tool"),
        "dev": cpio.folder(),
    }
    subprocess.run(["cpio", "-i", "--quiet"], input=cpio.archive(entries), cwd=tmp_path, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"data"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "sh").readlink().as_posix() == "bin/tool"
    assert (tmp_path / "dev").is_dir()
