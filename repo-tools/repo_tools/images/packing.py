"""Raw images into compressed targets, in bounded memory whatever their size.

The way back is :mod:`repo_tools.images.stored`.

Rules:

* ``.lz4`` is one LZ4 frame that carries its content size and checksum, as upstream's updog reads it; ``.zst``
  is made by :mod:`repo_tools.images.frames`. The same bytes at the same level always give the same file;
* raw and compressed bytes are measured and hashed in the same pass that reads and writes them;
* the compressed file is flushed before it is described: a description is never ahead of the medium.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from repo_tools.errors import ImageError
from repo_tools.trust.source import READ_BYTES
from signpost.progress import Action, Progress, ProgressStep, silent
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from updog.durable import Medium

ENDINGS = {"zstd": ".zst", "lz4": ".lz4"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A target that is on the medium, but not yet where readers look.

    Attributes:
        name: its target name. path: where it is now. length: bytes. sha256: of them, in hexadecimal.
        content: what it unpacks to; None for a target that is not an image.
    """

    name: str
    path: Path
    length: int
    sha256: str
    content: Content | None = None


class Output:
    """A new file that is written from front to back and hashed on the way. Use it in a ``with`` block."""

    def __init__(self, medium: Medium, path: Path) -> None:
        self._medium = medium
        self._path = path
        self._descriptor = medium.create(str(path))
        self._digest = hashlib.sha256()
        self._length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._medium.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises MediumError."""
        if data:
            self._medium.write_at(self._descriptor, data, self._length)
            self._digest.update(data)
            self._length += len(data)

    @property
    def content(self) -> Content:
        """Size and SHA-256 of what was written so far."""
        return Content(size=self._length, sha256=self._digest.hexdigest())

    def finish(self, name: str, content: Content | None = None) -> Staged:
        """Flush the file, and describe it as the target ``name`` that unpacks to ``content``.

        Raises MediumError.
        """
        self._medium.flush(self._descriptor)
        written = self.content
        return Staged(name=name, path=self._path, length=written.size, sha256=written.sha256, content=content)


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
        """Whether nodes can fetch parts of the images (`repo_tools.images.seekable`)."""
        return self.compression == "zstd"


def read_image(image: Path, step: ProgressStep, progress: Progress) -> Iterator[bytes]:
    """Yield a raw image of ``step.total`` bytes block by block, and report each block.

    Raises:
        ImageError: it cannot be read, or its size has changed.
    """
    seen = 0
    progress(step)
    try:
        with image.open("rb") as stream:
            while block := stream.read(READ_BYTES):
                seen += len(block)
                yield block
                progress(step.at(seen))
    except OSError as error:
        raise ImageError(f"cannot read the image {image}: {error.strerror}") from error
    if seen != step.total:
        raise ImageError(f"{image} changed while it was read: {step.total} bytes, then {seen}")


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
        progress: called at the beginning and after every block, from any thread.

    Raises:
        ImageError: the image cannot be read, or changes meanwhile. MediumError: writing failed.
    """
    import lz4.frame

    size = size_of(image)
    step = ProgressStep(action=Action.COMPRESS, item=name, total=size)
    frame = lz4.frame.LZ4FrameCompressor(compression_level=level, content_checksum=True)
    digest = hashlib.sha256()
    try:
        with Output(medium, target) as output:
            output.write(frame.begin(source_size=size))
            for block in read_image(image, step, progress):
                digest.update(block)
                output.write(frame.compress(block))
            output.write(frame.flush())
            return output.finish(name, Content(size=size, sha256=digest.hexdigest()))
    except RuntimeError as error:
        raise ImageError(f"cannot compress {image}: {error}") from error
