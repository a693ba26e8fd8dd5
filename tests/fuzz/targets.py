"""The targets of the fuzzers: for each format a function that parses any bytes and asserts what must hold.

A function may only raise the errors in its row of :data:`TARGETS`; anything else is a finding. It is called
by ``tools/fuzz.py`` (coverage-guided) and, with the kept corpus, by ``tests/fuzz/test_corpus.py``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import struct
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from signpost import bls, gpt
from signpost.errors import BootEntryError, TableError
from tests.support import disks
from tests.support.http_server import HttpServer, raw
from updog import config
from updog.errors import ConfigError, DigestError, ImageError, IndexFormatError, UnreachableError
from updog.image import delta, frames, index
from updog.image.index import Fingerprints, Index, Piece, Span
from updog.state import NodeState
from updog.transport import HttpTransport, TransportSettings
from updog.update_metadata.errors import ManifestError, PolicyError
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.waves import WavePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CORPUS = Path(__file__).parent / "corpus"
_BLOCK = index.BLOCK_BYTES
_MANY = 64 << 20  # bytes; no parser may read so much at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One parser under test.

    Attributes:
        call: parses the bytes and asserts what must hold.
        refusals: the errors that it may raise.
        seeds: valid input to start with.
        longest: maximum length of inputs, in bytes.
    """

    call: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]
    longest: int = 1024

    def check(self, data: bytes) -> bool:
        """Return whether the bytes were accepted. Any exception is a finding."""
        try:
            self.call(data)
        except self.refusals:
            return False
        return True


# -- images --------------------------------------------------------------------------------------------------


