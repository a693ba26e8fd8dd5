"""Container images whose documents or layers do not say the truth, and layouts with several images."""

from __future__ import annotations

import gzip
import json
import lzma
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from repo_tools.errors import ImageSourceError
from repo_tools.image_build import container
from repo_tools.image_build.sources import SourceKind, read
from tests.support.root_trees import Layout, digest_of, entry, saved_archive, tar_of, tar_of_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from repo_tools.image_build.sources import Source

ROOT = tar_of([entry("usr/"), entry("usr/file", b"content")])
OTHER = tar_of([entry("usr/"), entry("usr/file", b"CONTENT")])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def write(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(tar_of_files(files))
    return path


def content_of(source: Source) -> bytes | None:
    return source.tree.read("usr/file")


@pytest.mark.parametrize("packed", [True, False])
def test_a_layer_whose_bytes_are_not_those_of_its_digest_is_refused(
    layout: Layout, scratch: Path, *, packed: bool
) -> None:
    (digest,) = layout.add([ROOT], packed=packed)["layers"]
    false = bytearray(layout.place(digest).read_bytes())
    false[4 if packed else 512 + 512] ^= 1  # the time in the header of gzip; the first byte of a file
    layout.place(digest).write_bytes(false)

    with pytest.raises(ImageSourceError, match=rf"layer 1 of layout .* has the digest .* stated is {digest}"):
        read(layout.folder, scratch)


@pytest.mark.parametrize("packed", [True, False])
def test_a_layer_that_unpacks_to_what_the_configuration_does_not_say_is_refused(
    layout: Layout, scratch: Path, *, packed: bool
) -> None:
    layout.add([ROOT], diff_ids=[digest_of(OTHER)], packed=packed)

    with pytest.raises(ImageSourceError, match=r"what layer 1 of layout .* unpacks to has the digest"):
        read(layout.folder, scratch)


def test_a_layer_of_another_size_is_refused(layout: Layout, scratch: Path) -> None:
    (digest,) = layout.add([ROOT])["layers"]
    with layout.place(digest).open("ab") as file:
        file.write(b"x")

    with pytest.raises(ImageSourceError, match=rf"the blob {digest} of layout has \d+ bytes, stated are"):
        read(layout.folder, scratch)


def test_a_layer_that_is_not_there_is_named(layout: Layout, scratch: Path) -> None:
    (digest,) = layout.add([ROOT])["layers"]
    layout.place(digest).unlink()

    with pytest.raises(ImageSourceError, match=f"layout lacks the blob {digest}"):
        read(layout.folder, scratch)


@pytest.mark.parametrize("of", ["manifest", "config"])
def test_a_document_that_is_not_the_one_of_its_digest_is_refused(
    layout: Layout, scratch: Path, of: str
) -> None:
    digest = layout.add([ROOT])["digest"]
    if of == "config":
        digest = json.loads(layout.place(digest).read_bytes())["config"]["digest"]
    data = layout.place(digest).read_bytes()
    layout.place(digest).write_bytes(
        data.replace(b"linux", b"LINUX").replace(b"schemaVersion", b"SCHEMAvERSION")
    )

    with pytest.raises(ImageSourceError, match=rf"the blob {digest} of layout has the digest"):
        read(layout.folder, scratch)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "sha256:" + "0" * 63 + "/", "md5:" + "0" * 32, ""]
)
def test_a_digest_that_is_none_names_no_file(layout: Layout, scratch: Path, digest: str) -> None:
    layout.write_index([{**layout.add([ROOT]), "digest": digest}])

    with pytest.raises(ImageSourceError, match="layout names a blob"):
        read(layout.folder, scratch)


def test_a_blob_that_is_a_link_out_of_the_layout_is_not_there(
    layout: Layout, scratch: Path, tmp_path: Path
) -> None:
    (digest,) = layout.add([ROOT])["layers"]
    layout.place(digest).rename(tmp_path / "outside")
    layout.place(digest).symlink_to(tmp_path / "outside")

    with pytest.raises(ImageSourceError, match="lacks the blob"):
        read(layout.folder, scratch)


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lzma.compress,
        zstandard.ZstdCompressor().compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstandard.ZstdCompressor().compress(data),
        lambda data: (
            zstandard.ZstdCompressor().compress(data[:700]) + zstandard.ZstdCompressor().compress(data[700:])
        ),
    ],
    ids=["gzip", "xz", "zstd", "two gzip members", "a skippable frame", "two zstd frames"],
)
def test_a_layer_is_unpacked_by_what_it_is_not_by_its_media_type(
    layout: Layout, scratch: Path, compress: Callable[[bytes], bytes]
) -> None:
    descriptor = layout.add([ROOT], packed=False)
    manifest = json.loads(layout.place(descriptor["digest"]).read_bytes())
    manifest["layers"] = [layout.blob(compress(ROOT), "layer.v1.tar")]
    layout.write_index([layout.document(manifest, "manifest.v1+json")])

    assert content_of(read(layout.folder, scratch)) == b"content"


