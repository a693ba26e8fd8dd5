"""PURE: why metadata could not be read: the field, its value, and the role that the document states.

Rules:

* python-tuf wraps every cause in one text without it, and the causes speak of Python; so the document is
  compared with the shapes of the specification (4.2 to 4.6), and its first fault is named by its place in the
  file: ``signed.meta.snapshot.json.version``;
* nothing is decided here: python-tuf refused the document before, and a fault that only it knows is reported
  in its own words;
* what the document says is foreign: printable, and cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from signpost.text import foreign
from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["malformed"]

_VALUE_CHARACTERS = 60


class _Shape(Protocol):
    """What a value of metadata has to be."""

    def faults(self, value: Any, place: str) -> Iterator[str]:
        """Yield each fault of a value. ``place`` is the path to it, "" for the document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Value:
    """A value without parts, and what it has to be."""

    expected: str
    is_valid: Callable[[Any], bool]

    def faults(self, value: Any, place: str) -> Iterator[str]:
        if not self.is_valid(value):
            yield _is_not(value, self.expected, place)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    """An object: the shapes of its known members, and of every other one (None: anything)."""

    required: Mapping[str, _Shape] = field(default_factory=dict)
    optional: Mapping[str, _Shape] = field(default_factory=dict)
    others: _Shape | None = None

    def faults(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield _is_not(value, "an object", place)
            return
        prefix = f"{place}." if place else ""
        for name in self.required:
            if name not in value:
                yield f"the field {foreign(prefix + name)} is missing"
        known = {**self.required, **self.optional}
        for name, part in value.items():
            if shape := known.get(name, self.others):
                yield from shape.faults(part, prefix + name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _List:
    """A list, and the shape of its items."""

    of: _Shape

    def faults(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield _is_not(value, "a list", place)
            return
        for number, item in enumerate(value):
            yield from self.of.faults(item, f"{place}[{number}]")


def _is_time(value: Any) -> bool:
    try:
        parse_time(value)
    except (TimeError, TypeError, AttributeError):
        return False
    return True


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


_TEXT = _Value(expected="a text", is_valid=lambda value: isinstance(value, str))
_FLAG = _Value(expected="true or false", is_valid=lambda value: isinstance(value, bool))
_COUNT = _Value(expected="a whole number above 0", is_valid=lambda value: _is_whole(value, 1))
_LENGTH = _Value(expected="a whole number of bytes", is_valid=lambda value: _is_whole(value, 0))
_TIME = _Value(expected="a time such as 2027-01-31T00:00:00Z", is_valid=_is_time)

_HASHES = _Object(others=_TEXT)
_KEYS = _Object(others=_Object(required={"keytype": _TEXT, "scheme": _TEXT, "keyval": _Object(others=_TEXT)}))
_KEYS_OF_ROLE: dict[str, _Shape] = {"keyids": _List(of=_TEXT), "threshold": _COUNT}
_LISTED = _Object(required={"version": _COUNT}, optional={"length": _LENGTH, "hashes": _HASHES})
_DELEGATION = _Object(
    required={"name": _TEXT, **_KEYS_OF_ROLE, "terminating": _FLAG},
    optional={"paths": _List(of=_TEXT), "path_hash_prefixes": _List(of=_TEXT)},
)
_COMMON: dict[str, _Shape] = {"spec_version": _TEXT, "version": _COUNT, "expires": _TIME}
_ROLES: dict[str, _Shape] = {
    name: _Object(required=_KEYS_OF_ROLE) for name in ("root", "timestamp", "snapshot", "targets")
}
_SIGNED = {
    "root": _Object(
        required={**_COMMON, "keys": _KEYS, "roles": _Object(required=_ROLES)},
        optional={"consistent_snapshot": _FLAG},
    ),
    "timestamp": _Object(required={**_COMMON, "meta": _Object(required={"snapshot.json": _LISTED})}),
    "snapshot": _Object(required={**_COMMON, "meta": _Object(others=_LISTED)}),
    "targets": _Object(
        required={
            **_COMMON,
            "targets": _Object(others=_Object(required={"length": _LENGTH, "hashes": _HASHES})),
        },
        optional={
            "delegations": _Object(required={"keys": _KEYS}, optional={"roles": _List(of=_DELEGATION)})
        },
    ),
}
_ANY_ROLE = _Object(required={"_type": _TEXT})
_SIGNATURES = _List(of=_Object(required={"keyid": _TEXT, "sig": _TEXT}))


def malformed(error: BaseException, data: bytes = b"") -> str:
    """Return as text why metadata could not be read: the fault, and the role that they state.

    Args:
        error: raised by python-tuf.
        data: the metadata, as far as they are known.
    """
    cause = error.__cause__ or error
    text = str(cause)
    document = _document(data)
    role = _role_in(document)
    if isinstance(cause, UnicodeDecodeError | json.JSONDecodeError):
        text = f"not JSON: {cause}"
    elif isinstance(cause, RecursionError):
        text = "nested too deeply"
    elif data and (fault := _first_fault(document, role)):
        text = fault
    elif isinstance(cause, KeyError) and cause.args:
        text = f"the field {foreign(str(cause.args[0]))} is missing"
    elif isinstance(cause, AttributeError | TypeError) or not text:
        text = f"a field has a value of the wrong type ({type(cause).__name__}: {text or 'no details'})"
    return f"{text} (in {role} metadata)" if role else text


def _document(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _role_in(document: Any) -> str:
    try:
        role = document["signed"]["_type"]
    except (KeyError, TypeError):
        return ""
    return role if isinstance(role, str) and role in _SIGNED else ""


def _first_fault(document: Any, role: str) -> str:
    """Return the first fault of metadata in the order of their fields; "" if their shape has none."""
    shape = _Object(required={"signed": _SIGNED.get(role, _ANY_ROLE), "signatures": _SIGNATURES})
    return next(shape.faults(document, ""), "")


def _is_not(value: Any, expected: str, place: str) -> str:
    shown = foreign(json.dumps(value, ensure_ascii=False).strip('"'), _VALUE_CHARACTERS)
    if not isinstance(value, str):
        shown = shown[1:-1]  # as JSON writes it: 5, null, {…}
    where = f"the field {foreign(place)}" if place else "it"
    return f"{where} is {shown}, not {expected}"
