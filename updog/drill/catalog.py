"""The drills shipped with updog, one file each in ``drills/``, and a user's own by path."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from signpost.toml_file import read_text
from updog.drill.drill_file import Drill, parse
from updog.errors import DrillFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SUFFIX = ".toml"


def shipped() -> tuple[Drill, ...]:
    """Return the drills shipped with updog, by name. Raises DrillFileError."""
    files = resources.files("updog.drill").joinpath("drills").iterdir()
    named = {entry.name.removesuffix(_SUFFIX): entry for entry in files if entry.name.endswith(_SUFFIX)}
    return tuple(parse(name, named[name].read_text(encoding="utf-8")) for name in sorted(named))


def choose(names: Sequence[str]) -> tuple[Drill, ...]:
    """Return the named drills, in this order; a name that ends in .toml is a path. No name: all shipped.

    Raises:
        DrillFileError: there is no such drill, or its file has faults.
    """
    known = {drill.name: drill for drill in shipped()}
    return tuple(_chosen(name, known) for name in names) if names else tuple(known.values())


def _chosen(name: str, known: dict[str, Drill]) -> Drill:
    if name.endswith(_SUFFIX):
        path = Path(name)
        return parse(path.name.removesuffix(_SUFFIX), read_text(path, DrillFileError))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise DrillFileError(f"there is no drill {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return known[name]
