"""Migrations: the path from one version to another is searched, and followed backwards in a downgrade."""

from __future__ import annotations

import pytest

from signpost.errors import ExitStatus
from updog.update_metadata.errors import FaultsError, MigrationError
from updog.update_metadata.migrations import (
    MAX_HOPS,
    Migrations,
    find_migrations,
    migrations_from_json,
    migrations_to_json,
)
from updog.update_metadata.version import Version


def hops(*lines: str) -> Migrations:
    """Return hops written ``1.0.0 > 1.1.0: a b``."""
    migrations = {}
    for line in lines:
        way, _, names = line.partition(":")
        start, end = (Version.parse(text.strip()) for text in way.split(">"))
        migrations[start, end] = tuple(names.split())
    return migrations


UPSTREAM = hops(
    "1.0.0 > 1.1.0: a b",
    "1.1.0 > 1.2.0: slow",
    "1.1.0 > 1.5.0: shortcut",
    "1.2.0 > 1.5.0: slower",
)
DEAD_END = hops("1.0.0 > 1.1.0: a", "1.0.0 > 1.4.0: trap", "1.4.0 > 1.4.5: deeper", "1.1.0 > 1.5.0: b")

FOUND = {
    "same-version": (UPSTREAM, "1.1.0", "1.1.0", []),
    "one-hop": (UPSTREAM, "1.0.0", "1.1.0", ["a", "b"]),
    "longest-hop-is-preferred": (UPSTREAM, "1.0.0", "1.5.0", ["a", "b", "shortcut"]),
    "hop-beyond-the-goal-is-not-taken": (UPSTREAM, "1.0.0", "1.2.0", ["a", "b", "slow"]),
    "down-is-up-reversed": (UPSTREAM, "1.5.0", "1.0.0", ["shortcut", "b", "a"]),
    "dead-end-backs-up": (DEAD_END, "1.0.0", "1.5.0", ["a", "b"]),
    "dead-end-backs-up-going-down": (DEAD_END, "1.5.0", "1.0.0", ["b", "a"]),
    "unknown-version-to-itself": ({}, "9.9.9", "9.9.9", []),
    "empty-hops-lead-on": (hops("1.0.0 > 1.1.0:", "1.1.0 > 1.2.0:"), "1.0.0", "1.2.0", []),
    "build-metadata-does-not-count": (hops("1.0.0+a > 1.1.0: x"), "1.0.0+b", "1.1.0+c", ["x"]),
    "falling-hop-lies-on-no-way": (
        hops("1.1.0 > 1.0.0: down", "1.0.0 > 1.1.0: up"),
        "1.1.0",
        "1.0.0",
        ["up"],
    ),
    "two-ways-into-one-dead-end": (
        hops("1.0.0 > 1.3.0:", "1.0.0 > 1.2.0:", "1.2.0 > 1.3.0:", "1.2.0 > 1.5.0: x"),
        "1.0.0",
        "1.5.0",
        ["x"],
    ),
}


@pytest.mark.parametrize(("migrations", "start", "end", "names"), FOUND.values(), ids=FOUND)
def test_the_way_is_found(migrations: Migrations, start: str, end: str, names: list[str]) -> None:
    assert list(find_migrations(migrations, Version.parse(start), Version.parse(end))) == names


MISSING = {
    "nothing-at-all": ({}, "1.0.0", "1.1.0", "from 1.0.0 to 1.1.0: the chain ends at 1.0.0"),
    "chain-too-short": (UPSTREAM, "1.0.0", "2.0.0", "from 1.0.0 to 2.0.0: the chain ends at 1.5.0"),
    "gap-in-the-middle": (
        hops("1.0.0 > 1.1.0:", "1.2.0 > 1.3.0:"),
        "1.0.0",
        "1.3.0",
        "from 1.0.0 to 1.3.0: the chain ends at 1.1.0",
    ),
    "going-down": (UPSTREAM, "2.0.0", "1.0.0", "from 1.0.0 to 2.0.0: the chain ends at 1.5.0"),
    "circle": (hops("1.0.0 > 1.0.0:"), "1.0.0", "1.1.0", "the chain ends at 1.0.0"),
}


@pytest.mark.parametrize(("migrations", "start", "end", "message"), MISSING.values(), ids=MISSING)
def test_where_the_chain_ends_is_named(migrations: Migrations, start: str, end: str, message: str) -> None:
    with pytest.raises(MigrationError, match=message) as caught:
        find_migrations(migrations, Version.parse(start), Version.parse(end))
    assert caught.value.status is ExitStatus.FAILED


def test_a_chain_as_long_as_a_manifest_allows_is_searched_at_once() -> None:
    versions = [Version(major=1, minor=minor, patch=0) for minor in range(MAX_HOPS + 1)]
    chain = {(versions[at], versions[at + 1]): (str(at),) for at in range(MAX_HOPS)}
    assert find_migrations(chain, versions[0], versions[-1]) == tuple(map(str, range(MAX_HOPS)))


def test_hops_are_written_rising_and_read_back() -> None:
    document = migrations_to_json(UPSTREAM)
    assert list(document) == ["(1.0.0, 1.1.0)", "(1.1.0, 1.2.0)", "(1.1.0, 1.5.0)", "(1.2.0, 1.5.0)"]
    assert migrations_from_json(document) == UPSTREAM


@pytest.mark.parametrize("key", ["(1.0.0,1.1.0)", "(1.0.0, 1.1.0)", "(1.0.0,   1.1.0)"])
def test_spaces_after_the_comma_do_not_count(key: str) -> None:
    assert migrations_from_json({key: []}) == hops("1.0.0 > 1.1.0:")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "1.0.0, 1.1.0",
        "(1.0.0)",
        "(1.0.0, 1.1.0) ",
        "x(1.0.0, 1.1.0)",
        "(1.0.0 ,1.1.0)",
        "(1.0.0, 1.1.0, 1.2.0)",
    ],
)
def test_a_key_that_is_not_a_pair_is_named(key: str) -> None:
    with pytest.raises(FaultsError, match=r"a hop must be written as \(FROM, TO\)") as caught:
        migrations_from_json({key: []})
    assert caught.value.faults[0].path == key
