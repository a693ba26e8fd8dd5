"""The command line of signpost. It prints; everything it says is decided in :mod:`signpost.app`.

Rules it enforces:

* the running slot is found below the running root; ``--disk`` and ``--active`` state it where there is none;
* ``status`` and ``next`` without ``--write`` never write;
* stdout carries the result, for people or with ``--json`` as one document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click

from signpost import app, console
from signpost.errors import LayoutError, UsageError
from signpost.gptprio import LIMIT
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Target = dict[str, str]  # the options that name a disk and a slot, as far as given


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Put an option of the target where every command finds it, wherever on the line it stood."""
    if value is not None:
        context.ensure_object(dict)[parameter.name] = value


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--disk`` and ``--active``; the command reads them from the context's object."""
    active = click.option(
        "--active",
        type=click.Choice([*Slot]),
        expose_value=False,
        callback=_remember,
        help="The slot that counts as running; needs --disk.  [default: the one below the running root]",
    )
    disk = click.option(
        "--disk",
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help="Block device or image file.  [default: the disk below the running root]",
    )
    return disk(active(command))


@click.group("signpost", cls=console.QuickGroup)
@_target_options
@click.option(
    "--sysfs",
    metavar="DIR",
    default="/sys",
    show_default=True,
    expose_value=False,
    callback=_remember,
    help="Where sysfs is mounted.",
)
@console.log_level_option
@console.example("signpost status", "signpost --disk disk.img --active A upgrade-to-inactive")
def program(log_level: str) -> None:
    """Say which of two slots boots, and change it.

    It reads and durably rewrites the priority, tries and successful flags of the two BOOT partitions. The
    flags are those of ChromeOS cgpt and GRUB gptprio.

    \b
    Exit status, of every command:
      0   done
      1   failed: the disk, its partitions or its partition table is not as it must be
      2   wrong usage
      4   refused: the flags do not allow it, or no slot can boot; nothing was written
      75  busy: another program is writing to the disk; nothing was written
    """  # noqa: D301 - click's mark of a paragraph that is not to be wrapped
    console.start_logging(log_level)


program.add_command(console.completion)


@program.command("status")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost status", "signpost status --disk disk.img --active A --json")
def status(target: Target, *, as_json: bool) -> None:
    """Show the slots, their flags, what runs and what boots next. Never writes.

    Where the running slot cannot be known, as on a disk that is not the running one, none is marked active.

    Exit status: 0, also when the table has faults that can be repaired; 1 when it has no valid copy.
    """
    view = _look(target)
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    console.emit(_document(view, devices), "\n".join(_status_lines(view, devices)), as_json=as_json)


@program.command("next")
@click.option("--write", is_flag=True, help="Take it: count the try, as the bootloader does.")
@_target_options
@console.json_option
@click.pass_obj
@console.example("slot=$(signpost --disk /dev/vda next --write)")
def next_(target: Target, *, write: bool, as_json: bool) -> None:
    """Print the slot that boots next; with --write, do the bootloader's step.

    Among the BOOT partitions with a priority above 0 and a try left or a successful boot it is the one with
    the highest priority, the first of equals. --write uses up one of its tries, if it has any.

    Exit status: 0; 4 when no slot can boot.
    """
    stage = _stage(target)
    slot = stage.take_next() if write else stage.predict()
    view = stage.look()
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    document = {"slot": slot, "taken": write, **_slot_document(view.slots[slot], devices)}
    console.emit(document, slot, as_json=as_json)


@program.command("mark-successful-boot")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost mark-successful-boot")
def mark_successful_boot(target: Target, *, as_json: bool) -> None:
    """Confirm the running slot: successful, and no tries left to count down.

    It also records that a boot has ever succeeded.

    Exit status: 0.
    """
    _apply(target, Command.MARK_SUCCESSFUL_BOOT, as_json=as_json)


@program.command("clear-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost clear-inactive")
def clear_inactive(target: Target, *, as_json: bool) -> None:
    """Take the inactive slot out of the boot order, before writing to it.

    Its priority, tries and success become 0.

    Exit status: 0; 4 when there is one slot only.
    """
    _apply(target, Command.CLEAR_INACTIVE, as_json=as_json)


