"""Deltas at the publisher: they give the image, always the same, smaller than the public tools'."""

from __future__ import annotations

import hashlib
import mmap
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from repo_tools.images import delta as publisher
from repo_tools.images.delta import PART_BYTES, make_delta, saving
from tests.support.images import BLOCK, File, blocks, delta_of, packed, program
from updog.image.delta import Delta, rebuilt
from updog.image.plan import ChunkSource, SlotScan, plan_chunks, recipes_by_delta

if TYPE_CHECKING:
    from pathlib import Path

    from updog.image.index import Index


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


OLD = blocks(_noise(1, 70_000), program(2, 900, 0), _noise(3, 40_000), b"text\n" * 9000, bytes(1 << 16))
NEW = blocks(_noise(1, 70_000), program(2, 900, 88) + _noise(9, 99), _noise(3, 40_000), b"text!\n" * 9000)

DENSE = bytes(byte * 181 >> 8 for byte in _noise(10, 1 << 19))
"""Packs by a sixteenth: as an initrd's modules do."""

PAIRS = {
    "built again, and moved": (blocks(b"a new file before all") + NEW, OLD),
    "the same": (OLD, OLD),
    "nothing in common": (_noise(5, 200_001), _noise(6, 100_001)),
    "only zeros": (bytes(1 << 20), OLD),
    "from zeros": (OLD, bytes(1 << 16)),
    "grown": (OLD + _noise(7, 5000), OLD),
    "cut off inside a block": (OLD[:150_001], OLD),
    "from an image that ends inside a block": (OLD, OLD[:150_001]),
    "from one shorter than a seed": (OLD, b"short"),
    "one byte": (b"x", OLD),
    "files in another order": (OLD[BLOCK * 20 :] + OLD[: BLOCK * 20], OLD),
    "a byte put in early": (OLD[:5000] + b"!" + OLD[5000:], OLD),
    "a byte taken out early": (OLD[:5000] + OLD[5001:], OLD),
    "what hardly packs, between what does": (b"text\n" * 99_000 + DENSE + OLD * 2, OLD),
}


def _made(file: bytes, delta: Delta, index: Index, base: bytes) -> bytes:
    """Do what a node does with nothing but index, delta and base."""
    out = bytearray(index.image_size)
    for part in reversed(delta.parts):
        body = file[part.place.offset : part.place.end]
        for number, data in rebuilt(part, body, index, lambda offset, length: base[offset : offset + length]):
            place = index.chunks[number].place
            out[place.offset : place.end] = data
    for number, span in delta.copied(index):
        place = index.chunks[number].place
        out[place.offset : place.end] = base[span.offset : span.end]
    return bytes(out)


@pytest.mark.parametrize(("image", "base"), PAIRS.values(), ids=PAIRS)
def test_a_delta_gives_the_image(image: bytes, base: bytes) -> None:
    file, described, delta = delta_of(image, base)
    assert Delta.from_bytes(delta.head(), described.index) == delta
    assert file.startswith(delta.head())
    assert (delta.size, delta.base_size) == (len(file), len(base))
    assert delta.base_sha256 == hashlib.sha256(base).digest()
    assert _made(file, delta, described.index, base) == image


def test_the_same_images_give_the_same_delta() -> None:
    image = PAIRS["built again, and moved"][0]
    assert delta_of(image, OLD)[0] == delta_of(image, OLD)[0]


