"""Why a version that could not run went down, told from what its starts left behind. PURE.

Rules it enforces:

* that the slot no longer holds what was written outweighs what the kernel itself said last (a record of
  pstore), that outweighs how far a start came; without any trace the answer is that there is none, no guess;
* a crash whose records say that it was the other slot's is not held against this one; what was written within
  :data:`ONE_CRASH` is one crash, for firmware splits a log into many records;
* records are other people's bytes: lines are cut, control characters go, and only :data:`SIGNS` are believed.
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
"""Characters of a line that are looked at: printk's own limit is 1024 bytes, and the sign stands in front."""

ONE_CRASH = 30.0
"""Seconds within which the records of one crash are written: firmware takes a second or two for some ten."""

SHOWN = 160
"""Characters of a line that a sentence repeats: two lines of a terminal."""


class Cause(StrEnum):
    """Why a start failed, by its stable name; :data:`CAUSES` has the meanings."""

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
    Cause.DAMAGED: "the slot no longer holds what was written and proven; the release is not at fault",
    Cause.VERITY: "the root or its hash tree is not what was signed",
    Cause.NO_ROOT: "the kernel or its initrd found no root file system",
    Cause.INIT: "the first process is missing, ended, or gave up",
    Cause.OUT_OF_MEMORY: "the kernel ran out of memory and stopped",
    Cause.HANG: "the kernel found itself stuck",
    Cause.PANIC: "the kernel panicked for another reason, which the sentence repeats",
    Cause.KERNEL: "the slot's kernel could not be loaded or started",
    Cause.NOT_CONFIRMED: "it came up, and was restarted or cut off before it was confirmed",
    Cause.UNKNOWN: "nothing was left that tells",
}

_PANIC = "Kernel panic - not syncing:"
SIGNS: tuple[tuple[re.Pattern[str], Cause], ...] = (
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
"""What a line of a record gives away, surest first."""

_STAGES = {
    **{reason.value: Cause.KERNEL for reason in Reason if reason is not Reason.SPENT},
    "verity": Cause.VERITY,
    "init": Cause.INIT,
    "running, not confirmed": Cause.NOT_CONFIRMED,
}
"""The causes behind the stages that a boot stage names: why it passed a slot over, and how far one came."""

_PREFIX = re.compile(r"^(?:<[0-9]{1,3}>)?(?:\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? ?)?")
_SLOT = re.compile(r"[Cc]ommand line: .*\bslot=([AB])\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a kernel left in pstore.

    Attributes:
        name: its file's name.
        text: its content, or the end of it.
        digest: tells it from any other, wherever it is moved.
        time: when it was written, by the clock there was, in seconds.
    """

    name: str
    text: str
    digest: str
    time: float = 0.0

    @property
    def is_console(self) -> bool:
        """Whether it is a log of the console, which ends where the machine did, well or not."""
        return self.name.startswith("console-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of a version that went down.

    Attributes:
        slot: where it was.
        stages: how far each start came, by the boot stage's record; oldest first.
        reached: how far a start came by what the version itself noted: ``up``, ``checking``; or nothing.
        records: what kernels left in pstore since it was applied; newest first.
        damaged: its images that are no longer what was written.
    """

    slot: Slot
    stages: tuple[str, ...] = ()
    reached: str = ""
    records: tuple[Record, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why it went down: a stable cause, and the words that follow ``VERSION in slot B``."""

    cause: Cause
    words: str


def explain(evidence: Evidence) -> Explanation:
    """Tell why the version went down, by the best evidence there is."""
    how_far, cause = _how_far(evidence)
    if evidence.damaged:
        cause = Cause.DAMAGED
        how_far += f"; its {', '.join(evidence.damaged)} no longer held what was written"
    mine = [
        record for crash in _crashes(evidence.records) if _may_be(crash, evidence.slot) for record in crash
    ]
    if (sign := next(_signs(mine), None)) is not None:
        record, found, line = sign
        words = f'{how_far}: "{line}" ({record.name})'
        return Explanation(cause=Cause.DAMAGED if evidence.damaged else found, words=words)
    if (console := next((record for record in mine if record.is_console), None)) is not None:
        last = next(reversed(list(_lines(console.text))), "")
        words = f'{how_far}; the last on its console was "{_shown(last)}" ({console.name})'
        return Explanation(cause=cause, words=words)
    silent = "" if evidence.stages or evidence.reached or evidence.damaged else ", and left no trace where"
    return Explanation(cause=cause, words=how_far + silent)


def _how_far(evidence: Evidence) -> tuple[str, Cause]:
    """Say how far the starts came, the last one above all, and what that alone means."""
    last = evidence.stages[-1] if evidence.stages else ""
    cause = _STAGES.get(last, Cause.UNKNOWN)
    if last and cause is not Cause.NOT_CONFIRMED:
        return f"went down at stage {', '.join(evidence.stages)}", cause
    if evidence.reached == "checking":
        return "came up, but was cut off while its health was checked", Cause.NOT_CONFIRMED
    if last or evidence.reached:
        return "came up, but was cut off before it was confirmed", Cause.NOT_CONFIRMED
    return "did not come up", Cause.UNKNOWN


def _signs(records: list[Record]) -> Iterator[tuple[Record, Cause, str]]:
    """Yield what the records give away, the surest sign first; a panic may be spread over several of them."""
    lines = {record.digest: list(_lines(record.text)) for record in records}
    panic = next((line for each in lines.values() for line in each if _PANIC in line), None)
    for pattern, cause in SIGNS:
        for record in records:
            found = next((line for line in lines[record.digest] if pattern.search(line)), None)
            if found is not None:
                yield record, cause, _shown(panic or found)


def _crashes(records: tuple[Record, ...]) -> Iterator[list[Record]]:
    """Yield the records of each crash, newest first."""
    crash: list[Record] = []
    for record in sorted(records, key=lambda each: -each.time):
        if crash and crash[-1].time - record.time > ONE_CRASH:
            yield crash
            crash = []
        crash.append(record)
    if crash:
        yield crash


def _may_be(crash: list[Record], slot: Slot) -> bool:
    """Tell whether a crash may be a slot's: its kernel's command line names that one, or none is kept."""
    named = {found for record in crash for found in _SLOT.findall(record.text)}
    return not named or slot.value in named


def _lines(text: str) -> Iterator[str]:
    """Yield the lines without what printk puts in front, without controls, cut to :data:`MAX_LINE`."""
    for line in text.splitlines():
        plain = _PREFIX.sub("", "".join(c if c.isprintable() else " " for c in line[:MAX_LINE])).strip()
        if plain:
            yield plain


def _shown(line: str) -> str:
    """Return a line as a sentence repeats it: short, without its own quotation marks."""
    plain = line.replace('"', "'")
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}…"
