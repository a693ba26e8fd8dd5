"""Replay every input in the fuzzers' corpus (D93)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS

MOST_BYTES = 4096  # bytes of one input
MOST_FILES = 80  # files of one target: the corpus is replayed in every test run


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_is_accepted_or_refused(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert 0 < len(files) <= MOST_FILES
    for path in files:
        data = path.read_bytes()
        assert len(data) <= MOST_BYTES
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
def test_every_seed_is_accepted(name: str) -> None:
    """Otherwise the fuzzer would only see refusals."""
    assert all(TARGETS[name].check(seed) for seed in TARGETS[name].seeds())


def test_every_folder_of_the_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
def test_good_input_with_a_few_changes_is_accepted_or_refused(name: str) -> None:
    """Hypothesis shrinks what it finds to a short example, which the fuzzer does not do."""

    @given(st.sampled_from(list(TARGETS[name].seeds())), st.lists(_change(), min_size=1, max_size=5))
    @settings(max_examples=40)
    def check(seed: bytes, changes: list[tuple[int, bytes, int]]) -> None:
        for place, data, dropped in changes:
            at = place % (len(seed) + 1)
            seed = seed[:at] + data + seed[at + dropped :]
        TARGETS[name].check(seed)

    check()


def _change() -> st.SearchStrategy[tuple[int, bytes, int]]:
    """Draw a position, the bytes to insert there, and how many bytes to drop."""
    return st.tuples(st.integers(0, 4000), st.binary(max_size=8), st.integers(0, 8))
