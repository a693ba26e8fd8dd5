"""The command line of signpost. It only prints; :mod:`signpost.app` decides.

Rules it enforces:

* the running slot is found below the running root; ``--disk`` and ``--active`` state it for other disks;
* ``status``, and ``next`` without ``--write``, never write;
* the result goes to stdout, as text or, with ``--json``, as one document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click

from signpost import app, console, streams
from signpost.errors import LayoutError, UsageError
from signpost.gptprio import LIMIT
from signpost.journal import start_logging
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command, describe
from signpost.text import printable, size_text, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Target = dict[str, str]  # the options that name a disk and a slot, if given


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Store an option of the target for the command, whether it is before or after the command's name."""
    if value is not None:
        context.ensure_object(dict)[parameter.name] = value


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--disk`` and ``--active``, which the command reads from the context's object."""
    active = click.option(
        "--active",
        type=click.Choice([*Slot]),
        expose_value=False,
        callback=_remember,
        help="The slot that counts as running; needs --disk.  [default: the slot of the running system]",
    )
    disk = click.option(
        "--disk",
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help="Block device or image file.  [default: the disk of the running system]",
    )
    return disk(active(command))


_tries_option = click.option(
    "--tries",
    type=click.IntRange(1, LIMIT),
    default=1,
    show_default=True,
    help="How many times it may be booted without being confirmed.",
)


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
@click.version_option(package_name="updog-ab")
@console.example("signpost status", "signpost --disk disk.img --active A upgrade-to-inactive")
def program(log_level: str) -> None:
    """Show which of two slots boots next, and change it.

    signpost reads and durably writes the flags priority, tries and successful of the two BOOT partitions. The
    flags are those of ChromeOS cgpt and GRUB gptprio.

    \b
    Exit status of every command:
      0   done
      1   failed: the disk, its partitions or its partition table is not valid
      2   wrong usage
      4   refused by the flags, or no slot can boot; nothing was written
      75  busy: another program is writing to the disk; nothing was written
    """  # noqa: D301 - \b is click's mark for a paragraph that must not be wrapped
    if log_level != "warning":  # it has nothing to warn of: `logging` need not be imported at each start
        start_logging(log_level)


program.add_command(console.completion)


@program.command("status")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost status", "signpost status --disk disk.img --active A --json")
def status(target: Target, *, as_json: bool) -> None:
    """Show the slots, their flags and what boots next.

    Never writes. If the running slot is not known, for example on another disk, no slot is marked active.

    Exit status: 0, even if the table has faults that can be repaired; 1 if it has no valid copy.
    """
    view = _view(target)
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    console.emit(_document(view, devices), "\n".join(_status_lines(view, devices)), as_json=as_json)


@program.command("next")
@click.option("--write", is_flag=True, help="Take the slot: count the try, as the bootloader does.")
@_target_options
@console.json_option
@click.pass_obj
@console.example("slot=$(signpost --disk /dev/vda next --write)")
def next_(target: Target, *, write: bool, as_json: bool) -> None:
    """Print the slot that boots next.

    Of the BOOT partitions with priority above 0 that have tries left or are successful, the one with the
    highest priority boots, the first among equals. --write does the bootloader's step: it uses one of the
    slot's tries, if there are any.

    Exit status: 0; 4 if no slot can boot.
    """
    disk = _disk(target)
    slot = disk.take_next() if write else disk.predict()
    view = disk.view()
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    document = {"slot": slot, "taken": write, **_slot_document(view.slots[slot], devices)}
    console.emit(document, slot, as_json=as_json)


@program.command("mark-successful-boot")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost mark-successful-boot")
def mark_successful_boot(target: Target, *, as_json: bool) -> None:
    """Confirm the running slot.

    Marks it successful and sets its tries to 0. Also records that a boot of this disk has succeeded.

    Exit status: 0.
    """
    _apply(target, Command.MARK_SUCCESSFUL_BOOT, as_json=as_json)


@program.command("clear-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost clear-inactive")
def clear_inactive(target: Target, *, as_json: bool) -> None:
    """Remove the inactive slot from the boot order.

    Sets its priority, tries and successful to 0. Run it before you write to the slot.

    Exit status: 0; 4 if there is only one slot.
    """
    _apply(target, Command.CLEAR_INACTIVE, as_json=as_json)


@program.command("mark-inactive-valid")
@_tries_option
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost mark-inactive-valid --tries 3")
def mark_inactive_valid(target: Target, tries: int, *, as_json: bool) -> None:
    """Mark the inactive slot valid: set its tries.

    Run it when the slot is completely written and verified.

    Exit status: 0; 4 if there is only one slot.
    """
    _apply(target, Command.MARK_INACTIVE_VALID, tries=tries, as_json=as_json)


