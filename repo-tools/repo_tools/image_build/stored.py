"""Where the bytes of a source are: in its own files, or in one spool file of a scratch folder.

Rules:

* nothing is held in memory: a content is a part of a file, opened when it is read;
* what is compressed is unpacked once, into the spool; what is not stays where it is;
* unpacking ends at a limit, before the disk is full, and as soon as a stream grows as only a decompression
  bomb does; blocks of zeros take no space in the spool;
* a compressed stream that is cut, or continues after its end, is an error.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from repo_tools.errors import ImageSourceError
from signpost.text import size_text
from updog.errors import ImageError
from updog.image import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

DEFAULT_LIMIT = 16 << 30
"""Bytes that a source may unpack to: several times the largest root slot in use."""

MOST_RATIO = 200
"""What a stream may unpack to, in multiples of its own size. Root file systems come to 2 to 6; the formats
allow 1,000 (gzip) and more."""

RATIO_FROM = 256 << 20
"""Bytes that may be unpacked before the ratio counts: a large file of zeros is not a bomb."""

LEAST_FREE = 256 << 20
"""Bytes that unpacking leaves free on the disk."""

IO_BYTES = 1 << 20

_MOST_MEMORY = 512 << 20  # for xz: its largest preset needs 65 MiB
_ZEROS = bytes(IO_BYTES)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes: where it is in a content, where in a file, and how long."""

    at: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A content whose bytes are in a file; between its pieces there are zeros.

    Attributes:
        path: of the file, byte for byte.
        pieces: in ascending order, without overlap.
        is_file: it is all of the file, which must still have this size when it is read.
    """

    path: bytes
    size: int
    pieces: tuple[Piece, ...]
    is_file: bool = False

    @property
    def start(self) -> int | None:
        """Where it begins in the file if it is one run of bytes there, else None."""
        if not self.size:
            return 0
        piece = self.pieces[0] if len(self.pieces) == 1 else None
        return piece.start if piece and piece.length == self.size else None

    def open(self) -> BinaryIO:
        """Return a stream of these bytes. It raises OSError, also when the file has become shorter."""
        reader = _PieceReader(self)
        return io.BufferedReader(reader, IO_BYTES >> 4)

    def part(self, start: int, length: int) -> tuple[Piece, ...]:
        """Return where a range of a content is that is one run of bytes."""
        begin = self.start
        if begin is None or start + length > self.size:
            raise ValueError("not a range of one run")
        return (Piece(0, begin + start, length),) if length else ()


def whole_file(path: bytes, size: int) -> StoredContent:
    """Return the content that a file has as a whole."""
    return StoredContent(path, size, (Piece(0, 0, size),) if size else (), is_file=True)


class _PieceReader(io.RawIOBase):
    def __init__(self, content: StoredContent) -> None:
        self._content = content
        self._position = 0
        self._next = 0  # index of the piece at or after the position
        self._file = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if content.is_file and os.fstat(self._file).st_size != content.size:
            self.close()
            raise OSError(0, "its size changed while it was read")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._content.size}[whence]
        self._position = max(0, base + offset)
        self._next = 0
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._content.size - self._position)]
        if not view:
            return 0
        pieces = self._content.pieces
        while self._next < len(pieces):
            piece = pieces[self._next]
            if self._position < piece.at + piece.length:
                break
            self._next += 1
        piece = pieces[self._next] if self._next < len(pieces) else Piece(self._content.size, 0, 0)
        if self._position < piece.at:
            count = min(len(view), piece.at - self._position, IO_BYTES)
            view[:count] = _ZEROS[:count]
        else:
            inside = self._position - piece.at
            view = view[: piece.length - inside]
            count = os.preadv(self._file, [view], piece.start + inside)
            if not count:
                raise OSError(0, "the file became shorter while it was read")
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._file)


class Spool:
    """One file of a scratch folder, which streams are unpacked into, one after the other."""

    def __init__(self, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT) -> None:
        """Make the file when something is unpacked; ``folder`` exists, and the caller removes it."""
        self._path = os.fsencode(folder / "spool")
        self._folder = folder
        self._limit = limit_bytes
        self._end = 0

    def add(self, blocks: Iterable[bytes], *, name: str, packed: Callable[[], int] | None) -> StoredContent:
        """Write a stream at the end, and return where it is.

        Args:
            blocks: of at most :data:`IO_BYTES`.
            name: of what is unpacked, for messages.
            packed: returns how many bytes were read for what came out so far; None if nothing is compressed.

        Raises:
            ImageSourceError: a limit is reached, the disk is nearly full, or the spool cannot be written.
        """
        start = self._end
        checked = -LEAST_FREE
        with self._opened() as file:
            for block in blocks:
                size = self._end + len(block) - start
                if self._end + len(block) > self._limit:
                    raise _too_large(name, self._limit)
                if packed and size > max(RATIO_FROM, packed() * MOST_RATIO):
                    raise ImageSourceError(
                        f"{name} unpacks to more than {MOST_RATIO} times its {size_text(packed())}, "
                        "as no root file system does",
                        next_step="If it is right all the same, unpack it yourself, and name the folder.",
                    )
                if self._end - checked >= LEAST_FREE // 4:
                    self._require_space()
                    checked = self._end
                try:
                    if block == _ZEROS[: len(block)]:
                        file.truncate(self._end + len(block))
                        file.seek(len(block), os.SEEK_CUR)
                    else:
                        file.write(block)
                except OSError as error:
                    raise self._cannot_write(error) from error
                self._end += len(block)
        size = self._end - start
        return StoredContent(self._path, size, (Piece(0, start, size),) if size else ())

    def _opened(self) -> io.FileIO:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = io.FileIO(os.open(self._path, flags | (0 if self._end else os.O_EXCL), 0o600), "r+b")
            file.seek(self._end)
        except OSError as error:
            raise self._cannot_write(error) from error
        return file

    def _require_space(self) -> None:
        if shutil.disk_usage(self._folder).free < LEAST_FREE:
            raise ImageSourceError(
                f"the disk of {self._folder} has less than {size_text(LEAST_FREE)} free; unpacking was ended",
                next_step="Free space there, or name an output folder on another disk.",
            )

    def _cannot_write(self, error: OSError) -> ImageSourceError:
        return ImageSourceError(
            f"cannot write to {self._folder}: {error.strerror}",
            next_step="Free space there, or name an output folder that can be written.",
        )


def _too_large(name: str, limit: int) -> ImageSourceError:
    return ImageSourceError(
        f"{name} unpacks to more than {size_text(limit)}",
        next_step="Leave out what a node does not need, or raise the limit with --limit.",
    )


def require_size(size: int, limit: int, *, name: str) -> None:
    """Raise ImageSourceError if something unpacks to more bytes than the limit."""
    if size > limit:
        raise _too_large(name, limit)


class Counted:
    """A stream that is read from its beginning to its end; counts and digests what passed."""

    def __init__(self, stream: BinaryIO, *watchers: Callable[[bytes], object], head: bytes = b"") -> None:
        """``head`` is what was read of it already."""
        self._stream = stream
        self._head = head
        self._watchers = watchers
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, b"" only at the end."""
        if self._head:
            size = len(self._head) if size < 0 else size
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._stream.read(size)
        self.count += len(data)
        for watch in self._watchers:
            watch(data)
        return data

    def blocks(self) -> Iterator[bytes]:
        """Yield what is left."""
        return iter(lambda: self.read(IO_BYTES), b"")


