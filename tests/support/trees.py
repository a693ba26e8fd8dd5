"""The smallest system that is sound, and what it is made of, for tests of image building."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from repo_tools.image_build.tree import Inode, Tree, file, link

if TYPE_CHECKING:
    from collections.abc import Mapping


def elf(machine: int = 62) -> bytes:
    """Return the smallest ELF program: linked statically, for x86-64 or for the machine with this number."""
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    return identity + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 0, 0, 64, 56, 0, 0, 0, 0)


def module(*needed: str) -> bytes:
    """Return a kernel module that needs others, as far as builds read it."""
    return b"\0depends=" + ",".join(needed).encode() + b"\0"


KERNEL = "6.1.0-1-test"
ROOT_JSON = b'{"signed": {"_type": "root"}, "signatures": []}'
_UNITS = "usr/lib/systemd/system"
_WANTS = "etc/systemd/system/multi-user.target.wants"
_MODULES = f"usr/lib/modules/{KERNEL}"

SOUND: Mapping[str, Inode] = {
    "bin": link("usr/bin"),
    "boot/vmlinuz-6.1.0-1-test": file(b"the kernel"),
    "boot/initrd.img-6.1.0-1-test": file(b"the initrd of the distribution"),
    "etc/os-release": link("../usr/lib/os-release"),
    "etc/machine-id": file(b""),
    "etc/passwd": file(b"root:x:0:0::/root:/bin/sh\n"),
    "etc/updog.toml": file(
        b'metadata_base_url = "https://updates.test/metadata/"\n'
        b'targets_base_url = "https://updates.test/targets/"\nmachine_id = "/var/lib/updog/machine-id"\n'
    ),
    f"{_WANTS}/updog-boot-record.service": link(f"/{_UNITS}/updog-boot-record.service"),
    f"{_WANTS}/updog-confirm.service": link(f"/{_UNITS}/updog-confirm.service"),
    "etc/systemd/system/timers.target.wants/updog-check.timer": link(f"/{_UNITS}/updog-check.timer"),
    "usr/bin/busybox": file(elf(), mode=0o755),
    "usr/bin/updog": file(b"#!/usr/bin/python3\n", mode=0o755),
    "usr/lib/os-release": file(b'NAME="Test OS"\nVERSION_ID="1.2.3"\nVARIANT_ID=box\n'),
    "usr/lib/systemd/systemd": file(elf(), mode=0o755),
    "usr/lib/systemd/system.conf.d/updog-watchdog.conf": file(b"[Manager]\nRuntimeWatchdogSec=60s\n"),
    **{
        f"{_UNITS}/{name}": file(b"[Unit]\n")
        for name in ("updog-boot-record.service", "updog-confirm.service", "updog-check.timer")
    },
    f"{_MODULES}/kernel/drivers/md/dm-mod.ko": file(module()),
    f"{_MODULES}/kernel/drivers/md/dm-verity.ko": file(module("dm-mod")),
    f"{_MODULES}/kernel/fs/erofs/erofs.ko": file(module()),
    f"{_MODULES}/kernel/fs/overlayfs/overlay.ko": file(module()),
    f"{_MODULES}/kernel/drivers/watchdog/softdog.ko": file(module()),
    f"{_MODULES}/modules.builtin": file(b"kernel/fs/ext4/ext4.ko\n"),
    "usr/sbin/findfs": file(elf(), mode=0o755),
    "usr/sbin/mke2fs": file(elf(), mode=0o755),
    "usr/sbin/mkfs.ext4": link("mke2fs"),
    "usr/sbin/veritysetup": file(elf(), mode=0o755),
    "usr/share/updog/root.json": file(ROOT_JSON),
}
"""The smallest system in which nothing is wrong."""


def sound_tree(changes: Mapping[str, Inode | None] | None = None) -> Tree:
    """Return :data:`SOUND` with files put in, or removed where there is None."""
    tree = Tree()
    for path, inode in SOUND.items():
        tree.put(path, inode)
    for path, changed in (changes or {}).items():
        if changed is None:
            tree.remove(path)
        else:
            tree.put(path, changed)
    return tree
