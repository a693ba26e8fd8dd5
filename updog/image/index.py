"""The signed index of a packed image: what each chunk is, and where its frame lies in the pack. Pure.

A pack is an ordinary ``.zst`` file: one frame a chunk, in the order of the image, nothing between them. The
index says for each chunk how long it is, what its SHA-256 is, and how long its frame is. Offsets are sums of
the lengths before, in the image as in the pack, so that an index with overlaps, gaps, repeats or a change of
order cannot be expressed; what is left to check is that the sums are those of the header.

Rules it enforces:

* every length is bounded by a named constant before anything is made of it;
* chunks begin and end on multiples of :data:`BLOCK_BYTES`; only the image's end may lie elsewhere;
* chunks together are exactly the image, frames together exactly the pack;
* nothing follows the last record; an unknown kind of chunk is refused, not skipped;
* a chunk of zeros has the SHA-256 that so many zeros have.

Beside it, in a file of its own because an update by delta has no use for it, lie the fingerprints: the first
:data:`FINGERPRINT_BYTES` of the SHA-256 of each block of the chunks that are not zeros. They only ever *find*
blocks in another image; what is put together from them counts by the chunk's SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from updog.errors import IndexFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "BLOCK_BYTES",
    "FINGERPRINT_BYTES",
    "MAX_CHUNK_BYTES",
    "Chunk",
    "Fingerprints",
    "Index",
    "Piece",
    "Span",
    "fingerprint",
    "max_fingerprints_bytes",
    "max_index_bytes",
]

BLOCK_BYTES = 4096  # of erofs, ext4 and dm-verity: files move by multiples of it
MAX_CHUNK_BYTES = 1 << 20  # what a node holds in memory, times its workers
MAX_ZEROS_BYTES = 1 << 24  # nothing is held for zeros, but progress is reported chunk by chunk
MAX_IMAGE_BYTES = 1 << 42  # far above any partition of an operating system; sums stay far below 64 bits
FRAME_OVERHEAD_BYTES = 64  # header, checksum and block headers of a frame, generously
BLOCKS_PER_CHUNK = 4  # on average at least: so index and fingerprints stay below 0.8 % of any image
SPARE_CHUNKS = 64  # for images so small that no average holds
FINGERPRINT_BYTES = 6  # two images of 4 GiB meet by chance once in 250 pairs, which costs one chunk

_INDEX_MAGIC = b"abindex\x01"
_FINGERPRINTS_MAGIC = b"abprint\x01"


class _HeaderRow(NamedTuple):
    """Head of an index, once; sizes in bytes."""

    magic: bytes
    image_size: int
    image_sha256: bytes
    pack_size: int
    chunks: int


class _ChunkRow(NamedTuple):
    """One chunk; lengths in bytes, of the chunk and of its frame."""

    kind: int
    length: int
    packed: int
    sha256: bytes


class _FingerprintsRow(NamedTuple):
    """Head of the fingerprints: of which image they are, and how many."""

    magic: bytes
    image_sha256: bytes
    blocks: int


# Both directions come from these: fields in the order of the row above, little endian, no padding.
_HEADER = struct.Struct("<8sQ32sQI")
_CHUNK = struct.Struct("<BII32s")
_FINGERPRINTS = struct.Struct("<8s32sI")
_DATA, _ZEROS = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of bytes: ``offset`` and ``length``."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A stretch of the image that is verified as one.

    Attributes:
        place: where in the image.
        sha256: of its bytes.
        frame: where in the pack its frame is.
        zeros: whether it is nothing but zeros.
    """

    place: Span
    sha256: bytes
    frame: Span
    zeros: bool = False

    @property
    def blocks(self) -> int:
        """Number of blocks, the last one perhaps short."""
        return blocks_in(self.place.length)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A chunk before it has a place: ``length`` and ``packed`` in bytes."""

    length: int
    packed: int
    sha256: bytes
    zeros: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """All chunks of an image, in order and without gaps.

    Attributes:
        image_size: bytes. image_sha256: of the raw image. pack_size: bytes. chunks: of all of it.
    """

    image_size: int
    image_sha256: bytes
    pack_size: int
    chunks: tuple[Chunk, ...]

    @classmethod
    def of(cls, pieces: Iterable[Piece], *, image_sha256: bytes) -> Index:
        """Lay pieces one after the other; trusts them."""
        chunks = tuple(_laid(pieces))
        return cls(
            image_size=chunks[-1].place.end if chunks else 0,
            image_sha256=image_sha256,
            pack_size=chunks[-1].frame.end if chunks else 0,
            chunks=chunks,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """Parse and validate an index. Raises IndexFormatError."""
        header = _header(data)
        rows = [_ChunkRow(*row) for row in _CHUNK.iter_unpack(data[_HEADER.size :])]
        index = cls.of(map(_piece, range(len(rows)), rows), image_sha256=header.image_sha256)
        for chunk, following in pairwise(index.chunks):
            if chunk.place.end % BLOCK_BYTES:
                raise IndexFormatError(f"the chunk at {following.place.offset} begins inside a block")
        _require("chunks", index.image_size, header.image_size, "the image")
        _require("frames", index.pack_size, header.pack_size, "the pack")
        for chunk in index.chunks:
            if chunk.zeros and chunk.sha256 != zeros_sha256(chunk.place.length):
                raise IndexFormatError(
                    f"the chunk at {chunk.place.offset} does not have the SHA-256 of zeros"
                )
        return index

    def to_bytes(self) -> bytes:
        """Return the index as it is published."""
        header = _HeaderRow(
            magic=_INDEX_MAGIC,
            image_size=self.image_size,
            image_sha256=self.image_sha256,
            pack_size=self.pack_size,
            chunks=len(self.chunks),
        )
        return _HEADER.pack(*header) + b"".join(_CHUNK.pack(*_row(chunk)) for chunk in self.chunks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprints:
    """First bytes of the SHA-256 of each block of an image's data chunks, in order.

    Attributes:
        image_sha256: of the raw image they belong to.
        blocks: one after the other, :data:`FINGERPRINT_BYTES` each.
    """

    image_sha256: bytes
    blocks: bytes

    @classmethod
    def from_bytes(cls, data: bytes, index: Index) -> Fingerprints:
        """Parse the fingerprints that belong to ``index``. Raises IndexFormatError."""
        if len(data) < _FINGERPRINTS.size:
            raise IndexFormatError("the fingerprints end inside their header")
        header = _FingerprintsRow(*_FINGERPRINTS.unpack_from(data))
        if header.magic != _FINGERPRINTS_MAGIC:
            raise IndexFormatError("these are not fingerprints, or they are of a newer format")
        if header.image_sha256 != index.image_sha256:
            raise IndexFormatError("the fingerprints belong to another image")
        wanted = sum(chunk.blocks for chunk in index.chunks if not chunk.zeros)
        _require("fingerprints", header.blocks, wanted, "the index's blocks")
        _require("fingerprints", len(data) - _FINGERPRINTS.size, wanted * FINGERPRINT_BYTES, "their header")
        return cls(image_sha256=header.image_sha256, blocks=data[_FINGERPRINTS.size :])

    def to_bytes(self) -> bytes:
        """Return the fingerprints as they are published."""
        header = _FingerprintsRow(
            magic=_FINGERPRINTS_MAGIC,
            image_sha256=self.image_sha256,
            blocks=len(self.blocks) // FINGERPRINT_BYTES,
        )
        return _FINGERPRINTS.pack(*header) + self.blocks

    def by_chunk(self, index: Index) -> Iterator[tuple[int, bytes]]:
        """Yield (number, fingerprints of its blocks in one piece) of each chunk that is not zeros."""
        at = 0
        for number, chunk in enumerate(index.chunks):
            if not chunk.zeros:
                end = at + chunk.blocks * FINGERPRINT_BYTES
                yield number, self.blocks[at:end]
                at = end

    def by_block(self, index: Index) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the image, fingerprint) of each block that is not part of a chunk of zeros."""
        for number, marks in self.by_chunk(index):
            offsets = range(index.chunks[number].place.offset, index.chunks[number].place.end, BLOCK_BYTES)
            yield from zip(offsets, each_fingerprint(marks), strict=True)


