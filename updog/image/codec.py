"""Compressed image streams: ``.zst`` (one or many frames) and ``.lz4`` (one frame, as upstream).

The only decoder of whole images: nodes install with it, and the publisher reads with it what it published
(:mod:`repo_tools.images.stored`), so that neither accepts what the other refuses.

Rules it enforces:

* memory is bounded whatever the stream claims: output comes in blocks of at most
  :data:`~updog.image.region.IO_BYTES`, and a window beyond :data:`MAX_WINDOW_BYTES` is refused (a
  decompression bomb only fills blocks);
* a stream that ends inside a frame, or continues after the last one, is an error: both libraries would
  accept it silently;
* a stream that unpacks to nothing is an error: no image is empty (RFC 8878 wants at least one frame);
* length and SHA-256 of the compressed bytes are compared at the end of the *stream*, which is later than
  the end of the frame (upstream's decoder stops at the frame's end and so never compares).

What no decoder can see is a ``.zst`` cut exactly between two frames: it is a well-formed, shorter stream.
Only its signed length and digest tell, or what the manifest says it unpacks to.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from typing import IO, TYPE_CHECKING, cast

from updog.errors import DigestError, ImageError
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_WINDOW_BYTES = 1 << 27  # what `zstd -d` accepts by default (--long=27)

_BAD_END = "the stream ends inside a frame, or has data after its last frame"


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
    """Yield the raw image behind ``blocks`` and read ``blocks`` to the end; ``name`` ends as its format does.

    Raises:
        ImageError: the name has no known ending, or the stream is not well formed or unpacks to nothing.
    """
    for ending, decode in _DECODERS.items():
        if name.endswith(ending):
            return _well_formed(decode(blocks), name)
    raise ImageError(f"{name} ends in none of {', '.join(_DECODERS)}", next_step="Publish it again.")


def _well_formed(raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield ``raw``, translating the libraries' errors into ImageError."""
    import zstandard

    is_empty = True
    try:
        for block in raw:
            is_empty = False
            yield block
    except (RuntimeError, zstandard.ZstdError, _MalformedError) as error:
        raise ImageError(f"{name} is not a well-formed compressed image: {error}") from error
    if is_empty:
        raise ImageError(f"{name} is not a well-formed compressed image: it unpacks to nothing")


class _MalformedError(Exception):
    """A stream that ends too early or continues too long."""


def _lz4(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of one LZ4 frame that ends where the stream ends."""
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    for block in filter(None, blocks):
        if frame.eof:
            raise _MalformedError("data after the end of the frame")
        data = block
        while not frame.eof:
            if output := frame.decompress(data, max_length=IO_BYTES):
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

    The library's reader, the only one of its interfaces with bounded output, accepts a stream that is cut
    inside a frame as a shorter one. So one frame of our own, the sentinel, follows the stream: only if the
    decoder stood between two frames does its content come out at the end. That content is random, so that no
    image can end in it, and repeated, so that its frame does not contain it literally. It comes in two
    pieces: the library forgets the first bytes of a frame's header when a whole frame follows them in one
    piece.

    Every block but the last is as long as was asked for, so holding one block back is enough to find the
    sentinel, and copies nothing.
    """
    import zstandard

    sentinel = secrets.token_bytes(16) * 8
    has_ended = False

    def sentinel_frame() -> Iterator[bytes]:
        nonlocal has_ended
        has_ended = True
        frame = zstandard.ZstdCompressor().compress(sentinel)
        yield frame[:1]
        yield frame[1:]

    source = cast("IO[bytes]", _Reader(itertools.chain(blocks, sentinel_frame())))
    context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    held = b""
    try:
        with context.stream_reader(source, read_size=IO_BYTES, read_across_frames=True) as reader:
            while output := reader.read(IO_BYTES):
                if held and len(output) >= len(sentinel):
                    yield held
                    held = output
                else:
                    held += output
    except zstandard.ZstdError as error:
        if has_ended:  # the library complains of the sentinel, in words that say nothing of the stream
            raise _MalformedError(_BAD_END) from error
        raise
    if not held.endswith(sentinel):
        raise _MalformedError(_BAD_END)
    if rest := held[: -len(sentinel)]:
        yield rest


class _Reader:
    """The file-like object that the library wants, over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, _size: int = -1) -> bytes:
        """Return the next block, whatever its size; nothing at the end."""
        return next((block for block in self._blocks if block), b"")


_DECODERS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {".zst": _zstd, ".lz4": _lz4}
