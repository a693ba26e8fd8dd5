"""The archive that a tree is written into: whose fault an error is, and what GNU tar makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from repo_tools.errors import ImageSourceError
from repo_tools.image_build import tree as trees
from repo_tools.image_build.folder import read_folder
from repo_tools.image_build.stored import Piece, StoredContent, whole_file
from repo_tools.image_build.tree import Inode, Kind, Tree, write_tar
from tests.support.root_trees import seen


def tree_of(content: StoredContent) -> Tree:
    tree = Tree()
    tree.put("usr/file", Inode(kind=Kind.FILE, mode=0o644, content=content))
    return tree


def test_a_file_of_the_source_that_is_gone_is_the_source_s_fault(tmp_path: Path) -> None:
    content = whole_file(os.fsencode(tmp_path / "gone"), 3)

    with pytest.raises(ImageSourceError, match="cannot read /usr/file of the source: No such file"):
        write_tar(tree_of(content), tmp_path / "out.tar", moment=0)


@pytest.mark.parametrize("size", [2, 4, 0])
def test_a_file_of_the_source_whose_size_changed_is_the_source_s_fault(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    content = whole_file(os.fsencode(tmp_path / "file"), 3)

    with pytest.raises(ImageSourceError, match="cannot read /usr/file of the source: its size changed"):
        write_tar(tree_of(content), tmp_path / "out.tar", moment=0)


def test_an_archive_of_the_source_that_became_shorter_is_the_source_s_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    content = StoredContent(os.fsencode(tmp_path / "file"), 60, (Piece(0, 50, 60),))

    with pytest.raises(
        ImageSourceError, match="cannot read /usr/file of the source: the file became shorter"
    ):
        write_tar(tree_of(content), tmp_path / "out.tar", moment=0)


class Short(trees.BytesContent):
    """A content that has fewer bytes than it says."""

    @property
    def size(self) -> int:
        return len(self.data) + 1


def test_a_content_that_ends_early_is_the_source_s_fault(tmp_path: Path) -> None:
    tree = Tree()
    tree.put("file", Inode(kind=Kind.FILE, mode=0o644, content=Short(b"abc")))

    with pytest.raises(ImageSourceError, match="/file of the source became shorter while it was read"):
        write_tar(tree, tmp_path / "out.tar", moment=0)


def test_an_archive_that_cannot_be_written_is_not_the_source_s_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    content = whole_file(os.fsencode(tmp_path / "file"), 100_000)

    with pytest.raises(OSError, match="No space left on device"):
        write_tar(tree_of(content), Path("/dev/full"), moment=0)
    with pytest.raises(FileNotFoundError):
        write_tar(tree_of(content), tmp_path / "none" / "out.tar", moment=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and attributes of the system")
def test_gnu_tar_unpacks_it_to_the_same_tree(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    tree = Tree()
    tree.put("", Inode(kind=Kind.FOLDER, mode=0o750, uid=3))
    tree.put("etc", Inode(kind=Kind.FOLDER, mode=0o1777, xattrs={"user.a=b%c": b"\xff\x00"}))
    odd = b"etc/\xff \n".decode("utf-8", "surrogateescape")
    tree.put(
        odd, Inode(kind=Kind.FILE, mode=0o4755, uid=3_000_000_000, xattrs={"security.capability": capability})
    )
    twin = tree.get(odd)
    assert twin is not None
    tree.put("etc/twin", twin)
    tree.put("dev/sda", Inode(kind=Kind.BLOCK, mode=0o660, gid=6, device=(8, 1)))
    tree.put("dev/null", Inode(kind=Kind.CHARACTER, mode=0o666, device=(1, 3)))
    tree.put("run/fifo", Inode(kind=Kind.FIFO, mode=0o600))
    tree.put("lib", Inode(kind=Kind.LINK, mode=0o777, target="/usr/" + "lib" * 60))
    tree.put("long/" + "name" * 60, trees.file(b"x" * 70_000))

    write_tar(tree, tmp_path / "out.tar", moment=1)
    (tmp_path / "out").mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xp"]
    places: list[str | Path] = ["-f", tmp_path / "out.tar", "-C", tmp_path / "out"]
    subprocess.run([*command, *places], check=True, capture_output=True)

    assert seen(read_folder(tmp_path / "out").tree) == seen(tree)
    assert (tmp_path / "out/etc/twin").stat().st_mtime == 1
