"""A node in a folder: disk image, configuration, trusted root and state, started by a simulation.

The layout of the folder::

    disk.img            the A/B disk (`repo-tools disk create` makes it)
    updog.toml          its configuration; every path in it is relative, so the folder can be moved
    root.json           the TUF root shipped in the image
    state/              what updog keeps across both slots
    health.d/           required/ and wanted/ checks; one required check obeys `boot --fail health`
    run/                what a start leaves: boot.json (the boot record) and os-release
    console.log         what the screen of the machine would have shown

Rules it enforces:

* the slot is chosen by the bootloader's own rule (:func:`signpost.state.next_boot`), and the try is counted
  on the disk before anything of the slot is read;
* a slot comes up only if its three partitions still hold what was signed, as dm-verity would require;
* while the machine is off there is no boot record, so no command works on the node.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signpost.app import Signpost, UnbootedDisk
from signpost.errors import NothingBootableError
from signpost.medium import opened
from signpost.sets import ImageKind, Slot
from updog import durable
from updog.config import load
from updog.drill import UNHEALTHY, Stage
from updog.errors import ConfigError
from updog.image.region import partition_content
from updog.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium
    from updog.state import SlotRecord
    from updog.update_metadata.version import Version

_FOLDERS = ("state", "run", "health.d/required", "health.d/wanted")
_SETTINGS: dict[str, Any] = {
    "disk": "disk.img",
    "trusted_root": "root.json",
    "state_dir": "state",
    "os_release": "run/os-release",
    "boot_record": "run/boot.json",
    "health_dir": "health.d",
    "health_checks": [],
    "health_timeout": 10,
    "health_deadline": 0,
    "stability_window": 0,
    "reboot_command": [],
    "pstore_dirs": ["pstore"],
}
_HEALTH_CHECK = """#!/bin/sh
# Fails, or never ends, if `updog drill boot --fail` asked for that.
case "$(cat "$(dirname "$0")/../../run/unhealthy" 2>/dev/null)" in
    health) echo "the service did not answer (drill)"; exit 1 ;;
    hang) exec sleep 86400 ;;
