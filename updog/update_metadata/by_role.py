"""Objects with one member for each image of an update: ``boot``, ``root`` and ``hash``. PURE.

What a later writer adds beside them is kept in ``extra``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from updog.update_metadata import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_T = TypeVar("_T")


class _ByRole(Protocol):
    """A value with the three members."""

    @property
    def boot(self) -> Any: ...
    @property
    def root(self) -> Any: ...
    @property
    def hash(self) -> Any: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


def by_role_from_json(value: object, made: Callable[..., _T], read: Callable[[object], Any]) -> _T:
    """Return ``made(boot=…, root=…, hash=…, extra=…)``, each member read by ``read``. Raises FaultsError."""
    members = fields.Fields(value)
    three = made(
        boot=members.take("boot", read),
        root=members.take("root", read),
        hash=members.take("hash", read),
        extra=members.rest(),
    )
    members.done()
    return three


def by_role_to_json(three: _ByRole, write: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the members as JSON values, each written by ``write``."""
    members = {"boot": write(three.boot), "root": write(three.root), "hash": write(three.hash)}
    return members | dict(three.extra)