@pytest.mark.parametrize("cut", [1, 9, 40])
@pytest.mark.parametrize(
    "compress",
    [gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gzip", "xz", "zstd"],
)
def test_a_layer_that_is_cut_is_refused(
    layout: Layout, scratch: Path, compress: Callable[[bytes], bytes], cut: int
) -> None:
    descriptor = layout.add([ROOT], packed=False)
    manifest = json.loads(layout.place(descriptor["digest"]).read_bytes())
    manifest["layers"] = [layout.blob(compress(ROOT)[:-cut], "layer.v1.tar")]
    layout.write_index([layout.document(manifest, "manifest.v1+json")])

    with pytest.raises(ImageSourceError, match=r"layer 1 of layout"):
        read(layout.folder, scratch)


def test_an_index_of_several_architectures_gives_the_one_that_is_wanted(
    layout: Layout, scratch: Path
) -> None:
    amd = {**layout.add([ROOT]), "platform": {"os": "linux", "architecture": "amd64"}}
    arm = {**layout.add([OTHER], arch="arm64"), "platform": {"os": "linux", "architecture": "arm64"}}
    attestation = {**layout.add([b""]), "platform": {"os": "unknown", "architecture": "unknown"}}
    layout.write_index([layout.document({"manifests": [amd, arm, attestation]}, "index.v1+json")])

    source = read(layout.folder, scratch, arch="aarch64")

    assert (source.arch, source.digest, content_of(source)) == ("aarch64", arm["digest"], b"CONTENT")
    with pytest.raises(ImageSourceError, match=r"has several images: .*x86_64, aarch64") as caught:
        read(layout.folder, scratch)
    assert "--arch" in caught.value.next_step
    with pytest.raises(ImageSourceError, match=r"has no image for riscv64: it is for .aarch64, x86_64"):
        read(layout.folder, scratch, arch="riscv64")


def test_an_image_of_another_architecture_is_refused_also_if_only_its_configuration_says_so(
    layout: Layout, scratch: Path, tmp_path: Path
) -> None:
    layout.add([ROOT])
    saved = write(tmp_path / "saved.tar", saved_archive([ROOT]))

    for source in (layout.folder, saved):
        with pytest.raises(ImageSourceError, match=r"has no image for aarch64: it is for .x86_64"):
            read(source, scratch, arch="aarch64")


def test_a_layout_with_several_images_needs_a_name(layout: Layout, scratch: Path) -> None:
    layout.add([ROOT], name="one")
    layout.add([OTHER], name="two")

    assert content_of(read(layout.folder, scratch, image="two")) == b"CONTENT"
    with pytest.raises(ImageSourceError, match=r'layout has several images: "one x86_64, two x86_64"'):
        read(layout.folder, scratch)
    with pytest.raises(ImageSourceError, match=r'layout has no image named "three"; it has "one, two"'):
        read(layout.folder, scratch, image="three")


def test_a_layout_without_an_image_says_so(layout: Layout, scratch: Path) -> None:
    layout.write_index([])

    with pytest.raises(ImageSourceError, match="layout has no container image"):
        read(layout.folder, scratch)


def test_an_artifact_is_not_taken_for_an_image(layout: Layout, scratch: Path) -> None:
    config = layout.document({"some": "thing"}, "thing.v1+json")
    manifest = {"config": config, "layers": [layout.blob(ROOT, "layer.v1.tar")]}
    layout.write_index([layout.document(manifest, "manifest.v1+json")])

    with pytest.raises(ImageSourceError, match="is not one of a container image"):
        read(layout.folder, scratch)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"manifests": null}', b'{"manifests": [{}]}', b"[" * 100_000]
)
def test_an_index_that_is_none_is_refused(layout: Layout, scratch: Path, data: bytes) -> None:
    layout.add([ROOT])
    (layout.folder / "index.json").write_bytes(data)

    with pytest.raises(ImageSourceError, match=r"index\.json of layout is not one of a container image"):
        read(layout.folder, scratch)


def test_a_document_that_is_too_large_is_not_read(layout: Layout, scratch: Path) -> None:
    layout.add([ROOT])
    with (layout.folder / "index.json").open("wb") as file:
        file.truncate(container.MOST_DOCUMENT + 1)

    with pytest.raises(ImageSourceError, match="more than are expected of it"):
        read(layout.folder, scratch)


