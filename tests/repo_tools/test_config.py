"""repo.toml: all faults at once, each with its path; and the quantities on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_tools import config
from repo_tools.errors import ConfigError
from repo_tools.quantities import parse_span
from signpost.errors import ToolError, UsageError
from updog.update_metadata.sizes import parse_size

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "name: missing"),
        ("name = 1", "name: expected printable text"),
        ('name = "os"\nsigner = {}', "did you mean 'signers'?"),
        ('name = "os"\n[expires]\ntimstamp = "1d"', "did you mean 'timestamp'?"),
        ('name = "os"\n[expires]\nroot = "1 eon"', "expires.root"),
        ('name = "os"\n[expires]\nroot = "0m"', "shorter than 1 minute"),
        ('name = "os"\n[images]\ncompression = "zst"', "did you mean 'zstd'?"),
        ('name = "os"\n[images]\nlevel = 40', "level 40 of zstd is outside 1…22"),
        ('name = "os"\n[images]\ncompression = "lz4"\nlevel = 13', "outside 0…12"),
        ('name = "os"\n[signers]\nabc = "keys/x.pem"', "signers.abc"),
        ('name = "../os"', "not safe in a file name"),
        ("name = ", "not TOML"),
    ],
)
def test_faults_are_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.Config.from_toml(text)
    assert told in caught.value.message


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.Config.from_toml('nmae = "os"\n[images]\nlevl = 3')
    assert len(caught.value.message.splitlines()) == 4


def test_short_files_take_the_defaults() -> None:
    settings = config.Config.from_toml('name = "os"')
    assert settings.expires == config.DEFAULT_EXPIRES
    assert (settings.compression, settings.level, settings.waves) == ("zstd", 16, "default")
    assert config.Config.from_toml('name = "os"\n[images]\ncompression = "lz4"').level == 9


def test_the_template_is_what_it_was_made_from() -> None:
    settings = config.Config(
        name="os",
        expires=config.parse_expires(["root=10d"]),
        signers={"ab": 'file2:odd "name".pem', "cd": "hsm:2?label=x"},
        compression="lz4",
        level=9,
        waves="ohno",
    )
    assert config.Config.from_toml(config.template(settings, {"ab": "root", "cd": "targets"})) == settings


def test_a_missing_or_undecodable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config.load(tmp_path)
    (tmp_path / config.FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("7d", timedelta(days=7)),
        ("90m", timedelta(minutes=90)),
        ("2 weeks", timedelta(weeks=2)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_a_span_is_a_number_and_a_unit(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "7y"])
def test_a_text_that_is_not_a_span_is_refused(text: str) -> None:
    with pytest.raises(ToolError):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("64MiB", 64 << 20),
        ("2G", 2 << 30),
        ("1KiB", 1024),
        ("1k", 1024),
        ("64mib", 64 << 20),
        ("50MB", 50_000_000),
        ("1kB", 1000),
        ("7B", 7),
    ],
)
def test_a_size_is_a_number_and_a_unit_as_gnu_s_tools_take_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0MB", "1.5G", "-1", "M", "1 k", "1KiBs", "1BB", "٣k"])
def test_a_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.integers(1, 10**6), st.sampled_from("KMGT"))
def test_both_spellings_of_a_unit_are_one_size(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == parse_size(f"{number}{unit}iB")
