"""Checks before the first destructive write: whatever can be found out before it, is.

Each check is a function that raises a :class:`~updog.errors.PreflightError` with the cause and the next
step, or returns. Users of other updaters met all of these after their old slot was gone: full disk, wrong
disk, busy device, image larger than its partition.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from signpost.mountinfo import mounts
from signpost.sets import ImageKind
from updog.errors import PreflightError, UnconfirmedSlotError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from signpost.app import PartitionView, RunningDiskView
    from updog.state import NodeState
    from updog.trust import Target
    from updog.update_metadata.content import Content

SPOOL_MARGIN_BYTES = 64 << 20  # left free beside the spool, for the state and for logs


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One image and its place: the signed target, the signed raw content if known, and the partition."""

    kind: ImageKind
    target: Target
    content: Content | None
    partition: PartitionView


def check_slots(view: RunningDiskView) -> None:
    """Two slots, and the running one is confirmed: it is about to be the only way back."""
    if view.single:
        raise PreflightError(
            f"{view.disk} has one slot only, so there is none to update",
            next_step="Create the disk again with two slots (`repo-tools disk create`).",
        )
    if not view.slots[view.active].flags.successful:
        raise UnconfirmedSlotError(f"slot {view.active.value} is running, but is not confirmed yet")


def check_disk(view: RunningDiskView, state: NodeState) -> None:
    """The disk that this node has always used, by its recorded GUID, not one with the same layout (D29)."""
    if state.disk_guid is not None and state.disk_guid != view.disk_guid:
        raise PreflightError(
            f"{view.disk} is another disk ({view.disk_guid}) than the one this node runs from "
            f"({state.disk_guid})",
            next_step="Check --disk and `disk`. If it was replaced on purpose, run `updog accept-disk`.",
        )


def check_sizes(placements: tuple[Placement, ...]) -> None:
    """Every image fits its partition, as far as its raw size is signed."""
    for placement in placements:
        if placement.content and placement.content.size > placement.partition.size:
            raise PreflightError(
                f"the {placement.kind} image unpacks to {placement.content.size} bytes, its partition "
                f"{placement.partition.label!r} has {placement.partition.size}",
                next_step="Use a disk with larger slots, or a release with a smaller image.",
            )


def check_not_in_use(
    view: RunningDiskView, *, sysfs: Path = Path("/sys"), proc: Path = Path("/proc")
) -> None:
    """No partition of the inactive slot is mounted, used as swap or held by another driver (D72).

    Names of mount points and files are bytes, and what the kernel does not report is not in use: the last
    word has :func:`inactive_slot_held`.
    """
    used = _used_devices(proc)
    for partition, device in _inactive_devices(view, sysfs):
        holders = sorted(_shown(os.fsencode(holder.name)) for holder in (device / "holders").glob("*"))
        number = _attribute(device / "dev").decode("ascii", "replace")
        if number in used or holders:
            how = f"held by {', '.join(holders)}" if holders else f"in use ({used[number]})"
            raise PreflightError(
                f"partition {partition.number} ({partition.label}) of the inactive slot is {how}",
                next_step="Unmount it or detach its holder, then try again.",
            )


@contextmanager
def inactive_slot_held(
    view: RunningDiskView, *, sysfs: Path = Path("/sys"), dev: Path = Path("/dev")
) -> Iterator[None]:
    """Hold the inactive slot's partitions exclusively during a ``with`` block.

    The kernel knows who uses a device in every mount namespace, unlike our mount table: opening it with
    O_EXCL fails while it is mounted, used as swap or held by a driver (open(2)), and nobody can mount it
    as long as it is held. A second updog, also one with another state folder, meets locks on the slot's
    bytes (fcntl(2), F_OFD_SETLK).

    Raises:
        PreflightError: somebody uses it.
    """
    check_not_in_use(view, sysfs=sysfs)  # the mount table can say where; the kernel only that
    with ExitStack() as stack:
        for partition, device in _inactive_devices(view, sysfs):
            node = dev / device.name.replace("!", "/")
            try:
                descriptor = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise PreflightError(
                        f"partition {partition.number} ({partition.label}) of the inactive slot is in use: "
                        f"the kernel does not give {node} exclusively",
                        next_step="It may be mounted in a container or by a service: unmount it there.",
                    ) from error
                continue  # no node, or none that may be opened: there is nothing to ask
            stack.callback(os.close, descriptor)
        _lock_bytes(view, stack)
        yield


