"""Flags in attribute bits: where they are, and that nothing else changes (D27)."""

from __future__ import annotations

import pytest

from signpost import gptprio
from signpost.errors import UsageError
from signpost.gptprio import Flags
from tests.support import disks

ALL = [
    Flags(priority=priority, tries=tries, successful=successful)
    for priority in range(16)
    for tries in range(16)
    for successful in (False, True)
]


@pytest.mark.parametrize("others", [0, disks.STRANGE_BITS, (1 << 64) - 1], ids=["none", "some", "all"])
def test_every_flag_is_read_as_written_and_every_other_bit_is_kept(others: int) -> None:
    ours = 0x01FF << 48
    for flags in ALL:
        bits = gptprio.with_flags(others, flags)
        assert gptprio.flags(bits) == flags
        assert disks.raw_flags(bits) == (flags.priority, flags.tries, flags.successful)
        assert bits & ~ours == others & ~ours


@pytest.mark.parametrize("others", [0, disks.STRANGE_BITS, (1 << 64) - 1 - (1 << 57)])
def test_ever_booted_is_bit_57_alone(others: int) -> None:
    assert gptprio.with_ever_booted(others) == others | 1 << 57
    assert gptprio.with_ever_booted(others | 1 << 57, value=False) == others
    assert gptprio.ever_booted(others | 1 << 57)
    assert not gptprio.ever_booted(others)


@pytest.mark.parametrize("fields", [{"priority": 16}, {"tries": 16}, {"priority": -1}, {"tries": -1}])
def test_flags_that_do_not_fit_in_four_bits_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be 0 to 15, not"):
        Flags(**fields)  # type: ignore[arg-type]