@functools.cache
def small_index() -> Index:
    """Return the index of an image of five chunks, zeros among them, that ends inside a block."""
    lengths = [2 * _BLOCK, _BLOCK, 3 * _BLOCK, _BLOCK, 100]
    pieces = [
        Piece(length=length, packed=50 + length // 8, sha256=hashlib.sha256(bytes([length % 251])).digest())
        for length in lengths
    ]
    pieces[1] = Piece(length=_BLOCK, packed=20, sha256=index.zeros_sha256(_BLOCK), zeros=True)
    return Index.of(pieces, image_sha256=hashlib.sha256(b"image").digest())


def _index(data: bytes) -> None:
    read = Index.from_bytes(data)
    assert read.to_bytes() == data
    place = frame = 0
    for chunk in read.chunks:
        assert (chunk.place.offset, chunk.frame.offset) == (place, frame)
        place, frame = chunk.place.end, chunk.frame.end
    assert (place, frame) == (read.image_size, read.pack_size)


def _fingerprints(data: bytes) -> None:
    read = Fingerprints.from_bytes(data, small_index())
    assert read.to_bytes() == data
    assert len(list(read.by_block(small_index()))) == 7


def _fingerprint_seeds() -> Iterator[bytes]:
    blocks = hashlib.shake_128(b"").digest(7 * index.FINGERPRINT_BYTES)
    yield Fingerprints(image_sha256=small_index().image_sha256, blocks=blocks).to_bytes()


_BASE = hashlib.shake_128(b"base").digest(16 * _BLOCK)


def _delta_head(data: bytes) -> None:
    read = delta.Delta.from_bytes(data, small_index())
    assert read.head() == data
    rebuilt = [number for part in read.parts for number in part.chunks]
    copied = dict(read.copied(small_index()))
    zeros = [number for number, chunk in enumerate(small_index().chunks) if chunk.zeros]
    assert sorted([*rebuilt, *copied, *zeros]) == [0, 1, 2, 3, 4]
    assert all(span.offset >= 0 and span.end <= read.base_size for span in copied.values())


def _delta_head_seeds() -> Iterator[bytes]:
    stream = delta.DeltaStream(length=9, packed=20)
    for copies, counts in (((), (4,)), ((delta.CopiedSpan(first=2, count=2, offset=_BLOCK),), (1, 1))):
        seals = [delta.Seal(chunks=count, streams=(stream,) * 3, sha256=bytes(32)) for count in counts]
        made = delta.Delta.of(
            small_index(), base=(len(_BASE), hashlib.sha256(_BASE).digest()), copies=copies, seals=seals
        )
        yield made.head()


@functools.cache
def tiny_index() -> Index:
    """Return the index of an image of small chunks, not multiples of blocks: the start of the base image."""
    starts = [0, 40, 50, 80, 100, 105]
    stretches = [_BASE[start:end] for start, end in pairwise(starts)]
    pieces = [Piece(length=len(one), packed=9, sha256=hashlib.sha256(one).digest()) for one in stretches]
    return Index.of(pieces, image_sha256=bytes(32))


def _delta_body(data: bytes) -> None:
    """Run a delta program. The first five bytes: whether chunks are wanted, and the length of two streams."""
    wanted, first, second = struct.unpack("<?HH", data[:5].ljust(5, b"\0"))
    rest = data[5:]
    streams = rest[:first], rest[first : first + second], rest[first + second :]
    packed = [lzma.compress(one, lzma.FORMAT_RAW, filters=[delta.STREAM_FILTER]) for one in streams]
    body = b"".join(packed)
    lengths = [
        delta.DeltaStream(length=len(one), packed=len(two)) for one, two in zip(streams, packed, strict=True)
    ]
    seal = delta.Seal(
        chunks=5, streams=(lengths[0], lengths[1], lengths[2]), sha256=hashlib.sha256(body).digest()
    )
    part = delta.Part(chunks=(0, 1, 2, 3, 4), place=Span(offset=0, length=len(body)), seal=seal)

    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= index.MAX_IMAGE_BYTES
        assert length <= index.MAX_CHUNK_BYTES
        return _BASE[offset : offset + length]

    made = delta.rebuilt(part, body, tiny_index(), read, wanted=None if wanted else frozenset())
    for number, chunk in made:
        assert chunk == _BASE[tiny_index().chunks[number].place.offset :][: len(chunk)]


def _delta_body_seeds() -> Iterator[bytes]:
    """Yield programs for the five chunks: copied, literal, added."""
    lengths = [chunk.place.length for chunk in tiny_index().chunks]
    size = sum(lengths)
    for kind, streams in ((delta.COPY, b""), (delta.LITERAL, _BASE[:size]), (delta.ADD, bytes(size))):
        steps = [delta.number(length * 4 + kind) for length in lengths]
        moves = [b"" if kind == delta.LITERAL else delta.signed_number(0)] * len(steps)
        program = b"".join(step + move for step, move in zip(steps, moves, strict=True))
        differences = len(streams) if kind == delta.ADD else 0
        for wanted in (True, False):
            yield struct.pack("<?HH", wanted, len(program), differences) + program + streams


def _frame(data: bytes) -> None:
    """Unpack a frame. The first two bytes are the expected length of the content."""
    (length,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
    assert len(frames.unpacked(data[2:], length)) == length


def _frame_seeds() -> Iterator[bytes]:
    for content, checked in ((b"", False), (b"content" * 20, True), (bytes(5000), False)):
        packer = zstandard.ZstdCompressor(level=3, write_checksum=checked)
        yield struct.pack("<H", len(content)) + packer.compress(content)


# -- disks ---------------------------------------------------------------------------------------------------

_SECTORS = 80
_HEADER = struct.calcsize("<8sIIIIQQQQ16sQIII")


def _gpt(data: bytes) -> None:
    """Put two headers and entries on a disk, with correct CRCs unless the flag in the first byte is set."""
    data = data.ljust(1 + 2 * _HEADER, b"\0")
    headers = [data[1 : 1 + _HEADER], data[1 + _HEADER : 1 + 2 * _HEADER]]
    entries = data[1 + 2 * _HEADER :]
    sector = gpt.SECTOR_SIZES[data[0] & 1]
    disk = bytes(_SECTORS * sector)
    for place, packed in ((1, headers[0]), (_SECTORS - 1, headers[1])):
        header = gpt.Header.from_bytes(packed.ljust(sector, b"\0"))
        array = entries.ljust(min(header.array_bytes, len(disk)), b"\0")
        disk = _put(disk, header.array_lba * sector, array)
        if not data[0] & 2 and header.array_bytes <= len(disk):
            header = replace(header, array_crc=zlib.crc32(array[: header.array_bytes]))
            header = replace(header, header_crc=header.expected_crc())
        disk = _put(disk, place * sector, header.to_bytes())
    examined = gpt.examine(functools.partial(_extent, disk), gpt.Geometry(sector, _SECTORS))
    mended = disks.write_all(disk, gpt.repair(examined))
    assert len(mended) == len(disk)
    again = disks.examine(mended, sector)
    assert again.faults == ()
    assert again.trusted is not None
    assert [entry for entry in again.trusted.entries if entry.used] == [
        entry for entry in (examined.trusted or again.trusted).entries if entry.used
    ]


def _extent(disk: bytes, extent: gpt.Extent) -> bytes:
    assert 0 <= extent.size <= _MANY, "what a bad table may make us read is bounded"
    return disk[extent.offset : extent.end]


def _put(disk: bytes, offset: int, data: bytes) -> bytes:
    """Return the disk with data at an offset, cut at its end; data for the first sector is ignored."""
    if not 0 < offset < len(disk):
        return disk
    return (disk[:offset] + data + disk[offset + len(data) :])[: len(disk)]


def _gpt_seeds() -> Iterator[bytes]:
    for flag, sector in enumerate(gpt.SECTOR_SIZES):
        header = gpt.Header(
            signature=b"EFI PART",
            revision=0x10000,
            header_size=_HEADER,
            header_crc=0,
            reserved=0,
            my_lba=1,
            alternate_lba=_SECTORS - 1,
            first_usable_lba=20,
            last_usable_lba=50,
            disk_guid=gpt.UNUSED,
            array_lba=2,
            entry_count=2,
            entry_size=128,
            array_crc=0,
            tail=bytes(sector - _HEADER),
        )
        backup = replace(header, my_lba=_SECTORS - 1, alternate_lba=1, array_lba=60)
        kind = gpt.guid("5526016a-1a97-4ea4-b39a-b7c8c6ca4502")
        entry = gpt.PartitionEntry(type=kind, guid=kind, first_lba=30, last_lba=40, name="a".ljust(36, "\0"))
        entries = entry.to_bytes() + replace(entry, first_lba=41, last_lba=50).to_bytes()
        yield bytes([flag]) + header.to_bytes()[:_HEADER] + backup.to_bytes()[:_HEADER] + entries


# -- texts ---------------------------------------------------------------------------------------------------


def _manifest(data: bytes) -> None:
    read = Manifest.from_json(data)
    assert Manifest.from_json(read.to_json()) == read


def _manifest_seeds() -> Iterator[bytes]:
    images = {"boot": "b.zst", "root": "r.zst", "hash": "h.zst"}
    update = {
        "variant": "v",
        "arch": "x86_64",
        "version": "1.2.3-rc.1",
        "max_version": "2.0.0",
        "waves": {"0": "2026-10-25T18:00:00Z", "20": "2019-8-06T21:00:00Z"},
        "images": images,
    }
    yield json.dumps({"updates": [update], "migrations": {"(1.0.0, 1.1.0)": ["a"]}}).encode()
    yield b'{"updates": [], "migrations": {}}'


def _bls(data: bytes) -> None:
    entry = bls.parse("a.conf", data)
    assert entry.linux
    bls.choose([entry, replace(entry, version="1")], "x64")


def _bls_seeds() -> Iterator[bytes]:
    yield b"title T\nversion 6.1~rc1-2^x\nlinux /vmlinuz\ninitrd /i\noptions root=/dev/sda ro\nfoo bar\n# x\n"
    yield b"linux\t/vmlinuz\r\narchitecture x64\nmachine-id 0\nsort-key s\n"


def _config(data: bytes) -> None:
    config.parse(data.decode(errors="replace"), Path("/etc"))


def _config_seeds() -> Iterator[bytes]:
    urls = b'metadata_base_url = "https://a/m"\ntargets_base_url = "file:///t"\n'
    yield urls + b'seed = 7\nversion_lock = "1.2.3"\nno_proxy = ["a"]\nhealth_checks = ["clock"]\n'
    yield urls + b'targets_mirrors = ["http://b/t"]\nlimit_rate = 1\nca_file = "c"\n'


def _state(data: bytes) -> None:
    read = NodeState.from_json(data)
    assert NodeState.from_json(json.dumps(read.to_json()).encode()) == read


def _state_seeds() -> Iterator[bytes]:
    yield json.dumps(NodeState(disk_guid="0").to_json()).encode()


def _policy(data: bytes) -> None:
    read = WavePolicy.from_toml(data.decode(errors="replace"))
    assert WavePolicy.from_toml(read.to_toml()) == read


def _policy_seeds() -> Iterator[bytes]:
    waves = '[[waves]]\nstart_after = "1 day"\nfleet_percentage = 5\n', '[[waves]]\nstart_after = "2 weeks"\n'
    yield "".join([*waves, "fleet_percentage = 100\n"]).encode()


# -- HTTP answers --------------------------------------------------------------------------------------------


@functools.cache
def _wire() -> tuple[HttpServer, HttpTransport]:
    """Return a server that runs as long as this process, and a client."""
    server = HttpServer().__enter__()
    settings = TransportSettings(tries=1, connect_timeout=5, stall_timeout=2, query={})
    return server, HttpTransport(settings, sleep=lambda _: None)


def _http(data: bytes) -> None:
    """Use the bytes as a server's complete answer to a range request."""
    server, transport = _wire()
    server.behave("x", raw(data))
    server.log.clear()
    spans = [Span(offset=3, length=5)]
    for _, blocks in transport.ranges(server.url("x"), spans, length=10):
        assert len(b"".join(blocks)) == 5


def _http_seeds() -> Iterator[bytes]:
    yield b"HTTP/1.1 206 OK\r\nContent-Length: 5\r\nContent-Range: bytes 3-7/10\r\nETag: x\r\n\r\nabcde"
    chunks = b"4;a=b\r\n0123\r\n6\r\n456789\r\n0\r\nT: x\r\n\r\n"
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    yield b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 No\r\nRetry-After: 7\r\n\r\n"
    yield b"HTTP/1.1 302 Found\r\nLocation: //[::1/\r\nContent-Length: 0\r\n\r\n"


TARGETS = {
    "index": Target(
        call=_index, refusals=(IndexFormatError,), seeds=lambda: iter([small_index().to_bytes()])
    ),
    "fingerprints": Target(call=_fingerprints, refusals=(IndexFormatError,), seeds=_fingerprint_seeds),
    "delta-head": Target(call=_delta_head, refusals=(IndexFormatError,), seeds=_delta_head_seeds),
    "delta-body": Target(call=_delta_body, refusals=(ImageError, DigestError), seeds=_delta_body_seeds),
    "frame": Target(call=_frame, refusals=(ImageError,), seeds=_frame_seeds),
    "gpt": Target(call=_gpt, refusals=(TableError,), seeds=_gpt_seeds, longest=2048),
    "manifest": Target(call=_manifest, refusals=(ManifestError,), seeds=_manifest_seeds),
    "boot-entry": Target(call=_bls, refusals=(BootEntryError,), seeds=_bls_seeds),
    "config": Target(call=_config, refusals=(ConfigError,), seeds=_config_seeds),
    "state": Target(call=_state, refusals=(ConfigError,), seeds=_state_seeds),
    "wave-policy": Target(call=_policy, refusals=(PolicyError,), seeds=_policy_seeds),
    "http": Target(call=_http, refusals=(UnreachableError, DigestError), seeds=_http_seeds, longest=600),
}
"""Name (also of the folder of its corpus) → target."""
