"""Read a tar archive: ustar, pax (POSIX.1-2001), GNU (long names, sparse files), with extended attributes.

The standard library's reader takes a damaged header for the end of the archive, and what a header says of
its own size without a limit. Rules of this one:

* a damaged header, and a content that is cut, is an error; so is an archive without its end, unless something
  else (the digest of a layer) says that it is whole;
* headers are bounded: one member's by :data:`MOST_HEADER`;
* names and targets are bytes, kept by ``surrogateescape``; they are not judged here;
* a hard link, a folder and a device have no content, whatever size is in the header (as Go reads it);
* what cannot be kept (access control lists as text) is reported by the entry, not dropped silently.

Sources: pax(1) of POSIX.1-2017, "Basic Tar Format" and "Sparse Formats" in the manual of GNU tar 1.34.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.stored import Piece, StoredContent
from repo_tools.image_build.tree import Kind
from signpost.text import foreign

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512

MOST_HEADER = 4 << 20
"""Bytes of all headers of one member: 64 KiB for each of a few attributes, or the map of a sparse file."""

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_CHECKSUM = slice(148, 156)
_POSIX = b"ustar\0"
_SPARSE_FIRST, _SPARSE_MORE, _SPARSE_ENTRY = 386, 0, struct.Struct("12s12s")
_IN_FIRST, _IN_MORE = 4, 21  # entries of a sparse map in a header, and in a block that follows it
_MORE_AFTER_FIRST, _REAL_SIZE, _MORE_AFTER_MORE = 482, slice(483, 495), 504

_LONG_NAME, _LONG_TARGET, _PAX, _PAX_SOLARIS, _PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
_HARD_LINK, _SPARSE, _DUMPED_FOLDER, _VOLUME = b"1", b"S", b"D", b"V"
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    _SPARSE: Kind.FILE,
    b"2": Kind.LINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.FOLDER,
    _DUMPED_FOLDER: Kind.FOLDER,
    b"6": Kind.FIFO,
}
_OF_MEMBERS = frozenset({b"uid", b"gid"})  # what a global header may say, of what is read
_OF_ONE_MEMBER = frozenset({b"path", b"linkpath", b"size", b"GNU.sparse.major", b"GNU.sparse.map"})
_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
_ESCAPED = re.compile(rb"%(25|3D)")  # how GNU tar writes % and = in the name of an attribute


@dataclass(frozen=True, kw_only=True, slots=True)
class TarEntry:
    """One member.

    Attributes:
        name: as it stands in the archive.
        kind: None for a hard link.
        mode: permission bits with setuid, setgid and sticky.
        target: of a symbolic or a hard link.
        device: major and minor number.
        content: of a file.
        has_lists: it has access control lists in a form that is not read.
    """

    name: str
    kind: Kind | None
    mode: int
    uid: int
    gid: int
    target: str
    device: tuple[int, int]
    xattrs: dict[str, bytes] = field(default_factory=dict)
    content: StoredContent | None = None
    has_lists: bool = False


class _DamagedError(Exception):
    """Why the archive cannot be read on."""


def is_tar(head: bytes) -> bool:
    """Return whether an archive with a member begins with these bytes (at least one block)."""
    return len(head) >= BLOCK and _has_checksum(head[:BLOCK])


def read_tar(archive: StoredContent, *, name: str, needs_end: bool = True) -> Iterator[TarEntry]:
    """Yield the members of an archive, in its order.

    Args:
        archive: one run of bytes; the contents of files are parts of it.
        name: of the archive, for messages.
        needs_end: it has to end as the format says.

    Raises:
        ImageSourceError: it is damaged, cut or cannot be read.
    """
    try:
        with archive.open() as stream:
            yield from _Reader(stream, archive).entries(needs_end=needs_end)
    except _DamagedError as error:
        raise ImageSourceError(f"{name} is damaged: {error}") from error
    except OSError as error:
        raise ImageSourceError(f"cannot read {name}: {error.strerror or error}") from error


class _Reader:
    def __init__(self, stream: BinaryIO, archive: StoredContent) -> None:
        self._stream = stream
        self._archive = archive
        self._position = 0
        self._member = 0  # where the headers of the current member begin
        self._global: dict[bytes, bytes] = {}

    def entries(self, *, needs_end: bool) -> Iterator[TarEntry]:
        while True:
            self._member = self._position
            headers = _Headers(pax=dict(self._global))
            while True:
                block = self._stream.read(BLOCK)
                if not block and not needs_end and self._position == self._member:
                    return
                if len(block) < BLOCK:
                    raise _DamagedError(f"it is cut after {self._position + len(block)} bytes")
                self._position += BLOCK
                if not block.strip(b"\0"):
                    if self._position - BLOCK != self._member:
                        raise _DamagedError(f"the header at byte {self._member} belongs to no member")
                    return
                if not _has_checksum(block):
                    raise _DamagedError(f"there is no header at byte {self._position - BLOCK}")
                if not self._took(block, headers):
                    break
            if (entry := self._entry(block, headers)) is not None:
                yield entry

    def _took(self, block: bytes, headers: _Headers) -> bool:
        """Read a header that says something about the next one; return False if it is a member's own."""
        _, _, _, _, size_field, _, _, kind, *_ = _HEADER.unpack(block)
        if kind in {_LONG_NAME, _LONG_TARGET}:
            text = self._data(_number(size_field)).split(b"\0")[0]
            if kind == _LONG_NAME:
                headers.name = text
            else:
                headers.target = text
        elif kind in {_PAX, _PAX_SOLARIS}:
            headers.records = _records(self._data(_number(size_field)))
            headers.pax |= headers.records
        elif kind == _PAX_GLOBAL:
            records = _records(self._data(_number(size_field)))
            if wrong := records.keys() & _OF_ONE_MEMBER:
                raise _DamagedError(f"a header for all members says {foreign(min(wrong))}")
            self._global |= {key: records[key] for key in _OF_MEMBERS & records.keys()}
            headers.pax = self._global | headers.pax
        else:
            return False
        return True

    def _data(self, size: int) -> bytes:
        """Return what follows a header, which is part of the headers."""
        padded = _padded(size)
        if self._position + padded - self._member > MOST_HEADER:
            raise _DamagedError(f"the headers at byte {self._member} have more than {MOST_HEADER} bytes")
        data = self._stream.read(padded)
        if len(data) < padded:
            raise _DamagedError(f"it is cut after {self._position + len(data)} bytes")
        self._position += padded
        return data[:size]

    def _entry(self, block: bytes, headers: _Headers) -> TarEntry | None:
        (name, mode, uid, gid, size_field, _, _, code, target, magic, _, _, major, minor, prefix) = (
            _HEADER.unpack(block)
        )
        pax = headers.pax
        name = _text(name)
        if magic[: len(_POSIX)] == _POSIX and _text(prefix):
            name = _text(prefix) + b"/" + name
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or headers.name or name
        target = pax.get(b"linkpath") or headers.target or _text(target)
        size = _decimal(pax[b"size"]) if pax.get(b"size") else _number(size_field)
        if code == b"\0" and name.endswith(b"/"):
            code = b"5"  # as the seventh edition wrote a folder
        if code == _VOLUME:
            return None
        if code not in _KINDS and code != _HARD_LINK:
            raise _DamagedError(f"{foreign(name)} is of type {foreign(code)}, which is not read")
        entry = TarEntry(
            name=name.decode("utf-8", "surrogateescape"),
            kind=_KINDS.get(code),
            mode=_number(mode) & 0o7777,
            uid=_decimal(pax[b"uid"]) if pax.get(b"uid") else _number(uid),
            gid=_decimal(pax[b"gid"]) if pax.get(b"gid") else _number(gid),
            target=target.decode("utf-8", "surrogateescape"),
            device=(_number(major), _number(minor)) if code in b"34" else (0, 0),
            xattrs=_xattrs(pax),
            has_lists=any(key.startswith(b"SCHILY.acl.") and value for key, value in pax.items()),
        )
        if code == _DUMPED_FOLDER:
            self._skip(size)
        if entry.kind is not Kind.FILE:
            return entry
        return replace(entry, content=self._content(block, code, size, headers))

    def _content(self, block: bytes, code: bytes, size: int, headers: _Headers) -> StoredContent:
        """Return the content of a file, and go behind it. A sparse file has its map in one of four places."""
        pax = headers.pax
        if code == _SPARSE:
            runs, real = self._gnu_map(block), _number(block[_REAL_SIZE])
        elif pax.get(b"GNU.sparse.major") == b"1":
            before = self._position
            runs, real = self._map_in_data(size), _decimal(pax.get(b"GNU.sparse.realsize", b""))
            size -= self._position - before
        elif b"GNU.sparse.map" in pax:
            runs, real = (
                _pairs(pax[b"GNU.sparse.map"].split(b",")),
                _decimal(pax.get(b"GNU.sparse.size", b"")),
            )
        elif b"GNU.sparse.size" in pax:
            runs, real = _pairs(headers.records.sparse), _decimal(pax[b"GNU.sparse.size"])
        else:
            runs, real = [(0, size)], size
        start = self._position
        self._skip(size)
        pieces = []
        at = done = 0
        for offset, length in runs:
            if offset < at or offset + length > real or done + length > size:
                raise _DamagedError(f"the map of the sparse file at byte {self._member} is not possible")
            if length:
                (piece,) = self._archive.part(start + done, length)
                pieces.append(Piece(offset, piece.start, length))
            at, done = offset + length, done + length
        return StoredContent(self._archive.path, real, tuple(pieces))

    def _skip(self, size: int) -> None:
        if self._position + size > self._archive.size:
            raise _DamagedError(f"it is cut after {self._archive.size} bytes")
        # The last member's padding may be missing: then what follows, the end, is missing too.
        self._position = min(self._position + _padded(size), self._archive.size)
        self._stream.seek(self._position)

    def _gnu_map(self, block: bytes) -> list[tuple[int, int]]:
        runs = _gnu_runs(block, _SPARSE_FIRST, _IN_FIRST)
        more = block[_MORE_AFTER_FIRST]
        while more:
            block = self._data(BLOCK)
            runs += _gnu_runs(block, _SPARSE_MORE, _IN_MORE)
            more = block[_MORE_AFTER_MORE]
        return runs

    def _map_in_data(self, size: int) -> list[tuple[int, int]]:
        """Read the map of version 1.0: lines of decimal numbers before the content, the first counts them."""
        begin = self._position
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._position + BLOCK - begin > size:
                raise _DamagedError(f"the map of the sparse file at byte {self._member} is cut")
            *whole, rest = (rest + self._data(BLOCK)).split(b"\n")
            lines += whole
            if lines:
                wanted = 1 + 2 * _decimal(lines[0])
            if len(rest) > BLOCK:
                raise _DamagedError(f"the map of the sparse file at byte {self._member} is not possible")
        return _pairs(lines[1:wanted])


