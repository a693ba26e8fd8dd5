"""An image cut by a byte: what a node refuses, `validate`, `publish` and `disk create` refuse too.

Every case is signed as it is, with the whole image's content in the manifest, as by a publisher
whose file was cut before it was signed. Only the decoder can notice then.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import zstandard

from repo_tools.cli import cli
from repo_tools.errors import StoredImageError
from repo_tools.images.packing import Staged
from repo_tools.images.stored import unpacked
from repo_tools.releases import first_disk
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.change_log import Change
from repo_tools.repository.session import writing
from signpost.console import run
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from tests.support.cut_images import RAW, SKIPPABLE, CutImage, cut_images, pack, whole, without_seek_table
from tests.support.images import pieces
from tests.support.nodes import NEWER, NEWEST, RUNNING, make_node
from tests.support.repositories import ARCH, VARIANT, tree_digest
from updog.errors import DigestError, ImageError
from updog.image.codec import decompressed
from updog.image.frames import unpacked_chunk
from updog.image.index import Index, Piece
from updog.update_metadata.content import Content
from updog.update_metadata.manifest import Contents, Images, Update
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.nodes import Node
    from tests.support.repositories import SmallRepository

ENDINGS = (".zst", ".lz4")
CUT = [image for ending in ENDINGS for image in cut_images(ending)]
REFUSED = 4
WHICH = ReleaseName(version=Version.parse(NEWER))


# -- the decoder -----------------------------------------------------------------------------------------


def _at_node(stream: bytes, name: str, size: int) -> Iterator[bytes]:
    return decompressed(pieces(stream, size), name=name)


def _at_publisher(stream: bytes, name: str, size: int) -> Iterator[bytes]:
    return unpacked(pieces(stream, size), name)


def _refusal(blocks: Iterator[bytes]) -> str:
    """Return why a stream is refused, nothing if it is not."""
    try:
        for _ in blocks:
            pass
    except (ImageError, StoredImageError) as error:
        return error.message
    return ""


@pytest.mark.parametrize("size", [1 << 20, 7], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("image", CUT, ids=str)
def test_node_and_publisher_refuse_it_in_the_same_words(image: CutImage, size: int) -> None:
    name = f"x{image.ending}"
    node = _refusal(_at_node(image.data, name, size))
    assert node == _refusal(_at_publisher(image.data, name, size))
    assert node.startswith(f"{name} is not a well-formed compressed image: ") is not image.is_well_formed
    if "cut" in image.name or "short" in image.name:
        assert image.is_well_formed or "ends inside a frame" in node


@pytest.mark.parametrize("decode", [_at_node, _at_publisher])
@pytest.mark.parametrize(
    ("ending", "stream"),
    [
        pytest.param(".zst", whole(".zst"), id="zst"),
        pytest.param(".zst", without_seek_table(), id="zst-without-seek-table"),
        pytest.param(".lz4", whole(".lz4"), id="lz4"),
    ],
)
def test_a_whole_stream_is_the_image(
    ending: str, stream: bytes, decode: Callable[[bytes, str, int], Iterator[bytes]]
) -> None:
    assert b"".join(decode(stream, f"x{ending}", 7)) == RAW


# -- the commands ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A node that runs 1.0.0, its repository, and the name of the boot image of 1.1.0 there."""

    node: Node
    repository: SmallRepository
    boot: str

    @property
    def file(self) -> Path:
        """The stored boot image."""
        (path,) = (self.repository.folder / "targets").glob(f"*.{self.boot}")
        return path


