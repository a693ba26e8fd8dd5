"""A delta that saves almost nothing is not published."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.repositories import make_repository

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1 << 20


@pytest.mark.parametrize(("shared", "published"), [(0.02, 0), (0.04, 0), (0.08, 1)])
def test_a_delta_must_save_a_twentieth(tmp_path: Path, shared: float, published: int) -> None:
    """Part of the new image is in the old one, at another offset within its blocks: only a delta uses it."""
    old, new = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)
    length = int(SIZE * shared)
    moved = new[:100_000] + old[300_001 : 300_001 + length] + new[100_000 + length :]
    boots = [tmp_path / "old.ext4", tmp_path / "new.ext4"]
    for path, data in zip(boots, (old, moved), strict=True):
        path.write_bytes(data)
    repository = make_repository(tmp_path / "repo", versions=[])
    repository.publish("1.0.0", boot=boots[0])
    done = repository.publish("1.1.0", boot=boots[1], deltas=1)
    deltas = [item.name for item in done.targets if ".delta-" in item.name and "-boot" in item.name]
    assert len(deltas) == published
