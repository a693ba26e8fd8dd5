"""A build: three images that belong together and their facts, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.errors import ImageFaultsError, ImageSourceError
from repo_tools.image_build.build import FACTS, build, scratch_in
from repo_tools.image_build.request import BuildRequest, Etc, InitrdKind
from repo_tools.image_build.tree import BytesContent, Inode, Kind, file
from repo_tools.images.inspection import inspect_release
from repo_tools.images.verity import require_tree_of
from signpost.errors import MediumError, UsageError
from signpost.sets import ImageKind
from tests.support.trees import KERNEL, sound_tree
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from repo_tools.image_build.build import BuiltImages
    from repo_tools.image_build.tree import Tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and other owners")


def made(folder: Path, tree: Tree | None = None, request: BuildRequest | None = None) -> BuiltImages:
    return build(
        tree or sound_tree(),
        folder,
        request or BuildRequest(),
        source={"kind": "test", "digest": "0"},
        progress=lambda _: None,
    )


def read_boot(image: Path, path: str) -> str:
    command = ["/usr/sbin/debugfs", "-R", f"cat {path}", str(image)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_the_images_belong_together_and_the_facts_describe_them(tmp_path: Path) -> None:
    built = made(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"boot.ext4", "root.erofs", "root.verity", FACTS}
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts == built.to_json()
    assert (facts["version"], facts["variant"], facts["arch"]) == ("1.2.3", "box", "x86_64")
    for kind, image in built.images.items():
        data = image.path.read_bytes()
        said = facts["images"][str(kind)]
        assert said["file"] == image.path.name
        assert (said["size"], said["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    hashes = require_tree_of(built.images[ImageKind.ROOT].path, built.images[ImageKind.HASH].path)
    assert hashes is not None
    assert hashes.root_hash == facts["root_hash"]
    entry = read_boot(built.images[ImageKind.BOOT].path, "/loader/entries/box-1.2.3.conf")
    assert f"options {facts['options']} roothash={facts['root_hash']}\n" in entry
    assert "panic=5" in facts["options"]
    assert read_boot(built.images[ImageKind.BOOT].path, "/vmlinuz") == "the kernel"
    assert inspect_release([tmp_path]).fits


def test_the_same_source_gives_the_same_bytes_and_another_version_other_ones(tmp_path: Path) -> None:
    first = made(tmp_path / "1").to_json()
    assert made(tmp_path / "2").to_json() == first
    other = made(tmp_path / "3", request=BuildRequest(version=Version.parse("1.2.4"))).to_json()
    assert other["root_hash"] != first["root_hash"]


def test_the_initrd_of_the_distribution_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    built = made(tmp_path, request=BuildRequest(initrd=InitrdKind.DRACUT, etc=Etc.READ_ONLY))
    assert read_boot(built.images[ImageKind.BOOT].path, "/initrd") == "the initrd of the distribution"
    assert "root=/dev/mapper/root" in built.options


def test_a_source_with_faults_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ImageFaultsError, match="no-updog"):
        made(tmp_path / "out", sound_tree({"usr/bin/updog": None}))
    assert not (tmp_path / "out").exists()


def test_a_scratch_folder_ends_with_its_folders_unless_something_was_put_there(tmp_path: Path) -> None:
    with scratch_in(tmp_path / "a/b") as scratch:
        (scratch / "x").write_text("x")
        assert scratch.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []
    with scratch_in(tmp_path / "a/b"):
        (tmp_path / "a/b/result").write_text("x")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["result"]


class _Unreadable:
    """A content that cannot be read to its end."""

    size = 1000

    def open(self) -> BinaryIO:
        raise OSError(5, "Input/output error")


def test_images_of_an_earlier_build_stay_if_the_next_one_fails(tmp_path: Path) -> None:
    made(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = Inode(kind=Kind.FILE, mode=0o644, content=_Unreadable())
    with pytest.raises(ImageSourceError, match="/usr/share/x"):
        made(tmp_path, sound_tree({"usr/share/x": broken}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_next_build_replaces_the_images_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = made(tmp_path).root_hash
    second = made(tmp_path, sound_tree({"usr/share/new": file(b"x")})).root_hash
    assert first != second
    assert json.loads((tmp_path / FACTS).read_text())["root_hash"] == second
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 5


def test_an_output_that_is_not_a_folder_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MediumError, match="out"):
        made(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"compression": "gzip"}, "compression"),
        ({"compression": "lz4 -x"}, "compression"),
        ({"options": "ro roothash=00"}, "roothash="),
        ({"options": "ro slot=A"}, "slot="),
        ({"options": "signpost.boot=x"}, "signpost.boot="),
        ({"options": "ro\nlinux /other"}, "line break"),
        ({"initrd": InitrdKind.DRACUT}, "/etc transient"),
        ({"variant": 'a"\nID=x'}, "variant"),
        ({"variant": ""}, "variant"),
    ],
)
def test_options_that_would_contradict_the_boot_stage_are_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BuildRequest(**words)


def test_a_restart_after_a_panic_is_added_where_it_is_missing() -> None:
    assert BuildRequest(options="ro").kernel_options == "ro panic=5"
    assert BuildRequest(options="ro panic=30").kernel_options == "ro panic=30"


def test_one_of_several_kernels_is_taken_by_its_version(tmp_path: Path) -> None:
    tree = sound_tree(
        {"usr/lib/modules/9.0/a.ko": Inode(kind=Kind.FILE, mode=0o644, content=BytesContent(b"x"))}
    )
    assert made(tmp_path, tree, BuildRequest(kernel=KERNEL)).kernel == KERNEL
