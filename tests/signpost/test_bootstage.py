"""What the boot stage decides: which disk, which slot, which kernel, and what it does if there is none.

The machine is simulated; disks are plain files, BOOT is a folder, and the decisions are the real ones.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import pytest

from signpost import bootstage, gpt, sets
from signpost.app import UnbootedDisk
from signpost.bootrecord import BootRecord, Passed, Reason
from signpost.bootstage import BootSettings
from signpost.errors import BootEntryError, KernelLoadError, LayoutError, MediumError
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from signpost.sets import Slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from signpost.gpt import Guid
    from signpost.medium import Medium

GOOD, TRIED, CLEARED = Flags(priority=1, successful=True), Flags(priority=2, tries=1), Flags()
ENTRY = "title Demo {slot}\nlinux /vmlinuz\ninitrd /initrd\noptions ro roothash={slot}\n"
_NAMES = UUID("b4e1c5b0-8f0c-4b8e-9a6e-2f9f2f4f6a11")


class Reset(BaseException):
    """The simulated machine restarts."""


class Started(BaseException):
    """The simulated machine has started another kernel."""


@dataclass
class SimulatedMachine:
    """A machine of files: each disk's partitions are folders named after the disk and the number."""

    paths: list[str]
    origin: Guid | None = None
    refuses: str = ""  # a kernel with this content cannot be loaded
    stays: str = ""  # a kernel with this content cannot be started
    late: int = 0  # pauses before the disks appear
    architecture: str = "x64"
    said: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    loaded: tuple[str, tuple[str, ...], str] | None = None
    mounts: int = 0

    def say(self, line: str) -> None:
        self.said.append(line)

    def disks(self) -> Sequence[str]:
        return self.paths if len(self.pauses) >= self.late else []

    def firmware_partition(self) -> Guid | None:
        return self.origin

    @contextmanager
    def mounted(self, disk: str, number: int) -> Iterator[str]:
        folder = Path(f"{disk}.{number}")
        if not folder.is_dir():
            raise MediumError(f"cannot mount {folder}")
        self.mounts += 1
        try:
            yield str(folder)
        finally:
            self.mounts -= 1

    def load(self, kernel: str, initrds: Sequence[str], options: str) -> None:
        image = Path(kernel).read_text(encoding="ascii") if Path(kernel).exists() else self.refuses
        if not image or image == self.refuses:
            raise KernelLoadError(f"{kernel} cannot be loaded: Exec format error")
        assert all(Path(path).exists() for path in initrds)
        self.loaded = (image, tuple(initrds), options)

    def start(self) -> None:
        assert self.loaded
        if self.loaded[0] == self.stays:
            raise KernelLoadError("the loaded kernel cannot be started: Invalid argument")
        assert not self.mounts, "a kernel is started with nothing mounted"
        raise Started(self.loaded[0])

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def reset(self) -> None:
        raise Reset


def guid(name: str) -> Guid:
    return gpt.guid(str(uuid5(_NAMES, name)))


def make_disk(path: Path, a: Flags, b: Flags, *, foreign: bool = False) -> str:
    """Write a disk with an EFI partition, two slots and PRIVATE; BOOT of each slot as a folder beside it."""
    parts = [gpt.NewPartition(sets.EFI_SYSTEM, guid(f"{path.name} efi"), gpt.ALIGNMENT, "EFI")]
    for slot, flags in ((Slot.A, a), (Slot.B, b)):
        for role, type_ in (("BOOT", sets.BOOT), ("ROOT", sets.ROOT), ("HASH", sets.HASH)):
            bits = with_flags(0, flags) if role == "BOOT" else 0
            unique = guid(f"{path.name} {role} {slot}")
            parts.append(gpt.NewPartition(type_, unique, gpt.ALIGNMENT, f"{role}-{slot}", bits))
    parts.append(gpt.NewPartition(sets.PRIVATE, guid(f"{path.name} private"), gpt.ALIGNMENT, "PRIVATE"))
    if foreign:
        parts = [parts[0]]
    size = (len(parts) + 2) * gpt.ALIGNMENT
    table = gpt.new_table(parts, disk_size=size, disk_guid=guid(path.name), sector_size=512)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in table.writes():
            file.seek(offset)
            file.write(data)
    for slot, number in ((Slot.A, 2), (Slot.B, 5)):
        entries = path.with_name(f"{path.name}.{number}") / "loader" / "entries"
        entries.mkdir(parents=True)
        (entries / "demo.conf").write_text(ENTRY.format(slot=slot), encoding="ascii")
        (entries.parents[1] / "vmlinuz").write_text(f"kernel {slot}", encoding="ascii")
        (entries.parents[1] / "initrd").write_text("initrd", encoding="ascii")
    return str(path)


