"""Reading TOML files, the same in all three programs: UTF-8, then TOML; every fault becomes one error.

The caller states which of its own errors a fault becomes, so that code, exit status and next step fit its
file. The caller also checks the content of the document.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    Refusal = Callable[[str], Exception]


def read_text(path: str | os.PathLike[str], refusal: Refusal) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        refusal: makes the error from a message that names the path.

    Raises:
        Exception: the one that ``refusal`` makes: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        raise refusal(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refusal(f"cannot read {path}: not UTF-8 at byte {error.start}") from error


def parse_toml(text: str, refusal: Refusal) -> dict[str, Any]:
    """Return the document in a text.

    Raises:
        Exception: the one that ``refusal`` makes: it is not TOML, or too deeply nested.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also for a number with thousands of digits
        raise refusal(f"not TOML: {error}") from error