@program.command("upgrade-to-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost upgrade-to-inactive")
def upgrade_to_inactive(target: Target, *, as_json: bool) -> None:
    """Boot the inactive slot next.

    If it fails, the running slot boots again. The inactive slot must have been cleared, written and marked
    valid. Its priority becomes 2, the running slot's 1.

    Exit status: 0; 4 if the inactive slot is not marked valid, was not cleared, or is already upgraded to.
    """
    _apply(target, Command.UPGRADE_TO_INACTIVE, as_json=as_json)


@program.command("cancel-upgrade")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost cancel-upgrade")
def cancel_upgrade(target: Target, *, as_json: bool) -> None:
    """Keep booting the running slot.

    The inactive slot keeps its tries, so that you can upgrade to it again later.

    Exit status: 0; 4 if there is only one slot.
    """
    _apply(target, Command.CANCEL_UPGRADE, as_json=as_json)


@program.command("rollback-to-inactive")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost rollback-to-inactive")
def rollback_to_inactive(target: Target, *, as_json: bool) -> None:
    """Return to the inactive slot at the next boot.

    Use it if the running slot does not work.

    Exit status: 0; 4 if the inactive slot cannot boot.
    """
    _apply(target, Command.ROLLBACK_TO_INACTIVE, as_json=as_json)


@program.command("rescue")
@click.argument("slot", type=click.Choice([*Slot]))
@_tries_option
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost --disk /dev/sda rescue A")
def rescue(target: Target, slot: str, tries: int, *, as_json: bool) -> None:
    """Start a slot that the bootloader passes over.

    For a rescue system, when no slot boots. SLOT is the one to start at the next boot, whatever its flags
    are; it must contain an image. A slot that was confirmed stays confirmed; another one gets --tries. If it
    does not start, the other slot is taken, if that can boot.

    Exit status: 0; 1 if the disk has no such slot, or only one.
    """
    _print_flags(target, _disk(target).rescue(Slot(slot), tries=tries), as_json=as_json)


@program.command("has-boot-ever-succeeded")
@_target_options
@console.json_option
@click.pass_obj
@console.example('test -n "$(signpost has-boot-ever-succeeded)" || first-boot-setup')
def has_boot_ever_succeeded(target: Target, *, as_json: bool) -> None:
    """Print "true" if a boot has ever succeeded.

    Prints nothing if no boot of this disk was ever marked successful.

    Exit status: 0 in both cases.
    """
    ever = _disk(target).view().ever_booted
    console.emit({"ever_booted": ever}, "true" if ever else "", as_json=as_json)


@program.command("rewrite-table")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost rewrite-table")
def rewrite_table(target: Target, *, as_json: bool) -> None:
    """Write the partition table unchanged.

    Writes both copies durably and reads them back: a test of the disk.

    Exit status: 0.
    """
    disk = _disk(target)
    disk.rewrite()
    console.emit({"rewritten": disk.path}, f"{disk.path}: wrote both copies", as_json=as_json)


@program.command("repair")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost repair")
def repair(target: Target, *, as_json: bool) -> None:
    """Repair the partition table.

    Writes both copies from the one that is valid. If the disk has grown, the backup moves to its end. A sound
    table is not written. The flags do not change.

    Exit status: 0, even if there was nothing to repair; 1 if neither copy is valid; nothing is written then.
    """
    disk = _disk(target)
    faults = disk.repair_disk()
    lines = [f"{disk.path}: repaired:", *_bullets(faults)] if faults else [f"{disk.path}: nothing to repair"]
    console.emit({"disk": disk.path, "repaired": faults}, "\n".join(lines), as_json=as_json)


@program.command("grow")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@_target_options
@console.json_option
@click.pass_obj
@console.example("signpost grow", "signpost --disk disk.img grow --dry-run")
def grow(target: Target, *, dry_run: bool, as_json: bool) -> None:
    """Grow DATA to the end of the disk.

    For an image that was written to a larger disk. DATA must be the last partition. The backup of the table
    moves to the end of the disk, and faults of the table are repaired. The running kernel uses the new size
    at once; the file system in DATA is not changed. No flag changes.

    Exit status: 0, even if there was nothing to grow; 1 if there is room, but DATA is not the last partition,
    or if the disk is smaller than its table says; nothing is written then.
    """
    disk = _disk(target)
    grown = disk.grow(write=not dry_run)
    before, after = grown.before, grown.after
    known = after is not None and not dry_run and app.tell_kernel(disk.path, after, sysfs=target["sysfs"])
    document = {
        "disk": disk.path,
        "partition": after.number if after else None,
        "before": before.size if before else None,
        "after": after.size if after else None,
        "repaired": grown.repaired,
        "written": not dry_run and (before != after or bool(grown.repaired)),
        "kernel_knows": known,
    }
    console.emit(document, "\n".join(_grown_lines(disk.path, grown, dry_run=dry_run)), as_json=as_json)