class _Records(dict[bytes, bytes]):
    """Records of a pax header; those of a sparse map may come many times."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse: list[bytes] = []


@dataclass(slots=True)
class _Headers:
    """What the headers before a member's own say."""

    pax: dict[bytes, bytes]
    records: _Records = field(default_factory=_Records)
    name: bytes = b""
    target: bytes = b""


def _records(data: bytes) -> _Records:
    r"""Return the records of a pax header: ``LENGTH KEY=VALUE\n``, where the length is that of the record."""
    found = _Records()
    position = 0
    while position < len(data):
        match = _RECORD.match(data, position, position + 1024)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            if not data[position:].strip(b"\0"):
                break
            raise _DamagedError(f"a record of a pax header is malformed: {foreign(data[position:][:40])}")
        key, value = match[2], data[match.end() : end - 1]
        found[key] = value
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            found.sparse.append(value)
        position = end
    return found


def _xattrs(pax: dict[bytes, bytes]) -> dict[str, bytes]:
    """Return the attributes, as star and GNU tar write them, or else as libarchive does."""
    found = {}
    for key, value in sorted(pax.items()):  # LIBARCHIVE, RHT, SCHILY: the last one is the exact one
        prefix, _, name = key.partition(b".xattr.")
        if prefix == b"SCHILY" and name:
            found[_ESCAPED.sub(lambda match: urllib.parse.unquote_to_bytes(match[0]), name)] = value
        elif prefix == b"LIBARCHIVE" and name:
            try:
                found[urllib.parse.unquote_to_bytes(name)] = base64.b64decode(
                    value + b"=" * (-len(value) % 4)
                )
            except binascii.Error as error:
                raise _DamagedError(f"the attribute {foreign(name)} is malformed") from error
        elif key == b"RHT.security.selinux" and value:
            found[b"security.selinux"] = value.rstrip(b"\0") + b"\0"
    return {name.decode("utf-8", "surrogateescape"): value for name, value in found.items()}


