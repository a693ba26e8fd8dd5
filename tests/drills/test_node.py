"""A whole node in QEMU, from firmware to a confirmed update: nothing is simulated.

`repo-tools` publishes and makes the disk; firmware starts the boot stage on its EFI partition; systemd comes
up on a root under dm-verity and lets DATA take the rest of a disk that is larger than its image; updog,
installed from the wheel, finds the repository on the host, updates itself, restarts and confirms.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from fixtures.os.command import search_path
from repo_tools.bootstage.efi import make_efi
from repo_tools.cli import cli
from signpost import gpt, sets
from signpost.app import UnbootedDisk
from signpost.console import run
from signpost.disk import Disk
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.drills.emulator import missing, switched_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.node.build import NodeBuild
    from fixtures.os.release import Release
    from repo_tools.bootstage.image import BootStage

pytestmark = pytest.mark.qemu

CONFIRMED = "This boot is confirmed."
ROOM = 256 << 20


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *_words: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder on loopback for the length of a ``with`` block; yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def publish(repository: Path, release: Release) -> None:
    """Publish a release of the node in an open wave."""
    images = [f"--{role}={path}" for role, path in release.images().items()]
    family = ["--variant", "node", "--arch", "x86_64", "--version", release.version]
    assert run(cli, ["--repo", str(repository), "publish", *family, *images]) == 0


def of_private(disk: Path, scratch: Path, request: str) -> str:
    """Return what debugfs answers about the PRIVATE partition of a machine that was unplugged."""
    table = Disk(OsMedium(), str(disk)).load().table
    place = table.extent(sets.find(table.entries).private)
    with disk.open("rb") as file:
        file.seek(place.offset)
        scratch.write_bytes(file.read(place.size))
    subprocess.run([tool("e2fsck"), "-p", scratch], capture_output=True, check=False)  # replays the journal
    words = [tool("debugfs"), "-R", request, str(scratch)]
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout


def remembered(disk: Path, scratch: Path) -> dict[str, object]:
    """Return what updog remembers on the PRIVATE partition of a machine that was unplugged."""
    document: dict[str, object] = json.loads(of_private(disk, scratch, "cat /state.json"))
    return document


def data_of(disk: Path) -> gpt.Extent:
    """Return the extent of DATA."""
    table = Disk(OsMedium(), str(disk)).load().table
    return next(table.extent(index) for index, entry in enumerate(table.entries) if entry.type == sets.DATA)


def filesystem_bytes(disk: Path, scratch: Path) -> int:
    """Return the size of the file system in DATA; its superblock is in the first MiB."""
    with disk.open("rb") as file:
        file.seek(data_of(disk).offset)
        scratch.write_bytes(file.read(1 << 20))
    told = subprocess.run(
        [tool("dumpe2fs"), "-h", scratch], capture_output=True, check=False, text=True
    ).stdout
    found = dict(re.findall(r"^(Block count|Block size):\s+(\d+)$", told, re.MULTILINE))
    return int(found["Block count"]) * int(found["Block size"])


def tool(name: str) -> str:
    return shutil.which(name, path=search_path()) or name


def test_a_node_updates_itself_from_firmware_to_the_confirmed_next_release(
    tmp_path: Path, node_build: NodeBuild, stage: BootStage
) -> None:
    if missing(firmware=True):
        pytest.skip(missing(firmware=True))
    repository, disk = tmp_path / "repo", tmp_path / "disk"
    shutil.copytree(node_build.repository / "repo", repository)
    publish(repository, node_build.releases["good-1"])
    (tmp_path / "BOOTX64.EFI").write_bytes(make_efi(stage))
    words = ["disk", "create", str(disk), "--version", "1.0.0", "--size", "1GiB"]
    boot_stage = ["--boot-stage", str(tmp_path / "BOOTX64.EFI")]
    assert run(cli, ["--repo", str(repository), *words, *boot_stage]) == 0
    publish(repository, node_build.releases["good-2"])
    before = data_of(disk)
    with disk.open("r+b") as file:  # as if written to a larger disk
        file.truncate(disk.stat().st_size + ROOM)

    with served(repository) as port, switched_on([disk], tmp_path / "console", port=port) as machine:
        machine.expect("taking slot A", "ROOT is verified and mounted", "standing: none", CONFIRMED)
        machine.expect("Update applied: node 1.1.0", "Restarting system")
        machine.expect("taking slot B, 0 tries left", "standing: on trial", CONFIRMED)
        machine.expect("nothing newer is published")

    view = UnbootedDisk(OsMedium(), str(disk)).view()
    assert view.slots[Slot.A].flags == Flags(priority=1, successful=True)
    assert view.slots[Slot.B].flags == Flags(priority=2, successful=True)
    assert (view.next, view.ever_booted, view.faults) == (Slot.B, True, ())
    assert data_of(disk) == gpt.Extent(before.offset, before.size + ROOM)
    assert filesystem_bytes(disk, tmp_path / "data") > before.size
    history = remembered(disk, tmp_path / "private")["history"]
    assert isinstance(history, list)
    assert [event["code"] for event in history] == ["installed", "applied", "confirmed"]
