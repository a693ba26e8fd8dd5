"""Images of a system as people have it, made by the product alone, start a node in QEMU."""

from __future__ import annotations

import logging
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from fixtures.node.build import DEFAULT_CACHE, build_node, lay_source
from fixtures.node.recipe import OPTIONS
from fixtures.os.command import missing_tools
from fixtures.os.errors import ArchiveError
from repo_tools.cli import cli
from signpost.app import UnbootedDisk
from signpost.console import run
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.drills.emulator import missing, switched_on
from tests.drills.test_node import CONFIRMED, of_private

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of a Debian system with updog, without a version, mounts and a root of trust."""
    lacking = missing_tools()
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    folder = tmp_path_factory.mktemp("source")
    try:
        lay_source(DEFAULT_CACHE, folder / "system", logging.getLogger(__name__).info)
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")
    (folder / "system/usr/share/updog/root.json").unlink()
    archive, system = str(folder / "system.tar"), str(folder / "system")
    done = subprocess.run(["tar", "--create", "--file", archive, "--directory", system, "."], check=False)
    assert done.returncode in {0, 1}  # 1: a file was linked meanwhile, by another test that shares them
    return folder / "system.tar"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty repository with test keys."""
    made = build_node(DEFAULT_CACHE, logging.getLogger(__name__).info, names=()).repository / "repo"
    return shutil.copytree(made, tmp_path_factory.mktemp("publisher") / "repo")


def release(source: Path, repository: Path, disk: Path, version: str, etc: str) -> None:
    """Make a source into a signed release and its first disk: one command."""
    named = ["--version", version, "--variant", "node", "--waves", "none"]
    chosen = ["--etc", etc, "--compression", "lz4", "--options", f"ro console=ttyS0 panic=5 {OPTIONS}"]
    words = ["release", str(source), "--disk", str(disk), *named, *chosen]
    assert run(cli, ["--repo", str(repository), *words]) == 0


def names_in_private(disk: Path, scratch: Path, folder: str) -> set[str]:
    """Return the names in a folder of the PRIVATE partition of a machine that was unplugged."""
    listed = of_private(disk, scratch, f"ls -p {folder}").splitlines()
    return {line.split("/")[5] for line in listed if line.count("/") > 5}


@pytest.mark.parametrize(("etc", "version"), [("transient", "1.0.0"), ("persistent", "1.0.1")])
def test_images_of_a_debian_system_start_from_an_empty_disk_and_are_confirmed(
    tmp_path: Path, source: Path, repository: Path, etc: str, version: str
) -> None:
    if missing(firmware=True):
        pytest.skip(missing(firmware=True))
    disk = tmp_path / "disk"
    release(source, repository, disk, version, etc)

    with switched_on([disk], tmp_path / "console") as machine:
        machine.expect("taking slot A", "ROOT is verified and mounted", CONFIRMED)
    if etc == "transient":
        with switched_on([disk], tmp_path / "second") as machine:
            machine.expect("the machine-id is that of PRIVATE", CONFIRMED)

    assert UnbootedDisk(OsMedium(), str(disk)).view().slots[Slot.A].flags == Flags(
        priority=1, successful=True
    )
    private = names_in_private(disk, tmp_path / "private", "/")
    assert {"machine-id", "state.json"} <= private
    assert ("etc" in private) is (etc == "persistent")
    if etc == "persistent":
        assert "machine-id" in names_in_private(disk, tmp_path / "private", "/etc/upper")
