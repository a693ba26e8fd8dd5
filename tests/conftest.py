"""Fixtures and settings for all tests."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.patience import stretched

if TYPE_CHECKING:
    from collections.abc import Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell script starts `make test &` with SIGINT ignored; processes that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.umask(0o022)  # what tests write is what a publisher writes who has not changed it
# A busy machine is not a fault of the product: no example of any test has a time limit.
settings.register_profile(
    "without deadlines", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("without deadlines")


TEST_SECONDS, QEMU_TEST_SECONDS = 300.0, 3600.0
"""A test that takes longer on a quiet machine hangs. Making what several tests share does not count."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no case by bytes: where they have a time in them, two workers collect different tests."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test a time limit of its own, stretched by how slow this machine is now."""
    for item in items:
        seconds = QEMU_TEST_SECONDS if item.get_closest_marker("qemu") else TEST_SECONDS
        item.add_marker(pytest.mark.timeout(stretched(seconds)))


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """Disable the garbage collector in a test that uses up the stack.

    If objects of earlier tests were collected there, their finalizers would find no room on the stack, and
    their errors would be attributed to this test.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()
