"""What drills need: the real releases, and a boot stage built from the packages they are made of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from fixtures.node.build import DEFAULT_CACHE as NODE_CACHE
from fixtures.node.build import build_node
from fixtures.os.build import DEFAULT_CACHE, build_releases
from fixtures.os.command import missing_tools
from fixtures.os.errors import ArchiveError
from fixtures.os.stage import unpack_system
from repo_tools.bootstage.image import build
from tests.drills.emulator import missing

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.node.build import NodeBuild
    from fixtures.os.release import Release
    from repo_tools.bootstage.image import BootStage


@pytest.fixture(scope="session")
def releases() -> dict[str, Release]:
    """Return the releases by version: 1.0.0, 1.1.0, and 1.2.0 whose init cannot be run."""
    lacking = missing_tools()
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    if missing():
        pytest.skip(missing())
    try:
        return build_releases(DEFAULT_CACHE, logging.getLogger(__name__).info)
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")


@pytest.fixture(scope="session")
def node_build() -> NodeBuild:
    """Return two good releases of a whole node."""
    lacking = missing_tools()
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    try:
        say = logging.getLogger(__name__).info
        return build_node(NODE_CACHE, say, names=("good-1", "good-2"))
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")


@pytest.fixture(scope="session")
def system(releases: dict[str, Release], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which a kernel and Python were unpacked, as in the how-to."""
    folder = tmp_path_factory.mktemp("system")
    unpack_system(releases["1.1.0"].packages, DEFAULT_CACHE / "debs", folder)
    return folder


@pytest.fixture(scope="session")
def stage(system: Path) -> BootStage:
    """Return the boot stage."""
    return build(system)
