"""Migrations: what to run on the data when the version changes, and in which order.

Rules:
* The manifest lists hops, ``"(from, to)"``, each with its migrations in order; most hops have none.
* A path up is found by a depth-first search: at each version the hop to the highest version that is not above
  the goal is tried first, and after a dead end the next highest.
* The path down is the same path with the migrations in reverse order. Equal versions need no path.
* Hops that do not go up are on no path; they are kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from updog.update_metadata import fields
from updog.update_metadata.errors import Fault, FaultsError, MigrationError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

Hop: TypeAlias = tuple[Version, Version]
"""The version it starts from and the version it leads to."""

Migrations: TypeAlias = Mapping[Hop, tuple[str, ...]]
"""Target names of the migrations of each hop, in the order in which they run on the way up."""

MAX_HOPS = 4096
"""Hops of a manifest. Upstream has about 150 after six years; the limit bounds the search."""

MAX_NAMES = 256
"""Migrations of one hop; there are usually a few."""

_HOP = re.compile(r"\((?P<start>[^ ,()]+), *(?P<end>[^ ,()]+)\)")


def migrations_from_json(value: object) -> dict[Hop, tuple[str, ...]]:
    """Return the hops of a decoded ``migrations`` object. Raises FaultsError, paths being the keys."""
    members = fields.pairs(value, _member, limit=MAX_HOPS)
    first: dict[Hop, str] = {}
    faults = [
        Fault(path=key, problem=f"the same hop as {first[hop]}")
        for key, hop, _ in members
        if first.setdefault(hop, key) != key
    ]
    if faults:
        raise FaultsError(faults)
    return {hop: names for _, hop, names in members}


def migrations_to_json(migrations: Migrations) -> dict[str, list[str]]:
    """Return the ``migrations`` object, hops in rising order; the inverse of :func:`migrations_from_json`."""
    return {f"({start}, {end})": list(migrations[start, end]) for start, end in sorted(migrations)}


def find_migrations(migrations: Migrations, from_version: Version, to_version: Version) -> tuple[str, ...]:
    """Return the migrations to run, in order, when ``from_version`` becomes ``to_version``.

    Raises:
        MigrationError: there is no path; the message names the version where the chain ends.
    """
    low, high = sorted((from_version, to_version))
    names = [name for hop in _path(migrations, low, high) for name in migrations[hop]]
    return tuple(names if from_version <= to_version else reversed(names))


def _member(member: tuple[str, object]) -> tuple[str, Hop, tuple[str, ...]]:
    key, value = member
    match = _HOP.fullmatch(key)
    if match is None:
        raise fields.invalid("a hop must be written as (FROM, TO), two versions")
    hop = (fields.version(match["start"]), fields.version(match["end"]))
    return key, hop, fields.array(value, fields.text, limit=MAX_NAMES)


def _path(migrations: Migrations, low: Version, high: Version) -> Iterator[Hop]:
    """Search depth first, highest version first; no version is visited twice. Raises MigrationError."""
    next_versions: dict[Version, list[Version]] = defaultdict(list)  # rising, none above ``high``
    for start, end in sorted(migrations):
        if start < end <= high:
            next_versions[start].append(end)
    path, visited = [low], {low}
    while path and path[-1] != high:
        candidates = next_versions[path[-1]]
        if not candidates:
            path.pop()
        elif (candidate := candidates.pop()) not in visited:
            visited.add(candidate)
            path.append(candidate)
    if not path:
        raise MigrationError(f"no migrations lead from {low} to {high}: the chain ends at {max(visited)}")
    return pairwise(path)
