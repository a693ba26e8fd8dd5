"""Objects with one member for each image of a release: ``boot``, ``root`` and ``hash``. PURE.

Members of a later format are kept in ``extra``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from signpost.sets import ImageKind
from updog.update_metadata import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ByImage"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ByImage(Generic[_T]):
    """One value for each image of a release."""

    boot: _T
    root: _T
    hash: _T
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def made(cls, make: Callable[[ImageKind], _T]) -> Self:
        """Return an object with the value that ``make`` returns for each image."""
        return cls(boot=make(ImageKind.BOOT), root=make(ImageKind.ROOT), hash=make(ImageKind.HASH))

    @classmethod
    def from_json(cls, value: object, read: Callable[[object], _T]) -> Self:
        """Return the object ``value``, each member parsed by ``read``. Raises FaultsError with all faults."""
        members = fields.Fields(value)
        images = cls(
            boot=members.required("boot", read),
            root=members.required("root", read),
            hash=members.required("hash", read),
            extra=members.extra(),
        )
        members.raise_faults()
        return images

    def to_json(self, write: Callable[[_T], Any]) -> dict[str, Any]:
        """Return a JSON object, each member made by ``write``; the inverse of :meth:`from_json`."""
        return {str(kind): write(value) for kind, value in self.items()} | dict(self.extra)

    def of(self, kind: ImageKind) -> _T:
        """Return the value of one image."""
        value: _T = getattr(self, kind)
        return value

    def items(self) -> Iterator[tuple[ImageKind, _T]]:
        """Yield (image, value), in the order boot, root, hash."""
        return ((kind, self.of(kind)) for kind in ImageKind)

    def values(self) -> tuple[_T, _T, _T]:
        """Return the three values in the order boot, root, hash."""
        return (self.boot, self.root, self.hash)
