"""The initrd's parts that are its own: the index of modules, and the closure of libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fixtures.os.errors import BuildError
from fixtures.os.initrd import library_closure
from fixtures.os.kernel import kernel_version, modules_dep

if TYPE_CHECKING:
    from pathlib import Path


def module(folder: Path, name: str, needs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")


def test_the_index_names_what_each_module_needs(tmp_path: Path) -> None:
    for name, needs in (
        ("dm-verity", "dm-mod,dm-bufio"),
        ("dm-bufio", "dm-mod"),
        ("dm-mod", ""),
        ("other", ""),
    ):
        module(tmp_path / "kernel", name, needs)
    assert "kernel/dm-verity.ko: kernel/dm-bufio.ko kernel/dm-mod.ko\n" in modules_dep(tmp_path)


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
