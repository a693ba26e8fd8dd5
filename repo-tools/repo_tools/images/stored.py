"""Published images, read as a node reads them.

Rules:

* there is one decoder, the node's: of whole images :mod:`updog.image.codec`, of the chunks of a pack
  :mod:`updog.image.frames`. What a node refuses is refused here too, by `validate`, before it is copied to a
  disk, and before a delta is made from it;
* its errors become the publisher's here: :class:`~repo_tools.errors.StoredImageError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.errors import StoredImageError
from updog.errors import DigestError, ImageError
from updog.image.codec import decompressed, verified
from updog.image.frames import unpacked_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signpost.progress import Progress, ProgressStep
    from updog.image.index import Index


def unpacked(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the raw image behind the blocks of a target, in blocks of bounded size.

    A well-formed image reads ``blocks`` to the end. One that is cut exactly between two ``.zst`` frames is
    well formed: compare length and SHA-256 of the blocks (:func:`unpacked_as_signed` does).

    Raises:
        StoredImageError: the name has no known ending, or a node refuses the stream.
    """
    try:
        yield from decompressed(blocks, name=name)
    except (DigestError, ImageError) as error:
        raise StoredImageError(error.message) from error


def unpacked_as_signed(blocks: Iterator[bytes], *, name: str, length: int, sha256: str) -> Iterator[bytes]:
    """Yield the raw image behind a target, and compare the target's bytes with what was signed.

    Args:
        blocks: the target.
        name: its name.
        length: signed, bytes.
        sha256: signed, in hexadecimal.

    Raises:
        StoredImageError: at the latest after the last block: a node refuses the target.
    """
    return unpacked(verified(blocks, name=name, length=length, sha256=sha256), name)


def unpacked_by_chunks(blocks: Iterator[bytes], index: Index) -> Iterator[bytes]:
    """Yield the raw image behind a pack as a node that has its index unpacks it, one chunk after the other.

    Raises:
        StoredImageError: a chunk is not what the index says, or the pack is shorter or longer.
    """
    held = b""
    at = 0  # in ``held``
    for chunk in index.chunks:
        while len(held) - at < chunk.frame.length and (block := next(blocks, b"")):
            held, at = held[at:] + block, 0
        try:
            yield unpacked_chunk(held[at : at + chunk.frame.length], chunk)
        except (DigestError, ImageError) as error:
            raise StoredImageError(
                f"does not fit its index at byte {chunk.place.offset}: {error.message}"
            ) from error
        at += chunk.frame.length
    if len(held) > at or next(blocks, b""):
        raise StoredImageError("continues after the last chunk of its index")


def reported(blocks: Iterator[bytes], step: ProgressStep, progress: Progress) -> Iterator[bytes]:
    """Yield the blocks; report the beginning, and each block."""
    done = 0
    progress(step)
    for block in blocks:
        yield block
        done += len(block)
        progress(step.at(done))
