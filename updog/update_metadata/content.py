"""What an image is once unpacked: by this a slot is proven, whatever way the bytes came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What an image is once unpacked.

    Attributes:
        size: bytes. sha256: of those bytes, 64 lower-case hexadecimal digits.
    """

    size: int
    sha256: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
