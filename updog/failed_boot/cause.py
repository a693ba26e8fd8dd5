"""Why a version failed to run, derived from the traces of its starts. PURE.

Rules it enforces:

* damage of the slot's content takes precedence over the kernel's last messages (a pstore record), and those
  over the stage that a start reached; without any trace the cause is unknown, never a guess;
* a crash whose records name the other slot is ignored; records written within :data:`ONE_CRASH_SECONDS` are
  one crash, because firmware splits a log into many records;
* records are untrusted input: lines are cut, control characters are replaced, and only :data:`PATTERNS` are
  looked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from signpost.bootrecord import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signpost.sets import Slot

MAX_LINE = 400
"""Characters of a line that are examined: printk's limit is 1024 bytes, but patterns match near the start."""

ONE_CRASH_SECONDS = 30.0
"""Records of one crash are written within this time: firmware takes a second or two for about ten records."""

MAX_EXCERPT = 160
"""Characters of a line that a sentence repeats: two lines of a terminal."""


class Cause(StrEnum):
    """Why a start failed, as a stable name; :data:`CAUSES` has the meanings."""

    DAMAGED = "slot-damaged"
    VERITY = "verity-failed"
    NO_ROOT = "root-not-mounted"
    INIT = "init-failed"
    OUT_OF_MEMORY = "out-of-memory"
    HANG = "hang"
    PANIC = "kernel-panic"
    KERNEL = "kernel-not-started"
    NOT_CONFIRMED = "not-confirmed"
    UNKNOWN = "unknown"


CAUSES = {
    Cause.DAMAGED: "the slot no longer contains what was written and verified; the release is not the cause",
    Cause.VERITY: "the root file system or its hash tree differs from what was signed",
    Cause.NO_ROOT: "the kernel or its initrd did not find a root file system",
    Cause.INIT: "the init process is missing, exited, or stopped with an error",
    Cause.OUT_OF_MEMORY: "the kernel ran out of memory and stopped",
    Cause.HANG: "the kernel detected a lockup or a hung task",
    Cause.PANIC: "the kernel panicked for another reason, which the sentence repeats",
    Cause.KERNEL: "the slot's kernel could not be loaded or started",
    Cause.NOT_CONFIRMED: "it started, and was restarted or lost power before it was confirmed",
    Cause.UNKNOWN: "no trace shows the cause",
}

UNEXPLAINED = frozenset({Cause.UNKNOWN, Cause.NOT_CONFIRMED})
"""Causes that do not show that the release is bad: a power cut leaves the same traces."""

_PANIC = "Kernel panic - not syncing:"
PATTERNS: tuple[tuple[re.Pattern[str], Cause], ...] = (
    # drivers/md/dm-verity-target.c, verity_handle_err, in each of its modes
    (re.compile(r"dm-verity device corrupted|device-mapper: verity: .{0,80} is corrupted"), Cause.VERITY),
    # init/do_mounts.c, mount_block_root; initramfs-tools' scripts/functions and systemd's initrd
    (re.compile(r"VFS: (?:Unable to mount|Cannot open) root|Gave up waiting for root"), Cause.NO_ROOT),
    # init/main.c, kernel_init; kernel/exit.c, do_exit; systemd's crash handling
    (re.compile(r"No working init found|Requested init .{0,80} failed|Attempted to kill init"), Cause.INIT),
    (re.compile(r"Freezing execution|ntering emergency mode|You are in emergency mode"), Cause.INIT),
    (re.compile(_PANIC + r" (?:System is deadlocked on memory|Out of memory)"), Cause.OUT_OF_MEMORY),
    # kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h
    (re.compile(_PANIC + r" (?:softlockup|Hard LOCKUP|hung_task|RCU Stall|.{0,40}[Ww]atchdog)"), Cause.HANG),
    (re.compile(_PANIC), Cause.PANIC),
    (re.compile(r"BUG: soft lockup|[Hh]ard LOCKUP|blocked for more than [0-9]+ seconds"), Cause.HANG),
)
"""Which cause a line of a record shows, the most certain pattern first."""

_STAGES = {
    **{reason.value: Cause.KERNEL for reason in Reason if reason is not Reason.SPENT},
    "verity": Cause.VERITY,
    "init": Cause.INIT,
    "running, not confirmed": Cause.NOT_CONFIRMED,
}
"""The causes of the stages that a boot stage reports: why it skipped a slot, or how far a start came."""

