"""Releases of the node, judged by other programs: fsck, veritysetup, debugfs."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fixtures.node.build import DEFAULT_CACHE, build_node
from fixtures.node.recipe import VARIANTS
from fixtures.os.command import missing_tools, run, search_path
from fixtures.os.errors import ArchiveError
from signpost.bls import parse
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from fixtures.node.build import NodeBuild
    from fixtures.os.release import Release

NAMES = ("good-1", "init-missing")
every_release = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def node() -> NodeBuild:
    lacking = missing_tools()
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    try:
        return build_node(DEFAULT_CACHE, logging.getLogger(__name__).info, names=NAMES)
    except ArchiveError as error:
        pytest.skip(f"the archive cannot be had: {error}")


@pytest.fixture(scope="module")
def root(node: NodeBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of the good release, unpacked."""
    folder = tmp_path_factory.mktemp("root")
    run(["fsck.erofs", f"--extract={folder}", node.releases["good-1"].root], next_step="")
    return folder


def entry_of(release: Release) -> str:
    path = f"/loader/entries/node-os-{release.version}.conf"
    return run(["debugfs", "-R", f"cat {path}", release.boot], next_step="")


@every_release
def test_the_images_are_sound_and_the_entry_has_their_root_hash(node: NodeBuild, name: str) -> None:
    release = node.releases[name]
    run(["fsck.erofs", release.root], next_step="")
    run(["e2fsck", "-fn", release.boot], next_step="")
    options = parse("node", entry_of(release).encode()).options.split()
    assert f"roothash={release.root_hash}" in options
    assert {"panic=5", "oops=panic"} <= set(options)
    command = ["veritysetup", "verify", str(release.root), str(release.hash), release.root_hash]
    subprocess.run(command, env={"PATH": search_path()}, check=True, capture_output=True)


def test_a_node_trusts_the_repository_that_comes_with_it(node: NodeBuild, root: Path) -> None:
    trusted = (root / "usr/share/updog/root.json").read_bytes()
    assert trusted == (node.repository / "repo/metadata/1.root.json").read_bytes()


def test_what_the_preset_enables_is_on(root: Path) -> None:
    units = root / "etc/systemd/system"
    assert (units / "multi-user.target.wants/updog-confirm.service").is_symlink()
    assert (units / "multi-user.target.wants/updog-boot-record.service").is_symlink()
    assert (units / "timers.target.wants/updog-check.timer").is_symlink()
    assert (root / "usr/lib/systemd/system/updog-.service.d/hardening.conf").is_file()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed")
def test_the_how_to_makes_the_image_with_the_agent_out_of_the_one_with_the_timer(
    root: Path, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/automatic-updates.md").read_text(encoding="utf-8")
    section = page.partition("## An image whose /etc is read-only\n")[2].partition("\n## ")[0]
    typed = "".join(re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    for folder in ("etc", "usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/share/updog"):
        shutil.copytree(root / folder, tmp_path / folder, symlinks=True)
    environment = {"PATH": search_path(), "ROOT": str(tmp_path)}
    script = re.sub(r"^# ", "", typed, flags=re.MULTILINE)
    subprocess.run(["sh", "-e", "-c", script], env=environment, check=True, capture_output=True)
    for name, text in VARIANTS["agent-1"].files.items():
        path = tmp_path / name
        if text is None:
            assert not path.is_symlink()
        elif path.is_symlink():
            assert f"-> {path.readlink()}" == text
        else:
            assert path.read_text(encoding="utf-8") == text


def test_every_module_of_updog_is_compiled_and_the_publishers_are_left_out(root: Path) -> None:
    packages = root / "usr/lib/python3/dist-packages"
    sources = [path for name in ("updog", "signpost") for path in (packages / name).rglob("*.py")]
    compiled = [path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc" for path in sources]
    assert len(sources) > 20
    assert [path for path in compiled if not path.is_file()] == []
    assert not (packages / "repo_tools").exists()


def test_a_broken_release_lacks_what_it_says(node: NodeBuild, tmp_path: Path) -> None:
    run(["fsck.erofs", f"--extract={tmp_path}", node.releases["init-missing"].root], next_step="")
    assert not (tmp_path / "usr/lib/systemd/systemd").exists()


def test_broken_releases_are_newer_than_the_good_ones_they_follow_and_older_than_their_fix() -> None:
    versions = {name: Version.parse(variant.version) for name, variant in VARIANTS.items()}
    broken = [versions[name] for name, variant in VARIANTS.items() if variant.broken]
    assert versions["good-1"] < versions["good-2"] < min(broken) < max(broken) < versions["good-3"]
    assert len(set(versions.values())) == len(versions)