def test_mapped_files_will_do(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(NEW)
    (tmp_path / "old").write_bytes(OLD)
    described = packed(NEW, OLD)[1]
    file = File()
    with (tmp_path / "new").open("rb") as new, (tmp_path / "old").open("rb") as old:
        image = mmap.mmap(new.fileno(), 0, access=mmap.ACCESS_READ)
        base = mmap.mmap(old.fileno(), 0, access=mmap.ACCESS_READ)
        with image, base:
            make_delta(described.index, image, base, file.write)
    assert bytes(file.data) == delta_of(NEW, OLD)[0]


def test_parts_have_a_limit_and_need_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PART_BYTES", 1 << 17)
    image = _noise(8, 400_000) + NEW
    file, described, delta = delta_of(image, OLD)
    lengths = [
        sum(described.index.chunks[chunk].place.length for chunk in part.chunks) for part in delta.parts
    ]
    assert len(lengths) > 3
    assert max(lengths) <= 1 << 17
    assert _made(file, delta, described.index, OLD) == image


def test_fewer_remembered_places_still_make_it_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MAX_SEEDS", 50)
    file, described, delta = delta_of(NEW, OLD)
    assert _made(file, delta, described.index, OLD) == NEW


def test_what_a_delta_saves_is_what_the_plan_saves() -> None:
    described, delta = delta_of(NEW, OLD)[1:]
    scan = SlotScan(active=recipes_by_delta(described.index, delta))
    without = plan_chunks(described.index, scan, gap=0)
    by_delta = plan_chunks(described.index, scan, delta=delta, gap=0)
    assert saving(delta, described.index) == without.wire - by_delta.wire - len(delta.head())
    assert by_delta.wire_of(ChunkSource.PACK) == 0
    assert by_delta.wire + len(delta.head()) == delta.size


def test_a_delta_that_saves_nothing_is_reported() -> None:
    described, delta = delta_of(_noise(5, 200_000), _noise(6, 200_000))[1:]
    assert saving(delta, described.index) <= 0


def test_what_hardly_packs_is_stored_for_the_node_to_take_as_it_is() -> None:
    image = DENSE + b"text\n" * 99_000
    file, _, delta = delta_of(image, OLD)
    stretch = 1 << 16
    assert all(DENSE[at : at + stretch] in file for at in range(0, len(DENSE), stretch))
    assert delta.size < len(DENSE) + 4096


def test_programs_built_again_cost_less_than_with_the_public_tools(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(OLD)
    new.write_bytes(NEW)
    commands = [
        ["zstd", "-q", "-19", "--long=31", f"--patch-from={old}", str(new), "-o", str(tmp_path / "z")]
    ]
    if shutil.which("xdelta3"):
        commands.append(["xdelta3", "-e", "-9", "-S", "lzma", "-s", str(old), str(new), str(tmp_path / "x")])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    witness = min(path.stat().st_size for path in tmp_path.glob("[zx]"))
    assert delta_of(NEW, OLD)[2].size <= 0.95 * witness


def test_a_node_applies_a_part_of_the_largest_kind_in_bounded_memory(tmp_path: Path) -> None:
    image = _noise(8, PART_BYTES // 4) + OLD * 20
    base = _noise(8, PART_BYTES // 4 - 9) + OLD
    file, described, delta = delta_of(image, base)
    for name, data in {"file": file, "base": base, "index": described.index.to_bytes()}.items():
        (tmp_path / name).write_bytes(data)
    script = tmp_path / "apply.py"
    script.write_text(
        "import os, sys\n"
        "from tests.support.images import peak_rss\n"
        "from updog.image.delta import Delta, rebuilt\n"
        "from updog.image.index import Index\n"
        "folder, head = sys.argv[1], int(sys.argv[2])\n"
        "index = Index.from_bytes(open(f'{folder}/index', 'rb').read())\n"
        "file, base = (os.open(f'{folder}/{name}', os.O_RDONLY) for name in ('file', 'base'))\n"
        "delta = Delta.from_bytes(os.pread(file, head, 0), index)\n"
        "def read(offset, length):\n"
        "    return os.pread(base, length, offset)\n"
        "for part in delta.parts:\n"
        "    body = os.pread(file, part.place.length, part.place.offset)\n"
        "    for _ in rebuilt(part, body, index, read):\n"
        "        pass\n"
        "print(peak_rss())\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(len(delta.head()))],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert int(run.stdout) <= 192, "MiB"