def _scene(folder: Path, ending: str, boot: bytes) -> Scene:
    """Return a scene where ``boot`` was signed as the boot image of 1.1.0, and RAW is what it should be."""
    node = make_node(folder, published=())
    repository = node.repository
    raws = {ImageKind.BOOT: RAW, ImageKind.ROOT: b"root" * 5000, ImageKind.HASH: b"hash" * 5000}
    streams = {kind: pack(raw, ending) for kind, raw in raws.items()} | {ImageKind.BOOT: boot}
    names = Images.made(lambda kind: f"os-{VARIANT}-{ARCH}-{NEWER}-{kind}{ending}")
    update = Update(
        variant=VARIANT,
        arch=ARCH,
        version=Version.parse(NEWER),
        max_version=Version.parse(NEWER),
        waves=Waves(),
        images=names,
        contents=Contents.made(
            lambda kind: Content(size=len(raws[kind]), sha256=hashlib.sha256(raws[kind]).hexdigest())
        ),
    )
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        staged = []
        for kind, stream in streams.items():
            path = session.store.staging / names.of(kind)
            path.write_bytes(stream)
            digest = hashlib.sha256(stream).hexdigest()
            staged.append(Staged(name=names.of(kind), path=path, length=len(stream), sha256=digest))
        manifest = session.manifest.with_update(update)
        session.commit(manifest, staged, repository.now, Change(action="publish", subject=str(update)))
    return Scene(node=node, repository=repository, boot=names.boot)