def fingerprint(block: bytes | memoryview) -> bytes:
    """Return the fingerprint of one block."""
    return hashlib.sha256(block).digest()[:FINGERPRINT_BYTES]


def each_fingerprint(marks: bytes) -> Iterator[bytes]:
    """Yield fingerprints that lie one after the other."""
    return (marks[at : at + FINGERPRINT_BYTES] for at in range(0, len(marks), FINGERPRINT_BYTES))


def blocks_in(length: int) -> int:
    """Return the number of blocks in ``length`` bytes, the last one perhaps short."""
    return -(-length // BLOCK_BYTES)


def max_chunks(image_size: int) -> int:
    """Return how many chunks an image of this size (bytes) may be cut into."""
    return blocks_in(image_size) // BLOCKS_PER_CHUNK + SPARE_CHUNKS


def max_index_bytes(image_size: int) -> int:
    """Return how long the index of an image of this size (bytes) can be: the limit when one is fetched."""
    return _HEADER.size + max_chunks(image_size) * _CHUNK.size


def max_fingerprints_bytes(index: Index) -> int:
    """Return how long the fingerprints of an image can be, in bytes: the limit when they are fetched."""
    return _FINGERPRINTS.size + blocks_in(index.image_size) * FINGERPRINT_BYTES


def runs(numbers: Iterable[int], chunks: Sequence[Chunk], *, limit: int) -> Iterator[list[int]]:
    """Yield the numbers of neighbouring chunks together.

    Args:
        numbers: of chunks; where one does not follow the one before, a run ends.
        chunks: of the image.
        limit: bytes of a run; one longer chunk is a run of its own.
    """
    run: list[int] = []
    size = 0
    for number in numbers:
        length = chunks[number].place.length
        if run and (number != run[-1] + 1 or size + length > limit):
            yield run
            run, size = [], 0
        run.append(number)
        size += length
    if run:
        yield run


def max_frame_bytes(length: int) -> int:
    """Return how long a frame of ``length`` raw bytes can be; zstd never grows data by more."""
    return length + length // 256 + FRAME_OVERHEAD_BYTES


def _laid(pieces: Iterable[Piece]) -> Iterator[Chunk]:
    """Yield pieces as chunks, each behind the one before, in the image and in the pack."""
    pieces = tuple(pieces)
    places = accumulate((piece.length for piece in pieces), initial=0)
    frames = accumulate((piece.packed for piece in pieces), initial=0)
    for piece, place, frame in zip(pieces, places, frames, strict=False):
        yield Chunk(
            place=Span(offset=place, length=piece.length),
            sha256=piece.sha256,
            frame=Span(offset=frame, length=piece.packed),
            zeros=piece.zeros,
        )


def _header(data: bytes) -> _HeaderRow:
    """Return the header if everything in it is sane and as many records follow as it says."""
    if len(data) < _HEADER.size:
        raise IndexFormatError("the index ends inside its header")
    header = _HeaderRow(*_HEADER.unpack_from(data))
    if header.magic != _INDEX_MAGIC:
        raise IndexFormatError("this is not a chunk index, or it is of a newer format")
    if not 0 < header.image_size <= MAX_IMAGE_BYTES:
        raise IndexFormatError(f"an image of {header.image_size} bytes; 1 to {MAX_IMAGE_BYTES} are possible")
    limit = max_chunks(header.image_size)
    if not 0 < header.chunks <= limit:
        raise IndexFormatError(f"{header.chunks} chunks in {header.image_size} bytes; {limit} are possible")
    _require("records", len(data) - _HEADER.size, header.chunks * _CHUNK.size, "the header")
    return header


def _require(what: str, found: int, said: int, whose: str) -> None:
    """Raise IndexFormatError unless the two lengths are the same."""
    if found != said:
        problem = "end early" if found < said else "go too far"
        raise IndexFormatError(f"the {what} {problem}: {found}, but {whose} has {said}")


def _row(chunk: Chunk) -> _ChunkRow:
    return _ChunkRow(
        kind=_ZEROS if chunk.zeros else _DATA,
        length=chunk.place.length,
        packed=chunk.frame.length,
        sha256=chunk.sha256,
    )


def _piece(number: int, row: _ChunkRow) -> Piece:
    """Return what a record says, if it is sane by itself."""
    if row.kind not in {_DATA, _ZEROS}:
        raise IndexFormatError(f"chunk {number} is of the unknown kind {row.kind}")
    zeros = row.kind == _ZEROS
    longest = MAX_ZEROS_BYTES if zeros else MAX_CHUNK_BYTES
    if not 0 < row.length <= longest:
        raise IndexFormatError(f"chunk {number} has {row.length} bytes; 1 to {longest} are possible")
    if not 0 < row.packed <= max_frame_bytes(row.length):
        raise IndexFormatError(
            f"chunk {number} has a frame of {row.packed} bytes for {row.length}; "
            f"1 to {max_frame_bytes(row.length)} are possible"
        )
    return Piece(length=row.length, packed=row.packed, sha256=row.sha256, zeros=zeros)


@lru_cache(maxsize=4096)
def zeros_sha256(length: int) -> bytes:
    """Return the SHA-256 of ``length`` zeros; bounded memory, remembered."""
    digest = hashlib.sha256()
    for start in range(0, length, MAX_CHUNK_BYTES):
        digest.update(bytes(min(MAX_CHUNK_BYTES, length - start)))
    return digest.digest()
