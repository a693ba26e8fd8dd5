"""The Debian packages: what is in them, and a fresh Debian before, with and after them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from signpost.errors import ExitStatus
from tests.packages.conftest import release
from tools import packages
from tools.debian_package import ControlFiles, PackageError, build, depends
from updog import units

if TYPE_CHECKING:
    from tests.support.chroots import Chroot

UNITS = [
    f"/{place}" for place in units.files() if re.search(r"/system/[^/]+\.(service|timer|socket)$", place)
]
BOTH = pytest.mark.parametrize("name", list(packages.EXTRAS))


def contents(package: Path) -> list[str]:
    """Return the paths of all files of a package, without folders."""
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
    names = subprocess.run(["tar", "--list"], input=listed.stdout, capture_output=True, check=True)
    return [name.removeprefix("./") for name in names.stdout.decode().splitlines() if not name.endswith("/")]


def test_a_second_build_gives_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    """Another folder, another umask, another time."""
    before = os.umask(0o077)
    try:
        again = packages.build_package("updog", release(), tmp_path, quick=True)
    finally:
        os.umask(before)
    assert again.read_bytes() == built["updog"].read_bytes()


@BOTH
def test_lintian_finds_no_error(built: dict[str, Path], name: str) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error", built[name]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_node_s_package_has_no_publisher_and_no_qemu(built: dict[str, Path]) -> None:
    node, publisher = contents(built["updog"]), contents(built["repo-tools"])
    for word in ("repo_tools", "boto", "pkcs11", "qemu", "emulated", "duckdb", "numpy"):
        assert [path for path in node if word in path.lower()] == [], word
    assert {
        path.removeprefix(f"{packages.SITE}/")
        for path in publisher
        if re.search(r"/site-packages/updog/.*\.py$", path)
    } == packages.QEMU
    assert set(node) & set(publisher) == set()


def test_every_module_is_compiled_so_that_a_read_only_system_starts_as_fast(built: dict[str, Path]) -> None:
    paths = contents(built["updog"])
    modules = {path.removesuffix(".py") for path in paths if path.endswith(".py")}
    compiled = {
        re.sub(r"__pycache__/([^/]+)\.cpython-311\.pyc$", r"\1", path)
        for path in paths
        if path.endswith(".pyc")
    }
    assert len(modules) > 300
    assert compiled == modules


def test_libraries_of_another_architecture_are_packed(tmp_path: Path) -> None:
    package = packages.build_package("updog", release("arm64"), tmp_path, quick=True)
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    libraries = sorted(tree.rglob("*.so"))
    told = subprocess.run(
        ["readelf", "--file-header", *libraries], capture_output=True, text=True, check=True
    )
    assert re.findall(r"Machine: +(\S+)", told.stdout) == ["AArch64"] * len(libraries)
    assert len(libraries) > 5


def test_the_compression_gives_the_same_bytes_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        stage = tmp_path / name / "stage"
        for number in range(50):
            path = stage / f"usr/share/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(range(256)) * 4000)
        (tmp_path / "control").write_text(
            "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@e.example>\n"
        )
        (tmp_path / "control").chmod(0o600)
        fields = ControlFiles(folder=tmp_path, fields={})
        build(stage, fields, tmp_path / f"{name}.deb", date=1_800_000_000)
    assert (tmp_path / "one.deb").read_bytes() == (tmp_path / "two.deb").read_bytes()


def test_a_library_that_no_package_is_known_for_is_an_error() -> None:
    with pytest.raises(PackageError, match="which package has"):
        depends([Path("/bin/mount")])


@BOTH
def test_what_is_pinned_is_what_the_project_depends_on(name: str) -> None:
    pinned = {
        found[1]: found[2]
        for each in packages.EXTRAS
        for found in re.finditer(
            r"^([a-z0-9.-]+)==(\S+)",
            (packages.PACKAGING / each / "requirements.txt").read_text(),
            re.MULTILINE,
        )
    }
    project = packages.project()
    wanted = [*project["dependencies"]]
    for extra in packages.EXTRAS[name]:
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_a_node_s_package_from_installation_to_purge(built: dict[str, Path], debian: Chroot) -> None:
    before = debian.paths()
    installed = debian.run("dpkg", "--install", debian.put(built["updog"]))
    assert "nothing is enabled" in installed.stdout

    assert not [link for link in debian.paths() if re.search(r"\.wants/updog", link)]
    assert not (debian.root / "var/lib/updog").exists()  # it would get the machine-id of this machine
    group = (debian.root / "etc/group").read_text(encoding="ascii")
    assert re.search("^updog:", group, re.MULTILINE)
    assert re.search("^api:", group, re.MULTILINE)

    verified = debian.run("systemd-analyze", "verify", *UNITS)
    assert verified.stderr == ""
    assert debian.run("updog", "--version").stdout.split()[-1] == release().version
    for program in ("updog", "signpost"):
        assert "Usage:" in debian.run(program, "--help").stdout
        assert (
            "complete -o nosort"
            in debian.run("cat", f"/usr/share/bash-completion/completions/{program}").stdout
        )

    unset = debian.run("updog", "status", check=False)
    assert unset.returncode == ExitStatus.USAGE
    assert "/etc/updog.toml: 2 faults" in unset.stderr
    assert "metadata_base_url = ''" in unset.stderr

    daemon = debian.run("updog", "agent", check=False)  # another program, which finds its libraries too
    assert daemon.returncode == ExitStatus.USAGE
    assert "/etc/updog.toml: 2 faults" in daemon.stderr

    configuration = debian.root / "etc/updog.toml"
    text = configuration.read_text(encoding="utf-8")
    configuration.write_text(
        text.replace('_url = ""', '_url = "https://updates.example.com/"'), encoding="utf-8"
    )
    assert "updates.example.com" in debian.run("updog", "config").stdout
    status = debian.run("updog", "status", check=False)
    assert status.returncode == ExitStatus.FAILED
    assert "internal error" not in status.stderr
    imported = debian.run("/usr/lib/updog/bin/python3", "-c", _IMPORT_ALL, "updog", "signpost")
    assert int(imported.stdout) > 100
    skipped = debian.run("updog", "drill", "run", "--qemu", *_DRILL, check=False)
    assert "Install the package repo-tools" in skipped.stderr, skipped

    assert debian.run("updog", "units", "install", "--json").returncode == 0
    assert debian.run("dpkg", "--verify", "updog").stdout == "??5?????? c /etc/updog.toml\n"

    preset = (debian.root / "usr/lib/systemd/system-preset/80-updog.preset").read_text(encoding="ascii")
    debian.run("systemctl", "enable", *(line.split()[1] for line in preset.splitlines()))
    debian.run("dpkg", "--remove", "updog")
    left = debian.paths() - before
    assert {path for path in left if "systemd/system" not in path} == {"etc/updog.toml"}
    debian.run("dpkg", "--purge", "updog")
    assert debian.paths() - before == set()
    assert before - debian.paths() == set()


def test_a_publisher_s_package_beside_it(built: dict[str, Path], debian: Chroot) -> None:
    before = debian.paths()
    debian.run("dpkg", "--install", *(debian.put(built[name]) for name in packages.EXTRAS))
    debian.run("repo-tools", "new", "/root/repo")
    assert debian.run("repo-tools", "--repo", "/root/repo", "validate", check=False).returncode in {0, 1}
    assert (
        int(debian.run("/usr/lib/updog/bin/python3", "-c", _IMPORT_ALL, "repo_tools", "updog").stdout) > 100
    )
    debian.run("/usr/lib/updog/bin/python3", "-c", "import boto3, pkcs11")
    debian.run("dpkg", "--purge", "repo-tools", "updog")
    assert debian.paths() - before == set()


_DRILL = ("--repo", "/root", "--disk", "/etc/hostname", "--variant", "v", "--release", "first=1.0.0")
_IMPORT_ALL = """
import importlib, pkgutil, sys
names = []
for top in sys.argv[1:]:
    package = importlib.import_module(top)
    names += [each.name for each in pkgutil.walk_packages(package.__path__, f"{top}.")]
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # the extra `fleet`, which no package contains
        libraries = ("duckdb", "jinja2", "matplotlib", "numpy")
        if not name.startswith("repo_tools.fleet.") or error.name not in libraries:
            raise
print(len(names))
"""
