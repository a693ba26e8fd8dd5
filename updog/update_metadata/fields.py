"""Parsers for untrusted documents: all faults of a document are reported at once, each by its path.

A parser is a function from a decoded value to a value of ours that raises
:class:`~updog.update_metadata.errors.FaultsError` with paths relative to what it was given. The parsers for
objects and lists here collect the faults of their members, prefix the paths and raise them together.

Rules for JSON: no duplicate key in an object, no NaN or infinity, nesting and size within the limits below.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

from signpost.text import FOREIGN_CHARACTERS
from updog.update_metadata.errors import Fault, FaultsError, TimeError, VersionError
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

_T = TypeVar("_T")
_V = TypeVar("_V")

MAX_DEPTH = 32
"""Levels of nesting. A manifest needs five; unbounded nesting exhausts the stack of any parser."""

MAX_EXCERPT = 80
"""Characters of a bad value that a fault repeats."""

MAX_SENTENCE = FOREIGN_CHARACTERS
"""Characters of a publisher's sentence: as many as a node repeats in a sentence of its own."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Object:
    """A JSON object as it is in the text: keys may be duplicated."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def decode_json(data: bytes, *, limit: int) -> object:
    """Return the JSON document ``data`` of at most ``limit`` bytes as plain values. Raises FaultsError."""
    if len(data) > limit:
        raise invalid(f"{len(data)} bytes; the limit is {limit}")
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_Object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise invalid(f"not JSON: {error}") from error
    faults: list[Fault] = []
    plain = _plain(document, "", MAX_DEPTH, faults)
    if faults:
        raise FaultsError(faults)
    return plain


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{digits[:MAX_EXCERPT]} is too large a number")
    return number


def _plain(value: object, path: str, depth: int, faults: list[Fault]) -> object:
    """Return ``value`` with dicts for objects; add duplicate keys and too deep nesting to ``faults``."""
    if not isinstance(value, _Object | list):
        return value
    if depth == 0:
        faults.append(Fault(path=path, problem=f"nested deeper than {MAX_DEPTH} levels"))
        return None
    if isinstance(value, list):
        return [_plain(item, f"{path}[{index}]", depth - 1, faults) for index, item in enumerate(value)]
    members: dict[str, object] = {}
    for key, member in value.pairs:
        member_path = f"{path}.{key}" if path else key
        if key in members:
            faults.append(Fault(path=member_path, problem="duplicate key"))
        members[key] = _plain(member, member_path, depth - 1, faults)
    return members


class Fields:
    """The members of one object, parsed one by one.

    For a faulty member, the fault is recorded and a placeholder returned; :meth:`raise_faults` raises all
    recorded faults, so a parser must call it before it returns.
    """

    def __init__(self, value: object) -> None:
        """Start with a decoded value. Raises FaultsError if it is not an object."""
        if not isinstance(value, dict):
            raise invalid(f"expected an object, found {excerpt(value)}")
        self._left = cast("dict[str, Any]", dict(value))
        self._faults: list[Fault] = []

    def required(self, key: str, parser: Callable[[object], _T]) -> _T:
        """Return the member ``key``, parsed by ``parser``."""
        if key not in self._left:
            self._faults.append(Fault(path=key, problem="missing"))
            return cast("_T", None)
        try:
            return parser(self._left.pop(key))
        except FaultsError as error:
            self._faults += (fault.under(key) for fault in error.faults)
            return cast("_T", None)

    def optional(self, key: str, parser: Callable[[object], _T]) -> _T | None:
        """Return the member ``key``, parsed by ``parser``, or None if it is absent or null."""
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return None
        return self.required(key, parser)

    def extra(self) -> dict[str, Any]:
        """Return the members that were not parsed: those of a later format, kept as they are."""
        return dict(self._left)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Record every member that was not parsed as a fault, with the nearest name of ``known``."""
        for key in self._left:
            self._faults.append(Fault(path=key, problem=f"unknown key{did_you_mean(key, known)}"))

    def raise_faults(self) -> None:
        """Raise FaultsError with all recorded faults, if there are any."""
        if self._faults:
            raise FaultsError(self._faults)


def invalid(problem: str) -> FaultsError:
    """Return the error for a value that is wrong as a whole."""
    return FaultsError([Fault(path="", problem=problem)])


def excerpt(value: object) -> str:
    """Return a bad value for the text of a fault: as JSON, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_EXCERPT else text[:MAX_EXCERPT] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` for a misspelt name, or an empty text if no known name is near."""
    import difflib  # only needed after a typing error

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse_each(items: Iterable[tuple[str, _V]], parser: Callable[[_V], _T]) -> tuple[_T, ...]:
    """Return every item, given as (path, value), parsed by ``parser``. Raises FaultsError with all faults."""
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


def array(value: object, parser: Callable[[object], _T], *, limit: int) -> tuple[_T, ...]:
    """Return a list of at most ``limit`` items, each parsed by ``parser``. Raises FaultsError."""
    if not isinstance(value, list):
        raise invalid(f"expected a list, found {excerpt(value)}")
    if len(value) > limit:
        raise invalid(f"{len(value)} items; the limit is {limit}")
    return parse_each(((f"[{index}]", item) for index, item in enumerate(value)), parser)


def pairs(value: object, parser: Callable[[tuple[str, object]], _T], *, limit: int) -> tuple[_T, ...]:
    """Return an object of at most ``limit`` members, each parsed as (key, value). Raises FaultsError."""
    if not isinstance(value, dict):
        raise invalid(f"expected an object, found {excerpt(value)}")
    if len(value) > limit:
        raise invalid(f"{len(value)} members; the limit is {limit}")
    return parse_each(((key, (key, member)) for key, member in value.items()), parser)


def text(value: object) -> str:
    """Return a text that is not empty and printable. Raises FaultsError."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise invalid(f"expected printable text, found {excerpt(value)}")
    return value


def sentence(value: object) -> str:
    """Return a printable text of 1 to :data:`MAX_SENTENCE` characters that are not all blank.

    Raises FaultsError.
    """
    found = text(value)
    if found.isspace():
        raise invalid(f"expected a sentence, found {excerpt(value)}")
    if len(found) > MAX_SENTENCE:
        raise invalid(f"{len(found)} characters; the limit is {MAX_SENTENCE}")
    return found


def whole_number(value: object) -> int:
    """Return a JSON integer (not true or false). Raises FaultsError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"expected a whole number, found {excerpt(value)}")
    return value


def whole_number_in(least: int, greatest: int) -> Callable[[object], int]:
    """Return a parser of integers from ``least`` to ``greatest``, which raises FaultsError."""

    def parser(value: object) -> int:
        number = whole_number(value)
        if not least <= number <= greatest:
            raise invalid(f"{number} is outside {least}…{greatest}")
        return number

    return parser


def version(value: object) -> Version:
    """Return a strict semantic version. Raises FaultsError."""
    try:
        return Version.parse(text(value))
    except VersionError as error:
        raise invalid(error.message) from error


def time(value: object) -> datetime:
    """Return an RFC 3339 time in UTC. Raises FaultsError."""
    try:
        return parse_time(text(value))
    except TimeError as error:
        raise invalid(error.message) from error


def sha256(value: object) -> str:
    """Return a SHA-256 as 64 lower-case hexadecimal digits. Raises FaultsError."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise invalid(f"expected 64 lower-case hexadecimal digits, found {excerpt(value)}")
    return value
