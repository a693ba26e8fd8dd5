"""Real starts in QEMU: a real kernel decides, fails and falls back (D29, D31-D33, D35, D37, D45, D97, D98).

Every start is compared with the prediction: what `signpost next` says is what the boot stage takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from repo_tools.bootstage.efi import FALLBACK_PATH, make_efi, make_partition
from signpost.errors import NothingBootableError
from signpost.gptprio import Flags
from signpost.sets import Slot
from tests.drills.disks import CLEARED, CONFIRMED, MEBIBYTE, make_disk
from tests.drills.emulator import missing, switched_on

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.os.release import Release
    from repo_tools.bootstage.image import BootStage

pytestmark = pytest.mark.qemu

TAKING_A, TAKING_B = "taking slot A", "taking slot B"
VERIFIED = "initrd: ROOT is verified and mounted"
UP_OLD, UP_NEW = "Demo OS: 1.0.0 is up", "Demo OS: 1.1.0 is up"
PANIC = "Kernel panic"
SPENT = Flags(priority=2)

# What init prints when it is up; with another text of the same length, it would run just as well.
INIT_SAYS, INIT_COULD_SAY = b"$VERSION_ID is up", b"$VERSION_ID is UP"


def test_the_good_slot_starts_under_verity_and_nothing_is_written(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    disk = make_disk(tmp_path / "disk", {Slot.A: releases["1.0.0"]}, {Slot.A: CONFIRMED})
    before = disk.tables()
    assert disk.stage.predict() is Slot.A
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(TAKING_A, f"roothash={releases['1.0.0'].root_hash} slot=A", VERIFIED, UP_OLD)
    assert disk.tables() == before


def test_a_release_that_panics_is_fallen_back_from(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """D97."""
    disk = make_disk(
        tmp_path / "disk", {Slot.A: releases["1.0.0"], Slot.B: releases["1.2.0"]}, {Slot.A: CONFIRMED}
    )
    disk.stage_b()
    assert disk.stage.predict() is Slot.B
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(TAKING_B)
        assert disk.flags[Slot.B] == SPENT
        assert disk.stage.predict() is Slot.A
        machine.expect(VERIFIED, PANIC, TAKING_A, VERIFIED, UP_OLD)
    assert disk.flags == {Slot.A: CONFIRMED, Slot.B: SPENT}


def test_a_root_changed_after_it_was_written_never_runs(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    disk = make_disk(
        tmp_path / "disk", {Slot.A: releases["1.0.0"], Slot.B: releases["1.1.0"]}, {Slot.A: CONFIRMED}
    )
    disk.damage("root", Slot.B, INIT_SAYS, INIT_COULD_SAY)
    disk.stage_b()
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(TAKING_B, VERIFIED, "is corrupted", PANIC, TAKING_A, UP_OLD)
        assert "is UP" not in machine.console
    assert disk.flags == {Slot.A: CONFIRMED, Slot.B: SPENT}


def test_a_kernel_that_cannot_be_loaded_is_reported_and_fallen_back_from(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    disk = make_disk(
        tmp_path / "disk", {Slot.A: releases["1.0.0"], Slot.B: releases["1.1.0"]}, {Slot.A: CONFIRMED}
    )
    disk.damage("boot", Slot.B, b"HdrS", b"HdrX")
    disk.stage_b()
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(
            TAKING_B,
            "slot B is passed over: ",
            "/vmlinuz cannot be loaded: ",
            TAKING_A,
            "signpost.passed=B:kernel",
            UP_OLD,
        )
    assert disk.flags == {Slot.A: CONFIRMED, Slot.B: SPENT}


def test_with_both_slots_out_it_says_so_waits_and_resets(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """D45, D35."""
    both = {Slot.A: releases["1.0.0"], Slot.B: releases["1.2.0"]}
    disk = make_disk(tmp_path / "disk", both, {Slot.A: Flags(priority=1), Slot.B: SPENT})
    before = disk.tables()
    with pytest.raises(NothingBootableError):
        disk.stage.predict()
    said = ("no slot can boot", "next: Neither slot can boot", "restarting in 1 seconds")
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(*said, *said)
    assert disk.tables() == before


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(Flags(priority=2, tries=1), Flags(priority=2, tries=1), id="D32 the first of equals"),
        pytest.param(CONFIRMED, Flags(priority=2, tries=3, successful=True), id="D33 tries count anyway"),
        pytest.param(Flags(tries=15, successful=True), CONFIRMED, id="D31 priority 0 never boots"),
    ],
)
def test_the_boot_stage_takes_what_was_predicted(
    tmp_path: Path, stage: BootStage, releases: dict[str, Release], a: Flags, b: Flags
) -> None:
    release = releases["1.0.0"]
    disk = make_disk(tmp_path / "disk", {Slot.A: release, Slot.B: release}, {Slot.A: a, Slot.B: b})
    model = make_disk(tmp_path / "model", {}, {Slot.A: a, Slot.B: b})
    predicted = model.stage.take_next()
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(f"taking slot {predicted}")
    assert disk.flags == model.flags


def test_a_damaged_primary_table_is_repaired_as_the_try_is_counted(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """D37."""
    disk = make_disk(tmp_path / "disk", {Slot.A: releases["1.0.0"]}, {Slot.A: Flags(priority=1, tries=2)})
    with disk.path.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    assert disk.stage.view().faults
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(TAKING_A, VERIFIED, UP_OLD)
    assert not disk.stage.view().faults
    assert disk.flags[Slot.A] == Flags(priority=1, tries=1)


def test_a_damaged_primary_table_is_started_from_as_it_is_when_no_try_is_counted(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """D37: the started system is told to read the backup, too."""
    disk = make_disk(tmp_path / "disk", {Slot.A: releases["1.0.0"]}, {Slot.A: CONFIRMED})
    with disk.path.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    before = disk.tables()
    with switched_on([disk.path], tmp_path / "console", stage=stage) as machine:
        machine.expect(TAKING_A, VERIFIED, UP_OLD)
    assert disk.tables() == before


def test_an_update_starts_on_4096_byte_sectors_and_only_its_try_is_counted(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """D98."""
    both = {Slot.A: releases["1.0.0"], Slot.B: releases["1.1.0"]}
    disk = make_disk(tmp_path / "disk", both, {Slot.A: CONFIRMED}, sector_size=4096)
    disk.stage_b(tries=3)
    assert disk.stage.predict() is Slot.B
    with switched_on([disk.path], tmp_path / "console", stage=stage, sector_size=4096) as machine:
        machine.expect("taking slot B, 2 tries left", VERIFIED, UP_NEW)
    assert disk.flags == {Slot.A: CONFIRMED, Slot.B: Flags(priority=2, tries=2)}


def test_firmware_starts_the_disk_by_itself_and_its_own_slots(
    tmp_path: Path, releases: dict[str, Release], stage: BootStage
) -> None:
    """The EFI binary on the disk's EFI partition; a second disk with slots is left alone (D29).

    That disk is second because the releases' initrd searches by label and takes the first match.
    """
    if missing(firmware=True):
        pytest.skip(missing(firmware=True))
    efi = make_partition(32 * MEBIBYTE, {FALLBACK_PATH: make_efi(stage)})
    other = make_disk(tmp_path / "other", {Slot.A: releases["1.1.0"]}, {Slot.A: Flags(priority=9, tries=9)})
    disk = make_disk(
        tmp_path / "disk", {Slot.B: releases["1.0.0"]}, {Slot.B: Flags(priority=1, tries=1)}, efi=efi
    )
    before = other.tables()
    with switched_on([disk.path, other.path], tmp_path / "console") as machine:
        machine.expect("/dev/vda: taking slot B", VERIFIED, UP_OLD)
    assert disk.flags == {Slot.A: CLEARED, Slot.B: Flags(priority=1)}
    assert other.tables() == before
