"""The running system, as far as an update needs it: version, slot, boot, restart.

Rules it enforces:

* the running slot is read from a boot stage's record or, without one, from dm-verity in sysfs or, where the
  root is not on a partition (an overlay), from the boot stage's parameter on the kernel command line; it is
  never derived from priorities;
* which slots the boot stage skipped, and why, is read from the kernel's command line, where it wrote it;
* every root folder used here can be set, so that tests can use folders of plain files.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType

from signpost.app import find_on, find_running
from signpost.blockdev import command_line
from signpost.bootrecord import BootRecord
from signpost.medium import OsMedium, opened
from signpost.sets import Slot
from signpost.system_file import read_system_text
from updog import durable
from updog.errors import HostError
from updog.failed_boot.pstore import read_records
from updog.os_release import parse_os_release
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signpost.bootrecord import Passed
    from signpost.medium import Medium
    from updog.config import Config
    from updog.failed_boot.cause import Record

_MACHINE_ID = re.compile("[0-9a-f]{32}")  # machine-id(5)

BootId = NewType("BootId", str)
"""A text that differs from one start of the machine to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A failed start of a slot, as a boot stage recorded it, and the stage that it reached."""

    slot: Slot
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningSlot:
    """The running system.

    Attributes:
        boot_id: identifies this boot. disk: path of the disk with the two slots.
        attempts: the failed starts since the last successful one, oldest first.
        passed: slots that the boot stage skipped at this start; those that it could not start are among the
            attempts too.
    """

    variant: str
    version: Version
    boot_id: BootId
    slot: Slot
    disk: str
    attempts: tuple[Attempt, ...] = ()
    passed: tuple[Passed, ...] = ()


_OS_RELEASE = "Put this file into the image, or name another one in `os_release` of updog.toml."


class Host:
    """The machine on which this process runs.

    Attributes:
        systemd: a folder that exists if systemd is running.

    Args:
        config: where os-release, the boot record and the disk are.
        disk: overrides the configured disk.
        active: overrides the detection of the running slot.
        sysfs: where sysfs is mounted.
        proc: where procfs is mounted.
        run: where the folders of running programs are.
    """

    def __init__(
        self,
        config: Config,
        *,
        disk: str | None = None,
        active: Slot | None = None,
        sysfs: str = "/sys",
        proc: str = "/proc",
        run: str = "/run",
    ) -> None:
        self._config = config
        self._disk = disk or (str(config.disk) if config.disk else None)
        self._active = active
        self._sysfs = sysfs
        self._proc = Path(proc)
        self.systemd = Path(run) / "systemd/system"

    def running(self) -> RunningSlot:
        """Return what runs now.

        Raises:
            HostError: os-release or the boot record is unreadable or incomplete.
            LayoutError: the running slot cannot be found through sysfs.
        """
        release = self._os_release()
        record = self._boot_record()
        disk, active = self._running_slot(record)
        passed = self._passed()
        failed = tuple(Attempt(slot=slot.slot, stage=slot.reason) for slot in passed if slot.failed)
        return RunningSlot(
            variant=self._config.variant or release["VARIANT_ID"],
            version=self._version(release["VERSION_ID"]),
            boot_id=BootId(record.get("boot_id") or self._kernel_boot_id()),
            slot=active,
            disk=disk,
            attempts=self._attempts(record) + failed,
            passed=passed,
        )

    def keep_machine_id(self, medium: Medium, *, system: Path = Path("/etc/machine-id")) -> None:
        """Let the node's own file with the machine-id survive a power cut; fill it where one emptied it.

        systemd-tmpfiles makes the file at the first start without a flush, and fills none that is there.

        Args:
            medium: the file is written through it.
            system: the machine-id of this start.

        Raises:
            MediumError: the file cannot be written or flushed.
        """
        path = self._config.machine_id
        if path == system or not path.parent.is_dir():
            return
        if path.exists() and path.read_bytes().strip(b"\0 \n"):
            with opened(medium, str(path)) as descriptor:
                medium.flush(descriptor)
            medium.flush_folder(str(path.parent))
            return
        with suppress(HostError, OSError, ValueError):
            identity = read_system_text(system, "ascii").strip()
            if _MACHINE_ID.fullmatch(identity):
                durable.write_bytes(medium, path, f"{identity}\n".encode(), mode=0o444)

    def records(self) -> tuple[Record, ...]:
        """Return the records that crashed kernels left in pstore, newest first."""
        return read_records(self._config.pstore_dirs)

    def record_digests(self) -> frozenset[str]:
        """Return the digests that distinguish these records from later ones."""
        return frozenset(record.digest for record in self.records())

    def reboot(self) -> bool:
        """Run the configured reboot command; return False if there is none. Raises HostError if it fails."""
        command = self._config.reboot_command
        if not command:
            return False
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"cannot reboot with {shlex.join(command)}: {error}"
            raise HostError(message, next_step="Reboot manually; everything is ready for it.") from error
        return True

    def _running_slot(self, record: Mapping[str, Any]) -> tuple[str, Slot]:
        """Return the disk and the running slot; use sysfs only for what is not given or recorded."""
        active = self._active or (Slot(record["slot"]) if "slot" in record else None)
        if self._disk is None:
            found = find_running(OsMedium(), sysfs=self._sysfs, proc=str(self._proc))
            return found.path, active or found.active
        if active is None:
            active = find_on(OsMedium(), self._disk, sysfs=self._sysfs, proc=str(self._proc)).active
        return self._disk, active

    def _os_release(self) -> dict[str, str]:
        """Return os-release with the fields that are needed. Raises HostError."""
        path = self._config.os_release
        try:
            # The fields that are not ours (NAME) may have any bytes.
            fields = parse_os_release(read_system_text(path, errors="backslashreplace"))
        except (OSError, ValueError) as error:
            message = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
            raise HostError(message, next_step=_OS_RELEASE) from error
        needed = {"VERSION_ID"} if self._config.variant else {"VERSION_ID", "VARIANT_ID"}
        if missing := sorted(name for name in needed if not fields.get(name)):
            raise HostError(
                f"{path} has no {' and no '.join(missing)}",
                next_step="Add it to the image; or set `variant` in updog.toml instead of VARIANT_ID, or "
                "`os_release` to another file.",
            )
        return fields

    def _version(self, text: str) -> Version:
        """Return the version in os-release. Raises HostError."""
        try:
            return Version.parse_friendly(text)
        except VersionError as error:
            raise HostError(
                f"VERSION_ID in {self._config.os_release}: {error.message}",
                next_step="Give the image a VERSION_ID such as 1.26.1, or a file of its own with VERSION_ID "
                "and VARIANT_ID that `os_release` in updog.toml names.",
            ) from error

    def _boot_record(self) -> Mapping[str, Any]:
        """Return the boot stage's record, empty if none is configured. Raises HostError."""
        path = self._config.boot_record
        if path is None:
            return {}
        try:
            record = json.loads(read_system_text(path))
        except FileNotFoundError as error:
            message = f"the boot record {path} does not exist: this node is not running"
            raise HostError(message, next_step="Start it (`updog drill boot` for a drill's node).") from error
        except (OSError, ValueError, RecursionError) as error:
            raise HostError(f"cannot read the boot record {path}: {error}") from error
        if not isinstance(record, dict) or record.get("slot") not in list(Slot):
            raise HostError(f"the boot record {path} does not name a slot")
        return record

    def _attempts(self, record: Mapping[str, Any]) -> tuple[Attempt, ...]:
        """Return the failed starts of a boot record. Raises HostError."""
        try:
            return tuple(
                Attempt(slot=Slot(attempt["slot"]), stage=str(attempt["stage"]))
                for attempt in record.get("attempts", ())
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"the boot record {self._config.boot_record} has invalid attempts: {error!r}"
            raise HostError(message) from error

    def _passed(self) -> tuple[Passed, ...]:
        """Return the slots that the boot stage skipped, from the kernel's command line.

        A drill's node has no kernel, and a boot record instead.
        """
        if self._config.boot_record is not None:
            return ()
        boot_record = BootRecord.from_words(command_line(str(self._proc)))
        return boot_record.passed if boot_record else ()

    def _kernel_boot_id(self) -> str:
        """Return the kernel's identifier of this boot (proc(5), random/boot_id). Raises HostError."""
        try:
            return (self._proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError as error:
            raise HostError(f"cannot identify this boot: {error}") from error