_PREFIX = re.compile(r"^(?:<[0-9]{1,3}>)?(?:\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? ?)?")
_SLOT = re.compile(r"[Cc]ommand line: .*\bslot=([AB])\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record that a kernel left in pstore.

    Attributes:
        name: its file name.
        text: its content, or the end of it.
        digest: identifies its content, even after the file was moved.
        time: when it was written, in seconds since the epoch by the clock of that time.
    """

    name: str
    text: str
    digest: str
    time: float = 0.0

    @property
    def is_console(self) -> bool:
        """Whether it is a console log, which ends where the machine stopped, whether it crashed or not."""
        return self.name.startswith("console-")


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEvidence:
    """What is known of a version that failed.

    Attributes:
        slot: its slot.
        stages: the stage that each start reached, by the boot stage's record; oldest first.
        reached: how far it came by its own record: ``up``, ``checking``, or empty.
        records: pstore records since it was applied; newest first.
        damaged: its images that differ from what was written.
    """

    slot: Slot
    stages: tuple[str, ...] = ()
    reached: str = ""
    records: tuple[Record, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a version failed: a stable cause, and the rest of a sentence that begins ``VERSION in slot B``."""

    cause: Cause
    text: str


def explain(evidence: BootEvidence) -> Explanation:
    """Return why the version failed, by the best evidence there is."""
    text, cause = _progress(evidence)
    if evidence.damaged:
        cause = Cause.DAMAGED
        text += f"; its {', '.join(evidence.damaged)} no longer contained what was written"
    records: list[Record] = []
    for crash in _crashes(evidence.records):
        slots = {slot for record in crash for slot in _SLOT.findall(record.text)}
        if not slots or evidence.slot.value in slots:
            records += crash
    if (match := next(_matches(records), None)) is not None:
        record, found, line = match
        text = f'{text}: "{line}" ({record.name})'
        return Explanation(cause=Cause.DAMAGED if evidence.damaged else found, text=text)
    if (console := next((record for record in records if record.is_console), None)) is not None:
        last = next(reversed(list(_lines(console.text))), "")
        text = f'{text}; the last line on its console was "{_excerpt(last)}" ({console.name})'
        return Explanation(cause=cause, text=text)
    if not (evidence.stages or evidence.reached or evidence.damaged):
        text += ", and left no trace of the stage it reached"
    return Explanation(cause=cause, text=text)


def _progress(evidence: BootEvidence) -> tuple[str, Cause]:
    """Describe how far the starts came, and the cause that follows from the last one alone."""
    last = evidence.stages[-1] if evidence.stages else ""
    cause = _STAGES.get(last, Cause.UNKNOWN)
    if last and cause is not Cause.NOT_CONFIRMED:
        return f"failed at stage {', '.join(evidence.stages)}", cause
    if evidence.reached == "checking":
        return "started, but was interrupted during its health checks", Cause.NOT_CONFIRMED
    if last or evidence.reached:
        return "started, but was interrupted before it was confirmed", Cause.NOT_CONFIRMED
    return "did not start", Cause.UNKNOWN


def _matches(records: list[Record]) -> Iterator[tuple[Record, Cause, str]]:
    """Yield the matches of :data:`PATTERNS`, the most certain first; a panic may span several records."""
    lines = {record.digest: list(_lines(record.text)) for record in records}
    panic = next((line for each in lines.values() for line in each if _PANIC in line), None)
    for pattern, cause in PATTERNS:
        for record in records:
            found = next((line for line in lines[record.digest] if pattern.search(line)), None)
            if found is not None:
                yield record, cause, _excerpt(panic or found)


def _crashes(records: tuple[Record, ...]) -> Iterator[list[Record]]:
    """Yield the records of each crash, newest first."""
    crash: list[Record] = []
    for record in sorted(records, key=lambda each: -each.time):
        if crash and crash[-1].time - record.time > ONE_CRASH_SECONDS:
            yield crash
            crash = []
        crash.append(record)
    if crash:
        yield crash


def _lines(text: str) -> Iterator[str]:
    """Yield the lines without printk's prefix and control characters, cut to :data:`MAX_LINE`."""
    for line in text.splitlines():
        plain = _PREFIX.sub("", "".join(c if c.isprintable() else " " for c in line[:MAX_LINE])).strip()
        if plain:
            yield plain


def _excerpt(line: str) -> str:
    """Return a line for quoting in a sentence: shortened, and without double quotes."""
    plain = line.replace('"', "'")
    return plain if len(plain) <= MAX_EXCERPT else f"{plain[:MAX_EXCERPT]}…"
