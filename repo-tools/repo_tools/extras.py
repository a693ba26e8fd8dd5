"""Libraries that only some commands need: the error about a missing one says how to install it.

Rule: a next step never sends anyone to the public Python index for this distribution. What is called
`updog`, `signpost` or `repo-tools` there belongs to other projects, and the machine that follows the advice
may hold signing keys.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from repo_tools.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

DISTRIBUTION = "updog-ab"
"""What pip calls the three packages together (`name` in pyproject.toml)."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside: a library that is not installed is a MissingExtraError that names the extra.

    Args:
        name: the extra of this distribution that requires the libraries, such as ``fleet``.

    Raises:
        MissingExtraError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the Python library {error.name} is not installed", next_step=how_to_install(name)
        ) from error


def how_to_install(extra: str) -> str:
    """Return the next step that installs an extra of this distribution."""
    return (
        "Install the extra from your own index, or from a wheel built with `pip wheel .` (not the public"
        f" index): pip install '{DISTRIBUTION}[{extra}]'."
    )
