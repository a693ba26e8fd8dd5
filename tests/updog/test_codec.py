"""Compressed streams: well formed to the last byte, bounded whatever they state, checked to their end."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import lz4.frame
import pytest
import zstandard

from signpost.errors import ExitStatus
from updog.errors import DigestError, ImageError
from updog.image.codec import MAX_WINDOW_BYTES, decompressed, verified
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAW = b"".join(
    random.Random(number).randbytes(3000) + b"\0" * 5000 + f"line {number}\n".encode() * 200
    for number in range(40)
)


def _zst(data: bytes, *, checksum: bool = False, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size).compress(data)


def _lz4(data: bytes, *, checksum: bool = False) -> bytes:
    packed: bytes = lz4.frame.compress(data, content_checksum=checksum)
    return packed


def _frames(data: bytes, size: int) -> bytes:
    return b"".join(_zst(data[start : start + size]) for start in range(0, len(data), size))


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _unpacked(data: bytes, ending: str, *, piece: int = 1 << 16) -> bytes:
    return b"".join(decompressed(_pieces(data, piece), name=f"image{ending}"))


STREAMS: dict[str, tuple[str, bytes]] = {
    "zst": (".zst", _zst(RAW)),
    "zst with checksum": (".zst", _zst(RAW, checksum=True)),
    "zst without size": (".zst", _zst(RAW, size=False)),
    "zst of many frames": (".zst", _frames(RAW, 7001)),
    "zst of incompressible data": (".zst", _zst(RAW[:3000])),
    "zst with a skippable frame": (".zst", _zst(RAW) + b"\x50\x2a\x4d\x18\x04\0\0\0note" + _zst(b"end")),
    "lz4": (".lz4", _lz4(RAW)),
    "lz4 with checksum": (".lz4", _lz4(RAW, checksum=True)),
}
CONTENT = {
    "zst of incompressible data": RAW[:3000],
    "zst with a skippable frame": RAW + b"end",
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("piece", [1, 13, 4096, 1 << 20])
def test_a_stream_unpacks_to_its_image_however_it_arrives(name: str, piece: int) -> None:
    ending, data = STREAMS[name]
    assert _unpacked(data, ending, piece=piece) == CONTENT.get(name, RAW)


def test_empty_blocks_in_between_end_nothing() -> None:
    for ending, data in ((".zst", _zst(RAW)), (".lz4", _lz4(RAW))):
        blocks = iter([b"", data[:100], b"", b"", data[100:], b""])
        assert b"".join(decompressed(blocks, name=f"x{ending}")) == RAW


@pytest.mark.parametrize(
    "size",
    [1, 127, 128, 129, *(n * IO_BYTES + d for n in (1, 2) for d in (-129, -128, -127, -1, 0, 1))],
)
def test_images_of_every_length_round_the_buffers_come_out_whole(size: int) -> None:
    """128 bytes follow a ``.zst`` image to show where it ends; they may lie across two buffers."""
    raw = random.Random(size).randbytes(size)
    assert _unpacked(_zst(raw), ".zst") == raw
    assert _unpacked(_lz4(raw), ".lz4") == raw


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        pytest.param(b"", ".zst", id="no-frame"),
        pytest.param(_zst(b""), ".zst", id="empty-frame"),
        pytest.param(b"\x50\x2a\x4d\x18\x04\0\0\0note", ".zst", id="skippable-frame-alone"),
        pytest.param(_lz4(b""), ".lz4", id="empty-lz4-frame"),
    ],
)
def test_a_stream_that_unpacks_to_nothing_is_refused(data: bytes, ending: str) -> None:
    with pytest.raises(ImageError, match="unpacks to nothing"):
        _unpacked(data, ending)


def _cuts(length: int) -> list[int]:
    """Return every cut near both ends, and one in 97 between."""
    return sorted({*range(1, min(64, length)), *range(1, length, 97), *range(max(1, length - 40), length)})


@pytest.mark.parametrize("name", [name for name in STREAMS if "many" not in name and "skippable" not in name])
def test_a_stream_cut_anywhere_inside_its_frame_is_refused(name: str) -> None:
    """D60: both libraries take a stream that ends too early for a shorter one."""
    ending, data = STREAMS[name]
    for cut in _cuts(len(data)):
        with pytest.raises(ImageError, match="not a well-formed"):
            _unpacked(data[:cut], ending)


def test_a_stream_of_many_frames_cut_inside_any_of_them_is_refused() -> None:
    """Cut between two frames it is a shorter stream; its signed length and hash show it (below)."""
    frames = [_zst(RAW[start : start + 7001]) for start in range(0, len(RAW), 7001)]
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    data = b"".join(frames)
    for cut in [cut for cut in _cuts(len(data)) if cut not in ends]:
        with pytest.raises(ImageError):
            _unpacked(data[:cut], ".zst")


def test_an_lz4_stream_without_a_byte_is_refused() -> None:
    with pytest.raises(ImageError, match="ends inside a frame"):
        _unpacked(b"", ".lz4")


@pytest.mark.parametrize("piece", [1, 512, 1 << 20])
@pytest.mark.parametrize("more", [b"\0", b"trailing", bytes(70_000)], ids=["a zero", "text", "zeros"])
@pytest.mark.parametrize("ending", [".zst", ".lz4"])
def test_a_stream_that_goes_on_after_its_frame_is_refused(ending: str, more: bytes, piece: int) -> None:
    data = _zst(RAW) if ending == ".zst" else _lz4(RAW)
    with pytest.raises(ImageError):
        _unpacked(data + more, ending, piece=piece)


def test_a_second_lz4_frame_is_refused_where_upstream_stops_reading() -> None:
    with pytest.raises(ImageError, match="after the end"):
        _unpacked(_lz4(RAW) + _lz4(RAW), ".lz4")


@pytest.mark.parametrize("ending", [".zst", ".lz4"])
def test_rubbish_is_refused_as_an_image_that_is_not_well_formed(ending: str) -> None:
    for seed in range(50):
        with pytest.raises(ImageError) as caught:
            _unpacked(random.Random(seed).randbytes(1000), ending)
        assert caught.value.status is ExitStatus.REFUSED


@pytest.mark.parametrize("name", ["zst with checksum", "lz4 with checksum"])
def test_a_byte_that_changed_is_an_error_or_another_image_but_never_an_accident(name: str) -> None:
    ending, data = STREAMS[name]
    for position in range(0, len(data), 211):
        changed = bytearray(data)
        changed[position] ^= 0x41
        try:
            assert _unpacked(bytes(changed), ending) == RAW  # a bit that has no meaning, such as a hint
        except ImageError:
            continue


def test_a_name_without_a_known_ending_is_refused_by_name() -> None:
    with pytest.raises(ImageError, match=r"image\.xz ends in none of \.zst, \.lz4"):
        decompressed(iter([b""]), name="image.xz")


def test_a_bomb_only_fills_blocks() -> None:
    """A 20 KiB stream that states 200 MiB costs time, not memory."""
    size = 200 << 20
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)) + compressor.flush()
    _assert_bounded(bomb, ".zst", size)


def test_an_lz4_bomb_only_fills_blocks() -> None:
    size = 64 << 20
    _assert_bounded(_lz4(bytes(size)), ".lz4", size)


def _assert_bounded(bomb: bytes, ending: str, size: int) -> None:
    """Unpack and record the largest block, the sum, and the most that Python has allocated."""
    tracemalloc.start()
    try:
        total = 0
        for block in decompressed(_pieces(bomb, 1 << 16), name=f"bomb{ending}"):
            assert len(block) <= IO_BYTES
            total += len(block)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert total == size
    assert len(bomb) < size // 200


def test_a_window_larger_than_the_limit_is_refused_before_it_is_allocated() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(b"x" * 1000) + compressor.flush()
    assert MAX_WINDOW_BYTES < 1 << 28
    with pytest.raises(ImageError, match="not a well-formed"):
        _unpacked(data, ".zst")


def test_public_tools_make_what_is_read_here() -> None:
    """An image packed by hand with `zstd` or `lz4`, where they are installed."""
    tools = {".zst": ["zstd", "-q", "-c"], ".lz4": ["lz4", "-q", "-c"]}
    for ending, words in tools.items():
        try:
            done = subprocess.run(words, input=RAW, capture_output=True, check=True)
        except FileNotFoundError:
            pytest.skip(f"{words[0]} is not installed")
        assert _unpacked(done.stdout, ending) == RAW


# -- length and hash ---------------------------------------------------------------------------------


def _checked(blocks: Iterator[bytes], data: bytes) -> Iterator[bytes]:
    """Return the blocks, checked against the length and hash of ``data``."""
    return verified(blocks, name="image.zst", length=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("data", [b"", RAW], ids=["empty", "image"])
def test_the_signed_bytes_pass(data: bytes) -> None:
    assert b"".join(_checked(_pieces(data, 1000), data)) == data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "ends after"),
        (lambda _data: b"", "ends after 0 of"),
        (lambda data: data + b"\0", "longer than"),
        (lambda data: data[:-1] + b"\x01", "has SHA-256"),
        (lambda data: b"\x01" + data[1:], "has SHA-256"),
    ],
    ids=["short", "empty", "long", "last byte", "first byte"],
)
def test_other_bytes_are_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    """D51."""
    with pytest.raises(DigestError, match=message):
        list(_checked(_pieces(damage(RAW), 1000), RAW))


def test_endless_data_is_cut_off_at_the_signed_length() -> None:
    """D49: of an endless stream one block too many is read, and none of it is passed on."""

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    taken = 0
    blocks = verified(endless(), name="image", length=5500, sha256="0" * 64)
    for _ in range(5):
        taken += len(next(blocks))
    with pytest.raises(DigestError, match="longer than"):
        next(blocks)
    assert taken == 5000


@pytest.mark.parametrize("ending", [".zst", ".lz4"])
def test_the_hash_is_compared_after_the_frame_and_so_in_any_case(ending: str) -> None:
    """Upstream's decoder stops at the end of the frame, which is before its reader would compare."""
    data = _zst(RAW) if ending == ".zst" else _lz4(RAW)
    blocks = verified(_pieces(data, 1000), name="image", length=len(data), sha256="0" * 64)
    with pytest.raises(DigestError, match="has SHA-256"):
        b"".join(decompressed(blocks, name=f"image{ending}"))


