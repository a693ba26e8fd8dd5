"""Versions: strict Semantic Versioning 2.0.0 (https://semver.org), and nothing that merely looks like it.

Rules:
* ``MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD]``; no leading zeros in numbers, no empty identifiers (§2, §9, §10).
* Order is precedence (§11): numbers numerically, a pre-release before its release, its identifiers one by
  one, numeric ones before alphanumeric ones, fewer before more.
* Build metadata is kept and written back, and takes no part in order, equality or hash: ``1.0.0+a`` and
  ``1.0.0+b`` are the same version, so neither is an update of the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import total_ordering

from updog.update_metadata.errors import VersionError

MAX_VERSION_TEXT = 256
"""Characters of a version. Far above any in use; it bounds the cost of comparing numbers."""

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_SEMVER = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>{_PRERELEASE}(?:\.{_PRERELEASE})*))?"
    rf"(?:\+(?P<build>{_BUILD}(?:\.{_BUILD})*))?"
)


@total_ordering
@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A semantic version; ``str`` of it is the text it was parsed from.

    Attributes:
        major: incompatible changes. minor: additions. patch: corrections.
        prerelease: identifiers after ``-``, in order; empty for a release.
        build: identifiers after ``+``; not compared.
    """

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version written as ``text``. Raises VersionError."""
        match = _SEMVER.fullmatch(text) if len(text) <= MAX_VERSION_TEXT else None
        if match is None:
            raise VersionError(f"{_shortened(text)!r} is not a semantic version")
        return cls(
            major=int(match["major"]),
            minor=int(match["minor"]),
            patch=int(match["patch"]),
            prerelease=_identifiers(match["prerelease"]),
            build=_identifiers(match["build"]),
        )

    @classmethod
    def parse_friendly(cls, text: str) -> Version:
        """Return the version a person typed: as :meth:`parse`, with one leading ``v`` allowed."""
        return cls.parse(text.removeprefix("v"))

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{'.'.join(self.prerelease)}" if self.prerelease else ""
        return text + (f"+{'.'.join(self.build)}" if self.build else "")

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self._precedence() < other._precedence()

    def _precedence(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        # §11.3: a release comes after its pre-releases; §11.4: identifiers from left to right.
        identifiers = tuple(_identifier_precedence(identifier) for identifier in self.prerelease)
        return (self.major, self.minor, self.patch, not self.prerelease, identifiers)


def _identifiers(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _identifier_precedence(identifier: str) -> tuple[bool, int, str]:
    # §11.4.1 numerically, §11.4.2 in ASCII order, §11.4.3 numeric before alphanumeric.
    if identifier.isdigit():
        return (False, int(identifier), "")
    return (True, 0, identifier)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VERSION_TEXT else text[:MAX_VERSION_TEXT] + "…"
