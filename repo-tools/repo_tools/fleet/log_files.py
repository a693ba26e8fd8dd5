r"""Files of logs, as plain text that a database can read: one line of valid UTF-8 for each line of the file.

Rules:

* gzip, zstd, xz and bzip2 are recognised by their first bytes, never by the name of the file; another
  compression is refused by its name;
* a name is a name: ``*``, ``?`` and ``[`` in it have no meaning;
* a file is used in place if it is plain text; otherwise a copy is made in which bytes that are not UTF-8, and
  control characters, are written as ``\xff``. No line is lost: a line that cannot be understood is counted;
* the copies need temporary space of the size of the unpacked files.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from typing import IO, TYPE_CHECKING, BinaryIO

import zstandard

from repo_tools.errors import LogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MAX_LINE_BYTES = 65_536
"""The longest part of a line that is kept; a web server's longest line is a few times 8 KiB."""

_BLOCK = 1 << 16  # a block without an end of line belongs to a line that is too long
_PLAIN_NAME = "log-{}"


def _blocks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK), b"")


def _unpack_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of all frames. Raises EOFError if the last one is cut (a stream_reader does not)."""
    frame, unused = zstandard.ZstdDecompressor().decompressobj(), b""
    while block := unused or file.read(_BLOCK):
        yield frame.decompress(block)
        unused = b""
        if frame.eof:
            unused = frame.unused_data
            frame = zstandard.ZstdDecompressor().decompressobj()
            if not unused and not (unused := file.read(_BLOCK)):
                return
    raise EOFError("the file ends in the middle of a frame")


_UNPACKERS: dict[bytes, Callable[[BinaryIO], Iterable[bytes]]] = {
    b"\x1f\x8b": lambda file: _blocks(gzip.GzipFile(fileobj=file)),
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
    b"\xfd7zXZ\x00": lambda file: _blocks(lzma.LZMAFile(file)),  # noqa: SIM115 - closed with `file`
    b"BZh": lambda file: _blocks(bz2.BZ2File(file)),
}
"""First bytes of a compressed file, and what unpacks it."""

_REFUSED = {
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress (.Z)",
    b"PAR1": "Parquet",
}
"""First bytes of files that are not read, and what they are."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f]")


def plain_text(file: Path, folder: Path, number: int) -> Path:
    """Return a path below ``folder`` at which a file's lines can be read as valid UTF-8.

    Args:
        file: the log, which may be a pipe.
        folder: for copies and links.
        number: makes the name in ``folder`` unique.

    Raises:
        LogError: the file cannot be read or unpacked, or is compressed in a way that is not read.
    """
    place = folder / _PLAIN_NAME.format(number)
    try:
        with file.open("rb") as raw:
            head = raw.peek(8)[:8]
            for magic, name in _REFUSED.items():
                if head.startswith(magic):
                    raise LogError(f"{file} is {name}, which is not read; unpack or convert it first")
            unpack = next((unpack for magic, unpack in _UNPACKERS.items() if head.startswith(magic)), None)
            if unpack or not file.is_file():
                with place.open("wb") as copy:
                    copy.writelines(unpack(raw) if unpack else _blocks(raw))
            else:
                place.symlink_to(file.absolute())
        if _is_clean(place):
            return place
        clean = place.with_suffix(".clean")
        _write_clean(place, clean)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise LogError(f"cannot read {file}: {error}") from error
    return clean


def _is_clean(file: Path) -> bool:
    """Return whether a database finds in a file exactly the lines that it has."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with file.open("rb") as content:
            while block := content.read(_BLOCK):
                decoder.decode(block)
                if b"\0" in block or b"\x1f" in block or block.count(b"\r") != block.count(b"\r\n"):
                    return False
                if len(block) == _BLOCK and b"\n" not in block:
                    return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _write_clean(file: Path, clean: Path) -> None:
    """Copy a file line by line: unprintable bytes are escaped, and lines that are too long are cut."""
    with file.open("rb") as content, clean.open("w", encoding="utf-8") as out:
        whole = True
        while line := content.readline(MAX_LINE_BYTES):
            ended = line.endswith(b"\n")
            if whole:
                text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
                out.write(_UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text) + "\n")
            whole = ended
