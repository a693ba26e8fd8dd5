"""The dm-verity hash image of a root image: made by ``veritysetup``, and compared with a root image.

A hash image that is given must be the tree of the root image beside it, otherwise no node can mount the root.
One with a hash function other than SHA-256 and SHA-512 cannot be judged. One without a superblock is judged
by its size, and by the root hash in the kernel command line of the boot image if there is one.

Rules for what is made: no salt, and a UUID derived from the release's name, so the same root always gives
the same hash image and anyone can reproduce it; SHA-256 over 4096-byte blocks, hash type 1 of dm-verity.
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from repo_tools.errors import VerityError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

TOOL = "veritysetup"
PACKAGE = "cryptsetup-bin"
_NAMESPACE = uuid.UUID("6a5d2f0e-51c1-5a1b-9a3f-0f4f3c8c6b11")  # for release names; made once, at random
_BLOCK_BYTES = 4096  # of root and of the hash image
_DIGEST_BYTES = 32  # of SHA-256
_ROOT_HASH = re.compile(r"^Root hash:\s*([0-9a-f]{64})\s*$", re.MULTILINE)


def hash_image_size(root_size: int) -> int:
    """Return the size of the hash image of a root image, both in bytes.

    Raises:
        VerityError: root does not end with a whole block; the tool would leave its last bytes unprotected.
    """
    blocks, rest = divmod(root_size, _BLOCK_BYTES)
    if rest:
        raise VerityError(
            f"the root image has {root_size} bytes, which is not a multiple of {_BLOCK_BYTES}",
            next_step="Pad the root image with zeros to whole blocks; or pass --hash FILE.",
        )
    superblock = _BLOCK_BYTES
    return superblock + _tree_size(blocks, digest_size=_DIGEST_BYTES, block_size=_BLOCK_BYTES)


def _tree_size(data_blocks: int, *, digest_size: int, block_size: int) -> int:
    """Return the size of a tree over some blocks of data, without the superblock, in bytes."""
    total, size = 0, data_blocks * digest_size
    while size > digest_size:  # a level of the tree
        blocks = -(-size // block_size)
        total += blocks * block_size
        size = blocks * digest_size
    return total


def make_hash_image(root: Path, target: Path, *, name: str) -> str:
    """Write the hash image of ``root`` to ``target`` and return the root hash, in hexadecimal.

    Args:
        root: raw root image; its size is a multiple of 4096 bytes.
        target: is created.
        name: of the release; the superblock's UUID is derived from it.

    Raises:
        VerityError: the tool is missing, or failed.
    """
    identity = str(uuid.uuid5(_NAMESPACE, name))
    command = [TOOL, "format", "--salt=-", f"--uuid={identity}", str(root), str(target)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise VerityError(f"{TOOL} is not installed") from error
    found = _ROOT_HASH.search(run.stdout)
    if run.returncode or not found:
        raise VerityError(
            f"{TOOL} failed on {root}: {run.stderr.strip() or run.stdout.strip()}",
            next_step="The root image's size must be a multiple of 4096 bytes; or pass --hash FILE.",
        )
    return found[1]


class _Superblock(NamedTuple):
    """Head of a hash image (cryptsetup's wiki, DMVerity); sizes in bytes."""

    signature: bytes
    version: int
    hash_type: int
    uuid: bytes
    algorithm: bytes
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    salt_size: int
    salt: bytes

    @property
    def is_known(self) -> bool:
        """Whether the tree below it can be computed here."""
        return (
            (self.version, self.hash_type) == (1, 1)
            and self.algorithm.rstrip(b"\0") in _ALGORITHMS
            and self.data_block_size in _BLOCK_SIZES
            and self.hash_block_size in _BLOCK_SIZES
        )

    @property
    def tree_size(self) -> int:
        """The size of the tree, without the superblock, in bytes."""
        digest_size = len(self.digest(b""))
        return _tree_size(self.data_blocks, digest_size=digest_size, block_size=self.hash_block_size)

    def digest(self, block: bytes | memoryview) -> bytes:
        """Return the salted digest of a block."""
        digest = _ALGORITHMS[self.algorithm.rstrip(b"\0")](self.salt[: self.salt_size])
        digest.update(block)
        return digest.digest()


_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_SIGNATURE = b"verity\0\0"
_ALGORITHMS = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_BLOCK_SIZES = frozenset({512, 1024, 2048, 4096})
_SECTOR_BYTES = 512
_LARGEST_BLOCK_BYTES = 512 << 10  # that veritysetup takes
_SMALLEST_DIGEST_BYTES = 32  # that of SHA-1 is padded to it
MAX_HASH_IMAGE_BYTES = 1 << 28
"""Largest hash image that is compared: that of a root image of 32 GiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HashImage:
    """What a hash image is compared by.

    Attributes:
        size: in bytes. superblock: None if it has none, or it is one that is not known here.
        has_superblock: whether it has any. is_blank: whether it contains only zeros.
        top: its first 4096 bytes. tree_sha256: of the tree below a known superblock.
        root_hash: of that tree, in hexadecimal; "" if it is not known, or has no block of its own.
    """

    size: int
    superblock: _Superblock | None
    has_superblock: bool
    is_blank: bool
    top: bytes
    tree_sha256: bytes
    root_hash: str

    @classmethod
    def of(cls, data: bytes) -> HashImage:
        """Return what the content of a hash image is compared by."""
        has_superblock = len(data) >= _SUPERBLOCK.size and data.startswith(_SIGNATURE)
        head = _Superblock(*_SUPERBLOCK.unpack_from(data)) if has_superblock else None
        tree, root_hash = b"", ""
        if head and head.is_known:
            tree = data[head.hash_block_size : head.hash_block_size + head.tree_size]
            top = tree[: head.hash_block_size]
            root_hash = head.digest(top).hex() if len(top) == head.hash_block_size else ""
        return cls(
            size=len(data),
            superblock=head if head and head.is_known else None,
            has_superblock=has_superblock,
            is_blank=not data.strip(b"\0"),
            top=data[:_BLOCK_BYTES],
            tree_sha256=hashlib.sha256(tree).digest(),
            root_hash=root_hash,
        )

    def fault(self, root: WatchedRoot) -> str:
        """Return why this cannot be the hash image of the root image that was read, "" if it may be.

        A tree without a superblock is one of any salt and block size. So it is known only that it consists
        of sectors, that all blocks of the root image have a digest in it, and that not all of them are zero.
        """
        if head := self.superblock:
            covered = head.data_blocks * head.data_block_size
            if covered != root.size:
                return f"is a tree over {covered} bytes; the root image has {root.size}"
            is_same = root.tree_sha256() == self.tree_sha256
            return "" if is_same else "is the tree of another root image"
        if self.has_superblock or root.size % _SECTOR_BYTES:  # of such a root, dm-verity makes no tree at all
            return ""
        least = -(-root.size // _LARGEST_BLOCK_BYTES) * _SMALLEST_DIGEST_BYTES
        if self.size % _SECTOR_BYTES or self.size < least:
            return f"has no superblock, and its {self.size} bytes are not a tree of the root image"
        return "contains only zeros" if self.is_blank else ""

    def has_bare_tree_of(self, root_hashes: Collection[str], salts: Collection[str]) -> bool:
        """Return whether this can be a tree without a superblock that has one of these root hashes.

        Args:
            root_hashes: in hexadecimal.
            salts: that can have been used, in hexadecimal; no salt is always tried.
        """
        return any(
            algorithm(bytes.fromhex(salt) + self.top[:size]).hexdigest() in root_hashes
            for algorithm in _ALGORITHMS.values()
            for size in _BLOCK_SIZES
            for salt in {"", *salts}
        )


class WatchedRoot:
    """A root image that is hashed block by block as it is read, as the superblock of its hash image says.

    Attributes:
        size: how many bytes were read.
    """

    def __init__(self, superblock: _Superblock | None) -> None:
        self.size = 0
        self._head = superblock
        self._leaves = bytearray()
        self._held = b""

    def watched(self, root: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks of a root image, and hash them on the way."""
        for block in root:
            self.size += len(block)
            if self._head:
                self._add(self._head, block)
            yield block

    def tree_sha256(self) -> bytes:
        """Return the SHA-256 of the tree of what was read; without a superblock there is none."""
        levels = list(self._levels(self._head)) if self._head else []
        return hashlib.sha256(b"".join(reversed(levels))).digest()

    def _add(self, head: _Superblock, block: bytes) -> None:
        size, data = head.data_block_size, self._held + block
        whole = len(data) // size * size
        view = memoryview(data)
        for start in range(0, whole, size):
            self._leaves += head.digest(view[start : start + size])
        self._held = data[whole:]

    def _levels(self, head: _Superblock) -> Iterator[bytes]:
        """Yield the levels of the tree, from the lowest up to the one that is a single block."""
        size, digests = head.hash_block_size, bytes(self._leaves)
        while len(digests) > len(head.digest(b"")):
            level = digests + bytes(-len(digests) % size)
            yield level
            starts = range(0, len(level), size)
            digests = b"".join(head.digest(memoryview(level)[start : start + size]) for start in starts)


def read_hash_image(path: Path) -> HashImage | None:
    """Return a hash image, None if it is too large to compare. Raises VerityError."""
    try:
        if path.stat().st_size > MAX_HASH_IMAGE_BYTES:
            return None
        return HashImage.of(path.read_bytes())
    except OSError as error:
        raise VerityError(f"cannot read {path}: {error.strerror}") from error


def compare_with_root(
    root: Path, hash_image: Path, *, watched: Callable[[Iterator[bytes]], Iterator[bytes]] = iter
) -> tuple[HashImage | None, str]:
    """Return a hash image, and why it cannot be that of a root image; "" if it may be.

    Args:
        root: raw root image.
        hash_image: raw hash image.
        watched: passes the blocks of root on, and may look at them: root is read once.

    Returns:
        None and "" for a hash image that is too large to compare.

    Raises:
        VerityError: one of the two cannot be read.
    """
    image = read_hash_image(hash_image)
    if image is None:
        return None, ""
    read = WatchedRoot(image.superblock)
    try:
        with root.open("rb") as stream:
            for _ in read.watched(watched(iter(lambda: stream.read(1 << 20), b""))):
                pass
    except OSError as error:
        raise VerityError(f"cannot read {root}: {error.strerror}") from error
    return image, image.fault(read)


def require_tree_of(root: Path, hash_image: Path) -> HashImage | None:
    """Refuse a hash image that is not that of a root image; return it, None if it is too large to compare.

    Raises:
        VerityError: it has the tree of another root image or none, or one of the two cannot be read.
    """
    image, fault = compare_with_root(root, hash_image)
    if fault:
        raise VerityError(
            f"{hash_image} {fault}",
            next_step="Pass the hash image that was made from this root image; or --verity, to have it made.",
        )
    return image
