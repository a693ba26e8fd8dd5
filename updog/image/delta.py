"""Deltas: an image rebuilt from another, known one, part by part. Pure: the base is a function that reads.

A delta file is a head and, behind it, the parts' bodies, one after the other. The head says which image it
starts from (``base``), which it makes, which chunks are whole stretches of the base (copies), and of each
part how many chunks it rebuilds and how long its three streams are. Copies and parts take the chunks in
order: a part rebuilds the next chunks that are neither zeros nor copied, so that no chunk can have two ways
or none, and parts can be fetched and applied in any order, or not at all.

A part's body is three LZMA2 streams: the program, the differences, the literals. The program says for each
chunk, until it is full, ``length * 4 + kind`` as a variable-length number, and for every kind but LITERAL a
signed shift: how far the distance between image and base has changed. The kinds:

========  =================================================================================
LITERAL   take ``length`` bytes of the literals
ADD       add ``length`` bytes of the differences to so many bytes of the base, each modulo 256
COPY      take ``length`` bytes of the base
========  =================================================================================

Rules it enforces:

* a head counts only with the length and SHA-256 that the signed manifest has for it, a body only with the
  SHA-256 that the head has, a chunk only with that of the signed index: nothing is unpacked unverified;
* memory is bounded by :data:`MAX_STREAM_BYTES` and the fixed dictionary, whatever a stream says;
* no instruction reads outside the base or writes past its chunk; streams are used to their last byte.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from updog.errors import DigestError, ImageError, IndexFormatError
from updog.image.frames import verified_chunk
from updog.image.index import MAX_IMAGE_BYTES, Chunk, Index, Span

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_STREAM_BYTES = 1 << 24  # unpacked, each of three; a node holds one part at a time
MAX_PARTS = 1 << 13  # beyond any image: parts carry megabytes
DICTIONARY_BYTES = 1 << 23  # of the decoder, fixed so that no stream can ask for more
LITERAL, ADD, COPY = 0, 1, 2
STREAM_FILTER = {"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY_BYTES, "pb": 0}
"""Reads every stream; a writer may add its level."""

Read = Callable[[int, int], bytes]
"""Returns ``length`` bytes at ``offset`` of the base, fewer only at its end."""

_MAGIC = b"abdelta\x01"
_NUMBER_BYTES = 9  # of a variable-length number: 63 bits
MAX_ADDED_BYTES = 1 << 16  # of one call of :func:`added`; more is no faster
_CACHED_BLOCK_BYTES, _CACHED_BLOCKS = 1 << 14, 256  # of the base, 4 MiB a part: one read in seven is left
_STEPS_AT_ONCE = 1 << 10  # instructions whose additions are one
_LOW = int.from_bytes(b"\x7f" * MAX_ADDED_BYTES, "little")
_HIGH = int.from_bytes(b"\x80" * MAX_ADDED_BYTES, "little")


class _HeadRow(NamedTuple):
    """Head of a delta, once; sizes in bytes."""

    magic: bytes
    base_size: int
    base_sha256: bytes
    image_sha256: bytes
    copies: int
    parts: int


class _CopyRow(NamedTuple):
    """Chunks that lie in the base as they are."""

    first: int
    chunks: int
    offset: int


class _PartRow(NamedTuple):
    """A part: how many chunks, and the lengths (bytes) of its three streams, unpacked and packed."""

    chunks: int
    program: int
    packed_program: int
    differences: int
    packed_differences: int
    literals: int
    packed_literals: int
    sha256: bytes


# Both directions come from these: fields in the order of the rows above, little endian, no padding.
_HEAD = struct.Struct("<8sQ32s32sII")
_COPY = struct.Struct("<IIQ")
_PART = struct.Struct("<IIIIIII32s")


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedSpan:
    """``count`` chunks from number ``first`` on are the bytes of the base from ``offset`` on."""

    first: int
    count: int
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaStream:
    """Lengths in bytes: ``length`` of the content, ``packed`` of the stream."""

    length: int
    packed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """A part before it has a place: how many chunks, the three streams in order, the body's SHA-256."""

    chunks: int
    streams: tuple[DeltaStream, DeltaStream, DeltaStream]
    sha256: bytes

    @classmethod
    def from_row(cls, row: _PartRow) -> Seal:
        """Return what a row says of a part. Raises IndexFormatError if a node cannot hold the part."""
        streams = (
            DeltaStream(length=row.program, packed=row.packed_program),
            DeltaStream(length=row.differences, packed=row.packed_differences),
            DeltaStream(length=row.literals, packed=row.packed_literals),
        )
        longest = max(max(stream.length, stream.packed) for stream in streams)
        if not row.chunks or longest > MAX_STREAM_BYTES:
            raise IndexFormatError(
                f"a part of the delta has {row.chunks} chunks and a stream of {longest} bytes"
            )
        return cls(chunks=row.chunks, streams=streams, sha256=row.sha256)

    def to_row(self) -> _PartRow:
        """Return the part's row in the head."""
        program, differences, literals = self.streams
        return _PartRow(
            chunks=self.chunks,
            program=program.length,
            packed_program=program.packed,
            differences=differences.length,
            packed_differences=differences.packed,
            literals=literals.length,
            packed_literals=literals.packed,
            sha256=self.sha256,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Chunks that are rebuilt together.

    Attributes:
        chunks: their numbers, rising.
        place: of the body in the delta file.
        seal: what the body is.
    """

    chunks: tuple[int, ...]
    place: Span
    seal: Seal


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """The head of a delta file.

    Attributes:
        base_size: bytes of the base. base_sha256: of all of it. image_sha256: of what comes out.
        copies: rising. parts: of all other chunks that are not zeros.
        size: bytes of the whole file.
    """

    base_size: int
    base_sha256: bytes
    image_sha256: bytes
    copies: tuple[CopiedSpan, ...]
    parts: tuple[Part, ...]
    size: int

    @classmethod
    def of(
        cls, index: Index, *, base: tuple[int, bytes], copies: tuple[CopiedSpan, ...], seals: Iterable[Seal]
    ) -> Delta:
        """Lay out a delta; trusts its arguments. ``base`` is size (bytes) and SHA-256."""
        seals = tuple(seals)
        parts = tuple(_laid(index, copies, seals))
        return cls(
            base_size=base[0],
            base_sha256=base[1],
            image_sha256=index.image_sha256,
            copies=copies,
            parts=parts,
            size=parts[-1].place.end if parts else head_bytes(copies=len(copies), parts=0),
        )

    @classmethod
    def from_bytes(cls, head: bytes, index: Index) -> Delta:
        """Parse and validate a head for the image of ``index``. Raises IndexFormatError."""
        if len(head) < _HEAD.size:
            raise IndexFormatError("the delta ends inside its head")
        row = _HeadRow(*_HEAD.unpack_from(head))
        _check_head(row, len(head), index)
        bound = _HEAD.size + row.copies * _COPY.size
        copies = tuple(_copies(head[_HEAD.size : bound], row, index))
        seals = [Seal.from_row(_PartRow(*fields)) for fields in _PART.iter_unpack(head[bound:])]
        left = sum(1 for _ in remaining(index, copies))
        if sum(seal.chunks for seal in seals) != left:
            raise IndexFormatError(f"the parts of the delta do not rebuild exactly the {left} chunks left")
        return cls.of(index, base=(row.base_size, row.base_sha256), copies=copies, seals=seals)

    def head(self) -> bytes:
        """Return the head as it is published; the bodies follow it in the file."""
        row = _HeadRow(
            magic=_MAGIC,
            base_size=self.base_size,
            base_sha256=self.base_sha256,
            image_sha256=self.image_sha256,
            copies=len(self.copies),
            parts=len(self.parts),
        )
        copies = (_COPY.pack(copy.first, copy.count, copy.offset) for copy in self.copies)
        parts = (_PART.pack(*part.seal.to_row()) for part in self.parts)
        return b"".join([_HEAD.pack(*row), *copies, *parts])

    def copied(self, index: Index) -> Iterator[tuple[int, Span]]:
        """Yield (chunk number, where it is in the base) of each copied chunk."""
        for copy in self.copies:
            shift = copy.offset - index.chunks[copy.first].place.offset
            for number in range(copy.first, copy.first + copy.count):
                place = index.chunks[number].place
                yield number, Span(offset=place.offset + shift, length=place.length)


def head_bytes(*, copies: int, parts: int) -> int:
    """Return how long the head of a delta with so many copies and parts is, in bytes."""
    return _HEAD.size + copies * _COPY.size + parts * _PART.size


def max_head_bytes(index: Index) -> int:
    """Return how long a head for this image can be, in bytes: the limit when one is fetched."""
    return head_bytes(copies=len(index.chunks), parts=MAX_PARTS)


def remaining(index: Index, copies: Iterable[CopiedSpan]) -> Iterator[int]:
    """Yield the numbers of the chunks that parts rebuild: neither zeros nor copied, rising."""
    copied = {number for copy in copies for number in range(copy.first, copy.first + copy.count)}
    numbers = range(len(index.chunks))
    return (number for number in numbers if not index.chunks[number].zeros and number not in copied)


def rebuilt(
    part: Part, body: bytes, index: Index, read: Read, *, wanted: frozenset[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (chunk number, verified bytes) of a part's chunks, in order.

    Args:
        part: of the verified head.
        body: its bytes in the delta file.
        index: of the image.
        read: reads the base; what it raises is passed on.
        wanted: numbers of the chunks that are needed; None for all. The base is not read for others.

    Raises:
        DigestError: body or chunk is not what was signed (for a chunk: or the base was changed).
        ImageError: the body is not well formed.
    """
    check_body(part, body)
    streams = part.seal.streams
    starts = accumulate((stream.packed for stream in streams), initial=0)
    unpacked = [
        _unpacked(body[start : start + stream.packed], stream.length)
        for start, stream in zip(starts, streams, strict=False)
    ]
    machine = _Machine(unpacked, read)
    for number in part.chunks:
        chunk = index.chunks[number]
        if wanted is None or number in wanted:
            yield number, verified_chunk(machine.chunk(chunk), chunk, source="the delta")
        else:
            machine.skip(chunk)
    machine.end()


def check_body(part: Part, body: bytes) -> None:
    """Raise DigestError unless ``body`` is the part's, by length and SHA-256."""
    if len(body) != part.place.length or hashlib.sha256(body).digest() != part.seal.sha256:
        raise DigestError("a part of the delta is not what was signed")


def in_blocks(read: Read) -> Read:
    """Return a reader of the base for one part, which remembers what was read last.

    Instructions are short and alternate between a few places, and one read costs more than its few bytes.
    """
    block = lru_cache(_CACHED_BLOCKS)(lambda number: read(number * _CACHED_BLOCK_BYTES, _CACHED_BLOCK_BYTES))

    def collected(offset: int, length: int) -> bytes:
        first, at = divmod(offset, _CACHED_BLOCK_BYTES)
        if at + length <= _CACHED_BLOCK_BYTES:
            return block(first)[at : at + length]
        last = (offset + length - 1) // _CACHED_BLOCK_BYTES
        return b"".join(map(block, range(first, last + 1)))[at : at + length]

    return collected


def added(data: bytes, base: bytes) -> bytes:
    """Return the byte-wise sum modulo 256 of two strings of at most 64 KiB and the same length."""
    left, right = int.from_bytes(data, "little"), int.from_bytes(base, "little")
    total = ((left & _LOW) + (right & _LOW)) ^ ((left ^ right) & _HIGH)
    return total.to_bytes(len(data), "little")


def subtracted(data: bytes, base: bytes) -> bytes:
    """Return what :func:`added` adds to ``base`` to get ``data``; at most 64 KiB."""
    left, right = int.from_bytes(data, "little"), int.from_bytes(base, "little")
    high = _HIGH & ((1 << 8 * len(data)) - 1)
    total = ((left | high) - (right & _LOW)) ^ ((left ^ right ^ high) & high)
    return total.to_bytes(len(data), "little")


_Step = tuple[int, int, int]
"""One instruction: kind, length, and offset in the base."""


class _Machine:
    """Runs a part's program."""

    def __init__(self, streams: list[bytes], read: Read) -> None:
        program, self._differences, self._literals = streams
        self._numbers = _numbers(program)
        self._difference = self._literal = 0
        self._distance = 0
        self._read = read

    def chunk(self, chunk: Chunk) -> bytes:
        """Return the next chunk, which must be this one."""
        steps = self._steps(chunk.place)
        made: list[bytes] = []
        while some := list(islice(steps, _STEPS_AT_ONCE)):
            made += self._run(some)
        return b"".join(made)

    def skip(self, chunk: Chunk) -> None:
        """Go past the next chunk without reading the base."""
        for kind, length, _ in self._steps(chunk.place):
            self._take(kind, length)

    def end(self) -> None:
        """Check that nothing is left over."""
        used = (next(self._numbers, None), self._difference, self._literal)
        if used != (None, len(self._differences), len(self._literals)):
            raise ImageError("a part of the delta goes on after its last chunk")

    def _steps(self, place: Span) -> Iterator[_Step]:
        """Yield instructions until the chunk is full."""
        position, end = place.offset, place.end
        while position < end:
            length, kind = divmod(self._number(), 4)
            if kind > COPY or not 0 < length <= end - position:
                raise ImageError(f"an instruction of the delta is not possible at byte {position}")
            if kind != LITERAL:
                self._distance += _signed(self._number())
            yield kind, length, position + self._distance
            position += length

    def _run(self, steps: list[_Step]) -> Iterator[bytes]:
        """Yield what instructions make; all their additions are one, which is faster."""
        bases = [self._base(*step) for step in steps]
        base = b"".join(data for (kind, _, _), data in zip(steps, bases, strict=True) if kind == ADD)
        differences = self._take(ADD, len(base))
        starts = range(0, len(base), MAX_ADDED_BYTES)
        total = b"".join(
            added(differences[at : at + MAX_ADDED_BYTES], base[at : at + MAX_ADDED_BYTES]) for at in starts
        )
        at = 0
        for (kind, length, _), data in zip(steps, bases, strict=True):
            if kind == ADD:
                yield total[at : at + length]
                at += length
            else:
                yield data or self._take(LITERAL, length)

    def _base(self, kind: int, length: int, offset: int) -> bytes:
        """Return the bytes of the base that an instruction uses."""
        if kind == LITERAL:
            return b""
        if offset < 0:
            raise ImageError("an instruction of the delta reads before the base")
        if offset + length > MAX_IMAGE_BYTES:  # no reader is asked for what no system call can take
            raise ImageError("an instruction of the delta reads past the base")
        base = self._read(offset, length)
        if len(base) != length:
            raise ImageError("an instruction of the delta reads past the base")
        return base

    def _take(self, kind: int, length: int) -> bytes:
        """Return the bytes of its stream that an instruction uses."""
        if kind == COPY:
            return b""
        if kind == ADD:
            start = self._difference
            self._difference += length
            taken = self._differences[start : self._difference]
        else:
            start = self._literal
            self._literal += length
            taken = self._literals[start : self._literal]
        if len(taken) != length:
            raise ImageError("a part of the delta ends inside a chunk")
        return taken

    def _number(self) -> int:
        """Return the next number of the program."""
        value = next(self._numbers, None)
        if value is None:
            raise ImageError("a part of the delta ends inside a chunk")
        return value


def _numbers(program: bytes) -> Iterator[int]:
    """Yield variable-length numbers. Raises ImageError."""
    value = shift = 0
    for byte in program:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says: more follows
            yield value
            value = shift = 0
        elif (shift := shift + 7) == 7 * _NUMBER_BYTES:
            raise ImageError("a number in the delta has no end")
    if shift:
        raise ImageError("a part of the delta ends inside a chunk")


def number(value: int) -> bytes:
    """Return a variable-length number: seven bits a byte, the lowest first."""
    written = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - the bit that says: more follows
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def signed_number(value: int) -> bytes:
    """Return a signed number, so that small ones are short whatever their sign."""
    return number(2 * value if value >= 0 else -2 * value - 1)


def _signed(value: int) -> int:
    return -(value + 1) // 2 if value & 1 else value // 2


def _unpacked(packed: bytes, length: int) -> bytes:
    """Unpack exactly ``length`` bytes from exactly ``packed``."""
    filters: list[dict[str, Any]] = [STREAM_FILTER]
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
    try:
        data = decoder.decompress(packed, max_length=length + 1)
    except lzma.LZMAError as error:
        raise ImageError(f"a stream of the delta is not well formed: {error}") from error
    if len(data) != length or not decoder.eof or decoder.unused_data:
        raise ImageError("a stream of the delta is shorter or longer than its head says")
    return data


def _check_head(row: _HeadRow, length: int, index: Index) -> None:
    """Raise IndexFormatError unless the head fits the image and as many records follow as it says."""
    if row.magic != _MAGIC:
        raise IndexFormatError("this is not a delta, or it is of a newer format")
    if row.image_sha256 != index.image_sha256:
        raise IndexFormatError("the delta makes another image")
    if not 0 < row.base_size <= MAX_IMAGE_BYTES:
        raise IndexFormatError(f"the delta starts from an image of {row.base_size} bytes")
    if row.copies > len(index.chunks) or row.parts > MAX_PARTS:
        raise IndexFormatError(
            f"the delta has {row.copies} copies and {row.parts} parts; so many are not possible"
        )
    wanted = head_bytes(copies=row.copies, parts=row.parts)
    if length != wanted:
        raise IndexFormatError(f"the head of the delta has {length} bytes; its records need {wanted}")


def _copies(rows: bytes, head: _HeadRow, index: Index) -> Iterator[CopiedSpan]:
    """Yield the copies, each checked to lie behind the one before it and inside image and base."""
    behind = 0
    for fields in _COPY.iter_unpack(rows):
        row = _CopyRow(*fields)
        if row.first < behind or not row.chunks or row.first + row.chunks > len(index.chunks):
            raise IndexFormatError(
                f"the delta copies {row.chunks} chunks from chunk {row.first} on, after {behind}"
            )
        behind = row.first + row.chunks
        chunks = index.chunks[row.first : behind]
        if any(chunk.zeros for chunk in chunks):
            raise IndexFormatError(f"the delta copies zeros between the chunks {row.first} and {behind}")
        if row.offset + chunks[-1].place.end - chunks[0].place.offset > head.base_size:
            raise IndexFormatError(f"the delta copies chunk {behind - 1} from past the end of the base")
        yield CopiedSpan(first=row.first, count=row.chunks, offset=row.offset)


def _laid(index: Index, copies: tuple[CopiedSpan, ...], seals: tuple[Seal, ...]) -> Iterator[Part]:
    """Yield each part with its chunks and its place in the file."""
    left = remaining(index, copies)
    offset = head_bytes(copies=len(copies), parts=len(seals))
    for seal in seals:
        place = Span(offset=offset, length=sum(stream.packed for stream in seal.streams))
        yield Part(chunks=tuple(islice(left, seal.chunks)), place=place, seal=seal)
        offset = place.end
