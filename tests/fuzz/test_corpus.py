"""Every input that a fuzzer found worth keeping, once more (D93)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS

MOST_BYTES = 4096  # of one input
MOST_FILES = 80  # of one target: a corpus is for replaying, not an archive


@pytest.mark.parametrize("name", TARGETS)
def test_no_kept_input_does_anything_but_be_taken_or_refused(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert 0 < len(files) <= MOST_FILES
    for path in files:
        data = path.read_bytes()
        assert len(data) <= MOST_BYTES
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
def test_what_a_target_starts_from_is_taken(name: str) -> None:
    """Otherwise the fuzzer would only ever see refusals."""
    assert all(TARGETS[name].check(seed) for seed in TARGETS[name].seeds())


def test_every_folder_of_the_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
def test_good_input_with_a_few_changes_is_taken_or_refused(name: str) -> None:
    """What the fuzzer does by coverage, hypothesis does by shrinking: a short example of what is wrong."""

    @given(st.sampled_from(list(TARGETS[name].seeds())), st.lists(_change(), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=40)
    def check(seed: bytes, changes: list[tuple[int, bytes, int]]) -> None:
        for place, data, dropped in changes:
            at = place % (len(seed) + 1)
            seed = seed[:at] + data + seed[at + dropped :]
        TARGETS[name].check(seed)

    check()


def _change() -> st.SearchStrategy[tuple[int, bytes, int]]:
    """Draw where, what is put there, and how many bytes are dropped."""
    return st.tuples(st.integers(0, 4000), st.binary(max_size=8), st.integers(0, 8))
