"""What all tests share."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by `make test &` in a script, where a shell has it ignored; what tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
