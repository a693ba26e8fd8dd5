"""Migrations: what to run on the data when the version changes, and in which order.

Rules:
* The manifest lists hops, ``"(from, to)"``, each with the migrations of that hop in order; none is usual.
* A way up is searched, not guessed: at each version the hop with the highest target that is not beyond the
  goal is tried first; where that ends in a dead end, the next highest is.
* Going down is the same way, migrations in reverse order. Nothing to change needs no way.
* Hops that do not go up lie on no way; they are kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from updog.update_metadata import fields
from updog.update_metadata.errors import MigrationError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

Hop: TypeAlias = tuple[Version, Version]
"""From which version to which."""

Migrations: TypeAlias = Mapping[Hop, tuple[str, ...]]
"""Target names of the migrations of each hop, in the order they run going up."""

MAX_HOPS = 4096
"""Hops of a manifest. Upstream has some 150 after six years; it bounds the search."""

MAX_NAMES = 256
"""Migrations of one hop; a handful is usual."""

_HOP = re.compile(r"\((?P<start>[^ ,()]+), *(?P<end>[^ ,()]+)\)")


def migrations_from_json(value: object) -> dict[Hop, tuple[str, ...]]:
    """Return the hops of a decoded ``migrations`` object. Raises FaultsError, paths being the keys."""
    members = fields.pairs(value, _member, most=MAX_HOPS)
    hops: dict[Hop, str] = {}
    fields.each(((key, (key, hop, hops)) for key, hop, _ in members), _check_new)
    return {hop: names for _, hop, names in members}


def migrations_to_json(migrations: Migrations) -> dict[str, list[str]]:
    """Return the ``migrations`` object, hops rising; the inverse of :func:`migrations_from_json`."""
    return {f"({start}, {end})": list(migrations[start, end]) for start, end in sorted(migrations)}


def find_migrations(migrations: Migrations, from_version: Version, to_version: Version) -> tuple[str, ...]:
    """Return the migrations to run, in order, when ``from_version`` becomes ``to_version``.

    Raises:
        MigrationError: no way leads there; the message names the version where the chain ends.
    """
    low, high = sorted((from_version, to_version))
    way = _way(migrations, low, high)
    names = [name for hop in way for name in migrations[hop]]
    return tuple(names if from_version <= to_version else reversed(names))


def _member(member: tuple[str, object]) -> tuple[str, Hop, tuple[str, ...]]:
    key, value = member
    match = _HOP.fullmatch(key)
    if match is None:
        raise fields.wrong("a hop is written (FROM, TO), two versions")
    hop = (fields.version(match["start"]), fields.version(match["end"]))
    return key, hop, fields.array(value, fields.text, most=MAX_NAMES)


def _check_new(item: tuple[str, Hop, dict[Hop, str]]) -> None:
    key, hop, seen = item
    if hop in seen:
        raise fields.wrong(f"the same hop as {seen[hop]}")
    seen[hop] = key


def _way(migrations: Migrations, low: Version, high: Version) -> Iterator[Hop]:
    """Search depth first, highest target first; a dead end is left once and not entered again."""
    onward = _onward(migrations, high)
    way, entered = [low], {low}
    while way and way[-1] != high:
        targets = onward[way[-1]]
        if not targets:
            way.pop()
        elif (target := targets.pop()) not in entered:
            entered.add(target)
            way.append(target)
    if not way:
        raise MigrationError(f"no migrations lead from {low} to {high}: the chain ends at {max(entered)}")
    return pairwise(way)


def _onward(migrations: Migrations, high: Version) -> dict[Version, list[Version]]:
    """Return where one can go from each version, targets rising, none beyond ``high``."""
    onward: dict[Version, list[Version]] = defaultdict(list)
    for start, end in sorted(migrations):
        if start < end <= high:
            onward[start].append(end)
    return onward
