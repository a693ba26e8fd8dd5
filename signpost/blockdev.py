"""From a mounted file system to the partition and the disk below it, by sysfs.

Rules it enforces:

* only sysfs is read: root file system, dm-verity device, its ``slaves/``, their disk; and, for a root that is
  not on a partition, the kernel command line and udev's links;
* one call changes something, in the kernel's memory and not on the disk: :func:`resize_partition`;
* device numbers are kept complete (minors above 255 are in use; upstream's arithmetic loses them);
* the path of sysfs and the device numbers are arguments: only the caller knows the real ones.

Partitions that are themselves device-mapper mappings (kpartx, multipath) are not followed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from array import array
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import LayoutError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYSFS_SECTOR = 512  # bytes: what `size` counts in sysfs, whatever the device's own sectors are

# linux/blkpg.h: struct blkpg_ioctl_arg (op, flags, datalen, data) and struct blkpg_partition (start and
# length in bytes, number, two names that are not used).
_BLKPG, _BLKPG_RESIZE_PARTITION = 0x1269, 3
_BLKPG_ARGUMENT, _BLKPG_PARTITION = Struct("@iiiP"), Struct("@qqi64s64s0q")

_MAX_DEPTH = 8  # device-mapper mappings on top of one another; more is a loop in a damaged tree
_BY_HAND = "State the disk with --disk and the running slot with --active."


class Device(NamedTuple):
    """The major and minor number of a block device."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


class RunningRoot(NamedTuple):
    """The disk of the running root file system, and the numbers of the partitions that it uses."""

    disk: Device
    partitions: tuple[int, ...]


def device_below(path: str) -> Device:
    """Return the device of the file system that contains ``path``. Raises MediumError."""
    number = _stat(path).st_dev
    return Device(os.major(number), os.minor(number))


def device_of_node(path: str) -> Device | None:
    """Return the numbers of a block device node, None for any other file. Raises MediumError."""
    found = _stat(path)
    if not stat.S_ISBLK(found.st_mode):
        return None
    return Device(os.major(found.st_rdev), os.minor(found.st_rdev))


def running_root(sysfs: str, device: Device) -> RunningRoot:
    """Find the disk and the partitions below a file system's device. Raises LayoutError.

    Args:
        sysfs: where sysfs is mounted.
        device: the file system's device, from :func:`device_below`.
    """
    partitions = list(_partitions_below(_folder(sysfs, device), _MAX_DEPTH))
    disks = {os.path.dirname(folder) for folder in partitions}
    if len(disks) != 1:
        where = ", ".join(sorted(map(os.path.basename, disks))) or "no partition"
        raise LayoutError(f"the root file system ({device}) is on {where}", next_step=_BY_HAND)
    numbers = sorted(int(_attribute(folder, "partition")) for folder in partitions)
    major, minor = _attribute(disks.pop(), "dev").split(":")
    return RunningRoot(Device(int(major), int(minor)), tuple(numbers))


def command_line(proc: str) -> tuple[str, ...]:
    """Return the words of the kernel command line; none if it cannot be read."""
    try:
        with open(os.path.join(proc, "cmdline"), encoding="utf-8", errors="replace") as file:
            return tuple(file.read().split())
    except OSError:
        return ()


def device_of_guid(dev: str, guid: str) -> Device | None:
    """Return the partition with this GUID by udev's link to it, None if there is none."""
    try:
        return device_of_node(os.path.join(dev, "disk/by-partuuid", guid))
    except MediumError:
        return None


def node_of_device(sysfs: str, device: Device) -> str:
    """Return the path of a device's node. Raises LayoutError."""
    return _node(_folder(sysfs, device))


def partition_nodes(sysfs: str, disk: Device) -> dict[int, str]:
    """Return the device node of each partition of a disk that the kernel knows, by number."""
    folder = _folder(sysfs, disk)
    partitions = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    return {
        int(_attribute(path, "partition")): _node(path)
        for path in partitions
        if os.path.exists(os.path.join(path, "partition"))
    }


def partition_sizes(sysfs: str, disk: Device) -> dict[int, int]:
    """Return the size in bytes of each partition of a disk as the kernel knows it, by number."""
    folder = _folder(sysfs, disk)
    partitions = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    return {
        int(_attribute(path, "partition")): int(_attribute(path, "size")) * _SYSFS_SECTOR
        for path in partitions
        if os.path.exists(os.path.join(path, "partition"))
    }


def resize_partition(disk: str, number: int, *, offset: int, size: int) -> None:
    """Tell the kernel how large a partition is now, also while it or another one is mounted.

    Needs CAP_SYS_ADMIN. The kernel refuses another offset than it knows, and a partition over another one.

    Args:
        disk: the node of the whole disk.
        number: of the partition.
        offset: where it begins, in bytes.
        size: bytes.

    Raises:
        MediumError: the kernel refuses.
    """
    partition = array("B", _BLKPG_PARTITION.pack(offset, size, number, b"", b""))
    address, length = partition.buffer_info()
    argument = _BLKPG_ARGUMENT.pack(_BLKPG_RESIZE_PARTITION, 0, length, address)
    try:
        descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _BLKPG, argument)
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"{disk}: the kernel does not take the new size of partition {number}: {error.strerror}"
        raise MediumError.of(message, error) from error


def _partitions_below(folder: str, depth: int) -> Iterator[str]:
    """Yield the sysfs folders of the partitions a device is on: itself, or those below it by ``slaves/``."""
    if os.path.exists(os.path.join(folder, "partition")):
        yield folder
        return
    slaves = os.path.join(folder, "slaves")
    for name in sorted(os.listdir(slaves)) if depth and os.path.isdir(slaves) else ():
        yield from _partitions_below(os.path.realpath(os.path.join(slaves, name)), depth - 1)


def _folder(sysfs: str, device: Device) -> str:
    """Return a device's folder in sysfs. Raises LayoutError."""
    folder = os.path.realpath(os.path.join(sysfs, "dev", "block", str(device)))
    if not os.path.isdir(folder):
        raise LayoutError(f"{device} is not a block device in {sysfs}", next_step=_BY_HAND)
    return folder


def _node(folder: str) -> str:
    """Return a device's node by the name that the kernel gives it in ``uevent``. Raises LayoutError."""
    for line in _attribute(folder, "uevent").splitlines():
        key, _, value = line.partition("=")
        if key == "DEVNAME":
            return os.path.join("/dev", value)
    raise LayoutError(f"{folder} has no device node")


def _attribute(folder: str, name: str) -> str:
    """Return the content of a file in sysfs. Raises LayoutError."""
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}", next_step=_BY_HAND) from error


def _stat(path: str) -> os.stat_result:
    """Return a file's status. Raises MediumError."""
    try:
        return os.stat(path)
    except OSError as error:
        raise MediumError.of(f"cannot examine {path}: {error.strerror}", error) from error
