"""What publish puts beside an image: an index that finds each chunk, fingerprints, deltas that make it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from repo_tools.errors import ReleaseError, StoredImageError
from repo_tools.images.packing import Packing
from signpost.console import run
from tests.support.repositories import ARCH, VARIANT, make_repository, tree_digest
from updog.image.delta import Delta, rebuilt
from updog.image.frames import unpacked_chunk
from updog.image.index import Fingerprints, Index
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.repositories import SmallRepository
    from updog.update_metadata.manifest import Update


def _stored(repository: SmallRepository, name: str) -> bytes:
    (path,) = (repository.folder / "targets").glob(f"*.{name}")
    return path.read_bytes()


def _update(repository: SmallRepository, version: str) -> Update:
    data = max(
        (repository.folder / "targets").glob("*.manifest.json"), key=lambda path: path.stat().st_mtime_ns
    )
    update = Manifest.from_json(data.read_bytes()).find(VARIANT, ARCH, Version.parse(version))
    assert update is not None
    return update


def test_the_index_finds_and_proves_every_chunk_of_every_image(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0"])
    update = _update(repository, "1.0.0")
    assert update.packs
    for role, image in repository.images["1.0.0"].images().items():
        pack = getattr(update.packs, role)
        index = Index.from_bytes(_stored(repository, pack.index))
        Fingerprints.from_bytes(_stored(repository, pack.fingerprints), index)
        stored = _stored(repository, getattr(update.images, role))
        chunks = [unpacked_chunk(stored[c.frame.offset : c.frame.end], c) for c in index.chunks]
        assert b"".join(chunks) == image.read_bytes()


def test_a_delta_makes_the_new_image_out_of_the_old(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"])
    update = _update(repository, "1.1.0")
    assert update.packs
    for role, old in repository.images["1.0.0"].images().items():
        pack = getattr(update.packs, role)
        index = Index.from_bytes(_stored(repository, pack.index))
        file = pack.deltas[Version.parse("1.0.0")]
        data = _stored(repository, file.target)
        assert hashlib.sha256(data[: file.head_size]).hexdigest() == file.head_sha256
        delta = Delta.from_bytes(data[: file.head_size], index)
        made = _made(index, delta, data, old.read_bytes())
        assert made == repository.images["1.1.0"].images()[role].read_bytes()


def _made(index: Index, delta: Delta, data: bytes, old: bytes) -> bytes:
    def read(offset: int, length: int) -> bytes:
        return old[offset : offset + length]

    new = bytearray(index.image_size)
    for number, span in delta.copied(index):
        place = index.chunks[number].place
        new[place.offset : place.end] = read(span.offset, span.length)
    for part in delta.parts:
        for number, chunk in rebuilt(part, data[part.place.offset : part.place.end], index, read):
            new[index.chunks[number].place.offset : index.chunks[number].place.end] = chunk
    return bytes(new)


def test_deltas_are_made_from_the_last_three_releases_and_any_that_is_named(tmp_path: Path) -> None:
    versions = ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"]
    repository = make_repository(tmp_path / "repo", versions=versions)
    packs = _update(repository, "1.4.0").packs
    assert packs
    assert [str(base) for base in packs.root.deltas] == ["1.3.0", "1.2.0", "1.1.0"]
    repository.publish("1.5.0", deltas=1, delta_from=(Version.parse("1.0.0"),))
    packs = _update(repository, "1.5.0").packs
    assert packs
    assert sorted(map(str, packs.root.deltas)) == ["1.0.0", "1.4.0"]
    repository.publish("1.6.0", deltas=0)
    packs = _update(repository, "1.6.0").packs
    assert packs
    assert not packs.root.deltas


def test_a_base_that_is_not_published_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0"])
    before = tree_digest(repository.folder)
    images = repository.synthesize("1.1.0")
    with pytest.raises(ReleaseError, match=r"from 0\.9\.0"):
        repository.publish("1.1.0", delta_from=(Version.parse("0.9.0"),))
    words = ["--variant", VARIANT, "--arch", ARCH, "--version", "1.1.0", "--delta-from", "0.9.0"]
    files = ["--boot", str(images.boot), "--root", str(images.root), "--hash", str(images.hash)]
    assert run(cli, ["--repo", str(repository.folder), "publish", *words, *files]) == 2
    assert "--delta-from" in capsys.readouterr().err
    assert tree_digest(repository.folder) == before


def test_a_damaged_base_makes_no_delta_and_publishes_nothing(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0"])
    name = _update(repository, "1.0.0").images.root
    (path,) = (repository.folder / "targets").glob(f"*.{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = tree_digest(repository.folder)
    with pytest.raises(StoredImageError):
        repository.publish("1.1.0")
    assert tree_digest(repository.folder) == before


def test_lz4_images_are_whole_and_say_no_packs(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    outcome = repository.publish("1.0.0", packing=Packing(compression="lz4", level=1))
    assert len(outcome.targets) == 3
    update = _update(repository, "1.0.0")
    assert update.packs is None
