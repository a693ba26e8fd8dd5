"""What all tests share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out of a test that goes to the bottom of the stack.

    Collected there, what earlier tests left behind finds no room for its finalizers, and their errors would
    be put down to this test.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()
