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
from repo_tools.bootstage.efi import make_efi
from repo_tools.cli import cli
from repo_tools.image_build.build import build
from repo_tools.image_build.request import DEFAULT_OPTIONS, BuildRequest, Etc
from signpost import sets
from signpost.app import UnbootedDisk
from signpost.console import run
from signpost.disk import Disk
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.drills.emulator import missing, switched_on
from tests.drills.test_node import CONFIRMED, tool
from tests.support.trees import read_folder
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.bootstage.image import BootStage
    from repo_tools.image_build.build import BuiltImages
    from repo_tools.image_build.tree import Tree

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return a Debian system with updog, but without a version, mounts and a root of trust."""
    lacking = missing_tools()
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    folder = tmp_path_factory.mktemp("source") / "system"
    try:
        lay_source(DEFAULT_CACHE, folder, logging.getLogger(__name__).info)
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")
    (folder / "usr/share/updog/root.json").unlink()
    return read_folder(folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty repository with test keys."""
    made = build_node(DEFAULT_CACHE, logging.getLogger(__name__).info, names=()).repository / "repo"
    return shutil.copytree(made, tmp_path_factory.mktemp("publisher") / "repo")


def built(source: Tree, repository: Path, folder: Path, version: str, etc: Etc) -> BuiltImages:
    request = BuildRequest(
        version=Version.parse(version),
        variant="node",
        trusted_root=(repository / "metadata/1.root.json").read_bytes(),
        etc=etc,
        options=f"{DEFAULT_OPTIONS} {OPTIONS}",
        compression="lz4",
    )
    return build(source, folder, request, source={}, progress=lambda _: None)


def first_disk(made: BuiltImages, repository: Path, folder: Path, stage: BootStage) -> Path:
    images = [f"--{kind}={image.path}" for kind, image in made.images.items()]
    family = ["--variant", made.variant, "--arch", made.arch, "--version", made.version]
    assert run(cli, ["--repo", str(repository), "publish", *family, *images]) == 0
    (folder / "BOOTX64.EFI").write_bytes(make_efi(stage))
    words = ["disk", "create", str(folder / "disk"), "--version", made.version, "--size", "1GiB"]
    efi = ["--boot-stage", str(folder / "BOOTX64.EFI")]
    assert run(cli, ["--repo", str(repository), *words, *efi]) == 0
    return folder / "disk"


def names_in_private(disk: Path, scratch: Path, folder: str) -> set[str]:
    """Return the names in a folder of the PRIVATE partition of a machine that was unplugged."""
    table = Disk(OsMedium(), str(disk)).load().table
    place = table.extent(sets.find(table.entries).private)
    with disk.open("rb") as file:
        file.seek(place.offset)
        scratch.write_bytes(file.read(place.size))
    subprocess.run([tool("e2fsck"), "-p", scratch], capture_output=True, check=False)  # replays the journal
    listed = subprocess.run(
        [tool("debugfs"), "-R", f"ls -p {folder}", scratch], capture_output=True, check=True, text=True
    )
    return {line.split("/")[5] for line in listed.stdout.splitlines() if line.count("/") > 5}


@pytest.mark.parametrize(("etc", "version"), [(Etc.TRANSIENT, "1.0.0"), (Etc.PERSISTENT, "1.0.1")])
def test_images_of_a_debian_system_start_from_an_empty_disk_and_are_confirmed(
    tmp_path: Path, source: Tree, repository: Path, stage: BootStage, etc: Etc, version: str
) -> None:
    if missing(firmware=True):
        pytest.skip(missing(firmware=True))
    made = built(source, repository, tmp_path / "images", version, etc)
    disk = first_disk(made, repository, tmp_path, stage)

    with switched_on([disk], tmp_path / "console") as machine:
        machine.expect("taking slot A", "ROOT is verified and mounted", CONFIRMED)

    assert UnbootedDisk(OsMedium(), str(disk)).view().slots[Slot.A].flags == Flags(
        priority=1, successful=True
    )
    private = names_in_private(disk, tmp_path / "private", "/")
    assert {"machine-id", "state.json"} <= private
    assert ("etc" in private) is (etc is Etc.PERSISTENT)
    if etc is Etc.PERSISTENT:
        assert "machine-id" in names_in_private(disk, tmp_path / "private", "/etc/upper")
