"""What a raw image states about itself, and whether that fits the release that it is part of.

Rules:

* read from the image's bytes as they pass; no file system is parsed. What is compressed or encrypted inside
  an image is not seen, and what is not seen is not a fault;
* a format is known by its magic number. A hash image is not a file system, boot and root are not dm-verity
  trees, and boot is not a file system that is made for roots (erofs, squashfs);
* a file system that says how long it is is not longer than its image;
* a kernel command line in boot that names root hashes of dm-verity has to name that of the hash image; if
  that has no superblock, its first block has to have such a digest, salted as the command line says;
* an os-release of the release's variant (VARIANT_ID, VERSION_ID) in root has to be of its version.

So these cannot be known: two ext4 images that are exchanged, without a dm-verity tree; a root hash in a
compressed command line; the version in a compressed root.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from signpost.sets import ImageKind
from updog.os_release import parse_os_release
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.images.verity import HashImage

VERITY = "dm-verity hash image"
EXT4 = "ext4 file system"
EROFS = "erofs file system"
SQUASHFS = "squashfs file system"
FAT = "FAT file system"
_MAGIC = (
    (0, b"verity\0\0", VERITY),
    (0x438, b"\x53\xef", EXT4),
    (1024, b"\xe2\xe1\xf5\xe0", EROFS),
    (0, b"hsqs", SQUASHFS),
    (0, b"XFSB", "xfs file system"),
    (0x10040, b"_BHRfS_M", "btrfs file system"),
    (0x36, b"FAT12   ", FAT),
    (0x36, b"FAT16   ", FAT),
    (0x52, b"FAT32   ", FAT),
)
_OF_ROOTS = frozenset({EROFS, SQUASHFS})
HEAD_BYTES = 0x10048
"""Bytes of an image that tell its format."""

_EXT4_64_BIT = 0x80  # of s_feature_incompat
_LARGEST_EXT4_SHIFT = 6  # of the smallest block size, to the largest: 64 KiB
_LARGEST_EROFS_SHIFT = 16
_WINDOW = 4096  # bytes to either side of a match: an os-release file and a command line are shorter
_ROOT_HASHES = re.compile(
    rb"(?:roothash=|verity 1 [^\0\n]{1,300}? sha(?:256|512) )((?:[0-9a-f]{64}){1,2})(?![0-9a-f])"
)
_SALTS = re.compile(
    rb"(?:\bsalt=|verity 1 [^\0\n]{1,300}? sha(?:256|512) [0-9a-f]{64,128} )"
    rb"((?:[0-9a-f]{2}){1,256})(?![0-9a-f])"
)
_VERSION_ID = b"VERSION_ID="
_ASSIGNMENT = re.compile("[A-Z][A-Z0-9_]*=|#|$")


class ImageContents:
    """Watches the blocks of a raw image; then reports what was found.

    Attributes:
        root_hashes: of dm-verity, that command lines in it name, in hexadecimal. salts: likewise.
        versions: variant → what the os-release files of this variant say.
    """

    def __init__(self) -> None:
        self.root_hashes: set[str] = set()
        self.salts: set[str] = set()
        self.versions: dict[str, set[str]] = {}
        self._head = bytearray()
        self._tail = b""

    def watched(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks of an image, and search them on the way."""
        for block in raw:
            if len(self._head) < HEAD_BYTES:
                self._head += block[: HEAD_BYTES - len(self._head)]
            self._search(self._tail + block)
            yield block

    def _search(self, data: bytes) -> None:
        """Search a block and the end of what came before: a match at its end is found again in the next."""
        if b"roothash=" in data or b"verity 1 " in data:
            self.root_hashes.update(found[1].decode() for found in _ROOT_HASHES.finditer(data))
            self.salts.update(found[1].decode() for found in _SALTS.finditer(data))
        at = data.find(_VERSION_ID)
        while at >= 0:
            start = max(data.rfind(b"\0", max(0, at - _WINDOW), at) + 1, at - _WINDOW)
            end = data.find(b"\0", at, at + _WINDOW)
            self._os_release(data[start : end if end >= 0 else at + _WINDOW])
            at = data.find(_VERSION_ID, at + 1)
        self._tail = data[-2 * _WINDOW :]

    def _os_release(self, data: bytes) -> None:
        lines = data.decode(errors="replace").splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("VERSION_ID=")]
        if not starts:  # it ends another name
            return
        first = starts[0]
        before = list(takewhile(_ASSIGNMENT.match, reversed(lines[:first])))
        after = list(takewhile(_ASSIGNMENT.match, lines[first:]))
        try:
            fields = parse_os_release("\n".join([*before, *after]))
        except ValueError:  # an open quote
            return
        if fields.get("VARIANT_ID") and fields.get("VERSION_ID"):
            self.versions.setdefault(fields["VARIANT_ID"], set()).add(fields["VERSION_ID"])

    @property
    def format(self) -> str:
        """What kind of image it is, "" if that is not known."""
        found = next((name for at, magic, name in _MAGIC if self._head.startswith(magic, at)), "")
        return "" if found == EXT4 and not self._may_be_ext4 else found

    @property
    def _may_be_ext4(self) -> bool:
        """Whether its revision and block size are known ones: its magic number has two bytes only."""
        return self._number(0x44C, 4) <= 1 and self._number(0x418, 4) <= _LARGEST_EXT4_SHIFT

    @property
    def stated_size(self) -> int:
        """How many bytes the file system says that it has, 0 if it does not say, or the format is another."""
        if self.format == EXT4:
            high = self._number(0x550, 4) if self._number(0x460, 4) & _EXT4_64_BIT else 0
            return (high << 32 | self._number(0x404, 4)) << (10 + self._number(0x418, 4))
        if self.format == EROFS:
            return self._number(1024 + 36, 4) << min(self._number(1024 + 12, 1), _LARGEST_EROFS_SHIFT)
        return self._number(40, 8) if self.format == SQUASHFS else 0

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._head[at : at + size], "little")

    def truncated(self, size: int) -> str:
        """Return why an image of ``size`` bytes cannot hold its file system, "" if it can."""
        stated = self.stated_size
        return f"is cut: its {self.format} has {stated} bytes, the image {size}" if stated > size else ""

    def misplaced(self, kind: ImageKind) -> str:
        """Return why this is not an image of this kind, "" if it may be one."""
        is_tree = self.format == VERITY
        wrong = (
            bool(self.format) and not is_tree
            if kind is ImageKind.HASH
            else is_tree or (kind is ImageKind.BOOT and self.format in _OF_ROOTS)
        )
        return f"the {kind} image is an image of another kind: {self.format}" if wrong else ""

    def names_other_root(self, root_hash: str) -> str:
        """Return why a boot image starts another root than the one with this root hash, "" if it does not."""
        if not root_hash or not self.root_hashes or root_hash in self.root_hashes:
            return ""
        return f"its command line names root hash {self._named()}; that of the hash image is {root_hash}"

    def names_root_other_than(self, image: HashImage) -> str:
        """Return why a boot image starts another root than that of a hash image, "" if it does not."""
        if image.has_superblock:
            return self.names_other_root(image.root_hash)
        if not self.root_hashes or image.has_bare_tree_of(self.root_hashes, self.salts):
            return ""
        return (
            f"its command line names root hash {self._named()}; the hash image has no superblock, and its "
            "first block does not have that digest"
        )

    def _named(self) -> str:
        return ", ".join(f"{found[:16]}…" for found in sorted(self.root_hashes)[:4])

    def names_other_version(self, variant: str, version: Version) -> str:
        """Return why a root image is of another version, "" if it is not, or does not say."""
        found = self.versions.get(variant, set())
        if not found or any(_is(text, version) for text in found):
            return ""
        named = ", ".join(repr(text[:32]) for text in sorted(found)[:4])
        return f"its os-release of {variant} says VERSION_ID {named}, not {version}"


def _is(text: str, version: Version) -> bool:
    try:
        return Version.parse_friendly(text) == version
    except VersionError:
        return False
