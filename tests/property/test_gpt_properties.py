"""Properties of all partition tables and of any bytes in their place (D25, D27, D93)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from signpost import gpt, gptprio, state
from signpost.errors import LayoutError, TransitionRefusedError
from signpost.gptprio import Flags
from signpost.sets import Slot, find
from signpost.state import Command, State
from tests.support import disks

WORDS = st.integers(0, (1 << 64) - 1)
FLAGS = st.builds(Flags, priority=st.integers(0, 15), tries=st.integers(0, 15), successful=st.booleans())
SHAPES = st.builds(
    disks.Shape,
    sector_size=st.sampled_from(gpt.SECTOR_SIZES),
    entry_count=st.integers(7, 200),
    entry_size=st.sampled_from([128, 256, 512, 1024]),
)


@given(st.binary(min_size=16, max_size=16))
def test_any_guid_is_encoded_as_it_was_decoded(data: bytes) -> None:
    assert gpt.guid_to_bytes(gpt.guid_from_bytes(data)) == data
    assert gpt.guid(gpt.guid_from_bytes(data).upper()) == gpt.guid_from_bytes(data)


@given(st.binary(min_size=128, max_size=300))
def test_any_entry_is_encoded_as_it_was_decoded(data: bytes) -> None:
    entry = gpt.PartitionEntry.from_bytes(data)
    assert entry.to_bytes() == data
    entry.label.encode()


@given(st.binary(min_size=92, max_size=4096))
def test_any_header_is_encoded_as_it_was_decoded(data: bytes) -> None:
    assert gpt.Header.from_bytes(data).to_bytes() == data


@given(SHAPES, st.data())
@settings(max_examples=50)
def test_any_table_is_encoded_as_it_was_decoded(shape: disks.Shape, data: st.DataObject) -> None:
    array = data.draw(st.binary(min_size=shape.entry_size, max_size=shape.entry_size)) * shape.entry_count
    header = gpt.Header.from_bytes(disks.make_disk(shape=shape)[shape.sector_size :][: shape.sector_size])
    table = gpt.Table.from_bytes(header.to_bytes(), array)
    assert table.array() == array
    assert table.sector_size == shape.sector_size


@given(SHAPES, st.tuples(FLAGS, FLAGS), WORDS)
@settings(max_examples=50)
def test_any_disk_is_read_as_it_was_made_and_repair_does_not_change_it(
    shape: disks.Shape, flags: tuple[Flags, Flags], bits: int
) -> None:
    disk = disks.make_disk(flags, shape=shape, strange_bits=bits)
    examined = disks.examine(disk, shape.sector_size)
    assert examined.faults == ()
    assert disks.boot_flags(disks.trusted(disk, shape.sector_size)) == list(flags)
    assert disks.write_all(disk, gpt.repair(examined)) == disk


@given(st.binary(max_size=6000), st.sampled_from(gpt.SECTOR_SIZES))
def test_any_bytes_are_examined_without_an_error(data: bytes, sector_size: int) -> None:
    """D93."""
    assert disks.examine(data, sector_size).trusted is None


@given(st.lists(st.tuples(st.integers(0, 65_000), st.integers(1, 255)), min_size=1, max_size=4))
def test_whatever_bytes_are_damaged_no_wrong_table_is_trusted(hits: list[tuple[int, int]]) -> None:
    """D93: a trusted table has the entries that were written, or no copy is trusted."""
    good = disks.make_disk()
    bad = bytearray(good)
    for place, change in hits:
        bad[place % len(good)] ^= change
    found = disks.examine(bytes(bad))
    assert found.trusted is None or found.trusted.entries == disks.trusted(good).entries
    if found.trusted:
        repaired = disks.write_all(bytes(bad), gpt.repair(found))
        assert disks.examine(repaired).faults == ()


@given(st.integers(0, 14), st.binary(min_size=1, max_size=8))
def test_a_header_with_a_correct_crc_and_any_field_value_is_examined_without_an_error(
    word: int, data: bytes
) -> None:
    """D93: a hostile header with a correct CRC."""
    disk = disks.put(disks.make_disk(), 512 + 20 + word * 5, data)
    header = gpt.Header.from_bytes(disk[512:1024])
    disk = disks.put(disk, 512 + 16, header.expected_crc().to_bytes(4, "little"))
    found = disks.examine(disk)
    assert found.trusted is not None
    assert found.trusted.entries[0].used


@given(WORDS, FLAGS)
def test_flags_and_other_bits_are_independent(bits: int, flags: Flags) -> None:
    changed = gptprio.with_flags(bits, flags)
    assert gptprio.flags(changed) == flags
    assert (changed ^ bits) & ~(0x01FF << 48) == 0
    assert gptprio.with_flags(changed, gptprio.flags(bits)) == bits


@given(FLAGS, FLAGS, st.lists(st.sampled_from(Command), max_size=12))
def test_no_sequence_of_commands_leaves_nothing_to_boot_after_a_confirm(
    active: Flags, inactive: Flags, commands: list[Command]
) -> None:
    """A confirmed running slot with a priority stays bootable, whatever commands follow."""
    found = State(Flags(priority=active.priority or 1, successful=True), inactive)
    for command in commands:
        try:
            found = state.transition(command, found)
        except TransitionRefusedError:
            continue
        assert state.next_boot(disks.boots([found.active, found.inactive or Flags()])) is not None
        assert found.active.bootable


@given(st.lists(st.sampled_from([*disks.SLOT, disks.TWO_SLOTS[-1], gpt.UNUSED]), max_size=12))
def test_slots_are_found_by_order_or_refused(types: list[gpt.Guid]) -> None:
    entries = [gpt.PartitionEntry(type=type_) for type_ in types]
    try:
        layout = find(entries)
    except LayoutError:
        counts = [types.count(type_) for type_ in disks.SLOT]
        assert counts not in ([1, 1, 1], [2, 2, 2]) or disks.TWO_SLOTS[-1] not in types
        return
    for index, type_ in zip(layout.slots[Slot.A], disks.SLOT, strict=True):
        assert types.index(type_) == index