def _lock_bytes(view: RunningDiskView, stack: ExitStack) -> None:
    """Lock the inactive slot's bytes on the disk against other updogs. Raises PreflightError."""
    try:
        descriptor = os.open(view.disk, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # the next write reports why it cannot be opened
    stack.callback(os.close, descriptor)
    for partition in _inactive_partitions(view):
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, partition.offset, partition.size, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                return  # a file system without such locks
            raise PreflightError(
                f"another updog is writing to slot {view.active.other.value} of {view.disk}",
                next_step="Wait until it has finished. Two configurations must not share one disk.",
            ) from error


def _inactive_devices(view: RunningDiskView, sysfs: Path) -> Iterator[tuple[PartitionView, Path]]:
    """Yield the inactive slot's partitions, each with the sysfs folders of the devices that map its bytes."""
    for partition in _inactive_partitions(view):
        for device in _devices_of(view.disk, partition, sysfs):
            yield partition, device


def _inactive_partitions(view: RunningDiskView) -> tuple[PartitionView, ...]:
    """Return the partitions of the inactive slot; none on a disk with one slot."""
    slot = view.slots.get(view.active.other)
    return tuple(slot.partition(kind) for kind in ImageKind) if slot else ()


def _devices_of(disk: str, partition: PartitionView, sysfs: Path) -> Iterator[Path]:
    """Yield the sysfs folders of block devices that map this partition's bytes."""
    name = Path(disk).resolve().name
    own = sysfs / "block" / name
    for folder in own.glob(f"{name}*"):
        if _attribute(folder / "partition") == str(partition.number).encode():
            yield folder
    backing = _attribute(own / "loop/backing_file")  # of a disk that is a loop device itself
    for loop in (sysfs / "block").glob("loop*/loop"):
        if loop.parent != own and _maps(loop, {os.fsencode(disk), backing} - {b""}, partition):
            yield loop.parent


def _maps(loop: Path, disks: Collection[bytes], partition: PartitionView) -> bool:
    """Return whether a loop device maps a part of a disk with any byte of a partition."""
    backing = _attribute(loop / "backing_file")
    if not any(_is_same_file(backing, disk) for disk in disks):
        return False
    numbers = _attribute(loop / "offset"), _attribute(loop / "sizelimit")
    if not all(number.isdigit() for number in numbers):
        return False  # it was detached meanwhile
    start, limit = map(int, numbers)
    whole = start == 0 and limit == 0  # the disk itself, mapped to write on it
    return (
        not whole
        and start < partition.offset + partition.size
        and (limit == 0 or start + limit > partition.offset)
    )


def _is_same_file(one: bytes, other: bytes) -> bool:
    """Return whether two paths lead to one file; False if either does not lead anywhere."""
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - pathlib has no bytes
    except (OSError, ValueError):
        return False


def _used_devices(proc: Path) -> dict[str, str]:
    """Return ``major:minor`` of everything mounted or used as swap, and where."""
    used: dict[str, str] = {}
    for device, point in mounts(_attribute(proc / "self/mountinfo")):
        used[device.decode("ascii", "replace")] = f"mounted on {_shown(point)}"
    for line in _attribute(proc / "swaps").splitlines()[1:]:  # a kernel without swap has no such file
        with suppress(OSError, ValueError, IndexError):
            found = os.stat(line.split()[0])  # noqa: PTH116 - pathlib has no bytes
            if stat.S_ISBLK(found.st_mode):
                used[f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"] = "swap"
    return used


def _attribute(path: Path) -> bytes:
    """Return the content of a file of the kernel without its last line break; nothing if it has none."""
    try:
        return path.read_bytes().removesuffix(b"\n")
    except OSError:
        return b""


def _shown(name: bytes) -> str:
    """Return a name as printable text."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def room_for_spool(folder: Path, missing: int) -> bool:
    """Tell whether ``missing`` bytes and a margin fit on the file system of ``folder``, if that exists."""
    return folder.is_dir() and shutil.disk_usage(folder).free >= missing + SPOOL_MARGIN_BYTES