def test_indexes_in_a_long_chain_are_refused(layout: Layout, scratch: Path) -> None:
    below: dict[str, Any] = layout.add([ROOT])
    for _ in range(6):
        below = layout.document({"manifests": [below]}, "index.v1+json")
    layout.write_index([below])

    with pytest.raises(ImageSourceError, match="has too many indexes"):
        read(layout.folder, scratch)


def test_more_layers_than_digests_are_refused(layout: Layout, scratch: Path) -> None:
    layout.add([ROOT, OTHER], diff_ids=[digest_of(ROOT)])

    with pytest.raises(ImageSourceError, match="layout has 2 layers, and the digests of 1"):
        read(layout.folder, scratch)


def test_encrypted_layers_are_refused(layout: Layout, scratch: Path) -> None:
    descriptor = layout.add([ROOT])
    manifest = json.loads(layout.place(descriptor["digest"]).read_bytes())
    manifest["layers"][0]["mediaType"] += "+encrypted"
    layout.write_index([layout.document(manifest, "manifest.v1+json")])

    with pytest.raises(ImageSourceError, match="the layers of layout are encrypted"):
        read(layout.folder, scratch)


def test_a_saved_archive_is_read_and_named_by_its_configuration(scratch: Path, tmp_path: Path) -> None:
    files = saved_archive([ROOT, OTHER])
    (config,) = [name for name in files if name.endswith(".json") and name != "manifest.json"]

    source = read(write(tmp_path / "saved.tar", files), scratch)

    assert (source.kind, source.arch) == (SourceKind.SAVED, "x86_64")
    assert source.digest == "sha256:" + config.removesuffix(".json")
    assert content_of(source) == b"CONTENT"


def test_a_saved_archive_that_was_unpacked_is_read(scratch: Path, tmp_path: Path) -> None:
    for name, data in saved_archive([ROOT]).items():
        place = tmp_path / "saved" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    assert content_of(read(tmp_path / "saved", scratch)) == b"content"


def test_a_layer_of_a_saved_archive_that_is_not_its_own_is_refused(scratch: Path, tmp_path: Path) -> None:
    files = {**saved_archive([ROOT]), "0/layer.tar": OTHER}

    with pytest.raises(ImageSourceError, match=r"what layer 1 of saved\.tar .* unpacks to has the digest"):
        read(write(tmp_path / "saved.tar", files), scratch)


def test_a_configuration_of_a_saved_archive_that_is_not_its_own_is_refused(
    scratch: Path, tmp_path: Path
) -> None:
    files = saved_archive([ROOT])
    (config,) = [name for name in files if name.endswith(".json") and name != "manifest.json"]
    files[config] += b" "

    with pytest.raises(ImageSourceError, match=r"the configuration .* of saved\.tar has sha256:"):
        read(write(tmp_path / "saved.tar", files), scratch)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "none"])
def test_a_layer_of_a_saved_archive_that_is_elsewhere_is_not_there(
    scratch: Path, tmp_path: Path, path: str
) -> None:
    files = saved_archive([ROOT])
    files["manifest.json"] = files["manifest.json"].replace(b"0/layer.tar", path.encode())

    with pytest.raises(ImageSourceError, match=r"saved\.tar lacks .*, a layer of its image"):
        read(write(tmp_path / "saved.tar", files), scratch)


def test_a_saved_archive_of_several_images_needs_a_name(scratch: Path, tmp_path: Path) -> None:
    one, two = saved_archive([ROOT], tags=["one:1"]), saved_archive([OTHER], tags=["two:1", "two:2"])
    two = {name.replace("0/", "1/"): data.replace(b"0/layer", b"1/layer") for name, data in two.items()}
    manifest = [*json.loads(one["manifest.json"]), *json.loads(two["manifest.json"])]
    archive = write(tmp_path / "saved.tar", {**one, **two, "manifest.json": json.dumps(manifest).encode()})

    assert content_of(read(archive, scratch, image="two:2")) == b"CONTENT"
    with pytest.raises(ImageSourceError, match=r"saved\.tar has several images: .one:1, two:1, two:2"):
        read(archive, scratch)


def test_a_name_of_an_image_for_what_is_none_is_refused(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(ROOT)

    with pytest.raises(ImageSourceError, match=r"root\.tar is not a container image"):
        read(tmp_path / "root.tar", scratch, image="one")


def test_a_root_with_a_file_of_the_name_of_a_manifest_stays_a_root(scratch: Path, tmp_path: Path) -> None:
    files = {**saved_archive([OTHER]), "usr/file": b"content"}

    source = read(write(tmp_path / "root.tar", files), scratch)

    assert (source.kind, content_of(source)) == (SourceKind.TAR, b"content")
