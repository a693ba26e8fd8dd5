"""Libraries that only some commands need: a missing one is named with the way to get it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from repo_tools.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside: a library that is not installed is a MissingExtraError that names the extra.

    Args:
        name: the extra of this distribution that brings the libraries, such as ``fleet``.

    Raises:
        MissingExtraError: a library is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the Python library {error.name} is not installed",
            next_step=f"Install the extra that brings it: pip install 'updog[{name}]'.",
        ) from error
