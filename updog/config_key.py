"""One key of a configuration file: its name, its values, and its row in the reference. PURE.

Rules:

* a converter returns the value for the program, or raises :class:`BadValueError`;
* a fault names the key, shows the value without the secrets that a URL in it may have, and says which values
  are valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from updog.update_metadata.times import format_time
from updog.url import Url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path


class BadValueError(ValueError):
    """The value is valid TOML, but not valid for its key; a message, if there is one, says more than that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key of the configuration, and its row in the reference.

    Attributes:
        name: with the names of its tables before it, separated by dots.
        convert: makes the value for the program from the TOML value and the folder of the file.
        takes: which values are valid, for messages and the reference.
        upstream: whether Bottlerocket's updog has the key too.
    """

    name: str
    convert: Callable[[Any, Path], Any]
    takes: str
    default: Any
    meaning: str
    upstream: bool = False
    required: bool = False

    @property
    def default_text(self) -> str:
        """The default as TOML has it; empty if there is none."""
        return "" if self.default is None else _toml(self.default)

    def fault(self, value: Any, error: BadValueError, *, name: str) -> str:
        """Return the sentence that refuses ``value``; ``name`` says which of several tables it stands in."""
        text = without_secrets(repr(value))
        shown = _UP_TO_A_HOST.sub("", text) if "URL" in self.takes else text
        return f"{name} = {shown}: {str(error) or f'must be {self.takes}'}"


def _toml(value: Any) -> str:
    """Return a default as TOML has it. A path is a text there."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int) else f'"{value}"'  # no default has a quote or a backslash


_UP_TO_A_HOST = re.compile(r"[^\s'\"/]*@")  # the login of a URL whose scheme is missing or misspelt


def homes(keys: Iterable[Key], arrays: Iterable[str]) -> dict[str, list[str]]:
    """Return where in the file each key belongs, by the last part of its name, for :func:`unknown_key`."""
    found: dict[str, list[str]] = {}
    for key in keys:
        table, _, name = key.name.rpartition(".")
        heading = f"[[{table}]]" if table in arrays else f"[{table}]"
        found.setdefault(name, []).append(f"in {heading}" if table else "above all tables")
    return found


def unknown_key(name: str, known: Iterable[str], elsewhere: Mapping[str, Sequence[str]]) -> str:
    """Return the fault of an unknown key: where it belongs (:func:`homes`), or the nearest of ``known``."""
    if name in elsewhere:  # in TOML a line at the end of the file belongs to the last table
        return f"unknown key {name!r} here; it belongs {' or '.join(elsewhere[name])}"
    import difflib  # only needed after a typing error

    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown key {name!r}" + (f", did you mean {near[0]!r}?" if near else "")


def read_keys(
    table: Mapping[str, Any],
    keys: Mapping[str, Key],
    folder: Path,
    *,
    below: Iterable[str],
    elsewhere: Mapping[str, Sequence[str]],
    name: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of those ``keys`` that ``table`` has, and all its faults, a sentence each.

    Args:
        table: of the file.
        keys: by their names in this table.
        folder: of the file.
        below: the names of the tables in it.
        elsewhere: where in the file each key belongs.
        name: of the table; empty: the file itself.
    """
    known = [*keys, *below]
    before, dotted = (f"{name}: ", f"{name}.") if name else ("", "")
    faults = [f"{before}{unknown_key(each, known, elsewhere)}" for each in table if each not in known]
    values: dict[str, Any] = {}
    for each, key in keys.items():
        if each in table:
            try:
                values[each] = key.convert(table[each], folder)
            except BadValueError as error:
                faults.append(key.fault(table[each], error, name=f"{dotted}{each}"))
        elif key.required:
            faults.append(f"{dotted}{each} is missing")
    return values, faults


def plain(value: Any) -> Any:
    """Return a value of the configuration for JSON and for operators, without secrets."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (tuple, list, frozenset)):
        items = [plain(item) for item in value]
        return sorted(items) if isinstance(value, frozenset) else items
    as_text = next((convert for kind, convert in _AS_TEXT.items() if isinstance(value, kind)), str)
    return as_text(value)


def _duration_word(duration: timedelta) -> str:
    """Return a duration of whole seconds as :func:`to_duration` takes it: ``90m``, ``2d``, ``0m``."""
    if not duration:
        return "0m"
    letter, unit = next((letter, unit) for letter, unit in _UNITS.items() if not duration % unit)
    return f"{duration // unit}{letter}"


_AS_TEXT: dict[type, Callable[[Any], str]] = {
    timedelta: _duration_word,
    datetime: format_time,
    time: lambda moment: f"{moment:%H:%M}",
}
"""How values are written whose ``str`` is not what the file has; that of a URL has no login and no query."""


# -- converters


_NUL = "\0"  # the end of a text for the kernel: no path, name or word of a command has one


def to_text(value: Any, _folder: Path) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value or _NUL in value:
        raise BadValueError
    return value


def to_texts(value: Any, _folder: Path) -> tuple[str, ...]:
    """Return a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) and _NUL not in item for item in value):
        raise BadValueError
    return tuple(value)


def to_names(*known: str) -> Callable[[Any, Path], tuple[str, ...]]:
    """Return a converter for lists of some of the ``known`` names."""

    def convert(value: Any, folder: Path) -> tuple[str, ...]:
        names = to_texts(value, folder)
        if not set(names) <= set(known):
            raise BadValueError
        return names

    return convert


def to_flag(value: Any, _folder: Path) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise BadValueError
    return value


def to_path(value: Any, folder: Path) -> Path:
    """Return a path; a relative one starts at the folder of the file."""
    return folder / to_text(value, folder)


def to_paths(value: Any, folder: Path) -> tuple[Path, ...]:
    """Return a list of paths, as :func:`to_path`."""
    return tuple(folder / text for text in to_texts(value, folder))


def to_url(*schemes: str) -> Callable[[Any, Path], Url]:
    """Return a converter for URLs with one of ``schemes``."""

    def convert(value: Any, folder: Path) -> Url:
        try:
            return Url.parse(to_text(value, folder), schemes)
        except ValueError as error:
            raise BadValueError from error

    return convert


def to_whole_number(least: int, greatest: int) -> Callable[[Any, Path], int]:
    """Return a converter for integers from ``least`` to ``greatest``."""

    def convert(value: Any, _folder: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
            raise BadValueError
        return value

    return convert


_DURATION = re.compile(r"([0-9]{1,8})([smhdw])")
_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
}


def to_duration(least: timedelta, greatest: timedelta) -> Callable[[Any, Path], timedelta]:
    """Return a converter for durations such as ``30m``, ``1h`` or ``2d``."""

    def convert(value: Any, folder: Path) -> timedelta:
        match = _DURATION.fullmatch(to_text(value, folder))
        if match is None:
            raise BadValueError
        number, unit = int(match[1]), _UNITS[match[2]]
        if not least <= number * unit <= greatest:
            raise BadValueError
        return number * unit

    return convert
