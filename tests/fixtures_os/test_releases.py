"""The real releases, judged by other programs: fsck, veritysetup, debugfs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from fixtures.os import build, tree
from fixtures.os.build import DEFAULT_CACHE, build_releases, changed_packages, entry_name
from fixtures.os.command import PACKAGE_OF_TOOL, require_tools, run, search_path
from fixtures.os.errors import BuildError
from fixtures.os.images import write_erofs, write_ext4, write_verity
from fixtures.os.recipe import BOOT_BYTES, KERNEL, RECIPES
from fixtures.os.release import sha256_of
from repo_tools.images.inspection import inspect_release

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.os.release import Release

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
MIB = 2**20

every_version = pytest.mark.parametrize("version", VERSIONS)


def boot_lines(release: Release) -> dict[str, str]:
    path = f"/loader/entries/{entry_name(release.version)}"
    command = ["debugfs", "-R", f"cat {path}", str(release.boot)]
    text = run(command, next_step="")
    return dict(line.split(" ", 1) for line in text.splitlines())


def unpacked(release: Release, folder: Path) -> Path:
    run(["fsck.erofs", f"--extract={folder}", release.root], next_step="")
    return folder


def verify(release: Release, root: Path) -> int:
    command = ["veritysetup", "verify", str(root), str(release.hash), release.root_hash]
    return subprocess.run(command, env={"PATH": search_path()}, check=False, capture_output=True).returncode


@every_version
def test_file_systems_are_sound(releases: dict[str, Release], version: str) -> None:
    run(["fsck.erofs", releases[version].root], next_step="")
    run(["e2fsck", "-fn", releases[version].boot], next_step="")


@every_version
def test_sizes_fit_the_slots(releases: dict[str, Release], version: str) -> None:
    release = releases[version]
    assert release.boot.stat().st_size <= 40 * MIB
    assert 60 * MIB <= release.root.stat().st_size <= 150 * MIB
    assert release.hash.stat().st_size <= 2 * MIB


@every_version
def test_facts_describe_the_images(releases: dict[str, Release], version: str) -> None:
    facts = json.loads((releases[version].folder / "release.json").read_text())
    for role, path in releases[version].images().items():
        assert facts["images"][role] == {
            "file": path.name,
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }


@every_version
def test_boot_entry_carries_the_root_hash(releases: dict[str, Release], version: str) -> None:
    lines = boot_lines(releases[version])
    assert lines["version"] == version
    assert f"roothash={releases[version].root_hash}" in lines["options"].split()


@every_version
def test_kernel_and_initrd_are_what_the_entry_names(
    releases: dict[str, Release], version: str, tmp_path: Path
) -> None:
    lines = boot_lines(releases[version])
    for key, magic, offset in (("linux", b"HdrS", 0x202), ("initrd", b"\x1f\x8b", 0)):
        run(["debugfs", "-R", f"dump {lines[key]} {tmp_path}/{key}", releases[version].boot], next_step="")
        assert (tmp_path / key).read_bytes()[offset : offset + len(magic)] == magic


@every_version
def test_the_publisher_finds_that_the_images_fit(releases: dict[str, Release], version: str) -> None:
    report = inspect_release(releases[version].images().values(), arch="x86_64")
    assert report.fits
    assert report.root_hash == releases[version].root_hash
    assert {str(kind): path for kind, path in report.files.items()} == releases[version].images()
    assert report.inspection.notes == ()


@every_version
def test_root_says_who_it_is(releases: dict[str, Release], version: str, tmp_path: Path) -> None:
    root = unpacked(releases[version], tmp_path / "root")
    fields = dict(re.findall(r'^(\w+)="(.*)"$', (root / "etc/os-release").read_text(), re.MULTILINE))
    assert fields["VERSION_ID"] == version
    assert fields["VARIANT_ID"] == "demo"
    assert ("broken" in fields["PRETTY_NAME"]) == (version == "1.2.0")
    interpreter = (root / "usr/sbin/init").read_text().splitlines()[0].removeprefix("#!").split()[0]
    assert (root / interpreter[1:]).exists() == (version != "1.2.0")


def test_every_file_belongs_to_root(releases: dict[str, Release]) -> None:
    printed = run(["dump.erofs", "--path=/usr/sbin/init", releases["1.0.0"].root], next_step="")
    assert re.search(r"Uid: 0\s+Gid: 0", printed)


def test_verity_accepts_root(releases: dict[str, Release]) -> None:
    assert verify(releases["1.0.0"], releases["1.0.0"].root) == 0


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_verity_rejects_one_flipped_byte(releases: dict[str, Release], where: str, tmp_path: Path) -> None:
    release = releases["1.0.0"]
    size = release.root.stat().st_size
    damaged = shutil.copyfile(release.root, tmp_path / "root")
    with damaged.open("r+b") as stream:
        place = {"first": 0, "middle": size // 2, "last": size - 1}[where]
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    assert verify(release, damaged) != 0


def test_verity_rejects_the_root_of_another_release(releases: dict[str, Release]) -> None:
    assert verify(releases["1.0.0"], releases["1.1.0"].root) != 0


def test_the_update_is_a_security_update_of_the_kernel_too(releases: dict[str, Release]) -> None:
    old, new = releases["1.0.0"], releases["1.1.0"]
    assert old.packages[KERNEL] != new.packages[KERNEL]
    for name, before, after in changed_packages(old, new):
        if "-" not in {before, after}:
            compared = ["dpkg", "--compare-versions", before, "lt", after]
            assert subprocess.run(compared, check=False).returncode == 0, name


def test_the_broken_release_has_the_packages_of_the_one_before(releases: dict[str, Release]) -> None:
    assert changed_packages(releases["1.1.0"], releases["1.2.0"]) == []


def stored(release: Release) -> list[Path]:
    store = DEFAULT_CACHE / "debs"
    names = [f"{name}_{version.replace(':', '%3a')}_*.deb" for name, version in release.packages.items()]
    return [path for name in names for path in store.glob(name)]


def test_root_and_hash_repeat_from_the_packages(releases: dict[str, Release], tmp_path: Path) -> None:
    release = releases["1.1.0"]
    root = tmp_path / "root"
    tree.unpack(reversed(stored(release)), root)
    tree.take_kernel(root)
    tree.identify(root, next(recipe for recipe in RECIPES if recipe.version == "1.1.0"))
    write_erofs(root, tmp_path / "again.erofs")
    assert sha256_of(tmp_path / "again.erofs") == sha256_of(release.root)
    assert write_verity(release.root, tmp_path / "again.verity") == release.root_hash
    assert sha256_of(tmp_path / "again.verity") == sha256_of(release.hash)


def test_boot_repeats_from_its_own_files(releases: dict[str, Release], tmp_path: Path) -> None:
    release = releases["1.0.0"]
    files = {}
    for name in ("vmlinuz", "initrd", f"loader/entries/{entry_name('1.0.0')}"):
        run(["debugfs", "-R", f"dump /{name} {tmp_path}/file", str(release.boot)], next_step="")
        files[name] = (tmp_path / "file").read_bytes()
    write_ext4(files, tmp_path / "again.ext4", size=BOOT_BYTES)
    assert sha256_of(tmp_path / "again.ext4") == sha256_of(release.boot)


def test_a_second_build_finds_the_first(releases: dict[str, Release]) -> None:
    said: list[str] = []
    assert build_releases(DEFAULT_CACHE, said.append) == releases
    assert said == []


def test_what_a_killed_build_left_is_cleared_away(releases: dict[str, Release]) -> None:
    del releases
    leftover = DEFAULT_CACHE / "releases" / ".tmp-killed"
    (leftover / "done" / "1.0.0").mkdir(parents=True)
    build_releases(DEFAULT_CACHE, lambda _: None)
    assert not leftover.exists()


def test_the_program_prints_sizes_and_changes(
    releases: dict[str, Release], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert releases["1.1.0"].packages["openssl"] in printed
    assert sha256_of(tmp_path / "1.1.0" / "boot.ext4") == sha256_of(releases["1.1.0"].boot)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGE_OF_TOOL, "no-such-tool", "no-such-package")
    with pytest.raises(BuildError, match=r"no-such-tool; .*apt-get install no-such-package"):
        require_tools()


def test_a_failing_tool_is_reported_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"(?s)tar failed: .*absent.*; look there") as caught:
        run(["tar", "-xf", tmp_path / "absent"], next_step="look there")
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError)
