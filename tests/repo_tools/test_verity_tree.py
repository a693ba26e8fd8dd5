"""A hash image is compared with its root image: only what `veritysetup` makes fits."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.errors import VerityError
from repo_tools.images.verity import HashImage, require_tree_of
from signpost.console import run
from tests.support.repositories import make_repository, tree_digest
from tests.support.verity import format_verity

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("veritysetup") is None, reason="Debian package cryptsetup-bin")

BLOCK = 4096
ROOT = random.Random(4).randbytes(130 * BLOCK)


def _made(folder: Path, content: bytes, *options: str, name: str = "root") -> tuple[Path, Path]:
    """Return a root image and the hash image that veritysetup makes of it."""
    root, tree = folder / name, folder / f"{name}.hash"
    root.write_bytes(content)
    format_verity(root, tree, *options)
    return root, tree


@pytest.mark.parametrize(
    "options",
    ["", "--salt=-", "--salt=00ff11", "--hash=sha512", "--data-block-size=1024", "--hash-block-size=1024"],
)
@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 130])
def test_the_tree_of_its_own_root_fits_and_that_of_another_does_not(
    tmp_path: Path, blocks: int, options: str
) -> None:
    root, tree = _made(tmp_path, ROOT[: blocks * BLOCK], *options.split())
    require_tree_of(root, tree)
    if blocks == 1 and options != "--data-block-size=1024":
        return  # its tree has no block: only the root hash, which is elsewhere, shows it
    changed = bytearray(ROOT[: blocks * BLOCK])
    changed[-1] ^= 1
    root.write_bytes(changed)
    with pytest.raises(VerityError, match="is the tree of another root image"):
        require_tree_of(root, tree)


def test_a_tree_over_a_part_of_the_root_is_refused(tmp_path: Path) -> None:
    root, tree = _made(tmp_path, ROOT)
    root.write_bytes(ROOT + bytes(BLOCK))
    with pytest.raises(VerityError, match=f"over {len(ROOT)} bytes; the root image has {len(ROOT) + BLOCK}"):
        require_tree_of(root, tree)


@pytest.mark.parametrize("place", [BLOCK, 2 * BLOCK, 3 * BLOCK])
def test_a_changed_byte_of_any_level_is_found(tmp_path: Path, place: int) -> None:
    root, tree = _made(tmp_path, ROOT)
    data = bytearray(tree.read_bytes())
    data[place] ^= 1
    tree.write_bytes(data)
    with pytest.raises(VerityError):
        require_tree_of(root, tree)


@pytest.mark.parametrize("data", [b"", b"junk" * 4096, b"verity\0\0" + bytes(600), b"verity\0\0"])
def test_what_has_no_known_superblock_has_no_known_tree(data: bytes) -> None:
    image = HashImage.of(data)
    assert (image.superblock, image.root_hash) == (None, "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"junk" * 2500, "has no superblock, and its 10000 bytes are not a tree"),
        (b"verity\0\0", "has no superblock, and its 8 bytes are not a tree"),
        (b"junk" * 128, "has no superblock, and its 512 bytes are not a tree"),
        (bytes(2 * BLOCK), "contains only zeros"),
    ],
    ids=["not-sectors", "cut-in-the-superblock", "too-small", "zeros"],
)
def test_what_cannot_be_a_tree_without_a_superblock_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    root, tree = tmp_path / "root", tmp_path / "hash"
    root.write_bytes(bytes(17 * (512 << 10)))  # 17 of the largest blocks: 17 digests of 32 bytes
    tree.write_bytes(data)
    with pytest.raises(VerityError, match=message):
        require_tree_of(root, tree)


@pytest.mark.parametrize("options", ["", "--salt=00ff11", "--hash=sha1", "--data-block-size=1024"])
def test_a_tree_without_a_superblock_may_be_that_of_its_root(tmp_path: Path, options: str) -> None:
    root, tree = _made(tmp_path, ROOT, "--no-superblock", *options.split())
    require_tree_of(root, tree)


def test_a_root_that_is_not_made_of_sectors_has_no_tree(tmp_path: Path) -> None:
    root, tree = tmp_path / "root", tmp_path / "hash"
    root.write_bytes(b"placeholder")
    tree.write_bytes(b"placeholder")
    require_tree_of(root, tree)


@pytest.mark.parametrize("kind", ["other", "junk"])
def test_a_release_with_another_tree_or_none_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    repository = make_repository(tmp_path / "repo")
    root, _ = _made(tmp_path, ROOT)
    if kind == "other":
        _, tree = _made(tmp_path, ROOT[::-1], name="other")
        message = "is the tree of another root image"
    else:
        tree, message = tmp_path / "junk", "has no superblock"
        tree.write_bytes(b"junk" * 2500)
    before = tree_digest(repository.folder)
    words = ["--variant", "vm", "--arch", "x86_64", "--version", "2.0.0", "--boot", str(root)]
    words += ["--root", str(root), "--hash", str(tree), "--waves", "none"]
    assert run(cli, ["--repo", str(repository.folder), "publish", *words]) == 1
    assert message in capsys.readouterr().err
    assert tree_digest(repository.folder) == before
