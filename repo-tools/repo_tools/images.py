"""Images: raw bytes to compressed targets and back, in bounded memory whatever their size.

Rules:

* ``.lz4`` is one LZ4 frame that carries its content size and checksum, as upstream's updog reads it; ``.zst``
  is made by :mod:`repo_tools.pack`. The same bytes at the same level always give the same file;
* raw and compressed bytes are measured and hashed in the same pass that reads and writes them;
* the compressed file is flushed before it is described: a description is never ahead of the medium.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ImageError, StoredImageError
from repo_tools.progress import Progress, Step, silent
from repo_tools.source import BLOCK_BYTES
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from updog.durable import Medium

ENDINGS = {"zstd": ".zst", "lz4": ".lz4"}
MAX_WINDOW_BYTES = 1 << 27  # what `zstd -d` and the node accept


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A target that is on the medium, but not yet where readers look.

    Attributes:
        name: its target name. path: where it is now. length: bytes. sha256: of them, in hexadecimal.
        content: what it unpacks to; None for a target that is no image.
    """

    name: str
    path: Path
    length: int
    sha256: str
    content: Content | None = None


class Output:
    """A new file that is written from front to back and hashed on the way."""

    def __init__(self, medium: Medium, path: Path) -> None:
        self._medium = medium
        self._descriptor = medium.create(str(path))
        self._digest = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises MediumError."""
        if data:
            self._medium.write_at(self._descriptor, data, self.length)
            self._digest.update(data)
            self.length += len(data)

    def flush(self) -> None:
        """Return once everything is on the medium. Raises MediumError."""
        self._medium.flush(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        self._medium.close(self._descriptor)

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""
        return self._digest.hexdigest()


def size_of(image: Path) -> int:
    """Return the size of a raw image in bytes. Raises ImageError if it cannot be published."""
    try:
        size = image.stat().st_size
    except OSError as error:
        raise ImageError(f"cannot read the image {image}: {error.strerror}") from error
    if not image.is_file() or not size:
        raise ImageError(f"{image} is {'empty' if image.is_file() else 'not a file'}")
    return size


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How images are compressed: ``compression`` is ``zstd`` or ``lz4``, ``level`` is of that format."""

    compression: str
    level: int

    @property
    def ending(self) -> str:
        """End of the target's name, by which readers choose the decoder."""
        return ENDINGS[self.compression]

    @property
    def seekable(self) -> bool:
        """Whether nodes can fetch parts of the images (`repo_tools.seekable`)."""
        return self.compression == "zstd"


def pack_whole(
    medium: Medium, image: Path, target: Path, *, name: str, level: int, progress: Progress = silent
) -> Staged:
    """Compress ``image`` into the new file ``target`` as one LZ4 frame, flushed.

    Args:
        medium: written through.
        image: raw.
        target: must not exist.
        name: target name to describe it by.
        level: of the LZ4 frame library.
        progress: told after every block.

    Raises:
        ImageError: the image cannot be read, or changes meanwhile. MediumError: writing failed.
    """
    import lz4.frame

    size = size_of(image)
    raw = _Raw(image, Step(action="compress", item=name, total=size), progress)
    output = Output(medium, target)
    try:
        frame = lz4.frame.LZ4FrameCompressor(compression_level=level, content_checksum=True)
        output.write(frame.begin(source_size=size))
        for block in raw.blocks():
            output.write(frame.compress(block))
        output.write(frame.flush())
        output.flush()
    except RuntimeError as error:
        raise ImageError(f"cannot compress {image}: {error}") from error
    finally:
        output.close()
    return Staged(
        name=name, path=target, length=output.length, sha256=output.sha256, content=raw.content(size)
    )


def _foreign_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


class _Raw:
    """The bytes of an image, measured and hashed as they pass."""

    def __init__(self, image: Path, step: Step, progress: Progress) -> None:
        self._image, self._step, self._progress = image, step, progress
        self._digest = hashlib.sha256()
        self._seen = 0

    def blocks(self) -> Iterator[bytes]:
        """Yield the image block by block. Raises ImageError."""
        try:
            with self._image.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    self._digest.update(block)
                    self._seen += len(block)
                    yield block
                    self._progress(self._step.at(self._seen))
        except OSError as error:
            raise ImageError(f"cannot read the image {self._image}: {error.strerror}") from error

    def content(self, size: int) -> Content:
        """Return what passed, which must be ``size`` bytes. Raises ImageError."""
        if self._seen != size:
            raise ImageError(f"{self._image} changed while it was read: {size} bytes, then {self._seen}")
        return Content(size=size, sha256=self._digest.hexdigest())


class Measured:
    """The blocks of a stored file, counted and hashed as they pass."""

    def __init__(self, blocks: Iterator[bytes], step: Step, progress: Progress) -> None:
        self._blocks, self._step, self._progress = blocks, step, progress
        self._digest = hashlib.sha256()
        self.length = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._digest.update(block)
            self.length += len(block)
            self._progress(self._step.at(self.length))
            yield block

    def drain(self) -> None:
        """Read what nobody has read yet."""
        for _ in self:
            pass

    @property
    def sha256(self) -> str:
        """SHA-256 of what has passed, in hexadecimal."""
        return self._digest.hexdigest()


def unpacked(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the raw image behind the blocks of a target, in blocks of bounded size.

    ``blocks`` is read to its end, past the end of the frame, so that a caller who hashes it sees all of it.
    A stream cut between two of the format's blocks may look complete: compare size and SHA-256.

    Raises:
        StoredImageError: not a well-formed stream, or no known ending.
    """
    stream = _Stream(blocks)
    reader = io.BufferedReader(stream, BLOCK_BYTES)
    try:
        yield from _decoded(reader, name)
        if name.endswith(".lz4") and reader.read(1):
            raise StoredImageError(f"{name} goes on after its LZ4 frame")
    except (RuntimeError, EOFError, _foreign_error()) as error:
        raise StoredImageError(f"{name} is not a well-formed compressed image: {error}") from error
    finally:
        stream.drain()


def _decoded(reader: io.BufferedReader[_Stream], name: str) -> Iterator[bytes]:
    if name.endswith(".zst"):
        import zstandard

        context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        with context.stream_reader(reader, read_across_frames=True, closefd=False) as raw:
            while block := raw.read(BLOCK_BYTES):
                yield block
    elif name.endswith(".lz4"):
        yield from _lz4_decoded(reader)
    else:
        raise StoredImageError(f"{name} ends in none of {', '.join(ENDINGS.values())}")


def _lz4_decoded(reader: io.BufferedReader[_Stream]) -> Iterator[bytes]:
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    while not frame.eof:
        data = reader.read(BLOCK_BYTES) if frame.needs_input else b""
        if frame.needs_input and not data:
            raise EOFError("the stream ends inside a frame")
        if block := frame.decompress(data, max_length=BLOCK_BYTES):
            yield block
    if frame.unused_data:
        raise EOFError("data after the end of the frame")


class _Stream(io.RawIOBase):
    """The file that the decoders want, over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with what comes next; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def drain(self) -> None:
        """Read the rest of the blocks, for whoever counts and hashes them."""
        for _ in self._blocks:
            pass
