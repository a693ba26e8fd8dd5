"""What readers need can be read by a web server's user, whatever the umask of the publisher."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from repo_tools.copies import push
from repo_tools.copies.bundle import Nodes, export
from repo_tools.copies.clone import copy, verify_source
from repo_tools.copies.folder_destination import FolderDestination
from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.published import published_targets
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import refresh
from signpost.medium import OsMedium
from tests.support.channels import add_channel
from tests.support.repositories import later, make_repository
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def _unreadable(folder: Path) -> list[str]:
    """Return what a reader of a repository in a folder cannot reach."""
    found = [folder]
    for name in ("metadata", "targets"):
        found += [folder / name, *(folder / name).rglob("*")]
    needs = {path: 0o005 if path.is_dir() else 0o004 for path in found}
    return [str(path) for path, bits in needs.items() if path.stat().st_mode & bits != bits]


def test_everything_that_is_published_can_be_read(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", waves="default")
    add_channel(repository, "dev")
    repository.publish("1.1.0", channel="dev", deltas=1)
    rollout.hold(repository.folder, ReleaseName(version=Version.parse("1.0.0")), now=repository.now)
    refresh.refresh_by_this_clock(repository.folder, now=later(repository.now, days=1))
    assert _unreadable(repository.folder) == []


def test_private_keys_stay_private(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    keys = repository.folder / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.pem")} == {0o600}


def test_every_kind_of_copy_can_be_read(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    push.push(repository.folder, FolderDestination(tmp_path / "srv" / "pushed"), now=repository.now)
    source, root = FolderSource(repository.folder), repository.root_json
    verified = verify_source(source, tmp_path / "mirror", trusted_root=root, now=repository.now)
    copy(verified, tmp_path / "mirror", published_targets(verified.chain))
    export(repository.folder, tmp_path / "bundle", Nodes(), now=repository.now)
    places = [tmp_path / "srv" / "pushed", tmp_path / "mirror", tmp_path / "bundle"]
    assert [_unreadable(place) for place in places] == [[], [], []]


def test_folders_that_exist_stay_as_they_are(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    targets = repository.folder / "targets"
    targets.chmod(0o2750)  # for a web server's group
    repository.publish("1.0.0")
    assert stat.S_IMODE(targets.stat().st_mode) == 0o2750
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (repository.folder / "metadata").glob("2.*")}
    assert modes == {0o644}


def test_a_file_that_its_writer_wants_private_is_private_on_a_readable_medium(tmp_path: Path) -> None:
    medium = OsMedium(readable=True)
    medium.close(medium.create(str(tmp_path / "private"), 0o600))
    medium.close(medium.create(str(tmp_path / "public")))
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644
    ordinary = OsMedium()
    ordinary.close(ordinary.create(str(tmp_path / "ordinary")))
    assert stat.S_IMODE((tmp_path / "ordinary").stat().st_mode) == 0o600


@pytest.fixture
def served() -> Iterator[Path]:
    """Return a folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_a_web_servers_user_reads_what_was_published(served: Path) -> None:
    repository = make_repository(served / "repo")
    timestamp = repository.folder / "metadata" / "timestamp.json"
    command = ["cat", str(timestamp)]
    read = subprocess.run(command, user=65534, group=65534, extra_groups=[], capture_output=True, check=False)
    assert read.stdout == timestamp.read_bytes(), read.stderr
