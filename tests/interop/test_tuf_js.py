"""An independent TUF client, npm's tuf-js, over HTTP: it accepts what it should, and nothing else.

``tools/bootstrap`` installs it into ``.cache/tuf-js``, from the lock file beside this test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from repo_tools.releases import brake, promote
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.published import manifest_of
from tests.support.channels import add_channel, make_key
from tests.support.repositories import SmallRepository, make_repository
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent / "tuf_js"
CACHE = Path(__file__).parents[2] / ".cache" / "tuf-js"
CHANNELS = ("dev", "beta", "stable")
V1 = Version.parse("1.0.0")


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder with tuf-js, installed if tools/bootstrap has not been run."""
    if not (CACHE / "node_modules" / "tuf-js").is_dir():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed; tools/bootstrap does that")
        CACHE.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, CACHE / name)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "ci", "--prefix", str(CACHE), *quiet], check=True)
    return CACHE / "node_modules"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """1.0.0 at the top level and, by promotion, in three channels."""
    made = make_repository(tmp_path_factory.mktemp("tuf-js") / "repo", versions=[])
    for name in CHANNELS:
        add_channel(made, name)
    made.publish("1.0.0", channel="dev")
    for source, target in (("dev", "beta"), ("beta", "stable"), ("stable", None)):
        asked = Promotion(which=ReleaseName(version=V1), source=source, target=target, waves="none")
        promote.promote(made.folder, asked, now=made.now)
    key = make_key(made.folder, "brake")
    wanted = brake.NewBrake(channel="stable", signers=[key], public_keys=[], names={})
    brake.add(made.folder, wanted, now=made.now)
    return made


def _downloaded(
    modules: Path, repository: SmallRepository, folder: Path, names: list[str]
) -> Mapping[str, bytes]:
    """Return the targets that tuf-js has verified. Raises CalledProcessError."""
    (folder / "metadata").mkdir(parents=True)
    (folder / "targets").mkdir()
    (folder / "metadata" / "root.json").write_bytes(repository.root_json)
    with repository.served() as url:
        done = subprocess.run(
            ["node", str(HERE / "download.js"), str(modules), url, str(folder), *names],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
    found: dict[str, str] = json.loads(done.stdout)
    return {name: Path(path).read_bytes() for name, path in found.items()}


def test_tuf_js_verifies_a_manifest_and_an_image_of_each_channel(
    modules: Path, repository: SmallRepository, tmp_path: Path
) -> None:
    manifests = [*(f"{name}/manifest.json" for name in CHANNELS), "manifest.json"]
    images = ReleaseName(version=V1).of(manifest_of(repository.folder, "stable")).images
    found = _downloaded(modules, repository, tmp_path, [*manifests, images.boot, images.root])
    for name in manifests:
        (update,) = Manifest.from_json(found[name]).updates
        assert update.images == images
    stored = {path.name.partition(".")[2]: path for path in (repository.folder / "targets").glob("*.zst")}
    assert found[images.root] == stored[images.root].read_bytes()
    assert found[images.boot] == stored[images.boot].read_bytes()


def test_tuf_js_refuses_a_target_that_was_changed_on_the_server(
    modules: Path, repository: SmallRepository, tmp_path: Path
) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(repository.folder, folder)
    changed = SmallRepository(folder=folder, now=repository.now)
    for path in (folder / "targets" / "stable").glob("*.manifest.json"):
        path.write_bytes(path.read_bytes().replace(b"1.0.0", b"6.6.6"))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _downloaded(modules, changed, tmp_path / "node", ["stable/manifest.json"])
    assert "hash" in caught.value.stderr.lower()
