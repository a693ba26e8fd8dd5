"""BOOT: an ext4 with the kernel, the initrd and the boot entry that starts them.

Rules: every time, owner and mode is fixed, and the caller gives the UUID and the seed of folder hashes, so
the same files give the same bytes; there is no journal: BOOT is written once and then only
read, by boot loaders too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.bootstage.image import MOMENT
from repo_tools.image_build import tools
from signpost.bls import parse
from signpost.bootstage import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

KERNEL, INITRD = "vmlinuz", "initrd"
"""Names in BOOT."""

_FEATURES = "^has_journal,^resize_inode,^orphan_file"
_BLOCK_BYTES = 4096
_OVERHEAD_BYTES = 1 << 20  # superblock, descriptors, bitmaps, inodes, lost+found
_UNIT_BYTES = 1 << 20
_SPACE = "Free some disk space in the folder of --out."


def boot_entry(*, title: str, version: str, architecture: str, options: str, root_hash: str) -> str:
    """Return an entry of the Boot Loader Specification.

    Args:
        title: for display.
        version: of the release.
        architecture: as EFI names it; the boot stage passes an entry for another one over.
        options: the kernel's command line without the root hash.
        root_hash: in hexadecimal.

    Raises:
        BootEntryError: the boot stage could not read it.
    """
    text = (
        f"title {title}\nversion {version}\narchitecture {architecture}\nlinux /{KERNEL}\ninitrd /{INITRD}\n"
        f"options {options} roothash={root_hash}\n"
    )
    parse("entry", text.encode())
    return text


def entry_path(name: str) -> str:
    """Return where an entry goes in BOOT."""
    return f"{ENTRIES}/{name}.conf"


def boot_size(files: Mapping[str, bytes]) -> int:
    """Return the size of a BOOT that holds the files, in bytes, a multiple of 1 MiB."""
    blocks = sum(-(-len(data) // _BLOCK_BYTES) + 1 for data in files.values())
    least = blocks * _BLOCK_BYTES * 65 // 64 + _OVERHEAD_BYTES
    return -(-least // _UNIT_BYTES) * _UNIT_BYTES


def write_ext4(
    files: Mapping[str, bytes], image: Path, *, size: int, identity: UUID, seed: UUID, moment: int = MOMENT
) -> None:
    """Write an ext4 that holds the files by relative path.

    Args:
        files: path → content.
        image: is created, or replaced.
        size: in bytes.
        identity: UUID of the file system.
        seed: of the hashes in folders.
        moment: every time in it, in seconds since 1970.

    Raises:
        ImageBuildError: a tool is missing, or fails.
    """
    image.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=image.parent, prefix=".tmp-") as name:
        folder = Path(name) / "tree"
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        fixed_time = {"E2FSPROGS_FAKE_TIME": str(moment)}
        extended = f"hash_seed={seed},root_owner=0:0,lazy_itable_init=0"
        shape = ["-q", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK_BYTES), "-I", "256", "-m", "0"]
        fixed = ["-U", str(identity), "-E", extended, "-L", "BOOT"]
        command: list[str | Path] = ["mke2fs", *shape, *fixed, "-d", folder, image, f"{size // 1024}k"]
        tools.run(command, extra=fixed_time, next_step=_SPACE)
        script = Path(name) / "settle.debugfs"
        script.write_text(_settling(folder, moment), encoding="ascii")
        tools.run(["debugfs", "-w", "-f", script, image], extra=fixed_time)


def _settling(folder: Path, moment: int) -> str:
    """Return commands that fix owner, mode and times of every inode: mke2fs copies them from the folder."""
    lines = []
    for path in sorted(folder.rglob("*")):
        values = {"uid": "0", "gid": "0", "mode": "040755" if path.is_dir() else "0100644"}
        for clock in ("atime", "ctime", "mtime", "crtime"):
            values |= {clock: f"@{moment}", f"{clock}_extra": "0"}
        name = path.relative_to(folder)
        lines += [f"set_inode_field /{name} {field} {value}" for field, value in values.items()]
    return "".join(f"{line}\n" for line in lines)