@program.command("mark-inactive-valid")
@click.option(
    "--tries",
    type=click.IntRange(1, LIMIT),
    default=1,
    show_default=True,
    help="How many boots it gets to prove itself.",
)
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost mark-inactive-valid --tries 3")
def mark_inactive_valid(target: Target, tries: int, *, as_json: bool) -> None:
    """Say that the inactive slot holds a whole, verified image: it gets its tries.

    Exit status: 0; 4 when there is one slot only.
    """
    _apply(target, Command.MARK_INACTIVE_VALID, tries=tries, as_json=as_json)


@program.command("upgrade-to-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost upgrade-to-inactive")
def upgrade_to_inactive(target: Target, *, as_json: bool) -> None:
    """Boot the inactive slot next; if it fails, the running one is next again.

    The inactive slot must have been cleared, written and marked valid. Its priority becomes 2, the running
    slot's 1.

    Exit status: 0; 4 when the inactive slot is not marked valid, was not cleared, or is upgraded to already.
    """
    _apply(target, Command.UPGRADE_TO_INACTIVE, as_json=as_json)


@program.command("cancel-upgrade")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost cancel-upgrade")
def cancel_upgrade(target: Target, *, as_json: bool) -> None:
    """Stay with the running slot. The inactive one keeps its tries and can be upgraded to again.

    Exit status: 0; 4 when there is one slot only.
    """
    _apply(target, Command.CANCEL_UPGRADE, as_json=as_json)


@program.command("rollback-to-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost rollback-to-inactive")
def rollback_to_inactive(target: Target, *, as_json: bool) -> None:
    """Boot the inactive slot next, because the running one is no good.

    Exit status: 0; 4 when the inactive slot cannot boot.
    """
    _apply(target, Command.ROLLBACK_TO_INACTIVE, as_json=as_json)


@program.command("has-boot-ever-succeeded")
@_target_options
@console.json_option
@click.pass_obj
@console.example('test -n "$(signpost has-boot-ever-succeeded)" || first-boot-setup')
def has_boot_ever_succeeded(target: Target, *, as_json: bool) -> None:
    """Print "true" if a boot of this disk was ever marked successful, else nothing.

    Exit status: 0 either way.
    """
    ever = _stage(target).look().ever_booted
    console.emit({"ever_booted": ever}, "true" if ever else "", as_json=as_json)


@program.command("rewrite-table")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost rewrite-table")
def rewrite_table(target: Target, *, as_json: bool) -> None:
    """Write both copies of the partition table as they are, durably. A test of the disk.

    Exit status: 0.
    """
    stage = _stage(target)
    stage.rewrite()
    console.emit({"rewritten": stage.disk}, f"{stage.disk}: both copies written", as_json=as_json)


@program.command("repair")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost repair")
def repair(target: Target, *, as_json: bool) -> None:
    """Write both copies of the partition table from the one that is valid.

    On a disk that has grown, the backup moves to its end. A sound table is left alone. The flags do not
    change.

    Exit status: 0, also when there was nothing to repair; 1 when neither copy is valid: nothing is written.
    """
    stage = _stage(target)
    faults = stage.repair_disk()
    lines = [f"{stage.disk}: repaired:", *_listed(faults)] if faults else [f"{stage.disk}: nothing to repair"]
    console.emit({"disk": stage.disk, "repaired": faults}, "\n".join(lines), as_json=as_json)


def _apply(target: Target, command: Command, *, as_json: bool, tries: int = 1) -> None:
    """Carry out a command and print the flags as they are then."""
    view = _signpost(target).apply(command, tries=tries)
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    console.emit(_document(view, devices), "\n".join(_flag_lines(view)), as_json=as_json)


def _signpost(target: Target) -> app.Signpost:
    """Return the disk with its running slot, as given or as found below the running root."""
    disk, active = target.get("disk"), target.get("active")
    if disk is None:
        return _running(target)
    if active is None:
        return app.find_on(OsMedium(), disk, sysfs=target["sysfs"])
    return app.Signpost(OsMedium(), disk, Slot(active))


def _running(target: Target) -> app.Signpost:
    """Return what the running root stands on."""
    if "active" in target:
        raise UsageError("--active needs --disk", next_step="Name the disk, or leave --active out.")
    return app.find_running(OsMedium(), sysfs=target["sysfs"])