def machine(folder: Path, a: Flags = GOOD, b: Flags = CLEARED) -> SimulatedMachine:
    return SimulatedMachine([make_disk(folder / "vda", a, b)])


def flags_of(disk: str) -> dict[Slot, Flags]:
    return {slot: view.flags for slot, view in UnbootedDisk(OsMedium(), disk).view().slots.items()}


def switch_on(played: SimulatedMachine, *words: str, medium: Medium | None = None) -> str | None:
    """Run the boot stage; return the kernel that was started, None if the machine was reset."""
    try:
        bootstage.run(played, medium or OsMedium(), words)
    except Started as started:
        return str(started)
    except Reset:
        return None
    raise AssertionError("the boot stage came to an end")


def test_a_confirmed_slot_is_started_and_nothing_is_written(tmp_path: Path) -> None:
    played = machine(tmp_path)
    before = (tmp_path / "vda").read_bytes()
    assert switch_on(played) == "kernel A"
    assert (tmp_path / "vda").read_bytes() == before
    assert played.loaded
    assert played.loaded[1] == (f"{played.paths[0]}.2/initrd",)
    assert played.said[0].endswith("vda: taking slot A, which is confirmed")


def test_the_command_line_is_the_entrys_options_and_then_the_slots_parameters(tmp_path: Path) -> None:
    played = machine(tmp_path)
    switch_on(played)
    assert played.loaded
    assert played.loaded[2].split() == [
        "ro",
        "roothash=A",
        "slot=A",
        "signpost.tries=0",
        f"signpost.boot=PARTUUID={guid('vda BOOT A')}",
        f"systemd.verity_root_data=PARTUUID={guid('vda ROOT A')}",
        f"systemd.verity_root_hash=PARTUUID={guid('vda HASH A')}",
    ]


def record_of(played: SimulatedMachine) -> BootRecord | None:
    """Return the boot record, as the started system reads it."""
    assert played.loaded
    return BootRecord.from_words(played.loaded[2].split())


def test_a_try_is_counted_before_the_slot_is_read_and_then_the_other_slot_is_taken(tmp_path: Path) -> None:
    played = machine(tmp_path, GOOD, TRIED)
    played.refuses = "kernel B"
    assert switch_on(played) == "kernel A"
    assert flags_of(played.paths[0]) == {Slot.A: GOOD, Slot.B: Flags(priority=2)}
    assert "vmlinuz cannot be loaded: Exec format error" in "\n".join(played.said)
    assert record_of(played) == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, "kernel"),))
    assert switch_on(played) == "kernel A"
    assert record_of(played) == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, "spent"),))


FIRST = Flags(priority=2, successful=True)


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        pytest.param("", Reason.UNREADABLE, id="not mounted"),
        pytest.param("loader/entries/demo.conf", Reason.NO_ENTRY, id="no entry"),
        pytest.param("vmlinuz", Reason.KERNEL, id="no kernel"),
    ],
)
def test_a_confirmed_slot_that_is_damaged_is_passed_over_and_nothing_is_written(
    tmp_path: Path, damaged: str, reason: Reason
) -> None:
    """It has no tries, so it would be taken again at every start."""
    played = machine(tmp_path, GOOD, FIRST)
    (tmp_path / "vda.5" / damaged).rename(tmp_path / "gone")
    before = (tmp_path / "vda").read_bytes()
    assert switch_on(played) == "kernel A"
    assert (tmp_path / "vda").read_bytes() == before
    assert record_of(played) == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, reason),))
    assert any(line.startswith("slot B is passed over: ") for line in played.said)
    assert played.pauses == []


def test_a_slot_taken_after_another_was_passed_over_counts_its_own_try(tmp_path: Path) -> None:
    played = machine(tmp_path, Flags(priority=1, tries=3), Flags(priority=2, tries=5))
    played.refuses = "kernel B"
    assert switch_on(played) == "kernel A"
    assert flags_of(played.paths[0]) == {
        Slot.A: Flags(priority=1, tries=2),
        Slot.B: Flags(priority=2, tries=4),
    }
    assert record_of(played) == BootRecord(slot=Slot.A, tries=2, passed=(Passed(Slot.B, "kernel"),))


def test_a_kernel_that_cannot_be_started_is_passed_over_like_one_that_cannot_be_loaded(
    tmp_path: Path,
) -> None:
    played = machine(tmp_path, GOOD, FIRST)
    played.stays = "kernel B"
    assert switch_on(played) == "kernel A"
    assert record_of(played) == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, "kernel"),))


class WornMedium(OsMedium):
    """A disk that can only be read."""

    def write_at(self, *_words: object) -> None:
        raise MediumError("Read-only file system")


