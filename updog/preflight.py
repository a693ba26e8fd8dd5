"""Everything that can be found out before the first destructive write, is.

Each check is a function that raises a :class:`~updog.errors.PreflightError` with the cause and the next
step, or returns. The peers' users met all of these after their old slot was gone: full disk, wrong disk,
busy device, image larger than its partition.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from updog.errors import PreflightError, UnconfirmedSlotError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signpost.app import PartitionView, View
    from updog.state import NodeState
    from updog.trust import Target
    from updog.update_metadata.content import Content

SPOOL_MARGIN_BYTES = 64 << 20  # left free beside the spool, for the state itself and for logs


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One image and its place: the signed target, the signed raw content if known, and the partition."""

    role: str
    target: Target
    content: Content | None
    partition: PartitionView


def check_slots(view: View) -> None:
    """Two slots, of which the running one is confirmed, since it is about to be the only way back."""
    if view.single:
        raise PreflightError(
            f"{view.disk} has one slot only, so there is none to update",
            next_step="Make the disk anew with two slots (`repo-tools disk create`).",
        )
    if not view.slots[view.active].flags.successful:
        raise UnconfirmedSlotError(f"slot {view.active.value} runs, but is not confirmed yet")


def check_disk(view: View, state: NodeState) -> None:
    """The disk this node has always used (its GUID is remembered), not one with the same layout (D29)."""
    if state.disk_guid is not None and state.disk_guid != view.disk_guid:
        raise PreflightError(
            f"{view.disk} is another disk ({view.disk_guid}) than the one this node runs from "
            f"({state.disk_guid})",
            next_step="Check --disk and `disk`; if it was replaced on purpose: `updog accept-disk`.",
        )


def check_sizes(placements: tuple[Placement, ...]) -> None:
    """Every image fits its partition, as far as its raw size is signed."""
    for placement in placements:
        if placement.content and placement.content.size > placement.partition.size:
            raise PreflightError(
                f"the {placement.role} image unpacks to {placement.content.size} bytes, its partition "
                f"{placement.partition.label!r} has {placement.partition.size}",
                next_step="The disk needs larger slots, or the release a smaller image.",
            )


def check_not_in_use(view: View, *, sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
    """No partition of the inactive slot is mounted, used as swap or held by another driver (D72)."""
    slot = view.slots[view.active.other]
    used = _used_devices(proc)
    for partition in (slot.boot, slot.root, slot.hash):
        for device in _devices_of(view.disk, partition, sysfs):
            holders = [holder.name for holder in (device / "holders").glob("*")]
            number = (device / "dev").read_text(encoding="ascii").strip()
            if number in used or holders:
                how = f"held by {', '.join(holders)}" if holders else f"in use ({used[number]})"
                raise PreflightError(
                    f"partition {partition.number} ({partition.label}) of the inactive slot is {how}",
                    next_step="Unmount or release it, then try again.",
                )


def _devices_of(disk: str, partition: PartitionView, sysfs: Path) -> Iterator[Path]:
    """Yield the sysfs folders of block devices that show this partition's bytes."""
    name = Path(disk).resolve().name
    for folder in (sysfs / "block" / name).glob(f"{name}*"):
        number = folder / "partition"
        if number.exists() and int(number.read_text(encoding="ascii")) == partition.number:
            yield folder
    for loop in (sysfs / "block").glob("loop*/loop"):
        if _shows(loop, disk, partition):
            yield loop.parent


def _shows(loop: Path, disk: str, partition: PartitionView) -> bool:
    """Tell whether a loop device shows any byte of a partition of a disk image."""
    backing = (loop / "backing_file").read_text(encoding="utf-8").strip()
    if not Path(disk).exists() or not Path(backing).exists() or not os.path.samefile(backing, disk):  # noqa: PTH121
        return False
    start, limit = (int((loop / name).read_text(encoding="ascii")) for name in ("offset", "sizelimit"))
    whole = start == 0 and limit == 0  # the disk itself, mapped to write on it
    return (
        not whole
        and start < partition.offset + partition.size
        and (limit == 0 or start + limit > partition.offset)
    )


def _used_devices(proc: Path) -> dict[str, str]:
    """Return ``major:minor`` of everything mounted or used as swap, and where."""
    used: dict[str, str] = {}
    for line in (proc / "self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        used[fields[2]] = f"mounted on {fields[4]}"
    for line in (proc / "swaps").read_text(encoding="utf-8").splitlines()[1:]:
        device = line.split()[0]
        if Path(device).is_block_device():
            number = Path(device).stat().st_rdev
            used[f"{os.major(number)}:{os.minor(number)}"] = "swap"
    return used


def room_for_spool(folder: Path, missing: int) -> bool:
    """Tell whether ``missing`` bytes and a margin fit on the file system of ``folder``, if it is there."""
    return folder.is_dir() and shutil.disk_usage(folder).free >= missing + SPOOL_MARGIN_BYTES
