"""What an image says about itself has to fit its release: exchanged images and images of another build."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.errors import ImageError, VerityError
from repo_tools.images.contents import ImageContents
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.sets import ImageKind
from tests.support.boot_images import write_boot
from tests.support.repositories import VARIANT, make_repository, tree_digest
from tests.support.signed_faults import sign_edited_manifest
from tests.support.verity import format_verity
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.repositories import SmallRepository

BLOCK = 4096
EXT4 = bytes(0x438) + b"\x53\xef" + bytes(BLOCK - 0x43A)
EROFS = bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(BLOCK - 1028)
SQUASHFS = b"hsqs" + bytes(BLOCK - 4)
BTRFS = bytes(0x10040) + b"_BHRfS_M"
TREE = b"verity\0\0" + bytes(BLOCK - 8)
ONE, OTHER = "1a" * 32, "2b" * 32


def _seen(data: bytes, size: int = 1000) -> ImageContents:
    contents = ImageContents()
    for _ in contents.watched(data[at : at + size] for at in range(0, len(data), size)):
        pass
    return contents


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (EXT4, "boot root"),
        (EROFS, "root"),
        (SQUASHFS, "root"),
        (BTRFS, "boot root"),
        (TREE, "hash"),
        (b"", "boot root hash"),
        (bytes(BLOCK), "boot root hash"),
    ],
)
def test_each_format_may_be_these_images(data: bytes, kinds: str) -> None:
    contents = _seen(data)
    assert [kind for kind in ImageKind if not contents.misplaced(kind)] == kinds.split()


@pytest.mark.parametrize("size", [1, 63, 4096, 1 << 20])
@pytest.mark.parametrize(
    "line",
    [
        f"linux /vmlinuz\noptions ro roothash={ONE}\n",
        f"options roothash={ONE} quiet",
        f'dm-mod.create="root,,,ro,0 8 verity 1 PARTUUID=a PARTUUID=b 4096 4096 1 1 sha256 {ONE} {OTHER}"',
    ],
)
def test_a_command_line_that_names_another_root_hash(line: str, size: int) -> None:
    filler = random.Random(7).randbytes(20_000)
    contents = _seen(filler + b"\0" + line.encode() + b"\0" + filler, size)
    assert contents.root_hashes == {ONE}
    assert contents.names_other_root(ONE) == ""
    assert contents.names_other_root("") == ""
    assert OTHER in contents.names_other_root(OTHER)


@pytest.mark.parametrize(
    "text", ["usrhash=" + ONE, "roothash=1a1a", "roothash=" + ONE + "ff", "sha256 " + ONE]
)
def test_what_is_no_root_hash_is_not_judged(text: str) -> None:
    assert _seen(text.encode() + b"\0").root_hashes == set()


@pytest.mark.parametrize(
    ("text", "is_other"),
    [
        (b'NAME=x\nVERSION_ID="1.0.0"\nVARIANT_ID=vm\n', True),
        (b'VARIANT_ID="vm"\nVERSION_ID=1.0.0\n\0\0', True),
        (b"VERSION_ID=1.1.0\nVARIANT_ID=vm\n", False),
        (b"VERSION_ID=1.0.0\nVARIANT_ID=another\n", False),
        (b"VERSION_ID=1.0.0\n", False),
        (b"BUILD_VERSION_ID=1.0.0\nVARIANT_ID=vm\n", False),
        (b"VERSION_ID=1.0.0\nVARIANT_ID='vm\n", False),
        (b"VERSION_ID=1.0.0\n\xff\xfe it's another file\nVARIANT_ID=vm\n", False),
        (b"VERSION_ID=1.0.0\nVARIANT_ID=vm\n\0VERSION_ID=1.1.0\nVARIANT_ID=vm\n", False),
    ],
)
@pytest.mark.parametrize("size", [7, 4096])
def test_an_os_release_of_another_version(text: bytes, size: int, *, is_other: bool) -> None:
    filler = random.Random(7).randbytes(20_000)
    contents = _seen(filler + b"\0" + text + b"\0" + filler, size)
    assert bool(contents.names_other_version("vm", Version.parse("1.1.0"))) is is_other


def _build(folder: Path, version: str, *options: str, command_line: str = "") -> dict[str, Any]:
    """Return the images of a build: a root with an os-release, its tree, and a boot image that names it."""
    folder.mkdir()
    files = {kind: folder / f"{kind}.raw" for kind in ("boot", "root", "hash")}
    system = f"VERSION_ID={version}\nVARIANT_ID={VARIANT}\n".encode()
    content = random.Random(version).randbytes(63 * BLOCK)
    files["root"].write_bytes(EROFS + system + bytes(BLOCK - len(system)) + content)
    root_hash = format_verity(files["root"], files["hash"], *options)
    write_boot(files["boot"], f"panic=5 {(command_line or 'roothash={}').format(root_hash)}")
    return files


@pytest.fixture
def builds(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    if shutil.which("veritysetup") is None:
        pytest.skip("Debian package cryptsetup-bin")
    return _build(tmp_path / "one", "2.0.0"), _build(tmp_path / "two", "2.1.0")


def _published(folder: Path, builds: Sequence[dict[str, Any]]) -> SmallRepository:
    repository = make_repository(folder, versions=[])
    for version, files in zip(("2.0.0", "2.1.0"), builds, strict=True):
        repository.publish(version, **files)
    return repository


def _codes(repository: SmallRepository) -> set[str]:
    return {finding.code for finding in check(FolderSource(repository.folder), now=repository.now).findings}


def test_images_of_one_build_are_clean(tmp_path: Path, builds: Any) -> None:
    assert _codes(_published(tmp_path / "repo", builds)) == set()


BARE_LINE = 'dm-mod.create="r,,,ro,0 8 verity 1 a b 4096 4096 1 0 sha256 {} 00ff11"'


@pytest.mark.parametrize(
    ("salt", "line"),
    [
        ("--salt=-", "roothash={}"),
        ("--salt=00ff11", BARE_LINE),
        ("--salt=00ff11", "roothash={} systemd.verity_root_options=superblock=no,salt=00ff11"),
    ],
)
def test_a_tree_without_a_superblock_fits_the_boot_image_that_names_its_root_hash(
    tmp_path: Path, builds: Any, salt: str, line: str
) -> None:
    bare = _build(tmp_path / "bare", "2.0.0", "--no-superblock", salt, command_line=line)
    assert _codes(_published(tmp_path / "repo", [bare, builds[1]])) == set()
    repository = make_repository(tmp_path / "other", versions=[])
    before = tree_digest(repository.folder)
    data = bytearray(bare["hash"].read_bytes())
    data[0] ^= 1
    bare["hash"].write_bytes(data)
    with pytest.raises(ImageError, match="the hash image has no superblock, and its first block"):
        repository.publish("2.0.0", **bare)
    assert tree_digest(repository.folder) == before


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"boot": "root", "root": "boot"}, VerityError, "is a tree over 266240 bytes"),
        ({"boot": "hash"}, ImageError, "another kind: dm-verity"),
        ({"hash": "root"}, ImageError, "another kind: erofs"),
    ],
)
def test_images_that_are_exchanged_are_not_published(
    tmp_path: Path, builds: Any, given: dict[str, str], error: type[Exception], message: str
) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    before = tree_digest(repository.folder)
    files = {kind: builds[0][given.get(kind, kind)] for kind in builds[0]}
    with pytest.raises(error, match=message):
        repository.publish("2.0.0", **files)
    assert tree_digest(repository.folder) == before


def test_the_boot_image_of_another_build_is_not_published(tmp_path: Path, builds: Any) -> None:
    one, two = builds
    repository = make_repository(tmp_path / "repo", versions=[])
    before = tree_digest(repository.folder)
    with pytest.raises(ImageError, match="command line names root hash"):
        repository.publish("2.1.0", **{**two, "boot": one["boot"]})
    assert tree_digest(repository.folder) == before


@pytest.mark.parametrize(
    ("kinds", "codes"),
    [
        (["boot"], {"boot-mismatch"}),
        (["root", "hash"], {"boot-mismatch", "version-mismatch"}),
        (["boot", "root", "hash"], {"version-mismatch"}),
    ],
)
def test_images_of_another_build_are_findings(
    tmp_path: Path, builds: Any, kinds: list[str], codes: set[str]
) -> None:
    repository = _published(tmp_path / "repo", builds)

    def exchange(document: dict[str, Any]) -> None:
        one, other = document["updates"]
        for member in ("images", "contents", "packs"):
            for kind in kinds:
                one[member][kind], other[member][kind] = other[member][kind], one[member][kind]

    sign_edited_manifest(repository, exchange)
    assert _codes(repository) - {"delta-mismatch"} == codes


@pytest.mark.parametrize(
    ("kinds", "codes"),
    [
        (("boot", "root"), {"image-misplaced", "verity-mismatch"}),
        (("boot", "hash"), {"image-misplaced"}),
        (("root", "hash"), {"image-misplaced", "boot-mismatch"}),
    ],
)
def test_images_exchanged_in_the_manifest_are_findings(
    tmp_path: Path, builds: Any, kinds: tuple[str, str], codes: set[str]
) -> None:
    repository = _published(tmp_path / "repo", builds)

    def exchange(document: dict[str, Any]) -> None:
        one, other = kinds
        for members in (document["updates"][1][member] for member in ("images", "contents", "packs")):
            members[one], members[other] = members[other], members[one]

    sign_edited_manifest(repository, exchange)
    assert _codes(repository) == codes


def test_one_file_as_two_images_is_a_finding(tmp_path: Path, builds: Any) -> None:
    repository = _published(tmp_path / "repo", builds)

    def repeat(document: dict[str, Any]) -> None:
        for members in (document["updates"][1][member] for member in ("images", "contents", "packs")):
            members["boot"] = members["root"]

    sign_edited_manifest(repository, repeat)
    assert _codes(repository) == {"image-misplaced"}