def test_a_stream_cut_between_two_frames_is_caught_by_its_length() -> None:
    whole = _frames(RAW, 7001)
    cut = len(_zst(RAW[:7001]))
    with pytest.raises(DigestError, match="ends after"):
        b"".join(decompressed(_checked(_pieces(whole[:cut], 1000), whole), name="image.zst"))


def test_whatever_the_source_raises_passes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield _zst(RAW)[:100]
        raise DigestError("the wire broke")

    for ending in (".zst", ".lz4"):
        with pytest.raises((DigestError, ImageError)):
            b"".join(decompressed(broken(), name=f"image{ending}"))


def test_random_images_survive_random_framing() -> None:
    generator = random.Random(5)
    for _ in range(50):
        raw = generator.randbytes(generator.randrange(5000)) + bytes(generator.randrange(5000))
        data = _frames(raw, generator.randrange(1, 4000)) or _zst(b"")
        assert _unpacked(data, ".zst", piece=generator.randrange(1, 3000)) == raw


def test_the_process_stays_small_over_a_bomb() -> None:
    """Resident memory of a fresh process, which also counts what the C libraries allocate."""
    script = (
        "import resource, zstandard, sys\n"
        "from updog.image.codec import decompressed\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "bomb = zstandard.ZstdCompressor(level=1).compressobj()\n"
        "data = [bomb.compress(bytes(1 << 20)) for _ in range(128)] + [bomb.flush()]\n"
        "assert sum(len(block) for block in decompressed(iter(data), name='b.zst')) == 128 << 20\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
    )
    assert int(done.stdout) < 48 << 10  # KiB
