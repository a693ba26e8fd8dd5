"""Each image is a function of what goes in, and keeps what the tree says."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from repo_tools.bootstage.image import MOMENT
from repo_tools.errors import ImageBuildError
from repo_tools.image_build.boot import boot_entry, boot_size, entry_path, write_ext4
from repo_tools.image_build.root import reads_archives, write_root
from repo_tools.image_build.tools import OF_IMAGES, require
from repo_tools.image_build.tree import BytesContent, Inode, Kind, Tree, file, link
from signpost.bootstage import read_entry
from signpost.errors import BootEntryError
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDENTITY, SEED = UUID(int=1), UUID(int=2)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_raw=ep, capabilities(7)
ELSEWHEN = str(10**9)
"""Another time."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and other owners")


def unusual_tree() -> Tree:
    tree = Tree()
    shared = Inode(kind=Kind.FILE, mode=0o644, uid=70_000, gid=7, content=BytesContent(b"h" * 5000))
    tree.put("a/one", shared)
    tree.put("b/two", shared)
    tree.put(
        "bin/ping",
        Inode(
            kind=Kind.FILE,
            mode=0o4755,
            xattrs={"security.capability": CAPABILITY, "user.x": b"\0\xff=\n"},
            content=BytesContent(b"p"),
        ),
    )
    tree.put("dev/null", Inode(kind=Kind.CHARACTER, mode=0o666, device=(1, 3)))
    tree.put("link", link("/a/one"))
    tree.put("\udcff", file(b"x"))
    tree.put("tmp", Inode(kind=Kind.FOLDER, mode=0o1777, gid=5))
    return tree


def write(tree: Tree, folder: Path, *, compression: str = "none") -> bytes:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    write_root(tree, folder / "image", scratch, name="box-x86_64-1.0.0", compression=compression)
    return (folder / "image").read_bytes()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    write(unusual_tree(), tmp_path / "made", compression="lz4hc,9")
    point = tmp_path / "point"
    point.mkdir()
    image = str(tmp_path / "made" / "image")
    done = subprocess.run(
        ["mount", "-t", "erofs", "-o", "loop,ro", image, str(point)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this machine mounts no erofs")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@as_root
def test_owners_modes_devices_links_and_attributes_are_kept(mounted: Path) -> None:
    one, two, ping = (mounted / name for name in ("a/one", "b/two", "bin/ping"))
    assert one.stat().st_ino == two.stat().st_ino
    assert (one.stat().st_uid, one.stat().st_gid, one.read_bytes()) == (70_000, 7, b"h" * 5000)
    assert ping.stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert os.getxattr(ping, "user.x") == b"\0\xff=\n"
    device = (mounted / "dev/null").stat()
    assert (os.major(device.st_rdev), os.minor(device.st_rdev)) == (1, 3)
    assert str((mounted / "link").readlink()) == "/a/one"
    assert (mounted / "\udcff").read_bytes() == b"x"
    assert (mounted / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert {path.lstat().st_mtime for path in mounted.rglob("*")} == {MOMENT}


@as_root
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_root_repeats_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    first = write(unusual_tree(), tmp_path / "1", compression=compression)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", ELSEWHEN)
    assert write(unusual_tree(), tmp_path / "2", compression=compression) == first


@as_root
def test_nothing_is_left_outside_the_image_and_its_scratch_folder(tmp_path: Path) -> None:
    tree = unusual_tree()
    tree.put("etc/absolute", link("/etc"))
    write(tree, tmp_path / "made")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"image", "scratch"}
    assert not (tmp_path / "made/scratch/root.tar").exists()


def test_without_root_and_without_a_tool_that_reads_archives_root_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reads_archives():
        pytest.skip("this mkfs.erofs needs no root")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageBuildError, match="needs root") as caught:
        write(unusual_tree(), tmp_path)
    assert "mkfs.erofs 1.7" in caught.value.next_step
    assert not (tmp_path / "image").exists()


def test_missing_tools_are_told_together_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("repo_tools.image_build.tools._ADMIN_FOLDERS", str(tmp_path))
    with pytest.raises(ImageBuildError, match=r"debugfs, mke2fs, mkfs\.erofs, tar, veritysetup") as caught:
        require(OF_IMAGES)
    assert "cryptsetup-bin e2fsprogs erofs-utils tar" in caught.value.next_step


FILES = {"vmlinuz": b"k" * 100_000, "initrd": b"i" * 5000, entry_path("box-1.0.0"): b"linux /vmlinuz\n"}


def test_boot_repeats_whatever_the_order_the_umask_and_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o077)
    try:
        write_ext4(FILES, tmp_path / "1", size=boot_size(FILES), identity=IDENTITY, seed=SEED)
    finally:
        os.umask(before)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", ELSEWHEN)
    backwards = dict(reversed(FILES.items()))
    write_ext4(backwards, tmp_path / "2", size=boot_size(FILES), identity=IDENTITY, seed=SEED)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("size", [1, 40_000, 3_000_000, 70_000_000])
def test_boot_has_room_for_its_files_and_little_more(tmp_path: Path, size: int) -> None:
    files = {"vmlinuz": bytes(size), "initrd": b"x" * size, entry_path("e"): b"linux /vmlinuz\n"}
    whole = boot_size(files)
    write_ext4(files, tmp_path / "image", size=whole, identity=IDENTITY, seed=SEED)
    assert whole < 2 * size * 1.1 + 3 * 2**20
    done = subprocess.run(
        ["/usr/sbin/e2fsck", "-f", "-n", str(tmp_path / "image")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_entry_is_read_by_the_boot_stage(tmp_path: Path) -> None:
    text = boot_entry(
        title="Box 1.0.0", version="1.0.0", architecture="x64", options="ro panic=5", root_hash="ab" * 32
    )
    place = tmp_path / entry_path("box-1.0.0")
    place.parent.mkdir(parents=True)
    place.write_text(text)
    entry = read_entry(OsMedium(), str(tmp_path), "x64")
    assert (entry.title, entry.version, entry.linux, entry.initrd) == (
        "Box 1.0.0",
        "1.0.0",
        "/vmlinuz",
        ("/initrd",),
    )
    assert entry.options == f"ro panic=5 roothash={'ab' * 32}"
    with pytest.raises(BootEntryError):
        read_entry(OsMedium(), str(tmp_path), "aa64")
