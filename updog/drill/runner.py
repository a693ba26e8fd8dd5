"""Run a drill on a machine, and check the node: the expectations of its file, and the invariants.

The invariants are checked after every step, whatever the file says:

* some slot can be booted, except in a drill that ends with a dead machine;
* what runs is, bit for bit, what was signed for the version that it says it is, and of a kind that can run: a
  corrupted release never runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from signpost import gptprio
from signpost.app import UnbootedDisk
from signpost.disk import Disk
from signpost.gptprio import Flags
from signpost.medium import OsMedium, opened
from signpost.sets import ImageKind, Slot
from updog.drill.drill_file import Action, Expectation, Kind, Moment, Until
from updog.drill.machine import NodeCommand, Order
from updog.errors import DrillFailedError
from updog.image.region import partition_content
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from signpost.app import DiskView, PartitionView
    from updog.drill.drill_file import Drill, DrillStep
    from updog.drill.machine import DrillReleases, Machine
    from updog.update_metadata.content import Content

NEVER_RUN = frozenset({Kind.BAD_KERNEL, Kind.PANIC, Kind.NO_INIT})
"""Kinds whose systems cannot come up: if one runs, there is a fault in the drill or in the machine."""

_COMMANDS = {
    Action.UPDATE: NodeCommand.UPDATE,
    Action.INSTALL: NodeCommand.INSTALL,
    Action.APPLY: NodeCommand.APPLY,
    Action.REVERT: NodeCommand.REVERT,
    Action.ROLLBACK: NodeCommand.ROLLBACK,
    Action.JUDGE: NodeCommand.CONFIRM,
}
_DONE, _NOTHING_TO_DO = 0, 3
_MEBIBYTE = 1 << 20
_DAMAGE_EVERY, _DAMAGE_BYTES = _MEBIBYTE, 4096  # the first of them holds the superblock of any file system


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """The state of a node; the members are those of :class:`~updog.drill.drill_file.Expectation`."""

    running: Version | None
    slot: Slot | None
    confirmed: bool | None
    standing: str | None
    last_rollback: str | None
    denied: frozenset[Version]
    dead: bool
    console: str
    changed: frozenset[Slot]


def differences(expected: Expectation, seen: Observation, releases: Mapping[Kind, Version]) -> Iterator[str]:
    """Yield what is not as expected, in words. PURE."""
    plain = ("slot", "confirmed", "standing", "last_rollback", "dead")
    for name in plain:
        wanted, found = getattr(expected, name), getattr(seen, name)
        if wanted is not None and wanted != found:
            yield f"{name} is {'none' if found is None else found}, not {wanted}"
    if expected.running is not None and seen.running not in {releases[kind] for kind in expected.running}:
        wanted = " or ".join(f"{releases[kind]} ({kind})" for kind in expected.running)
        yield f"{seen.running or 'nothing'} runs, not {wanted}"
    if expected.denied is not None and seen.denied != {releases[kind] for kind in expected.denied}:
        names = ", ".join(sorted(map(str, seen.denied))) or "nothing"
        yield f"denied is {names}, not {', '.join(expected.denied) or 'nothing'}"
    if expected.console is not None and expected.console not in seen.console:
        yield f"{expected.console!r} is not on the console"
    yield from (f"slot {slot} was changed" for slot in expected.untouched or () if slot in seen.changed)


def run_drill(drill: Drill, machine: Machine, releases: DrillReleases) -> str:
    """Run a drill to its end; return the node's last rollback in one sentence, empty if there was none.

    Raises:
        DrillFailedError: says at which step, and what was not as expected.
        ToolError: the machine or the repository failed.
    """
    run = _DrillRun(drill=drill, machine=machine, releases=releases)
    run.begin()
    for number, step in enumerate(drill.steps, start=1):
        run.take(step, f"step {number} ({step})")
    run.expect(drill.end, "the end")
    return run.cause


@dataclass(kw_only=True, slots=True)
class _DrillRun:
    """One run of a drill.

    Attributes:
        cause: the sentence of the node's last rollback, as last seen.
    """

    drill: Drill
    machine: Machine
    releases: DrillReleases
    cause: str = ""
    _dead: bool = False
    _before: dict[Slot, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Switch on, and check that the first release runs, confirmed."""
        expected = [self.drill.end, *(step.then for step in self.drill.steps if step.then)]
        watched = {slot for each in expected for slot in each.untouched or ()}
        self._before = {slot: self._digest(slot) for slot in watched}
        self._dead = not self.machine.start(Until.JUDGED)
        self.expect(Expectation(running=(Kind.FIRST,), confirmed=True, dead=False), "the beginning")

    def take(self, step: DrillStep, where: str) -> None:
        """Do a step, then check the invariants and its expectations. Raises DrillFailedError."""
        try:
            _ACTIONS[step.do](self, step)
        except DrillFailedError as error:
            raise DrillFailedError(f"{where}: {error.message}") from error
        self._check_invariants(where)
        if step.then is not None:
            self.expect(step.then, where)

    def expect(self, expected: Expectation, where: str) -> None:
        """Compare the node with what is expected. Raises DrillFailedError."""
        if faults := list(differences(expected, self._observe(expected), self.releases.versions)):
            raise DrillFailedError(f"{where}: {'; '.join(faults)}")

    # -- actions ---------------------------------------------------------------------------------

    def order(self, step: DrillStep) -> None:
        """Give the node a command."""
        stop = step.cut or step.kill
        order = Order(
            command=_COMMANDS[step.do], version=self._version(step.to), stop=stop, kill=step.kill is not None
        )
        status = self.machine.order(order)
        if stop is None and status != step.exit:
            raise DrillFailedError(f"exit status {status}, not {step.exit}")

    def judge(self, step: DrillStep) -> None:
        """Let the node confirm or fall back, or interrupt it."""
        if step.cut or step.kill:
            self.order(step)
        else:
            self._dead = not self.machine.judge()

    def start(self, step: DrillStep) -> None:
        """Switch on."""
        self._dead = not self.machine.start(step.until)

    def restart(self, step: DrillStep) -> None:
        """Restart."""
        self._dead = not self.machine.restart(step.until)

    def power_cycle(self, step: DrillStep) -> None:
        """Cut the power and switch on again."""
        for _ in range(step.times):
            self.machine.cut()
            self._dead = not self.machine.start(step.until)
            self._check_invariants("power cycle")

    def reach(self, step: DrillStep) -> None:
        """Update and restart as far as needed for the release to run confirmed."""
        version = self._version(step.to)
        if self._observe(Expectation()).running != version:
            status = self.machine.order(Order(command=NodeCommand.UPDATE, version=version))
            if status not in {_DONE, _NOTHING_TO_DO}:
                raise DrillFailedError(f"the interrupted update cannot be repeated: exit status {status}")
            self._dead = not self.machine.restart(Until.JUDGED)
        self.expect(Expectation(running=(step.to,) if step.to else None, confirmed=True), "reached")

    def roam(self, step: DrillStep) -> None:
        """Update to the release that does not run, with the power cut on the way, and start; many times."""
        for number in range(1, step.times + 1):
            runs = self._observe(Expectation()).running
            other = Kind.GOOD if runs == self._version(Kind.FIRST) else Kind.FIRST
            order = Order(command=NodeCommand.UPDATE, version=self._version(other), stop=Moment.ANYWHERE)
            self.machine.order(order)
            self.machine.cut()
            self._dead = not self.machine.start(Until.JUDGED)
            self._check_invariants(f"cut {number}")
            expected = Expectation(running=(Kind.FIRST, Kind.GOOD), confirmed=True, denied=())
            self.expect(expected, f"cut {number}")

    def off(self, _step: DrillStep) -> None:
        """Cut the power."""
        self.machine.cut()

    def _require_off(self) -> None:
        """Raise DrillFailedError while a system runs: its disk is not changed under it."""
        if self.machine.is_on:
            raise DrillFailedError("the machine is on: the drill has to switch it off first")

    def damage(self, step: DrillStep) -> None:
        """Change the first bytes of every mebibyte of an image."""
        slot, kind = step.slot or Slot.A, step.image or ImageKind.ROOT
        self._require_off()
        place = self._partition(slot, kind)
        size = max(contents.of(kind).size for contents in self.releases.contents.values())
        with self.machine.disk.open("r+b") as disk:
            for position in range(0, min(size, place.size), _DAMAGE_EVERY):
                disk.seek(place.offset + position)
                old = disk.read(_DAMAGE_BYTES)
                disk.seek(place.offset + position)
                disk.write(bytes(byte ^ 0xFF for byte in old))

    def flags(self, step: DrillStep) -> None:
        """Write flags into the partition table."""
        self._require_off()
        slot = step.slot or Slot.A
        flags = Flags(priority=step.priority, tries=step.tries, successful=step.successful)
        disk = Disk(OsMedium(), str(self.machine.disk))
        loaded = disk.load()
        index = self._look().slots[slot].boot.number - 1
        entry = loaded.table.entries[index]
        attributes = gptprio.with_flags(entry.attributes, flags)
        disk.store(loaded, {index: replace(entry, attributes=attributes)})

    def grow(self, step: DrillStep) -> None:
        """Enlarge the disk: the backup table is then no longer at its end."""
        self._require_off()
        with self.machine.disk.open("r+b") as disk:
            disk.truncate(disk.seek(0, 2) + step.mebibytes * _MEBIBYTE)

    # -- observing ----------------------------------------------------------------------------------

    def _version(self, kind: Kind | None) -> Version | None:
        return self.releases.versions[kind] if kind else None

    def _look(self) -> DiskView:
        return UnbootedDisk(OsMedium(), str(self.machine.disk)).view()

    def _partition(self, slot: Slot, kind: ImageKind) -> PartitionView:
        return self._look().slots[slot].partition(kind)

    def _observe(self, expected: Expectation) -> Observation:
        """Return the state of the node; what is slow to find out only if it is expected."""
        status = self.machine.status() if self.machine.is_on else {}
        running, rollback = status.get("running", {}), status.get("last_rollback") or {}
        self.cause = rollback.get("sentence") or self.cause
        return Observation(
            running=Version.parse(running["version"]) if running else None,
            slot=Slot(running["slot"]) if running else None,
            confirmed=running.get("confirmed"),
            standing=status.get("standing"),
            last_rollback=rollback.get("code"),
            denied=frozenset(Version.parse(item["version"]) for item in status.get("denied", ())),
            dead=self._dead,
            console=self.machine.log.read_bytes().decode(errors="replace") if expected.console else "",
            changed=frozenset(s for s in expected.untouched or () if self._digest(s) != self._before[s]),
        )

    def _digest(self, slot: Slot) -> str:
        """Return a digest of all bytes of a slot's partitions."""
        whole = hashlib.sha256()
        for kind in ImageKind:
            place = self._partition(slot, kind)
            content = self._content(place, place.size)
            whole.update(json.dumps([kind, content.size, content.sha256]).encode())
        return whole.hexdigest()

    def _content(self, place: PartitionView, size: int) -> Content:
        """Return size and digest of the first bytes of a partition."""
        medium = OsMedium()
        with opened(medium, str(self.machine.disk)) as descriptor:
            return partition_content(medium, descriptor, place, size)

    # -- invariants ------------------------------------------------------------------------------

    def _check_invariants(self, where: str) -> None:
        """Raise DrillFailedError if one does not hold."""
        if not self.drill.end.dead:
            if self._look().next is None:
                raise DrillFailedError(f"{where}: no slot can be booted any more")
            if self._dead:
                raise DrillFailedError(f"{where}: nothing came up")
        if self.machine.is_on:
            self._check_running(where)

    def _check_running(self, where: str) -> None:
        """Raise DrillFailedError if what runs is not as signed, or of a kind that cannot run."""
        seen = self._observe(Expectation())
        kinds = [kind for kind, version in self.releases.versions.items() if version == seen.running]
        if seen.running is None or seen.slot is None or not kinds:
            raise DrillFailedError(f"{where}: {seen.running} runs, which is none of the releases given")
        if set(kinds) <= NEVER_RUN:
            raise DrillFailedError(f"{where}: {seen.running} runs, which is a release of kind {kinds[0]}")
        for kind, signed in self.releases.contents[seen.running].items():
            if self._content(self._partition(seen.slot, kind), signed.size) != signed:
                raise DrillFailedError(f"{where}: {kind} of the running slot {seen.slot} is not as signed")


_ACTIONS: Mapping[Action, Callable[[_DrillRun, Any], None]] = {
    Action.UPDATE: _DrillRun.order,
    Action.INSTALL: _DrillRun.order,
    Action.APPLY: _DrillRun.order,
    Action.REVERT: _DrillRun.order,
    Action.ROLLBACK: _DrillRun.order,
    Action.JUDGE: _DrillRun.judge,
    Action.START: _DrillRun.start,
    Action.RESTART: _DrillRun.restart,
    Action.POWER_CYCLE: _DrillRun.power_cycle,
    Action.REACH: _DrillRun.reach,
    Action.ROAM: _DrillRun.roam,
    Action.OFF: _DrillRun.off,
    Action.DAMAGE: _DrillRun.damage,
    Action.FLAGS: _DrillRun.flags,
    Action.GROW: _DrillRun.grow,
}
