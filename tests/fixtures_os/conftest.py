"""The real releases, built once into the cache that everything shares."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from fixtures.os.build import DEFAULT_CACHE, build_releases
from fixtures.os.command import missing_tools
from fixtures.os.errors import ArchiveError

if TYPE_CHECKING:
    from fixtures.os.release import Release


@pytest.fixture
def tools() -> None:
    missing = missing_tools()
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


@pytest.fixture(scope="session")
def releases() -> dict[str, Release]:
    missing = missing_tools()
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    try:
        return build_releases(DEFAULT_CACHE, logging.getLogger(__name__).info)
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")