def test_a_slot_whose_try_cannot_be_counted_is_not_started(tmp_path: Path) -> None:
    """Its tries would never be used up; the confirmed slot needs no count."""
    played = machine(tmp_path, GOOD, TRIED)
    assert switch_on(played, medium=WornMedium()) == "kernel A"
    assert record_of(played) == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, "try-not-counted"),))
    played = SimulatedMachine([make_disk(tmp_path / "vdb", TRIED, TRIED)])
    assert switch_on(played, medium=WornMedium()) is None
    assert played.loaded is None


def test_when_both_slots_are_damaged_each_is_reported_and_the_machine_is_reset(tmp_path: Path) -> None:
    played = machine(tmp_path, GOOD, FIRST)
    for number in (2, 5):
        (tmp_path / f"vda.{number}").rename(tmp_path / f"gone.{number}")
    assert switch_on(played) is None
    said = "\n".join(played.said)
    assert said.index("slot B is passed over") < said.index("slot A is passed over")
    assert "no slot can be started" in said
    assert played.pauses == [bootstage.PAUSE]


@pytest.mark.parametrize("a", [GOOD, TRIED, CLEARED, Flags(priority=3, tries=15)])
@pytest.mark.parametrize("b", [GOOD, TRIED, CLEARED, Flags(priority=1, tries=2, successful=True)])
def test_what_is_started_is_what_was_predicted(tmp_path: Path, a: Flags, b: Flags) -> None:
    played = machine(tmp_path, a, b)
    predicted = UnbootedDisk(OsMedium(), played.paths[0]).view().next
    assert switch_on(played) == (f"kernel {predicted}" if predicted else None)


def test_nothing_bootable_ends_in_a_message_a_pause_and_a_reset(tmp_path: Path) -> None:
    played = machine(tmp_path, CLEARED, CLEARED)
    before = (tmp_path / "vda").read_bytes()
    assert switch_on(played) is None
    assert played.said[0].endswith("vda: no slot can boot")
    assert played.said[1].startswith("next: Neither slot can boot")
    assert played.said[-1] == "restarting in 30 seconds"
    assert played.pauses == [bootstage.PAUSE]
    assert (tmp_path / "vda").read_bytes() == before


@pytest.mark.parametrize("damage", ["loader", "loader/entries", "loader/entries/demo.conf", "vmlinuz"])
def test_whatever_is_missing_in_boot_is_named_and_ends_in_a_reset(tmp_path: Path, damage: str) -> None:
    played = machine(tmp_path, TRIED, CLEARED)
    target = tmp_path / "vda.2" / damage
    target.rename(tmp_path / "gone")
    assert switch_on(played) is None
    assert played.said[-1] == "restarting in 30 seconds"
    name = "vmlinuz" if damage == "vmlinuz" else "loader/entries"
    assert any(name in line for line in played.said[1:])


def test_a_boot_partition_that_cannot_be_mounted_ends_in_a_reset(tmp_path: Path) -> None:
    played = machine(tmp_path, TRIED, CLEARED)
    (tmp_path / "vda.2").rename(tmp_path / "gone")
    assert switch_on(played) is None
    assert any("passed over: cannot mount" in line for line in played.said)


def test_a_defect_is_reported_and_ends_in_a_reset(tmp_path: Path) -> None:
    played = machine(tmp_path)
    (tmp_path / "vda.2" / "vmlinuz").write_bytes(b"\xff")  # which the simulated machine does not expect
    assert switch_on(played) is None
    assert any("passed over: internal error: UnicodeDecodeError" in line for line in played.said)


def test_a_defect_outside_the_slots_is_reported_and_ends_in_a_reset(tmp_path: Path) -> None:
    played = machine(tmp_path)
    played.paths = [None]  # type: ignore[list-item]
    assert switch_on(played) is None
    assert any(line.startswith("internal error: TypeError") for line in played.said)


def test_a_disk_without_slots_is_passed_over(tmp_path: Path) -> None:
    foreign = make_disk(tmp_path / "vda", GOOD, GOOD, foreign=True)
    (tmp_path / "vdb").write_bytes(bytes(gpt.ALIGNMENT))
    ours = make_disk(tmp_path / "vdc", CLEARED, GOOD)
    played = SimulatedMachine([foreign, str(tmp_path / "vdb"), ours, str(tmp_path / "gone")])
    assert switch_on(played) == "kernel B"


def test_the_disk_is_waited_for(tmp_path: Path) -> None:
    played = machine(tmp_path)
    played.late = 5
    assert switch_on(played) == "kernel A"


def test_without_a_disk_every_disk_is_named_with_its_reason(tmp_path: Path) -> None:
    played = SimulatedMachine([make_disk(tmp_path / "vda", GOOD, GOOD, foreign=True)])
    assert switch_on(played) is None
    assert played.said[0].startswith("no disk has slots: ")
    assert "the disk has no BOOT-A" in played.said[0]
    assert sum(played.pauses) == bootstage.DISK_PATIENCE + bootstage.PAUSE


