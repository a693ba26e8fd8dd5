"""Compressed image streams: ``.zst`` (one or many frames) and ``.lz4`` (one frame, as upstream).

Rules it enforces:

* memory is bounded whatever the stream says: output comes in blocks of at most :data:`BLOCK_BYTES`, and
  a window beyond :data:`MAX_WINDOW_BYTES` is refused (a decompression bomb only fills blocks);
* a stream that ends inside a frame, or goes on after the last, is an error: both libraries would
  take it in silence;
* length and SHA-256 of the compressed bytes are compared at the end of the *stream*, which is later than
  the end of the frame (upstream's decoder stops at the latter and so never compares).
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from typing import IO, TYPE_CHECKING, cast

from updog.errors import DigestError, ImageError
from updog.image.install import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_WINDOW_BYTES = 1 << 27  # what `zstd -d` accepts by default (--long=27)


def verified(blocks: Iterator[bytes], *, name: str, length: int, sha256: str) -> Iterator[bytes]:
    """Yield the blocks; when they end, compare their length (bytes) and SHA-256 with what was signed.

    Raises:
        DigestError: after the last block, or as soon as there are too many bytes.
    """
    digest, seen = hashlib.sha256(), 0
    for block in blocks:
        seen += len(block)
        if seen > length:
            raise DigestError(f"{name} is longer than the {length} bytes that were signed")
        digest.update(block)
        yield block
    if seen != length:
        raise DigestError(f"{name} ends after {seen} of the {length} bytes that were signed")
    if digest.hexdigest() != sha256:
        raise DigestError(f"{name} has SHA-256 {digest.hexdigest()}, signed is {sha256}")


def decompressed(blocks: Iterator[bytes], *, name: str) -> Iterator[bytes]:
    """Yield the raw image behind ``blocks``, chosen by the end of ``name``; drains ``blocks`` to the end.

    Raises:
        ImageError: the name has no known ending, or the stream is not well formed.
    """
    for ending, decode in _DECODERS.items():
        if name.endswith(ending):
            return _translated(decode(blocks), name)
    raise ImageError(f"{name} ends in none of {', '.join(_DECODERS)}", next_step="Publish it again.")


def _translated(raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield ``raw``, turning the libraries' errors into ours."""
    import zstandard

    try:
        yield from raw
    except (RuntimeError, zstandard.ZstdError, _MalformedError) as error:
        raise ImageError(f"{name} is not a well-formed compressed image: {error}") from error


class _MalformedError(Exception):
    """A stream that ends too early or goes on too long."""


def _lz4(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of one LZ4 frame that ends where the stream ends."""
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    for block in filter(None, blocks):
        if frame.eof:
            raise _MalformedError("data after the end of the frame")
        data = block
        while not frame.eof:
            if output := frame.decompress(data, max_length=BLOCK_BYTES):
                yield output
            if frame.needs_input:
                break
            data = b""
        if frame.unused_data:
            raise _MalformedError("data after the end of the frame")
    if not frame.eof:
        raise _MalformedError("the stream ends inside a frame")


def _zstd(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of Zstandard frames, one after the other.

    The library's reader, the only one of its interfaces with bounded output, takes a stream that is cut
    inside a frame for a shorter one. So one frame of our own follows the stream: only if the decoder stood
    between two frames does its content come out at the end. That content is random, so that no image can
    end in it, and repeated, so that its frame does not contain it literally. It comes in two pieces: the
    library forgets the first bytes of a frame's header when a whole frame follows them in one piece.
    """
    import zstandard

    sentinel = secrets.token_bytes(16) * 8
    frame = zstandard.ZstdCompressor().compress(sentinel)
    source = cast("IO[bytes]", _Reader(itertools.chain(blocks, [frame[:1], frame[1:]])))
    context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    tail = b""
    with context.stream_reader(source, read_size=BLOCK_BYTES, read_across_frames=True) as reader:
        while output := reader.read(BLOCK_BYTES):
            output = tail + output
            tail = output[-len(sentinel) :]
            if len(output) > len(tail):
                yield output[: -len(tail)]
    if tail != sentinel:
        raise _MalformedError("the stream ends inside a frame")


class _Reader:
    """The file-like object that the library wants, over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, _size: int = -1) -> bytes:
        """Return the next block, whatever its size; nothing at the end."""
        return next((block for block in self._blocks if block), b"")


_DECODERS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {".zst": _zstd, ".lz4": _lz4}