def _gnu_runs(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    runs = []
    for position in range(start, start + count * _SPARSE_ENTRY.size, _SPARSE_ENTRY.size):
        offset, length = _SPARSE_ENTRY.unpack_from(block, position)
        if not offset[0]:
            break
        runs.append((_number(offset), _number(length)))
    return runs


def _pairs(numbers: list[bytes]) -> list[tuple[int, int]]:
    values = [_decimal(number) for number in numbers if number]
    if len(values) % 2:
        raise _DamagedError("the map of a sparse file has an odd number of values")
    return list(zip(values[::2], values[1::2], strict=True))


def _has_checksum(block: bytes) -> bool:
    """Return whether a block has the sum of its bytes: unsigned, or signed as old systems reckoned."""
    try:
        stated = _number(block[_CHECKSUM])
    except _DamagedError:
        return False
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    return stated in {sum(rest), sum(struct.unpack(f"{BLOCK}b", rest))}


def _number(data: bytes) -> int:
    """Return the value of a field: octal digits, or base 256 if its first bit is set."""
    if data[0] & 0x80:
        value = int.from_bytes(bytes([data[0] & 0x7F]) + data[1:], "big")
        if data[0] & 0x40 or value >= 1 << 62:
            raise _DamagedError("a number in a header is negative, or too large")
        return value
    digits = data.split(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise _DamagedError(f"a number in a header is malformed: {foreign(digits)}")
    return int(digits or b"0", 8)


def _decimal(data: bytes) -> int:
    number = data.split(b".")[0]
    if not re.fullmatch(rb"\d{1,18}", number):
        raise _DamagedError(f"a number in a header is malformed: {foreign(data)}")
    return int(number)


def _text(data: bytes) -> bytes:
    return data.split(b"\0")[0]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
