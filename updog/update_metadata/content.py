"""Size and hash of an unpacked image: a slot is verified against them, however the bytes were fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Content"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Size and hash of an unpacked image.

    Attributes:
        size: bytes. sha256: of those bytes, 64 lower-case hexadecimal digits.
        extra: members of a later format.
    """

    size: int
    sha256: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