def _grown_lines(disk: str, grown: app.GrownData, *, dry_run: bool) -> list[str]:
    """Return what a growth did, or would do, as text."""
    before, after = grown.before, grown.after
    if before is None or after is None or before == after:
        lines = [f"{disk}: nothing to grow"]
    else:
        name, sizes = f"partition {after.number} ({printable(after.label)})", (before.size, after.size)
        verb = "would grow" if dry_run else "grew"
        lines = [f"{disk}: {name} {verb} from {' to '.join(map(size_text, sizes))}"]
    if grown.repaired:
        lines += ["would repair:" if dry_run else "repaired:", *_bullets(grown.repaired)]
    return lines


def _apply(target: Target, command: Command, *, as_json: bool, tries: int = 1) -> None:
    """Carry out a command and print the new flags."""
    _print_flags(target, _signpost(target).apply(command, tries=tries), as_json=as_json)


def _print_flags(target: Target, view: app.DiskView, *, as_json: bool) -> None:
    """Print the flags of both slots."""
    lines = []
    for slot, seen in view.slots.items():
        marks = _marks(view, slot)
        lines.append(f"{slot}: {describe(seen.flags)}" + (f" ({marks})" if marks else ""))
    devices = app.devices(view.disk, sysfs=target["sysfs"])
    console.emit(_document(view, devices), "\n".join(lines), as_json=as_json)


def _signpost(target: Target) -> app.Signpost:
    """Return the disk with its running slot, as stated or as found below the running root."""
    disk, active = target.get("disk"), target.get("active")
    if disk is None:
        return _running(target)
    if active is None:
        return app.find_on(OsMedium(), disk, sysfs=target["sysfs"])
    return app.Signpost(OsMedium(), disk, Slot(active))


def _running(target: Target) -> app.Signpost:
    """Return the disk and slot of the running system."""
    if "active" in target:
        raise UsageError("--active needs --disk", next_step="Add --disk, or omit --active.")
    return app.find_running(OsMedium(), sysfs=target["sysfs"])


def _disk(target: Target) -> app.UnbootedDisk:
    """Return the disk for a command that does not need the running slot."""
    disk = target.get("disk")
    return _running(target) if disk is None else app.UnbootedDisk(OsMedium(), disk)


def _view(target: Target) -> app.DiskView:
    """Return the view of the disk, with the running slot if it is known."""
    if "disk" not in target or "active" in target:
        return _signpost(target).view()
    try:
        return _signpost(target).view()
    except (UsageError, LayoutError):
        return _disk(target).view()


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
    """Return the status as text."""
    rows: list[tuple[str, ...]] = [("slot", "boot", "root", "hash", "priority", "tries", "successful", "")]
    for slot, seen in view.slots.items():
        parts = (devices.get(part.number, f"#{part.number}") for part in (seen.boot, seen.root, seen.hash))
        flags = (str(seen.flags.priority), str(seen.flags.tries), "yes" if seen.flags.successful else "no")
        rows.append((slot, *parts, *flags, _marks(view, slot)))
    lines = [
        f"disk    {view.disk} ({view.sector_size}-byte sectors, GUID {view.disk_guid})",
        f"active  {view.running or 'not known'}",
        f"next    {view.next or 'nothing: no slot can boot (see `signpost rescue --help`)'}",
        "",
        table(rows),
    ]
    if view.notes:
        lines += ["", "notes:", *_bullets(view.notes)]
    if view.faults:
        lines += ["", "faults of the partition table:", *_bullets(view.faults)]
        lines += ["  next: run `signpost repair`"]
    return lines


def _bullets(items: Sequence[str]) -> list[str]:
    """Return items as the lines of a list."""
    return [f"  - {item}" for item in items]


def _marks(view: app.DiskView, slot: Slot) -> str:
    """Return whether the slot is active and next, in words."""
    marks = (("active", view.running), ("next", view.next))
    return ", ".join(mark for mark, holder in marks if holder is slot)


def main() -> NoReturn:
    """Run signpost and exit with its exit status."""
    streams.protect()
    console.leave(console.run(program))