def twins(folder: Path) -> SimulatedMachine:
    return SimulatedMachine(
        [make_disk(folder / "vda", GOOD, CLEARED), make_disk(folder / "vdb", CLEARED, GOOD)]
    )


def test_between_two_disks_with_slots_it_does_not_choose(tmp_path: Path) -> None:
    played = twins(tmp_path)
    assert switch_on(played) is None
    assert played.said[0].startswith("several disks have slots: ")
    assert "signpost.disk=GUID" in played.said[1]


def test_of_two_disks_the_named_one_is_taken(tmp_path: Path) -> None:
    played = twins(tmp_path)
    assert switch_on(played, f"signpost.disk={guid('vdb').upper()}") == "kernel B"
    assert switch_on(played, f"signpost.disk={tmp_path}/vda") == "kernel A"


def test_a_named_disk_that_is_missing_is_not_replaced_by_another(tmp_path: Path) -> None:
    played = machine(tmp_path)
    assert switch_on(played, f"signpost.disk={guid('other')}") is None
    assert played.said[0] == (
        f"disk {guid('other')} is missing or has no slots: {tmp_path}/vda: its GUID is {guid('vda')}"
    )


def test_of_two_disks_the_one_the_firmware_started_from_is_taken(tmp_path: Path) -> None:
    played = twins(tmp_path)
    played.origin = guid("vdb efi")
    assert switch_on(played) == "kernel B"


def test_with_a_damaged_primary_the_slot_is_started_and_the_kernel_reads_the_backup(
    tmp_path: Path,
) -> None:
    played = machine(tmp_path)
    with (tmp_path / "vda").open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    assert switch_on(played) == "kernel A"
    assert played.loaded
    assert played.loaded[2].split()[-1] == "gpt"


def test_an_entry_cannot_lead_out_of_its_partition(tmp_path: Path) -> None:
    played = machine(tmp_path)
    (tmp_path / "vmlinuz").write_text("kernel outside", encoding="ascii")
    entry = tmp_path / "vda.2" / "loader" / "entries" / "demo.conf"
    entry.write_text("linux ../vmlinuz\n", encoding="ascii")
    assert switch_on(played) == "kernel A"


def test_a_faulty_entry_is_ignored_if_there_is_a_sound_one(tmp_path: Path) -> None:
    played = machine(tmp_path)
    (tmp_path / "vda.2/loader/entries/zz-9.conf").write_text("title only", encoding="ascii")
    (tmp_path / "vda.2/loader/entries/readme.txt").write_text("x", encoding="ascii")
    assert switch_on(played) == "kernel A"


def test_with_faulty_entries_only_all_are_named(tmp_path: Path) -> None:
    machine(tmp_path)
    folder = tmp_path / "vda.2" / "loader" / "entries"
    (folder / "demo.conf").write_text("title only", encoding="ascii")
    (folder / "long.conf").write_bytes(b"#" * 70_000)
    with pytest.raises(BootEntryError) as caught:
        bootstage.read_entry(OsMedium(), str(tmp_path / "vda.2"), "x64")
    assert "demo.conf: the key linux is missing" in caught.value.message
    assert "long.conf: longer than 65536 bytes" in caught.value.message


def test_a_command_line_that_is_too_long_for_a_kernel_is_refused(tmp_path: Path) -> None:
    played = machine(tmp_path, TRIED)
    entry = tmp_path / "vda.2" / "loader" / "entries" / "demo.conf"
    entry.write_text(f"linux /vmlinuz\noptions {'x' * 2048}\n", encoding="ascii")
    assert switch_on(played) is None
    assert any("is longer than 2047" in line for line in played.said)


def test_its_own_parameters_are_read_and_a_wrong_one_is_reported_and_ignored(tmp_path: Path) -> None:
    words = ["console=ttyS0", "signpost.pause=2", "signpost.disk=/dev/sda", "signpost.dsk=x"]
    assert BootSettings.from_words(words) == BootSettings(
        disk="/dev/sda",
        pause=2,
        notes=("unknown or invalid command line parameter ignored: signpost.dsk=x",),
    )
    assert BootSettings.from_words(["signpost.pause=soon"]).pause == bootstage.PAUSE
    played = machine(tmp_path)
    assert switch_on(played, "signpost.pause=soon") == "kernel A"
    assert "parameter ignored: signpost.pause=soon" in played.said[0]


def test_find_raises_the_error_that_run_shows() -> None:
    with pytest.raises(LayoutError, match="there is no disk"):
        bootstage.find(SimulatedMachine([]), OsMedium())
