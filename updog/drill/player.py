"""Play a drill on a machine, and judge: the expectations of its file, and what holds at every moment.

The invariants, looked at after every step, whatever the file says:

* some slot can be booted, save in a drill that ends with a dead machine;
* what runs is, bit for bit, what was signed for the version it says it is, and of a kind that can run: a
  corrupted release is never the running one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from signpost import gptprio
from signpost.app import BootStage
from signpost.disk import Disk
from signpost.gptprio import Flags
from signpost.medium import OsMedium, opened
from signpost.sets import Slot
from updog.drill.machine import Command, Order
from updog.drill.script import Action, Expectation, Kind, Moment, Until
from updog.drill.supply import ROLES
from updog.errors import DrillFailedError
from updog.image.install import Region, read_content
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from signpost.app import DiskView, PartitionView
    from updog.drill.machine import Machine, Supply
    from updog.drill.script import Drill, Step

NEVER_RUN = frozenset({Kind.BAD_KERNEL, Kind.PANIC, Kind.NO_INIT})
"""Kinds whose systems cannot come up: if one runs, the drill or the machine is wrong."""

_COMMANDS = {
    Action.UPDATE: Command.UPDATE,
    Action.INSTALL: Command.INSTALL,
    Action.APPLY: Command.APPLY,
    Action.REVERT: Command.REVERT,
    Action.ROLLBACK: Command.ROLLBACK,
    Action.JUDGE: Command.CONFIRM,
}
_DONE, _NOTHING_TO_DO = 0, 3
_MEBIBYTE = 1 << 20
_DAMAGE_EVERY, _DAMAGE_BYTES = _MEBIBYTE, 4096  # the first of them holds the superblock of any file system


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What can be seen of a node; the members are those of :class:`~updog.drill.script.Expectation`."""

    running: Version | None
    slot: Slot | None
    confirmed: bool | None
    standing: str | None
    last_rollback: str | None
    denied: frozenset[Version]
    dead: bool
    console: str
    changed: frozenset[Slot]


def differences(expected: Expectation, seen: Sight, releases: Mapping[Kind, Version]) -> Iterator[str]:
    """Yield in words what is not as expected. PURE."""
    plain = ("slot", "confirmed", "standing", "last_rollback", "dead")
    for name in plain:
        wanted, found = getattr(expected, name), getattr(seen, name)
        if wanted is not None and wanted != found:
            yield f"{name} is {_word(found)}, not {_word(wanted)}"
    if expected.running is not None and seen.running not in {releases[kind] for kind in expected.running}:
        wanted = " or ".join(f"{releases[kind]} ({kind})" for kind in expected.running)
        yield f"{seen.running or 'nothing'} runs, not {wanted}"
    if expected.denied is not None and seen.denied != {releases[kind] for kind in expected.denied}:
        names = ", ".join(sorted(map(str, seen.denied))) or "nothing"
        yield f"denied is {names}, not {', '.join(expected.denied) or 'nothing'}"
    if expected.console is not None and expected.console not in seen.console:
        yield f"{expected.console!r} is not on the console"
    yield from (f"slot {slot} was changed" for slot in expected.untouched or () if slot in seen.changed)


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def play(drill: Drill, machine: Machine, supply: Supply) -> str:
    """Play a drill to its end and return its last rollback in one sentence, or nothing.

    Raises:
        DrillFailedError: says at which step, and what was not as it must be.
        ToolError: the machine or the repository failed.
    """
    player = _Player(drill=drill, machine=machine, supply=supply)
    player.begin()
    for number, step in enumerate(drill.steps, start=1):
        player.take(step, f"step {number} ({step})")
    player.expect(drill.end, "the end")
    return player.cause


