"""TOML files: any fault in one is a single error of the caller's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from signpost.errors import UsageError
from signpost.toml_file import parse_toml, read_text

if TYPE_CHECKING:
    from pathlib import Path


def _refusal(problem: str) -> UsageError:
    return UsageError(problem, next_step="Pass --config FILE.")


def test_a_document_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes('name = "größe"\r\n[table]\r\nnumber = 1\r\n'.encode())
    text = read_text(path, _refusal)
    assert parse_toml(text, _refusal) == {"name": "größe", "table": {"number": 1}}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read .*/none\.toml: No such file or directory$") as caught:
        read_text(tmp_path / "none.toml", _refusal)
    assert caught.value.next_step == "Pass --config FILE."
    with pytest.raises(UsageError, match=r"^cannot read .*: Is a directory$"):
        read_text(str(tmp_path), _refusal)


def test_a_file_that_is_not_utf_8_says_where(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(b'name = "gr\xf6\xdfe"')
    with pytest.raises(UsageError, match=r"not UTF-8 at byte 10$"):
        read_text(path, _refusal)


@pytest.mark.parametrize(
    "text",
    ["x = ", "[a]\n[a]", "x = 1\nx = 2", "[" * 20_000, "x = " + "9" * 5000, "\0"],
    ids=["half", "twice", "double key", "deep", "long number", "NUL"],
)
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^not TOML: "):
        parse_toml(text, _refusal)
