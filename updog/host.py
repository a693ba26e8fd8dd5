"""The running system, as far as an update needs it: version, slot, boot, mounts, restart.

Rules it enforces:

* which slot runs is read from a boot stage's record or, without one, from dm-verity in sysfs; it is
  never guessed from priorities;
* which slots were passed over, and why, is what the boot stage said on the kernel's command line;
* every root folder it looks under can be given, so that it is tested on trees of plain files.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType

from signpost.app import find_on, find_running
from signpost.bootrecord import BootRecord
from signpost.medium import OsMedium
from signpost.sets import Slot
from updog.errors import HostError
from updog.pstore import read_records
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signpost.bootrecord import Passed
    from updog.config import Config
    from updog.postmortem import Record

BootId = NewType("BootId", str)
"""A text that differs from one start of the machine to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A start of a slot that went down again, as a boot stage recorded it, and the stage it reached."""

    slot: Slot
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What runs now.

    Attributes:
        attempts: the failed starts since the last one that came up, oldest first.
        passed: slots that the boot stage passed over at this start, those that could not be started among
            the attempts, too.
    """

    variant: str
    version: Version
    boot_id: BootId
    slot: Slot
    disk: str
    attempts: tuple[Attempt, ...] = ()
    passed: tuple[Passed, ...] = ()


def parse_os_release(text: str) -> dict[str, str]:
    """Return the fields of an os-release file (os-release(5): shell-like assignments)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            fields[name] = "".join(shlex.split(value)) if value[:1] in {'"', "'"} else value
    return fields


class Host:
    """The machine this process runs on.

    Args:
        config: where os-release, the boot record and the disk are.
        disk: overrides the configured disk.
        active: overrides which slot runs, where nobody can be asked.
        sysfs: where sysfs is mounted.
        proc: where procfs is mounted.
    """

    def __init__(
        self,
        config: Config,
        *,
        disk: str | None = None,
        active: Slot | None = None,
        sysfs: str = "/sys",
        proc: str = "/proc",
    ) -> None:
        self._config = config
        self._disk = disk or (str(config.disk) if config.disk else None)
        self._active = active
        self._sysfs = sysfs
        self._proc = Path(proc)

    def running(self) -> Running:
        """Say what runs now.

        Raises:
            HostError: os-release or the boot record does not say.
            LayoutError: the running slot cannot be found through sysfs.
        """
        release = self._os_release()
        record = self._boot_record()
        disk, active = self._place(record)
        passed = self._passed()
        failed = tuple(Attempt(slot=slot.slot, stage=slot.reason) for slot in passed if slot.failed)
        return Running(
            variant=self._config.variant or release["VARIANT_ID"],
            version=Version.parse_friendly(release["VERSION_ID"]),
            boot_id=BootId(record.get("boot_id") or self._kernel_boot_id()),
            slot=active,
            disk=disk,
            attempts=self._attempts(record) + failed,
            passed=passed,
        )

    def records(self) -> tuple[Record, ...]:
        """Return what kernels left in pstore when they died, newest first."""
        return read_records(self._config.pstore_dirs)

    def record_digests(self) -> frozenset[str]:
        """Return what tells these records from later ones."""
        return frozenset(record.digest for record in self.records())

    def reboot(self) -> bool:
        """Start the configured reboot; False where none is configured. Raises HostError if it fails."""
        command = self._config.reboot_command
        if not command:
            return False
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"cannot reboot with {shlex.join(command)}: {error}"
            raise HostError(message, next_step="Reboot by hand; everything is in place for it.") from error
        return True

    def _place(self, record: Mapping[str, Any]) -> tuple[str, Slot]:
        """Return the disk and the slot that runs, asking sysfs only for what nobody said."""
        active = self._active or (Slot(record["slot"]) if "slot" in record else None)
        if self._disk is None:
            found = find_running(OsMedium(), sysfs=self._sysfs)
            return found.disk, active or found.active
        return self._disk, active or find_on(OsMedium(), self._disk, sysfs=self._sysfs).active

    def _os_release(self) -> dict[str, str]:
        """Return os-release with the two fields that matter. Raises HostError."""
        path = self._config.os_release
        try:
            fields = parse_os_release(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HostError(f"cannot read {path}: {error}") from error
        needed = {"VERSION_ID"} if self._config.variant else {"VERSION_ID", "VARIANT_ID"}
        if missing := sorted(name for name in needed if not fields.get(name)):
            raise HostError(f"{path} has no {' and no '.join(missing)}")
        return fields

    def _boot_record(self) -> Mapping[str, Any]:
        """Return what the boot stage left, nothing where it leaves nothing. Raises HostError."""
        path = self._config.boot_record
        if path is None:
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            message = f"the boot record {path} is not there: this node is down"
            raise HostError(message, next_step="Start it (`updog drill boot` for a drill's node).") from error
        except (OSError, ValueError) as error:
            raise HostError(f"cannot read the boot record {path}: {error}") from error
        if not isinstance(record, dict) or record.get("slot") not in list(Slot):
            raise HostError(f"the boot record {path} names no slot")
        return record

    def _attempts(self, record: Mapping[str, Any]) -> tuple[Attempt, ...]:
        """Return the failed starts of a boot record. Raises HostError."""
        try:
            return tuple(
                Attempt(slot=Slot(attempt["slot"]), stage=str(attempt["stage"]))
                for attempt in record.get("attempts", ())
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"the boot record {self._config.boot_record} has unreadable attempts: {error!r}"
            raise HostError(message) from error

    def _passed(self) -> tuple[Passed, ...]:
        """Return what the boot stage said on the kernel's command line; a drill's node has no kernel."""
        if self._config.boot_record is not None:
            return ()
        try:
            words = (self._proc / "cmdline").read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            return ()
        said = BootRecord.from_words(words)
        return said.passed if said else ()

    def _kernel_boot_id(self) -> str:
        """Return the kernel's identifier of this boot (proc(5), random/boot_id). Raises HostError."""
        try:
            return (self._proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError as error:
            raise HostError(f"cannot tell one boot from another: {error}") from error