@dataclass(kw_only=True, slots=True)
class _Player:
    """A drill being played.

    Attributes:
        cause: the sentence of the node's last rollback, when it was last asked.
    """

    drill: Drill
    machine: Machine
    supply: Supply
    cause: str = ""
    _dead: bool = False
    _before: dict[Slot, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Switch on; the first release runs, confirmed."""
        self._before = {slot: self._digest(slot) for slot in self._watched()}
        self._dead = not self.machine.start(Until.JUDGED)
        self.expect(Expectation(running=(Kind.FIRST,), confirmed=True, dead=False), "the beginning")

    def take(self, step: Step, where: str) -> None:
        """Take a step, and look at everything that must hold after it. Raises DrillFailedError."""
        try:
            _ACTIONS[step.do](self, step)
        except DrillFailedError as error:
            raise DrillFailedError(f"{where}: {error.message}") from error
        self._check_invariants(where)
        if step.then is not None:
            self.expect(step.then, where)

    def expect(self, expected: Expectation, where: str) -> None:
        """Compare the node with what is expected. Raises DrillFailedError."""
        if faults := list(differences(expected, self._sight(expected), self.supply.releases)):
            raise DrillFailedError(f"{where}: {'; '.join(faults)}")

    # -- actions ---------------------------------------------------------------------------------

    def order(self, step: Step) -> None:
        """Tell the node to do something."""
        stop = step.cut or step.kill
        order = Order(
            command=_COMMANDS[step.do], version=self._version(step.to), stop=stop, kill=step.kill is not None
        )
        status = self.machine.order(order)
        if stop is None and status != step.exit:
            raise DrillFailedError(f"exit status {status}, not {step.exit}")

    def judge(self, step: Step) -> None:
        """Let the node confirm or go back, or stop it at that."""
        if step.cut or step.kill:
            self.order(step)
        else:
            self._dead = not self.machine.judge()

    def start(self, step: Step) -> None:
        """Switch on."""
        self._dead = not self.machine.start(step.until)

    def restart(self, step: Step) -> None:
        """Restart."""
        self._dead = not self.machine.restart(step.until)

    def power_cycle(self, step: Step) -> None:
        """Unplug and switch on again."""
        for _ in range(step.times):
            self.machine.cut()
            self._dead = not self.machine.start(step.until)
            self._check_invariants("power cycle")

    def reach(self, step: Step) -> None:
        """Update if need be, restart if need be, until the release runs confirmed."""
        version = self._version(step.to)
        if self._sight(Expectation()).running != version:
            status = self.machine.order(Order(command=Command.UPDATE, version=version))
            if status not in {_DONE, _NOTHING_TO_DO}:
                raise DrillFailedError(f"the update that was cut cannot be done again: exit status {status}")
            self._dead = not self.machine.restart(Until.JUDGED)
        self.expect(Expectation(running=(step.to,) if step.to else None, confirmed=True), "reached")

    def roam(self, step: Step) -> None:
        """Update to the release that does not run, lose power on the way, come up, again and again."""
        for number in range(1, step.times + 1):
            runs = self._sight(Expectation()).running
            other = Kind.GOOD if runs == self._version(Kind.FIRST) else Kind.FIRST
            order = Order(command=Command.UPDATE, version=self._version(other), stop=Moment.ANYWHERE)
            self.machine.order(order)
            self.machine.cut()
            self._dead = not self.machine.start(Until.JUDGED)
            self._check_invariants(f"cut {number}")
            expected = Expectation(running=(Kind.FIRST, Kind.GOOD), confirmed=True, denied=())
            self.expect(expected, f"cut {number}")

    def off(self, _step: Step) -> None:
        """Unplug."""
        self.machine.cut()

    def _require_off(self) -> None:
        """A disk is not changed under a running system. Raises DrillFailedError."""
        if self.machine.is_on:
            raise DrillFailedError("the machine is on: the drill has to switch it off before")

    def damage(self, step: Step) -> None:
        """Change the first bytes of every mebibyte of an image."""
        slot, role = step.slot or Slot.A, step.image or "root"
        self._require_off()
        place = self._partition(slot, role)
        size = max(contents[role].size for contents in self.supply.contents.values())
        with self.machine.disk.open("r+b") as disk:
            for position in range(0, min(size, place.size), _DAMAGE_EVERY):
                disk.seek(place.offset + position)
                old = disk.read(_DAMAGE_BYTES)
                disk.seek(place.offset + position)
                disk.write(bytes(byte ^ 0xFF for byte in old))

    def flags(self, step: Step) -> None:
        """Put flags into the table."""
        self._require_off()
        slot = step.slot or Slot.A
        flags = Flags(priority=step.priority, tries=step.tries, successful=step.successful)
        disk = Disk(OsMedium(), str(self.machine.disk))
        loaded = disk.load()
        index = self._look().slots[slot].boot.number - 1
        entry = loaded.table.entries[index]
        attributes = gptprio.with_flags(entry.attributes, flags)
        disk.store(loaded, {index: replace(entry, attributes=attributes)})

    def grow(self, step: Step) -> None:
        """Enlarge the disk; the backup table is no longer at its end."""
        self._require_off()
        with self.machine.disk.open("r+b") as disk:
            disk.truncate(disk.seek(0, 2) + step.mebibytes * _MEBIBYTE)

    # -- looking ---------------------------------------------------------------------------------

    def _version(self, kind: Kind | None) -> Version | None:
        return self.supply.releases[kind] if kind else None

    def _look(self) -> DiskView:
        return BootStage(OsMedium(), str(self.machine.disk)).look()

    def _partition(self, slot: Slot, role: str) -> PartitionView:
        place: PartitionView = getattr(self._look().slots[slot], role)
        return place

    def _sight(self, expected: Expectation) -> Sight:
        """Look at the node, and at what takes long only if it is asked for."""
        status = self.machine.status() if self.machine.is_on else {}
        running, rollback = status.get("running", {}), status.get("last_rollback") or {}
        self.cause = rollback.get("sentence") or self.cause
        return Sight(
            running=Version.parse(running["version"]) if running else None,
            slot=Slot(running["slot"]) if running else None,
            confirmed=running.get("confirmed"),
            standing=status.get("standing"),
            last_rollback=rollback.get("code"),
            denied=frozenset(Version.parse(item["version"]) for item in status.get("denied", ())),
            dead=self._dead,
            console=self._console() if expected.console else "",
            changed=frozenset(s for s in expected.untouched or () if self._digest(s) != self._before[s]),
        )

    def _console(self) -> str:
        return self.machine.console.read_text(encoding="utf-8", errors="replace")

    def _watched(self) -> set[Slot]:
        """Return the slots that some expectation wants untouched."""
        expected = [self.drill.end, *(step.then for step in self.drill.steps if step.then)]
        return {slot for each in expected for slot in each.untouched or ()}

    def _digest(self, slot: Slot) -> str:
        """Return a digest of everything in a slot's partitions."""
        whole = hashlib.sha256()
        for role in ROLES:
            place = self._partition(slot, role)
            content = self._content(place, place.size)
            whole.update(json.dumps([role, *content]).encode())
        return whole.hexdigest()

    def _content(self, place: PartitionView, size: int) -> tuple[int, str]:
        """Return the size and SHA-256 of what a partition begins with."""
        medium = OsMedium()
        with opened(medium, str(self.machine.disk)) as descriptor:
            region = Region(
                medium=medium, descriptor=descriptor, offset=place.offset, size=place.size, name=place.label
            )
            content = read_content(region, size, advance=lambda _count: None)
        return content.size, content.sha256

    # -- invariants ------------------------------------------------------------------------------

    def _check_invariants(self, where: str) -> None:
        """Raise DrillFailedError where one does not hold."""
        if not self.drill.end.dead:
            if self._look().next is None:
                raise DrillFailedError(f"{where}: no slot can be booted any more")
            if self._dead:
                raise DrillFailedError(f"{where}: nothing came up")
        if self.machine.is_on:
            self._check_running(where)

    def _check_running(self, where: str) -> None:
        """What runs is whole and of a kind that can."""
        seen = self._sight(Expectation())
        kinds = [kind for kind, version in self.supply.releases.items() if version == seen.running]
        if seen.running is None or seen.slot is None or not kinds:
            raise DrillFailedError(f"{where}: {seen.running} runs, which no drill has put there")
        if set(kinds) <= NEVER_RUN:
            raise DrillFailedError(f"{where}: {seen.running} runs, which is a release of kind {kinds[0]}")
        for role, signed in self.supply.contents[seen.running].items():
            found = self._content(self._partition(seen.slot, role), signed.size)
            if found != (signed.size, signed.sha256):
                raise DrillFailedError(f"{where}: {role} of the running slot {seen.slot} is not as signed")


_ACTIONS: Mapping[Action, Callable[[_Player, Any], None]] = {
    Action.UPDATE: _Player.order,
    Action.INSTALL: _Player.order,
    Action.APPLY: _Player.order,
    Action.REVERT: _Player.order,
    Action.ROLLBACK: _Player.order,
    Action.JUDGE: _Player.judge,
    Action.START: _Player.start,
    Action.RESTART: _Player.restart,
    Action.POWER_CYCLE: _Player.power_cycle,
    Action.REACH: _Player.reach,
    Action.ROAM: _Player.roam,
    Action.OFF: _Player.off,
    Action.DAMAGE: _Player.damage,
    Action.FLAGS: _Player.flags,
    Action.GROW: _Player.grow,
}
