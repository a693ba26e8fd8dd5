"""Tables that sfdisk, sgdisk and cgpt wrote are read correctly and kept bit for bit (D24-D27)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.gpt import build
from signpost import gpt, gptprio, sets
from signpost.app import Signpost
from signpost.gptprio import Flags
from signpost.sets import Slot
from signpost.state import Command
from tests.support import disks
from tests.support.media import MemoryMedium

FOLDER = Path(build.__file__).parent
CASES = sorted(path.parent.name for path in FOLDER.glob("*/disk.json"))


def golden(case: str) -> tuple[bytes, int]:
    """Return a golden disk and its sector size."""
    folder = FOLDER / case
    facts = json.loads(folder.joinpath("disk.json").read_text(encoding="utf-8"))
    head, tail = folder.joinpath("head.bin").read_bytes(), folder.joinpath("tail.bin").read_bytes()
    return head.ljust(facts["size"] - len(tail), b"\0") + tail, facts["sector_size"]


def test_every_golden_table_is_stored() -> None:
    assert set(CASES) == set(build.CASES)


@pytest.mark.parametrize("case", CASES)
class TestGolden:
    def test_a_table_of_another_tool_has_no_faults(self, case: str) -> None:
        assert disks.examine(*golden(case)).faults == ()

    def test_every_partition_is_read_as_it_was_made(self, case: str) -> None:
        disk, sector_size = golden(case)
        table = disks.trusted(disk, sector_size)
        assert table.header.disk_guid == build.DISK_GUID
        used = [entry for entry in table.entries if entry.used]
        for number, (entry, made) in enumerate(zip(used, build.PARTITIONS, strict=True), start=1):
            assert (entry.type, entry.guid) == (made.type, build.unique(number))
            assert (entry.label, entry.first_lba) == (made.label, build.first(number))
            assert table.extent(number - 1).size == build.LENGTH * sector_size
            bits = sum(1 << bit for bit in made.bits)
            assert entry.attributes & ~(1 << 2) == bits & ~(1 << 2)

    def test_the_flags_mean_what_cgpt_meant(self, case: str) -> None:
        table = disks.trusted(*golden(case))
        assert disks.boot_flags(table) == [Flags(priority=2, tries=3), Flags(priority=1, successful=True)]
        assert gptprio.ever_booted(table.entries[sets.find(table.entries).private].attributes)

    def test_encoding_gives_the_bytes_that_were_decoded(self, case: str) -> None:
        disk, sector_size = golden(case)
        assert disks.write_all(disk, gpt.repair(disks.examine(disk, sector_size))) == disk

    def test_a_write_changes_flags_and_checksums_and_nothing_else(self, case: str) -> None:
        disk, _ = golden(case)
        medium = MemoryMedium({"disk": disk})
        Signpost(medium, "disk", Slot.B).apply(Command.CLEAR_INACTIVE)
        Signpost(medium, "disk", Slot.B).apply(Command.MARK_INACTIVE_VALID, tries=3)
        Signpost(medium, "disk", Slot.B).apply(Command.UPGRADE_TO_INACTIVE)
        assert bytes(medium.files["disk"]) == disk
