"""Packs: zstd itself reads them, chunks lie where they save most, and nothing is random."""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from repo_tools.images.frames import BATCH_BYTES, CHUNK_BYTES, ZERO_RUN_BLOCKS, known_blocks, pack
from updog.errors import DigestError, ImageError
from updog.image.frames import unpacked, unpacked_chunk
from updog.image.index import (
    BLOCK_BYTES,
    MAX_ZEROS_BYTES,
    Fingerprints,
    Index,
    fingerprint,
    max_chunks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from repo_tools.images.frames import Known, Packed

LEVEL = 3


def _blocks(seed: int, count: int) -> bytes:
    """Return ``count`` blocks that compress to about a third."""
    source = random.Random(seed)
    words = [source.randbytes(6) for _ in range(200)]
    return b"".join(
        b"".join(source.choices(words, k=BLOCK_BYTES // 6 + 1))[:BLOCK_BYTES] for _ in range(count)
    )


OLD = _blocks(1, 700)
NEW = _blocks(2, 3) + OLD[: 300 * BLOCK_BYTES] + _blocks(3, 40) + OLD[310 * BLOCK_BYTES :] + b"tail"


def _packed(
    image: bytes, *, known: tuple[Known, ...] = (), step: int = 1 << 20, workers: int = 2
) -> tuple[bytearray, Packed]:
    out = bytearray()
    cut = (image[start : start + step] for start in range(0, len(image), step))
    return out, pack(cut, out.extend, level=LEVEL, known=known, workers=workers)


def _zstd(*arguments: str, given: bytes | bytearray) -> bytes:
    return subprocess.run(["zstd", "-q", *arguments], input=given, capture_output=True, check=True).stdout


IMAGES = {
    "many batches": OLD + NEW,
    "shorter than a block": b"x",
    "one block": OLD[:BLOCK_BYTES],
    "a batch exactly": (OLD + OLD)[:BATCH_BYTES],
    "only zeros": bytes(3 * CHUNK_BYTES + 17),
    "more zeros than one chunk takes": bytes(MAX_ZEROS_BYTES + 5 * BLOCK_BYTES) + b"end",
    "zeros inside": OLD[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + OLD[CHUNK_BYTES : 2 * CHUNK_BYTES],
    "a short block of zeros at the end": OLD[:CHUNK_BYTES] + bytes(9),
    "zeros every other block": (OLD[:BLOCK_BYTES] + bytes(BLOCK_BYTES)) * 100,
    "zero runs every other time": (OLD[: 8 * BLOCK_BYTES] + bytes(8 * BLOCK_BYTES)) * 30,
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_zstd_and_the_index_give_back_the_image(image: bytes) -> None:
    data, packed = _packed(image)
    _zstd("-t", given=data)
    assert _zstd("-d", given=data) == image
    index = Index.from_bytes(packed.index.to_bytes())
    assert index == packed.index
    assert index.image_sha256 == hashlib.sha256(image).digest()
    assert index.pack_size == len(data)
    for chunk in index.chunks:
        raw = image[chunk.place.offset : chunk.place.end]
        assert hashlib.sha256(raw).digest() == chunk.sha256
        assert not chunk.zeros or not any(raw)
        assert unpacked_chunk(bytes(data[chunk.frame.offset : chunk.frame.end]), chunk) == raw
    marks = Fingerprints.from_bytes(packed.fingerprints.to_bytes(), index)
    for offset, mark in marks.by_block(index):
        assert mark == fingerprint(image[offset : offset + BLOCK_BYTES])


def test_the_same_bytes_give_the_same_pack_however_they_come() -> None:
    known = (known_blocks(_packed(OLD)[1].fingerprints),)
    first = _packed(NEW, known=known)
    assert _packed(NEW, known=known, step=4097, workers=1) == first
    assert _packed(NEW, known=known, step=len(NEW), workers=5) == first


def test_chunks_end_where_an_earlier_release_does() -> None:
    known = known_blocks(_packed(OLD)[1].fingerprints)
    index = _packed(NEW, known=(known,))[1].index
    mixed = 0
    for chunk in index.chunks:
        blocks = range(chunk.place.offset, chunk.place.end, BLOCK_BYTES)
        mixed += len({fingerprint(NEW[offset : offset + BLOCK_BYTES]) in known for offset in blocks}) > 1
    assert mixed <= 1, "only the head, where no average allows a short chunk yet"


def test_what_a_node_fetches_is_less_than_missing_blocks_each_alone() -> None:
    known = known_blocks(_packed(OLD)[1].fingerprints)
    index = _packed(NEW, known=(known,))[1].index
    missing = {offset for offset, mark in _packed(NEW)[1].fingerprints.by_block(index) if mark not in known}
    fetched = sum(
        chunk.frame.length
        for chunk in index.chunks
        if not missing.isdisjoint(range(chunk.place.offset, chunk.place.end, BLOCK_BYTES))
    )
    alone = sum(len(_packed(NEW[offset : offset + BLOCK_BYTES])[0]) for offset in missing)
    assert 0 < fetched <= alone


def test_short_chunks_stay_so_few_that_the_index_is_read() -> None:
    every_other = frozenset(
        fingerprint(OLD[start : start + BLOCK_BYTES]) for start in range(0, len(OLD), 8192)
    )
    index = _packed(OLD, known=(every_other,))[1].index
    assert len(index.chunks) <= max_chunks(len(OLD))
    assert Index.from_bytes(index.to_bytes()) == index


def test_runs_of_zeros_are_chunks_of_their_own() -> None:
    run = ZERO_RUN_BLOCKS * BLOCK_BYTES
    image = OLD[: 20 * BLOCK_BYTES] + bytes(run) + OLD[: 20 * BLOCK_BYTES] + bytes(run - BLOCK_BYTES)
    index = _packed(image)[1].index
    assert [(chunk.place.length // BLOCK_BYTES, chunk.zeros) for chunk in index.chunks] == [
        (20, False),
        (ZERO_RUN_BLOCKS, True),
        (20 + ZERO_RUN_BLOCKS - 1, False),
    ]


def test_a_failing_source_is_heard() -> None:
    def broken() -> Iterator[bytes]:
        yield OLD
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        pack(broken(), bytearray().extend, level=LEVEL)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    script = tmp_path / "pack.py"
    script.write_text(
        "import random\n"
        "from tests.support.images import peak_rss\n"
        "from repo_tools.images.frames import pack\n"
        "source = random.Random(1)\n"
        "images = (source.randbytes(1 << 20) for _ in range(200))\n"
        "pack(images, lambda frame: None, level=1, workers=4)\n"
        "print(peak_rss())\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert int(run.stdout) <= 128, "MiB: the interpreter, and what is in flight twice over"


FRAME = bytes(_packed(OLD[:BLOCK_BYTES])[0])
# RFC 8878, 3.1.1: magic, descriptor (4 bytes of content size), window of 1 MiB, size; one raw, last block
WIDE = b"\x28\xb5\x2f\xfd\x80\x50" + struct.pack("<I", BLOCK_BYTES) + b"\x01\x80\0" + bytes(BLOCK_BYTES)
BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", BLOCK_BYTES),
    "cut": (FRAME[:-9], BLOCK_BYTES),
    "trailing data": (FRAME + b"x", BLOCK_BYTES),
    "two frames": (FRAME + FRAME, BLOCK_BYTES),
    "longer than signed": (FRAME, BLOCK_BYTES - 1),
    "shorter than signed": (FRAME, BLOCK_BYTES + 1),
    "no frame": (b"no frame at all", BLOCK_BYTES),
    "a bomb": (_zstd("-3", given=bytes(1 << 24)), BLOCK_BYTES),
    "without its content size": (_zstd("-3", "--no-content-size", given=FRAME), len(FRAME)),
    "a window beyond its content": (WIDE, BLOCK_BYTES),
}


@pytest.mark.parametrize(("frame", "length"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_lying_frame_is_refused(frame: bytes, length: int) -> None:
    with pytest.raises(ImageError):
        unpacked(frame, length)


def test_a_frame_of_another_chunk_is_refused() -> None:
    chunk = _packed(OLD[:BLOCK_BYTES])[1].index.chunks[0]
    other = bytes(_packed(NEW[:BLOCK_BYTES])[0])
    with pytest.raises(DigestError, match="at 0 from the pack"):
        unpacked_chunk(other, chunk)


def test_the_wide_frame_is_refused_for_its_window_alone() -> None:
    assert _zstd("-d", given=WIDE) == bytes(BLOCK_BYTES)
    with pytest.raises(ImageError, match="needs a window of 1048576"):
        unpacked(WIDE, BLOCK_BYTES)
