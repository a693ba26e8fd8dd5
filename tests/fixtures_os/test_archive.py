"""Apt sources are read as apt reads them, and only what is signed is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fixtures.os.archive import (
    Archive,
    Package,
    Source,
    choose,
    is_stored,
    machine_sources,
    parse_deb822,
    parse_one_line,
)
from fixtures.os.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

DEB822 = """\
# a comment: with a colon
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib

Types: deb-src
URIs: http://archive.example/sources
Suites: bookworm
Components: main

Types: deb
URIs: http://off.example/
Suites: bookworm
Components: main
Enabled: no
"""

ONE_LINE = """\
# deb http://commented.example/ bookworm main
deb [arch=amd64 trusted=yes] http://archive.example/debian bookworm main contrib  # why
deb-src http://archive.example/debian bookworm main
deb http://archive.example/security bookworm-security main
"""


def test_deb822_gives_enabled_binary_entries() -> None:
    assert [(source.uri, source.suite) for source in parse_deb822(DEB822)] == [
        ("http://archive.example/debian", "bookworm"),
        ("http://archive.example/debian", "bookworm-updates"),
    ]


def test_one_line_gives_binary_entries_and_drops_their_options() -> None:
    first, second = parse_one_line(ONE_LINE)
    assert first == Source(
        uri="http://archive.example/debian", suite="bookworm", components=("main", "contrib")
    )
    assert second.suite == "bookworm-security"


def test_machine_sources_reads_both_styles_and_no_disabled_file(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/ one main\n")
    (parts / "b.sources").write_text(DEB822)
    (parts / "c.list").write_text("deb http://c.example/ three main\n")
    (parts / "d.list.disabled").write_text("deb http://d.example/ four main\n")
    assert [source.suite for source in machine_sources(tmp_path)] == [
        "one",
        "bookworm",
        "bookworm-updates",
        "three",
    ]


def test_choose_wants_the_suite_with_component_main() -> None:
    vendor = Source(uri="http://vendor.example/", suite="bookworm", components=("stable",))
    debian = Source(uri="http://archive.example/", suite="bookworm", components=("main",))
    assert choose([vendor, debian], "bookworm") is debian


def test_choose_names_the_suite_it_cannot_find() -> None:
    with pytest.raises(ArchiveError, match="bookworm-security"):
        choose([], "bookworm-security")


def test_an_archive_without_signature_is_refused(tmp_path: Path, tools: None) -> None:
    del tools
    flat = tmp_path / "archive" / "dists" / "bookworm"
    flat.mkdir(parents=True)
    (flat / "Release").write_text(
        "Suite: bookworm\nCodename: bookworm\nComponents: main\nArchitectures: amd64\n"
    )
    source = Source(uri=f"file://{tmp_path}/archive", suite="bookworm", components=("main",))
    with pytest.raises(ArchiveError, match="not signed"):
        Archive(tmp_path / "apt", [source]).refresh()


def test_a_package_with_other_bytes_does_not_count_as_stored(tmp_path: Path) -> None:
    package = Package(name="x", version="1", file="x_1_all.deb", sha256="0" * 64)
    assert not is_stored(package, tmp_path)
    (tmp_path / package.file).write_bytes(b"something else")
    assert not is_stored(package, tmp_path)


def test_package_is_read_back_as_written() -> None:
    package = Package(name="x", version="1:2-3", file="x_1%3a2-3_all.deb", sha256="0" * 64)
    assert Package.from_json(package.to_json()) == package
