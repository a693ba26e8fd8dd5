"""Reading documents of others: every field by its path, every fault of the document at once.

A parser is a function from a decoded value to a value of ours that raises
:class:`~updog.update_metadata.errors.FaultsError` with paths relative to what it was given. The readers
here collect those of the members, put the member's name in front, and raise them together.

JSON rules: no key twice in an object, no NaN or infinity, nesting and size within the limits below.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

from updog.update_metadata.errors import Fault, FaultsError, TimeError, VersionError
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

_T = TypeVar("_T")
_V = TypeVar("_V")

MAX_DEPTH = 32
"""Levels of nesting. A manifest needs five; unbounded nesting exhausts the stack of any reader."""

MAX_SHOWN = 80
"""Characters of a bad value that a fault repeats."""


_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Object:
    """A JSON object as its text has it: keys may still repeat."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def decoded(data: bytes, *, most: int) -> object:
    """Return the JSON document ``data`` of at most ``most`` bytes as plain values. Raises FaultsError."""
    if len(data) > most:
        raise wrong(f"{len(data)} bytes; the limit is {most}")
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_Object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise wrong(f"not JSON: {error}") from error
    faults: list[Fault] = []
    plain = _plain(document, "", MAX_DEPTH, faults)
    if faults:
        raise FaultsError(faults)
    return plain


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{digits[:MAX_SHOWN]} is too large a number")
    return number


def _plain(value: object, path: str, depth: int, faults: list[Fault]) -> object:
    if not isinstance(value, _Object | list):
        return value
    if depth == 0:
        faults.append(Fault(path=path, problem=f"nested deeper than {MAX_DEPTH} levels"))
        return None
    if isinstance(value, list):
        return [_plain(item, f"{path}[{index}]", depth - 1, faults) for index, item in enumerate(value)]
    members: dict[str, object] = {}
    for key, member in value.pairs:
        below = f"{path}.{key}" if path else key
        if key in members:
            faults.append(Fault(path=below, problem="duplicate key"))
        members[key] = _plain(member, below, depth - 1, faults)
    return members


class Fields:
    """The members of one object, taken one by one.

    A faulty member is noted and a placeholder returned for it; :meth:`done` raises whatever was noted, so
    that no placeholder leaves the parser that took it.
    """

    def __init__(self, value: object) -> None:
        """Start on a decoded object. Raises FaultsError if it is none."""
        if not isinstance(value, dict):
            raise wrong(f"expected an object, found {shown(value)}")
        self._left = cast("dict[str, Any]", dict(value))
        self._faults: list[Fault] = []

    def take(self, key: str, parser: Callable[[object], _T]) -> _T:
        """Return the required member ``key``, read by ``parser``."""
        if key not in self._left:
            self._faults.append(Fault(path=key, problem="missing"))
            return cast("_T", None)
        try:
            return parser(self._left.pop(key))
        except FaultsError as error:
            self._faults += (fault.under(key) for fault in error.faults)
            return cast("_T", None)

    def maybe(self, key: str, parser: Callable[[object], _T]) -> _T | None:
        """Return the optional member ``key``, or None where it is absent or null."""
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return None
        return self.take(key, parser)

    def rest(self) -> dict[str, Any]:
        """Return the members that nobody took: a later writer's, kept as they are."""
        return dict(self._left)

    def refuse_rest(self, known: Iterable[str]) -> None:
        """Note every member that nobody took as unknown, suggesting the nearest of ``known``."""
        for key in self._left:
            self._faults.append(Fault(path=key, problem=f"unknown key{nearest(key, known)}"))

    def done(self) -> None:
        """Raise FaultsError with everything noted, if anything was."""
        if self._faults:
            raise FaultsError(self._faults)


def wrong(problem: str) -> FaultsError:
    """Return the error of a value that is wrong as a whole."""
    return FaultsError([Fault(path="", problem=problem)])


def shown(value: object) -> str:
    """Return a bad value as a fault repeats it: as JSON, cut short."""
    whole = json.dumps(value, default=str)
    return whole if len(whole) <= MAX_SHOWN else whole[:MAX_SHOWN] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` for a misspelt name, or nothing."""
    import difflib  # only for who mistyped

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def each(items: Iterable[tuple[str, _V]], parser: Callable[[_V], _T]) -> tuple[_T, ...]:
    """Return every item, given with its path, read by ``parser``. Raises FaultsError with all faults."""
    values: list[_T] = []
    faults: list[Fault] = []
    for path, item in items:
        try:
            values.append(parser(item))
        except FaultsError as error:
            faults += (fault.under(path) for fault in error.faults)
    if faults:
        raise FaultsError(faults)
    return tuple(values)


def array(value: object, parser: Callable[[object], _T], *, most: int) -> tuple[_T, ...]:
    """Return a list read item by item, of at most ``most`` items. Raises FaultsError."""
    if not isinstance(value, list):
        raise wrong(f"expected a list, found {shown(value)}")
    if len(value) > most:
        raise wrong(f"{len(value)} items; the limit is {most}")
    return each(((f"[{index}]", item) for index, item in enumerate(value)), parser)


def pairs(value: object, parser: Callable[[tuple[str, object]], _T], *, most: int) -> tuple[_T, ...]:
    """Return an object read member by member as (key, value), of at most ``most``. Raises FaultsError."""
    if not isinstance(value, dict):
        raise wrong(f"expected an object, found {shown(value)}")
    if len(value) > most:
        raise wrong(f"{len(value)} members; the limit is {most}")
    return each(((key, (key, member)) for key, member in value.items()), parser)


def text(value: object) -> str:
    """Return a name: text that is not empty and prints. Raises FaultsError."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise wrong(f"expected printable text, found {shown(value)}")
    return value


def whole_number(value: object) -> int:
    """Return a JSON integer (true and false are none). Raises FaultsError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(f"expected a whole number, found {shown(value)}")
    return value


def version(value: object) -> Version:
    """Return a strict semantic version. Raises FaultsError."""
    try:
        return Version.parse(text(value))
    except VersionError as error:
        raise wrong(error.message) from error


def time(value: object) -> datetime:
    """Return an RFC 3339 time in UTC. Raises FaultsError."""
    try:
        return parse_time(text(value))
    except TimeError as error:
        raise wrong(error.message) from error


def sha256(value: object) -> str:
    """Return a SHA-256 as 64 lower-case hexadecimal digits. Raises FaultsError."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise wrong(f"expected 64 lower-case hexadecimal digits, found {shown(value)}")
    return value