def _stage(target: Target) -> app.BootStage:
    """Return the disk for a command to which the running slot does not matter."""
    disk = target.get("disk")
    return _running(target) if disk is None else app.BootStage(OsMedium(), disk)


def _look(target: Target) -> app.DiskView:
    """Return the view of a disk, with the running slot if that is known."""
    if "disk" not in target or "active" in target:
        return _signpost(target).view()
    try:
        return _signpost(target).view()
    except (UsageError, LayoutError):
        return _stage(target).look()


def _document(view: app.DiskView, devices: Mapping[int, str]) -> dict[str, Any]:
    """Return a view as a JSON document."""
    return {
        "disk": view.disk,
        "disk_guid": view.disk_guid,
        "sector_size": view.sector_size,
        "single": view.single,
        "active": view.running,
        "next": view.next,
        "next_partition": view.next_partition,
        "ever_booted": view.ever_booted,
        "slots": {slot: _slot_document(seen, devices) for slot, seen in view.slots.items()},
        "faults": view.faults,
        "notes": view.notes,
    }


def _slot_document(seen: app.SlotView, devices: Mapping[int, str]) -> dict[str, Any]:
    """Return a slot as a JSON document."""
    parts = {"boot": seen.boot, "root": seen.root, "hash": seen.hash}
    partitions = {
        name: {**part._asdict(), "device": devices.get(part.number)} for name, part in parts.items()
    }
    flags = seen.flags
    return partitions | {"priority": flags.priority, "tries": flags.tries, "successful": flags.successful}


def _status_lines(view: app.DiskView, devices: Mapping[int, str]) -> list[str]:
    """Return the status for people."""
    return [
        f"disk    {view.disk} ({view.sector_size}-byte sectors, GUID {view.disk_guid})",
        f"active  {view.running or 'not known'}",
        f"next    {_next(view)}",
        "",
        *_slot_table(view, devices),
        *(["", "notes:", *_listed(view.notes)] if view.notes else []),
        *_fault_lines(view.faults),
    ]


def _next(view: app.DiskView) -> str:
    """Say what boots next."""
    if view.next_partition is None:
        return "nothing: no slot can boot (see docs/how-to/rescue.md)"
    return view.next or f"partition {view.next_partition}, which belongs to no slot"


def _fault_lines(faults: Sequence[str]) -> list[str]:
    """Return the faults of the table, with what to do about them."""
    if not faults:
        return []
    return ["", "faults of the partition table:", *_listed(faults), "  next: run `signpost repair`"]


def _listed(items: Sequence[str]) -> list[str]:
    """Return items as a list for people."""
    return [f"  - {item}" for item in items]


def _slot_table(view: app.DiskView, devices: Mapping[int, str]) -> list[str]:
    """Return the slots as a table."""
    rows: list[tuple[str, ...]] = [("slot", "boot", "root", "hash", "priority", "tries", "successful", "")]
    rows += [_slot_row(view, slot, devices) for slot in view.slots]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _slot_row(view: app.DiskView, slot: Slot, devices: Mapping[int, str]) -> tuple[str, ...]:
    """Return a slot's line of the table: its own partitions beside its own flags."""
    seen = view.slots[slot]
    parts = (devices.get(part.number, f"#{part.number}") for part in (seen.boot, seen.root, seen.hash))
    flags = (str(seen.flags.priority), str(seen.flags.tries), "yes" if seen.flags.successful else "no")
    return (slot, *parts, *flags, _roles(view, slot))


def _roles(view: app.DiskView, slot: Slot) -> str:
    """Say what a slot is at the moment."""
    roles = (("active", view.running), ("next", view.next))
    return ", ".join(role for role, holder in roles if holder is slot)


def _flag_lines(view: app.View) -> list[str]:
    """Return the flags of each slot, a line each."""
    lines = []
    for slot, seen in view.slots.items():
        roles = _roles(view, slot)
        lines.append(f"{slot}: {describe(seen.flags)}" + (f" ({roles})" if roles else ""))
    return lines


def main() -> NoReturn:
    """Run signpost and exit with its status."""
    console.leave(console.run(program))