def _gzip(source: Counted) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=source) as file:  # type: ignore[call-overload]  # only read() is called
        yield from iter(lambda: file.read(IO_BYTES), b"")


def _xz(source: Counted) -> Iterator[bytes]:
    """Yield the content of all streams; LZMAFile has no limit for memory, which a header can ask 4 GiB of."""
    data = source.read(IO_BYTES)
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
        while not stream.eof:
            if stream.needs_input and not data and not (data := source.read(IO_BYTES)):
                raise EOFError("the stream is cut")
            yield stream.decompress(data, IO_BYTES)
            data = b""
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := source.read(IO_BYTES)):  # padding between streams
            data = more.lstrip(b"\0")


def _zstd(source: Counted) -> Iterator[bytes]:
    return codec.decompressed(source.blocks(), name="image.zst")


_UNPACKERS: dict[bytes, Callable[[Counted], Iterator[bytes]]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\x00": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x50\x2a\x4d\x18": _zstd,  # a skippable frame, which zstd:chunked may begin with
}
"""First bytes of what is compressed, and what unpacks it."""


def is_packed(head: bytes) -> bool:
    """Return whether these are the first bytes of something that :func:`unpacked` unpacks."""
    return any(head.startswith(magic) for magic in _UNPACKERS)


def unpacked(source: Counted, head: bytes, *, name: str) -> Iterator[bytes]:
    """Yield what a stream has, unpacked if it is compressed, in blocks of at most :data:`IO_BYTES` or so.

    Args:
        source: stands at its beginning; is read to its end.
        head: its first bytes, by which the compression is known.
        name: for messages.

    Raises:
        ImageSourceError: it is cut, damaged or cannot be read.
    """
    unpack = next((unpack for magic, unpack in _UNPACKERS.items() if head.startswith(magic)), Counted.blocks)
    try:
        yield from unpack(source)
        for _ in source.blocks():
            pass
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ImageSourceError(f"cannot unpack {name}: {error}") from error
    except ImageError as error:
        raise ImageSourceError(f"cannot unpack {name}: {error.__cause__ or error}") from error
    except OSError as error:
        raise ImageSourceError(f"cannot read {name}: {error.strerror or error}") from error
