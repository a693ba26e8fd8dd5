"""Byte ranges: a range is a slice, and the answer says which."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.byte_ranges import chosen_range, range_answer


@given(
    st.binary(max_size=40), st.one_of(st.none(), st.integers(0, 50)), st.one_of(st.none(), st.integers(0, 50))
)
def test_a_range_is_a_slice(data: bytes, first: int | None, last: int | None) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    part = chosen_range(header, len(data))
    if first is None and last is None:
        assert part is None
    elif first is None:
        assert part is not None
        assert last is not None
        assert data[part.start : part.stop] == (data[-last:] if last else b"")
    elif last is not None and last < first:
        assert part is None
    else:
        assert part is not None
        assert data[part.start : part.stop] == data[first : None if last is None else last + 1]


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=0-1,4-5", "lines=0-1", "bytes=3-1", "bytes=a-b"]
)
def test_what_cannot_be_read_gives_the_whole_file(header: str | None) -> None:
    answer = range_answer(chosen_range(header, 10), 10)
    assert (answer.status, answer.part) == (HTTPStatus.OK, range(10))
    assert answer.headers == {"Content-Length": "10"}


@pytest.mark.parametrize(
    ("header", "part", "says"),
    [
        (" bytes=2-5 ", range(2, 6), "bytes 2-5/10"),
        ("bytes=7-", range(7, 10), "bytes 7-9/10"),
        ("bytes=7-99", range(7, 10), "bytes 7-9/10"),
        ("bytes=-3", range(7, 10), "bytes 7-9/10"),
        ("bytes=-30", range(10), "bytes 0-9/10"),
    ],
)
def test_a_part_is_answered_with_its_place(header: str, part: range, says: str) -> None:
    answer = range_answer(chosen_range(header, 10), 10)
    assert (answer.status, answer.part) == (HTTPStatus.PARTIAL_CONTENT, part)
    assert answer.headers == {"Content-Range": says, "Content-Length": str(len(part))}


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str, size: int) -> None:
    answer = range_answer(chosen_range(header, size), size)
    assert (answer.status, len(answer.part)) == (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0)
    assert answer.headers == {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
