"""Synthetic releases: the same bytes for the same parameters, and mostly shared between versions."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from fixtures.os.release import read_release
from fixtures.os.synthetic import BLOCK, synthetic_image, synthetic_release

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 256 * 1024


def blocks(image: bytes) -> list[bytes]:
    return [image[start : start + BLOCK] for start in range(0, len(image), BLOCK)]


def test_same_question_gives_same_bytes(tmp_path: Path) -> None:
    first = synthetic_release(tmp_path / "a", "1.0.0", seed=7)
    second = synthetic_release(tmp_path / "b", "1.0.0", seed=7)
    for role, path in first.images().items():
        assert path.read_bytes() == second.images()[role].read_bytes()


def test_seed_changes_every_image(tmp_path: Path) -> None:
    first = synthetic_release(tmp_path / "a", "1.0.0", seed=1)
    second = synthetic_release(tmp_path / "b", "1.0.0", seed=2)
    for role, path in first.images().items():
        assert path.read_bytes() != second.images()[role].read_bytes()


def test_versions_share_most_blocks_but_not_all() -> None:
    old, new = (blocks(synthetic_image("root", version, size=SIZE)) for version in ("1.0.0", "1.1.0"))
    same = sum(a == b for a, b in zip(old, new, strict=True))
    assert len(old) / 2 < same < len(old)


def test_an_image_has_zeros_text_and_noise() -> None:
    ratios = [
        len(zlib.compress(block)) / BLOCK for block in blocks(synthetic_image("root", "1.0.0", size=SIZE))
    ]
    assert bytes(BLOCK) in blocks(synthetic_image("root", "1.0.0", size=SIZE))
    assert min(ratios) < 0.1
    assert max(ratios) > 0.99


@given(size=st.integers(min_value=0, max_value=5 * BLOCK))
def test_an_image_has_the_size_asked_for(size: int) -> None:
    assert len(synthetic_image("boot", "1.0.0", size=size)) == size


def test_release_is_read_back_as_written(tmp_path: Path) -> None:
    release = synthetic_release(tmp_path, "2.0.0", boot_size=10_000, root_size=20_000, hash_size=3_000)
    assert read_release(tmp_path) == release
    assert [path.stat().st_size for path in release.images().values()] == [10_000, 20_000, 3_000]