def _findings(scene: Scene, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return target → code of what `validate` finds."""
    capsys.readouterr()
    status = run(cli, ["--repo", str(scene.repository.folder), "validate", "--json"])
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    errors = {
        found["place"].partition(".")[2]: found["code"] for found in findings if found["severity"] == "error"
    }
    assert bool(status) is bool(errors)
    return errors


def _refused_everywhere(scene: Scene, tmp_path: Path, says: str) -> None:
    """Expect that the node, `publish` and `disk create` refuse the image and change nothing."""
    before = tree_digest(scene.repository.folder)
    said = scene.node.updog("update")
    assert said.status == REFUSED
    assert re.search(says, said.err)
    assert scene.node.holds(Slot.A, RUNNING)
    assert scene.node.flags(Slot.B) == Flags()
    with pytest.raises(StoredImageError, match=says):
        scene.repository.publish(NEWEST)
    with pytest.raises(StoredImageError, match=says):
        first_disk.create(scene.repository.folder, tmp_path / "new.img", WHICH)
    assert not list(tmp_path.glob("new.img*"))
    assert tree_digest(scene.repository.folder) == before


@pytest.mark.parametrize("image", CUT, ids=str)
def test_a_cut_that_was_signed_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], image: CutImage
) -> None:
    scene = _scene(tmp_path, image.ending, image.data)
    code = "content-mismatch" if image.is_well_formed else "image-malformed"
    assert _findings(scene, capsys) == {scene.boot: code}
    disk = scene.node.disk_digest()
    says = r"\S" if image.is_well_formed else "is not a well-formed compressed image"
    _refused_everywhere(scene, tmp_path, says)
    assert scene.node.disk_digest() == disk


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one-byte-short": lambda data: data[:-1],
    "one-byte-more": lambda data: data + b"\0",
    "skippable-frame-more": lambda data: data + SKIPPABLE,
    "another-byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}
"""What happens to a file after it was signed. The skippable frame leaves a ``.zst`` well formed."""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_changed_after_it_was_signed_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, ending: str
) -> None:
    scene = _scene(tmp_path, ending, whole(ending))
    scene.file.write_bytes(DAMAGE[damage](whole(ending)))
    code = "target-digest" if damage == "another-byte" else "target-length"
    assert _findings(scene, capsys) == {scene.boot: code}
    disk = scene.node.disk_digest()
    _refused_everywhere(scene, tmp_path, re.escape(scene.boot))
    assert scene.node.disk_digest() == disk


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_whole_image_is_accepted_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    scene = _scene(tmp_path, ending, whole(ending))
    assert _findings(scene, capsys) == {}
    assert scene.node.updog("update").status == 0
    first_disk.create(scene.repository.folder, tmp_path / "new.img", WHICH)
    scene.repository.publish(NEWEST)
    assert _findings(scene, capsys) == {}


# -- packs: what `publish` makes, with an index beside it ---------------------------------------------------


def _without_last_frame(data: bytes) -> bytes:
    return data[: data.rindex(b"\x28\xb5\x2f\xfd")]


PACK_CUTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pack-one-byte-short": (lambda data: data[:-1], "image-malformed"),
    "pack-one-byte-more": (lambda data: data + b"\0", "image-malformed"),
    "pack-without-its-last-frame": (_without_last_frame, "content-mismatch"),
    "pack-with-one-frame-more": (lambda data: data + pack(b"more", ".zst"), "content-mismatch"),
    "pack-with-a-skippable-frame-more": (lambda data: data + SKIPPABLE, "index-mismatch"),
}
"""Name → what was done to a pack before it was signed again, and what `validate` calls it."""


@pytest.mark.parametrize("cut", PACK_CUTS)
def test_a_pack_that_does_not_fit_its_index_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    damage, code = PACK_CUTS[cut]
    node = make_node(tmp_path)
    boot = f"os-{VARIANT}-{ARCH}-{NEWER}-boot.ext4.zst"
    scene = Scene(node=node, repository=node.repository, boot=boot)
    data = damage(scene.file.read_bytes())
    scene.file.unlink()
    _sign_again(scene, {boot: data})
    found = _findings(scene, capsys)
    assert code in {found.get(boot), found.get(f"{boot}.index")}
    disk = node.disk_digest()
    assert node.updog("update").status == REFUSED
    assert node.disk_digest() == disk


def _other_digest(stored: bytes, index: Index) -> tuple[bytes, Index]:
    """State another SHA-256 for the second chunk."""
    pieces = list(_pieces(index))
    pieces[1] = replace(pieces[1], sha256=bytes(32))
    return stored, Index.of(pieces, image_sha256=index.image_sha256)


def _other_borders(stored: bytes, index: Index) -> tuple[bytes, Index]:
    """Move the boundary between two frames by a byte."""
    pieces = list(_pieces(index))
    pieces[0] = replace(pieces[0], packed=pieces[0].packed - 1)
    pieces[1] = replace(pieces[1], packed=pieces[1].packed + 1)
    return stored, Index.of(pieces, image_sha256=index.image_sha256)


def _frames_without_size(stored: bytes, index: Index) -> tuple[bytes, Index]:
    """Pack again with frames that do not carry the size of their content."""
    packer = zstandard.ZstdCompressor(write_content_size=False)
    raws = [unpacked_chunk(stored[c.frame.offset : c.frame.end], c) for c in index.chunks]
    frames = [packer.compress(raw) for raw in raws]
    pieces = [replace(piece, packed=len(frame)) for piece, frame in zip(_pieces(index), frames, strict=True)]
    return b"".join(frames), Index.of(pieces, image_sha256=index.image_sha256)


def _pieces(index: Index) -> Iterator[Piece]:
    for chunk in index.chunks:
        yield Piece(
            length=chunk.place.length, packed=chunk.frame.length, sha256=chunk.sha256, zeros=chunk.zeros
        )


@pytest.mark.parametrize("change", [_other_digest, _other_borders, _frames_without_size])
def test_a_pack_of_which_a_node_refuses_a_chunk_is_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[bytes, Index], tuple[bytes, Index]],
) -> None:
    """As one stream it is the image, and the sums of its index are right: only the chunks show the fault."""
    node = make_node(tmp_path)
    boot = f"os-{VARIANT}-{ARCH}-{NEWER}-boot.ext4.zst"
    scene = Scene(node=node, repository=node.repository, boot=boot)
    (index_file,) = (node.repository.folder / "targets").glob(f"*.{boot}.index")
    stored, index = change(scene.file.read_bytes(), Index.from_bytes(index_file.read_bytes()))
    assert b"".join(unpacked(iter([stored]), boot)) == node.repository.images[NEWER].boot.read_bytes()
    _sign_again(scene, {boot: stored, f"{boot}.index": index.to_bytes()})
    with pytest.raises((DigestError, ImageError)):
        b"".join(unpacked_chunk(stored[c.frame.offset : c.frame.end], c) for c in index.chunks)
    assert _findings(scene, capsys) == {boot: "index-mismatch"}


def _sign_again(scene: Scene, targets: dict[str, bytes]) -> None:
    """Replace the contents of published targets, and sign them."""
    with writing(scene.repository.folder, OsMedium(), now=scene.repository.now) as session:
        staged = []
        for number, (name, data) in enumerate(targets.items()):
            path = session.store.staging / str(number)
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            staged.append(Staged(name=name, path=path, length=len(data), sha256=digest))
        change = Change(action="publish", subject=scene.boot)
        session.commit(session.manifest, staged, scene.repository.now, change)
