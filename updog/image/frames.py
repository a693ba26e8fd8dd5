"""From the bytes of one frame to the verified bytes of one chunk. Pure.

Rules it enforces:

* a frame's header has its content size and window; both are compared before a byte is unpacked, so that a
  decompression bomb gets no memory;
* exactly one frame: a longer, shorter or cut one and trailing data are errors;
* whatever source a chunk comes from, it counts only with the SHA-256 that its index has for it.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import zstandard

from updog.errors import DigestError, ImageError

if TYPE_CHECKING:
    from updog.image.index import Chunk

_SMALLEST_WINDOW_BYTES = 1024  # the format's own minimum


def verified_chunk(raw: bytes, chunk: Chunk, *, source: str) -> bytes:
    """Return ``raw`` if it is the chunk. Raises DigestError naming the ``source`` it came from."""
    if len(raw) != chunk.place.length or hashlib.sha256(raw).digest() != chunk.sha256:
        raise DigestError(f"the chunk at {chunk.place.offset} from {source} is not the one that was signed")
    return raw


def unpacked_chunk(frame: bytes, chunk: Chunk) -> bytes:
    """Return the chunk behind its frame of the pack, verified.

    Raises:
        ImageError: the frame is not exactly one frame of the chunk's length.
        DigestError: it unpacks to something else.
    """
    return verified_chunk(unpacked(frame, chunk.place.length), chunk, source="the pack")


def unpacked(frame: bytes, length: int) -> bytes:
    """Return the ``length`` bytes behind one frame.

    Args:
        frame: exactly one frame.
        length: of its content, bytes; what the frame says must be the same.

    Raises:
        ImageError: the frame is not well formed, of another length, or goes on.
    """
    try:
        header = zstandard.get_frame_parameters(frame)
        if header.content_size != length:
            raise ImageError(f"a frame unpacks to {header.content_size} bytes, signed are {length}")
        if header.window_size > max(length, _SMALLEST_WINDOW_BYTES):
            raise ImageError(f"a frame of {length} bytes needs a window of {header.window_size}")
        return _decoder().decompress(frame, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ImageError(f"a frame is not well formed: {error}") from error


_local = threading.local()


def _decoder() -> zstandard.ZstdDecompressor:
    """Return this thread's decoder: making one takes longer than a small frame."""
    decoder: zstandard.ZstdDecompressor | None = getattr(_local, "decoder", None)
    if decoder is None:
        decoder = _local.decoder = zstandard.ZstdDecompressor()
    return decoder
