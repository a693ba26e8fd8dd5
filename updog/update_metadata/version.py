"""Versions: strict Semantic Versioning 2.0.0 (https://semver.org).

Rules:
* ``MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD]``; no leading zeros in numbers, no empty identifiers (§2, §9, §10).
* Order is precedence (§11): numbers numerically, a pre-release before its release, its identifiers one by
  one, numeric ones before alphanumeric ones, fewer before more.
* Build metadata is kept and written back, but ignored in order, equality and hash: ``1.0.0+a`` and
  ``1.0.0+b`` are the same version, so neither is an update of the other. Who names a version with build
  metadata means that build, though: nobody gets another one unasked (:meth:`Version.names`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import total_ordering

from updog.update_metadata.errors import VersionError

__all__ = ["Version"]

MAX_VERSION_TEXT = 256
"""Characters of a version. Far above any real one; it bounds the cost of comparing numbers."""

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
    """A semantic version; ``str()`` returns the text it was parsed from.

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
            excerpt = text if len(text) <= MAX_VERSION_TEXT else text[:MAX_VERSION_TEXT] + "…"
            raise VersionError(f"{excerpt!r} is not a semantic version")
        return cls(
            major=int(match["major"]),
            minor=int(match["minor"]),
            patch=int(match["patch"]),
            prerelease=_identifiers(match["prerelease"]),
            build=_identifiers(match["build"]),
        )

    @classmethod
    def parse_friendly(cls, text: str) -> Version:
        """Return the version that an operator typed: as :meth:`parse`, but one leading ``v`` is allowed."""
        return cls.parse(text.removeprefix("v"))

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{'.'.join(self.prerelease)}" if self.prerelease else ""
        return text + (f"+{'.'.join(self.build)}" if self.build else "")

    def names(self, other: Version) -> bool:
        """Return whether who writes this version means ``other``: also its build, if one is written."""
        return self == other and self.build in {(), other.build}

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self._precedence() < other._precedence()

    def _precedence(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        # §11.3: a release comes after its pre-releases; §11.4: identifiers from left to right.
        # §11.4.1 numerically, §11.4.2 in ASCII order, §11.4.3 numeric before alphanumeric.
        identifiers = tuple(
            (False, int(text), "") if text.isdigit() else (True, 0, text) for text in self.prerelease
        )
        return (self.major, self.minor, self.patch, not self.prerelease, identifiers)


def _identifiers(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()