esac
"""


_STAGE_OF_DAMAGE = {
    ImageKind.BOOT: Stage.KERNEL,
    ImageKind.ROOT: Stage.VERITY,
    ImageKind.HASH: Stage.VERITY,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """The result of a start: slot, the version in it, and the stage at which it failed (None: it is up)."""

    slot: Slot
    version: Version
    down_at: Stage | None


class DrillNode:
    """A node in ``folder``.

    Args:
        folder: holds everything that belongs to it.
        medium: writes its disk and state.
        clock: returns the current time, UTC.
        faults: the stage at which a start of a version fails, for versions that do not come up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        medium: Medium,
        clock: Callable[[], datetime],
        faults: Mapping[Version, Stage] | None = None,
    ) -> None:
        self.folder = folder
        self.faults = faults or {}
        self._medium = medium
        self._clock = clock
        self._run = folder / "run"

    @property
    def disk(self) -> Path:
        """The disk image."""
        return self.folder / "disk.img"

    @property
    def config_path(self) -> Path:
        """The configuration file, for ``updog --config``."""
        return self.folder / "updog.toml"

    def create(self, *, variant: str, version: Version, root: bytes, settings: Mapping[str, Any]) -> None:
        """Write the node's files beside its disk, and leave it running ``version`` from slot A.

        Args:
            variant: VARIANT_ID of the system in slot A.
            version: VERSION_ID of the system in slot A.
            root: the trusted TUF root.
            settings: further keys of ``updog.toml``.

        Raises:
            ConfigError: there is no disk, there is a node already, or the settings are not valid.
        """
        if not self.disk.exists():
            message = f"{self.disk} does not exist"
            raise ConfigError(message, next_step=f"Create it: repo-tools disk create {self.disk} --version X")
        if self.config_path.exists():
            raise ConfigError(f"there is already a node in {self.folder}", next_step="Choose another folder.")
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        check = self.folder / "health.d/required/10-drill"
        durable.write_bytes(self._medium, check, _HEALTH_CHECK.encode(), mode=0o755)
        durable.write_bytes(self._medium, self.folder / "root.json", root)
        text = "".join(
            f"{key} = {json.dumps(value)}\n" for key, value in (_SETTINGS | dict(settings)).items()
        )
        durable.write_bytes(
            self._medium, self.config_path, text.encode(), mode=0o600
        )  # URLs may have secrets
        load(self.config_path)
        self._bring_up(Slot.A, variant, version, [])

    def boot(self, fail: Stage | None = None) -> Boot:
        """Switch the machine off and on: choose a slot by the bootloader's rule, count the try, start it.

        Raises:
            NothingBootableError: no slot can be started; the machine stays off.
            ConfigError: there is no record of the content of the chosen slot.
        """
        attempts = self._switch_off()
        slot = self._take()
        state_dir = load(self.config_path).state_dir
        record = StateStore(state_dir, medium=self._medium, clock=self._clock).load().slots.get(slot)
        if record is None:
            raise ConfigError(
                f"the content of slot {slot} was not recorded", next_step="Create the node again."
            )
        fail = fail or self.faults.get(record.version)
        down_at = self._damage(record, slot) if fail is None or fail in UNHEALTHY else fail
        if down_at is not None:
            attempts.append({"slot": slot, "stage": down_at})
            durable.write_json(self._medium, self._run / "attempts.json", attempts)
            self._log(f"slot {slot}, {record.version}: failed at stage {down_at}")
        else:
            attempts.append({"slot": slot, "stage": "running, not confirmed"})
            self._bring_up(slot, record.variant, record.version, attempts)
        if down_at is None and fail in UNHEALTHY:
            durable.write_bytes(self._medium, self._run / "unhealthy", fail.encode())
        return Boot(slot=slot, version=record.version, down_at=down_at)

    def _switch_off(self) -> list[dict[str, str]]:
        """Remove the boot record; return the starts since the last one that came up, that one included."""
        kept = self._run / "attempts.json"
        attempts = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
        for name in ("boot.json", "unhealthy"):
            self._medium.remove(str(self._run / name))
        return list(attempts)

    def _take(self) -> Slot:
        """Choose a slot as the bootloader does. Raises NothingBootableError, which the console shows, too."""
        try:
            return UnbootedDisk(self._medium, str(self.disk)).take_next()
        except NothingBootableError as error:
            self._log(f"no slot can be started: {error}")
            raise

    def _damage(self, record: SlotRecord, slot: Slot) -> Stage | None:
        """Return the stage at which a start fails because the slot no longer holds what was signed."""
        partitions = Signpost(self._medium, str(self.disk), slot).view().slots[slot]
        with opened(self._medium, str(self.disk)) as descriptor:
            for kind, stage in _STAGE_OF_DAMAGE.items():
                wanted, partition = record.images[kind], partitions.partition(kind)
                if partition_content(self._medium, descriptor, partition, wanted.size) != wanted:
                    return stage
        return None

    def _bring_up(self, slot: Slot, variant: str, version: Version, attempts: list[dict[str, str]]) -> None:
        """Write what a system that came up leaves."""
        release = f'ID=drill\nVERSION_ID={version}\nVARIANT_ID="{variant}"\n'
        durable.write_bytes(self._medium, self._run / "os-release", release.encode())
        durable.write_json(self._medium, self._run / "attempts.json", attempts[-1:])
        record = {"slot": slot, "boot_id": str(uuid.uuid4()), "attempts": attempts[:-1]}
        durable.write_json(self._medium, self._run / "boot.json", record)
        self._log(f"slot {slot}, {version}: up")

    def _log(self, line: str) -> None:
        """Add a line to the console log."""
        with (self.folder / "console.log").open("a", encoding="utf-8") as log:
            log.write(f"{self._clock():%Y-%m-%dT%H:%M:%SZ} {line}\n")
