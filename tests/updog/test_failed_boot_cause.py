"""Why a version failed: the whole table from what kernels, the boot stage and the version itself left."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signpost.sets import Slot
from tests.support.patience import took_less
from updog.failed_boot.cause import (
    CAUSES,
    MAX_EXCERPT,
    MAX_LINE,
    BootEvidence,
    Cause,
    Explanation,
    Record,
    explain,
)
from updog.failed_boot.pstore import read_records

RECORDS = Path(__file__).resolve().parents[2] / "fixtures/pstore"
LAST = "running, not confirmed"
PANIC = "Kernel panic - not syncing: "


def _record(text: str, name: str = "dmesg-efi-1") -> Record:
    return Record(name=name, text=text, digest=f"{name} {hash(text)}")


def _explain(*texts: str, **facts: tuple[str, ...] | str) -> Explanation:
    records = tuple(_record(text, f"dmesg-efi-{number}") for number, text in enumerate(texts))
    return explain(BootEvidence(slot=Slot.B, records=records, **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (f"{PANIC}VFS: Unable to mount root fs on unknown-block(0,0)", Cause.NO_ROOT),
        ('VFS: Cannot open root device "/dev/dm-0" or unknown-block(0,0): error -6', Cause.NO_ROOT),
        (f"{PANIC}No working init found.  Try passing init= option to kernel.", Cause.INIT),
        (f"{PANIC}Requested init /sbin/init failed (error -2).", Cause.INIT),
        (f"{PANIC}Attempted to kill init! exitcode=0x0000000b", Cause.INIT),
        ("systemd[1]: Freezing execution.", Cause.INIT),
        ('You are in emergency mode. After logging in, type "journalctl -xb"', Cause.INIT),
        (f"{PANIC}dm-verity device corrupted", Cause.VERITY),
        ("device-mapper: verity: 254:1: data block 1707 is corrupted", Cause.VERITY),
        ("reboot: Restarting system with command 'dm-verity device corrupted'", Cause.VERITY),
        (f"{PANIC}System is deadlocked on memory", Cause.OUT_OF_MEMORY),
        (f"{PANIC}Out of memory: system-wide panic_on_oom is enabled", Cause.OUT_OF_MEMORY),
        (f"{PANIC}softlockup: hung tasks", Cause.HANG),
        (f"{PANIC}hung_task: blocked tasks", Cause.HANG),
        (f"{PANIC}Hard LOCKUP", Cause.HANG),
        ("INFO: task mount:211 blocked for more than 120 seconds.", Cause.HANG),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]", Cause.HANG),
        (f"{PANIC}Fatal exception in interrupt", Cause.PANIC),
        (f"{PANIC}sysrq triggered crash", Cause.PANIC),
    ],
)
def test_what_a_kernel_said_last_names_the_cause(line: str, cause: Cause) -> None:
    why = _explain(f"Panic#1 Part1\n<6>[    1.1] Run /init as init process\n<0>[    2.345678] {line}\n")
    assert why.cause is cause
    shown = line.replace('"', "'")
    assert why.text == f'did not start: "{shown}" (dmesg-efi-0)'


@pytest.mark.parametrize(
    ("stages", "reached", "words", "cause"),
    [
        ((), "", "did not start, and left no trace of the stage it reached", Cause.UNKNOWN),
        (("kernel",), "", "failed at stage kernel", Cause.KERNEL),
        (("verity", "verity"), "", "failed at stage verity, verity", Cause.VERITY),
        (("kernel", "init"), "", "failed at stage kernel, init", Cause.INIT),
        (("a later stage",), "", "failed at stage a later stage", Cause.UNKNOWN),
        ((LAST,), "", "started, but was interrupted before it was confirmed", Cause.NOT_CONFIRMED),
        ((), "up", "started, but was interrupted before it was confirmed", Cause.NOT_CONFIRMED),
        ((), "checking", "started, but was interrupted during its health checks", Cause.NOT_CONFIRMED),
        ((LAST, "kernel"), "up",
         f"failed at stage {LAST}, kernel", Cause.KERNEL),
        (("kernel", LAST), "checking",
         "started, but was interrupted during its health checks", Cause.NOT_CONFIRMED),
    ],
)  # fmt: skip
def test_without_records_it_is_told_how_far_it_came(
    stages: tuple[str, ...], reached: str, words: str, cause: Cause
) -> None:
    assert _explain(stages=stages, reached=reached) == Explanation(cause=cause, text=words)


def test_the_kernel_s_own_words_outweigh_how_far_it_came() -> None:
    why = _explain(f"{PANIC}Fatal exception", stages=("init",))
    assert why == Explanation(
        cause=Cause.PANIC, text=f'failed at stage init: "{PANIC}Fatal exception" (dmesg-efi-0)'
    )
    assert _explain(f"{PANIC}Fatal exception", reached="up").text.startswith("started, but was interrupted")


def test_a_slot_that_lost_what_was_written_outweighs_everything_it_led_to() -> None:
    lost = "; its root, hash no longer contained what was written"
    damaged = ("root", "hash")
    assert _explain(damaged=damaged) == Explanation(cause=Cause.DAMAGED, text=f"did not start{lost}")
    why = _explain(f"{PANIC}Attempted to kill init!", damaged=damaged, stages=("init",))
    assert why.cause is Cause.DAMAGED
    assert why.text.startswith(f'failed at stage init{lost}: "Kernel panic')


def test_a_broken_root_that_ends_in_a_dead_init_is_reported_as_the_broken_root() -> None:
    """Whichever part of the log has which line, and whichever comes first."""
    early, late = "device-mapper: verity: 254:1: data block 7 is corrupted", f"{PANIC}Attempted to kill init!"
    for texts in ((early, late), (late, early), (f"{early}\n{late}",)):
        why = _explain(*texts)
        assert why.cause is Cause.VERITY
        assert "Attempted to kill init!" in why.text


@pytest.mark.parametrize("text", ["", "\n\n", "all is well\nreboot: Power down", "\x00" * 1000])
def test_a_record_that_says_nothing_explains_nothing(text: str) -> None:
    assert _explain(text) == _explain()


def test_a_record_of_the_other_slot_is_not_held_against_this_one() -> None:
    line = "<5>[    0.000000] Kernel command line: console=ttyS0 slot={} signpost.boot=PARTUUID=1\n" + PANIC
    assert _explain(line.format("A")).cause is Cause.UNKNOWN
    assert _explain(line.format("B")).cause is Cause.PANIC
    assert (
        _explain("Kernel command line: slot=A quiet\nKernel command line: slot=B\n" + PANIC).cause
        is Cause.PANIC
    )


def test_the_parts_of_one_crash_belong_together_and_those_of_another_do_not() -> None:
    """Firmware's records are small: the command line is in a different one from the panic."""

    def part(text: str, time: float) -> Record:
        return Record(name=f"dmesg-efi-{time}", text=text, digest=f"{text}{time}", time=time)

    theirs = (part(PANIC + "theirs", 1000), part("Kernel command line: slot=A", 1002))
    ours = (part(PANIC + "ours", 2000), part("Kernel command line: slot=B", 2002))
    assert explain(BootEvidence(slot=Slot.B, records=theirs)).cause is Cause.UNKNOWN
    for records in (ours + theirs, theirs + ours):
        assert (
            '"Kernel panic - not syncing: ours"' in explain(BootEvidence(slot=Slot.B, records=records)).text
        )


