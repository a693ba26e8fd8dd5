"""The explained updog.toml of the Debian package is what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.annotated_configuration import WIDTH, annotated
from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.config import KEYS, parse
from updog.errors import ConfigError

TEXT = annotated()
FOLDER = Path("/etc")
URL = '_url = "https://updates.example.com/"'
SETTING = re.compile(r"^#?(\w+) =(.*)$")
TABLE = re.compile(r"^#\[+([a-z_.]+)\]+$")


def test_as_it_is_nothing_but_the_two_urls_is_missing() -> None:
    with pytest.raises(ConfigError, match="2 faults") as caught:
        parse(TEXT, FOLDER)
    assert "metadata_base_url = ''" in caught.value.message
    assert "targets_base_url = ''" in caught.value.message


def test_with_the_two_urls_everything_else_is_a_default() -> None:
    required = f"metadata_base{URL}\ntargets_base{URL}\n"
    assert parse(TEXT.replace('_url = ""', URL), FOLDER) == parse(required, FOLDER)


def test_a_line_that_is_taken_in_as_it_stands_changes_nothing() -> None:
    """Windows, freezes and the fleet lock have no default without a line of the operator's own."""
    taken, table = [], ""
    for line in TEXT.replace('_url = ""', URL).splitlines():
        heading, setting = TABLE.match(line), SETTING.match(line)
        table = heading[1] if heading else table
        is_own = table in {"auto.window", "auto.freeze", "auto.fleet_lock"}
        shows_default = heading or (setting and setting[2])
        taken.append(line.removeprefix("#") if shows_default and not is_own else line)
    text = "\n".join(taken)
    assert len([line for line in taken if line and line[0] != "#"]) > 40
    assert parse(text, FOLDER) == parse(TEXT.replace('_url = ""', URL), FOLDER)


def test_every_key_stands_in_its_table_once() -> None:
    found, table = [], ""
    for line in TEXT.splitlines():
        if heading := TABLE.match(line):
            table = f"{heading[1]}."
        elif setting := SETTING.match(line):
            found.append(f"{table}{setting[1]}")
    assert found == [key.name for key in (*KEYS, *AUTO_KEYS, *API_KEYS)]


def test_lines_fit_an_editor() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > WIDTH and SETTING.match(line) is None] == []