@pytest.mark.parametrize(
    ("kind", "cause", "line"),
    [
        ("ramoops-init-ended", Cause.INIT, "Kernel panic - not syncing: Attempted to kill init!"),
        ("efi-sysrq", Cause.PANIC, "Kernel panic - not syncing: sysrq triggered crash"),
    ],
)
def test_what_a_real_kernel_left_is_understood(kind: str, cause: Cause, line: str, tmp_path: Path) -> None:
    """Debian's own kernel, by reserved memory in one piece and by EFI variables in many."""
    shutil.copytree(RECORDS / kind, tmp_path / kind)
    records = read_records((tmp_path,))
    assert len(records) == len(list((RECORDS / kind).iterdir())) > 0
    why = explain(BootEvidence(slot=Slot.B, records=records))
    assert why.cause is cause
    assert why.text.startswith(f'did not start: "{line}')
    assert explain(BootEvidence(slot=Slot.A, records=records)).cause is Cause.UNKNOWN


def test_without_a_known_sign_the_end_of_the_console_is_reported() -> None:
    console = _record(
        "[    3.1] Run /init as init process\n[    3.2] Loading, please wait...\n", "console-ramoops-0"
    )
    why = explain(BootEvidence(slot=Slot.B, records=(console,)))
    words = 'did not start; the last line on its console was "Loading, please wait..." (console-ramoops-0)'
    assert why == Explanation(cause=Cause.UNKNOWN, text=words)


def test_a_hostile_line_is_shown_short_and_without_controls() -> None:
    (words,) = [_explain(f'{PANIC}\x1b[2J"; rm -rf /\x00\u202e{"x" * 10_000}').text]
    assert words.isprintable()
    assert len(words) < MAX_EXCERPT + 60
    assert words.count('"') == 2


def test_what_stands_far_into_a_line_is_not_looked_at() -> None:
    assert _explain("x" * MAX_LINE + PANIC).cause is Cause.UNKNOWN


@given(st.lists(st.text(max_size=300), max_size=5), st.sampled_from(["", "up", "checking", "?"]))
def test_whatever_records_hold_there_is_one_printable_answer(texts: list[str], reached: str) -> None:
    why = _explain(*texts, reached=reached)
    assert why.text.isprintable()
    assert why.cause in CAUSES


@pytest.mark.parametrize(
    "line", ["[" * 500, "<" * 500, "VFS: " * 100, "Requested init " * 60, "verity: " * 60]
)
def test_no_line_takes_long(line: str) -> None:
    """A full set of the largest records, made to send a pattern back and forth."""
    text = "\n".join([line] * (65536 // len(line)))
    started = time.monotonic()
    _explain(*(text + str(number) for number in range(8)))
    assert took_less(started, 5)


def test_every_cause_has_a_meaning() -> None:
    assert list(CAUSES) == list(Cause)
