"""A release is inspected before it is signed: what the boot stage could not start is refused, by a code."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.cli import cli
from repo_tools.errors import InspectionToolError, UnfitImagesError
from repo_tools.images import ext4
from repo_tools.images.boot_image import inspect_boot
from repo_tools.images.image_fault import NEXT_STEPS
from repo_tools.images.kernel_header import machine_of
from repo_tools.trust.findings import CODES
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import CheckOptions, check
from signpost.console import run
from tests.support.boot_images import SIZE, arm64_image, boot_files, bz_image, write_boot
from tests.support.repositories import ARCH, VARIANT, make_repository, tree_digest
from tests.support.verity import format_verity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.repositories import SmallRepository

pytestmark = [
    pytest.mark.skipif(shutil.which("veritysetup") is None, reason="Debian package cryptsetup-bin"),
    pytest.mark.skipif(shutil.which("debugfs") is None, reason="Debian package e2fsprogs"),
]

BLOCK = 4096
EROFS = bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(BLOCK - 1028)
JUNK = random.Random(14).randbytes(64 * BLOCK)


@dataclass(frozen=True, kw_only=True)
class Build:
    """The images of one build in a folder, and the root hash of its tree."""

    folder: Path
    root_hash: str

    @property
    def files(self) -> dict[str, Any]:  # fields of a NewRelease
        return {kind: self.folder / f"{kind}.raw" for kind in ("boot", "root", "hash")}

    @property
    def options(self) -> str:
        return f"ro panic=5 roothash={self.root_hash}"

    def boot(self, options: str = "", **changes: bytes | None) -> None:
        write_boot(self.files["boot"], options or self.options, **changes)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "root.raw").write_bytes(EROFS + JUNK)
    made = Build(folder=folder, root_hash=format_verity(folder / "root.raw", folder / "hash.raw", "--salt=-"))
    made.boot()
    return made


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=[])


def _codes(repository: SmallRepository, *, inspect: bool = True) -> set[str]:
    options = CheckOptions(inspect=inspect)
    report = check(FolderSource(repository.folder), now=repository.now, options=options)
    return {finding.code for finding in report.findings}


def test_images_of_one_build_are_published_and_clean(repository: SmallRepository, build: Build) -> None:
    outcome = repository.publish("1.0.0", **build.files)
    assert outcome.not_inspected == ()
    assert _codes(repository) == set()


def test_a_tree_that_is_made_has_to_be_the_one_that_the_entry_names(
    repository: SmallRepository, build: Build
) -> None:
    files = {**build.files, "hash": None}
    repository.publish("1.0.0", **files)
    build.boot(f"panic=5 roothash={'1a' * 32}")
    with pytest.raises(UnfitImagesError, match=r"names root hash 1a1a.*\(boot-mismatch\)"):
        repository.publish("1.1.0", **files)


def _entry(text: str) -> Callable[[Build], None]:
    return lambda build: build.boot(entry=text.replace("OPTIONS", build.options).encode())


def _damaged(build: Build) -> None:
    """Overwrite all of BOOT but its superblock: the descriptors of its inodes are gone."""
    with build.files["boot"].open("r+b") as stream:
        stream.seek(BLOCK)
        stream.write(b"\xff" * 64 * BLOCK)


FAULTS: Mapping[str, tuple[str, Callable[[Build], object]]] = {
    "no panic": ("boot-panic", lambda build: build.boot(f"roothash={build.root_hash}")),
    "panic waits": ("boot-panic", lambda build: build.boot(f"{build.options} panic=0")),
    "panic of many digits": (
        "boot-panic",
        lambda build: build.boot(f"panic={'0' * 1600}1 roothash={build.root_hash}"),
    ),
    "panic of another word": (
        "boot-panic",
        lambda build: build.boot(f"oops=panic roothash={build.root_hash}"),
    ),
    "no root hash": ("boot-mismatch", lambda build: build.boot("panic=5")),
    "no kernel": ("boot-file-missing", lambda build: build.boot(vmlinuz=None)),
    "empty kernel": ("boot-file-missing", lambda build: build.boot(vmlinuz=b"")),
    "no initrd": ("boot-file-missing", lambda build: build.boot(initrd=None)),
    "another file's name": ("boot-file-missing", _entry("linux /Vmlinuz\noptions OPTIONS\n")),
    "kernel is a folder": ("boot-file-missing", _entry("linux /loader\noptions OPTIONS\n")),
    "kernel of arm64": ("boot-kernel", lambda build: build.boot(vmlinuz=arm64_image())),
    "kernel of 32 bits": ("boot-kernel", lambda build: build.boot(vmlinuz=bz_image(is_64_bit=False))),
    "not a kernel": ("boot-kernel", lambda build: build.boot(vmlinuz=JUNK)),
    "no entry": ("boot-entry", lambda build: build.boot(entry=None)),
    "entry without a kernel": ("boot-entry", _entry("initrd /initrd\noptions OPTIONS\n")),
    "entry with a fault": ("boot-entry", _entry("linux\noptions OPTIONS\n")),
    "entry not in UTF-8": ("boot-entry", lambda build: build.boot(entry=b"linux /vmlinuz\n\xff\n")),
    "entry for arm64": ("boot-entry", _entry("linux /vmlinuz\narchitecture aa64\noptions OPTIONS\n")),
    "options too long": ("boot-entry", lambda build: build.boot(build.options + " x" * 900)),
    "damaged": ("boot-unreadable", _damaged),
    "boot cut": ("image-truncated", lambda build: os.truncate(build.files["boot"], SIZE - BLOCK)),
    "boot of an unknown format": ("image-unknown", lambda build: build.files["boot"].write_bytes(JUNK)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_boot_is_refused_and_found(
    repository: SmallRepository, build: Build, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, arrange = FAULTS[name]
    arrange(build)
    before = tree_digest(repository.folder)
    with pytest.raises(UnfitImagesError, match=rf"boot\.raw: [^\n]*\({code}\)"):
        repository.publish("1.0.0", **build.files)
    assert tree_digest(repository.folder) == before
    outcome = repository.publish("1.0.0", inspect=False, **build.files)
    assert outcome.not_inspected
    assert _codes(repository) == {code}
    assert _codes(repository, inspect=False) == set()
    known = [str(path) for path in build.files.values() if path != build.files["boot"]]
    if code != "image-unknown":
        assert run(cli, ["inspect", *known, str(build.files["boot"]), "--arch", ARCH]) == 1
        assert f"{code}: boot: " in capsys.readouterr().out


def test_every_fault_of_a_boot_image_is_named_at_once(repository: SmallRepository, build: Build) -> None:
    build.boot("quiet", initrd=None)
    with pytest.raises(UnfitImagesError, match="have 3 faults") as caught:
        repository.publish("1.0.0", **build.files)
    for code in ("boot-file-missing", "boot-panic", "boot-mismatch"):
        assert code in caught.value.message
    repository.publish("1.0.0", inspect=False, **build.files)
    assert _codes(repository) == {"boot-file-missing", "boot-panic", "boot-mismatch"}


def test_a_root_of_no_known_format_is_refused_beside_a_boot_that_has_one(
    repository: SmallRepository, build: Build
) -> None:
    build.files["root"].write_bytes(JUNK)
    build.boot(f"panic=5 roothash={format_verity(build.files['root'], build.files['hash'], '--salt=-')}")
    with pytest.raises(UnfitImagesError, match=r"root\.raw: has no known format, but boot has one"):
        repository.publish("1.0.0", **build.files)
    repository.publish("1.0.0", inspect=False, **build.files)
    assert _codes(repository) == {"image-unknown"}


@pytest.mark.parametrize(
    ("magic", "at", "size"),
    [
        (b"\xe2\xe1\xf5\xe0" + bytes(8) + b"\x0c", 1024, b"\x42" + bytes(7)),  # blocks of 2**12 bytes, 66
        (b"hsqs", 0, (65 * BLOCK + 1).to_bytes(8, "little")),
    ],
    ids=["erofs", "squashfs"],
)
def test_a_root_that_is_shorter_than_its_file_system_is_refused(
    repository: SmallRepository, build: Build, magic: bytes, at: int, size: bytes
) -> None:
    root = bytearray(BLOCK) + JUNK
    root[at : at + len(magic)] = magic
    place = 1024 + 36 if at else 40
    root[place : place + len(size)] = size
    build.files["root"].write_bytes(root)
    build.boot(f"panic=5 roothash={format_verity(build.files['root'], build.files['hash'], '--salt=-')}")
    with pytest.raises(UnfitImagesError, match=r"root\.raw: is cut: .*image-truncated"):
        repository.publish("1.0.0", **build.files)
    build.files["root"].write_bytes(root + bytes(BLOCK))
    build.boot(f"panic=5 roothash={format_verity(build.files['root'], build.files['hash'], '--salt=-')}")
    repository.publish("1.0.0", **build.files)


def _sound(build: Build, **changes: Any) -> dict[str, bytes]:
    return boot_files(build.options, **changes)


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("x86_64", {}),
        ("aarch64", {"vmlinuz": arm64_image()}),
        ("a-new-one", {"vmlinuz": JUNK}),
        ("x86_64", {"entry": b"linux vmlinuz\noptions panic=-1\noptions roothash=HASH\n"}),
        ("x86_64", {"entry": b"linux /../x/../vmlinuz\ninitrd initrd\noptions panic=1 roothash=HASH"}),
        ("x86_64", {"entry": b"linux /vmlinuz\narchitecture x64\noptions panic=1 roothash=HASH"}),
    ],
)
def test_what_the_boot_stage_starts_is_accepted(
    repository: SmallRepository, build: Build, arch: str, changes: dict[str, bytes]
) -> None:
    if entry := changes.get("entry"):
        changes = {**changes, "entry": entry.replace(b"HASH", build.root_hash.encode())}
    build.boot("", **changes)
    repository.publish("1.0.0", arch=arch, **build.files)
    assert _codes(repository) == set()


def _ext4(image: Path, folder: Path) -> None:
    image.unlink(missing_ok=True)
    words = ["-q", "-t", "ext4", "-O", "^has_journal", "-d", str(folder), str(image), f"{SIZE // 1024}k"]
    subprocess.run(["mke2fs", *words], check=True)


@pytest.mark.parametrize(
    ("target", "is_there"),
    [
        ("vmlinuz-6.1", True),
        ("./deep/../vmlinuz-6.1", True),
        ("deep/" * 40 + "../" * 40 + "vmlinuz-6.1", False),
        ("deep/link", True),
        ("/vmlinuz-6.1", False),
        ("../vmlinuz-6.1", False),
        ("vmlinuz", False),
        ("absent", False),
    ],
)
def test_links_are_followed_as_the_boot_stage_follows_them(
    tmp_path: Path, build: Build, target: str, *, is_there: bool
) -> None:
    tree = tmp_path / "tree"
    for path, data in _sound(build, vmlinuz=None).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    (tree / "vmlinuz-6.1").write_bytes(bz_image())
    (tree / "deep").mkdir()
    (tree / "deep" / "link").symlink_to("../vmlinuz-6.1")
    (tree / "vmlinuz").symlink_to(target)
    _ext4(build.files["boot"], tree)
    report = inspect_boot(build.files["boot"], ARCH)
    assert [fault.code for fault in report.faults] == ([] if is_there else ["boot-file-missing"])


@pytest.mark.parametrize("name", ["a b.conf", '"; rm.conf', "x\ny.conf", "<2>.conf", "-R.conf", "ä.conf"])
def test_unusual_names_of_entries_are_names(tmp_path: Path, build: Build, name: str) -> None:
    tree = tmp_path / "tree"
    (tree / "loader/entries").mkdir(parents=True)
    files = _sound(build)
    (tree / "vmlinuz").write_bytes(files["vmlinuz"])
    (tree / "initrd").write_bytes(files["initrd"])
    (tree / "loader/entries" / name).write_bytes(files["loader/entries/test.conf"])
    _ext4(build.files["boot"], tree)
    report = inspect_boot(build.files["boot"], ARCH)
    assert report.faults == ()
    assert report.entry
    assert report.entry.name == name.removesuffix(".conf")


def test_an_entry_that_is_a_folder_stops_the_boot_stage(tmp_path: Path, build: Build) -> None:
    tree = tmp_path / "tree"
    (tree / "loader/entries/folder.conf").mkdir(parents=True)
    _ext4(build.files["boot"], tree)
    [fault] = inspect_boot(build.files["boot"], ARCH).faults
    assert fault.code == "boot-entry"
    assert " loader/entries/folder.conf: " in fault.message


def _grub(build: Build, root_hash: str) -> None:
    """Write a BOOT as Bottlerocket's: no loader entries, a grub.cfg that creates the root device."""
    tree = build.folder / "tree"
    (tree / "grub").mkdir(parents=True)
    verity = f"verity 1 PARTUUID=a PARTUUID=b 4096 4096 8 1 sha256 {root_hash} 00 2 restart_on_corruption"
    (tree / "grub/grub.cfg").write_text(f'linux ($root)/vmlinuz dm-mod.create="root,,,ro,0 64 {verity}"\n')
    _ext4(build.files["boot"], tree)


def _uki(build: Build, _root_hash: str) -> None:
    build.boot(entry=b"title A\nuki /EFI/Linux/a.efi\n")


def _fat(build: Build, _root_hash: str) -> None:
    build.files["boot"].write_bytes(
        b"\xeb\x3c\x90mkfs.fat".ljust(0x36) + b"FAT16   " + JUNK[: 16 * BLOCK - 62]
    )


@pytest.mark.parametrize("write", [_grub, _uki, _fat])
@pytest.mark.parametrize("root", [b"", b"hsqs" + bytes(BLOCK - 4)])
def test_boot_images_of_other_boot_loaders_are_published_and_said_not_to_be_inspected(
    repository: SmallRepository, build: Build, write: Callable[[Build, str], None], root: bytes
) -> None:
    if root:
        build.files["root"].write_bytes(root + JUNK)
    root_hash = format_verity(build.files["root"], build.files["hash"], "--salt=-")
    write(build, root_hash)
    outcome = repository.publish("1.0.0", **build.files)
    assert [note.partition(":")[0] for note in outcome.not_inspected] == ["boot not inspected"]
    assert _codes(repository) == set()


def test_a_grub_that_starts_another_root_is_refused_whether_inspected_or_not(
    repository: SmallRepository, build: Build
) -> None:
    _grub(build, "2b" * 32)
    for inspect in (True, False):
        with pytest.raises(UnfitImagesError, match="names root hash 2b2b"):
            repository.publish("1.0.0", inspect=inspect, **build.files)


def _publish_words(repository: SmallRepository, files: Mapping[str, Path], *more: str) -> list[str]:
    words = ["--repo", str(repository.folder), "publish", "--variant", VARIANT, "--arch", ARCH]
    words += ["--version", "1.0.0", "--waves", "none", "--level", "1"]
    return [*words, *(word for kind, path in files.items() for word in (f"--{kind}", str(path))), *more]


def test_images_of_which_none_has_a_known_format_are_published_with_one_line(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    files = repository.synthesize("1.0.0").images()
    assert run(cli, _publish_words(repository, files)) == 0
    assert "not inspected: neither boot nor root has a known format\n" in capsys.readouterr().out
    assert _codes(repository) == set()


def test_no_inspect_is_said_too(
    repository: SmallRepository, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    build.boot("quiet", initrd=None)
    assert run(cli, _publish_words(repository, build.files)) == 2
    refused = capsys.readouterr().err
    assert "(boot-file-missing)" in refused
    assert "--no-inspect" in UnfitImagesError.default_next_step
    assert run(cli, _publish_words(repository, build.files, "--no-inspect", "--json")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["not_inspected"] == ["not inspected, as --no-inspect says"]
    words = ["--repo", str(repository.folder), "validate"]
    assert (run(cli, words), run(cli, [*words, "--no-inspect"])) == (1, 0)


def test_without_debugfs_a_known_boot_image_is_not_published_unless_asked_for(
    repository: SmallRepository, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ext4, "TOOL", "no-such-debugfs")
    with pytest.raises(InspectionToolError, match="no-such-debugfs is not installed"):
        repository.publish("1.0.0", **build.files)
    repository.publish("1.0.0", inspect=False, **build.files)
    assert _codes(repository) == {"boot-not-inspected"}


def test_every_code_is_one_of_validate_and_has_a_next_step() -> None:
    assert set(NEXT_STEPS) <= set(CODES)
    assert {code for code, _ in FAULTS.values()} <= set(NEXT_STEPS)


def _inspected(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    status = run(cli, ["inspect", *map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_inspect_tells_the_images_apart_and_prints_what_is_in_them(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    system = f"VERSION_ID=1.0.0\nVARIANT_ID={VARIANT}\n".encode()
    build.files["root"].write_bytes(EROFS + system + bytes(BLOCK - len(system)))
    root_hash = format_verity(build.files["root"], build.files["hash"])
    build.boot(f"panic=5 roothash={root_hash}")
    status, seen = _inspected(capsys, build.files["hash"], build.files["root"], build.files["boot"])
    assert (status, seen["fits"], seen["faults"], seen["not_inspected"]) == (0, True, [], [])
    assert {kind: image["file"] for kind, image in seen["images"].items()} == {
        kind: str(path) for kind, path in build.files.items()
    }
    assert seen["root_hash"] == root_hash
    assert seen["versions"] == {VARIANT: ["1.0.0"]}
    assert (seen["entry"]["linux"], seen["entry"]["machine"]) == ("/vmlinuz", "x64")
    assert _inspected(capsys, build.folder) == (0, seen)
    assert run(cli, ["inspect", str(build.folder)]) == 0
    printed = capsys.readouterr().out
    assert f"roothash {root_hash}" in printed
    assert printed.endswith("they fit\n")


def test_inspect_compares_root_with_hash_and_images_with_slots(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    with build.files["root"].open("r+b") as stream:
        stream.seek(2 * BLOCK)
        stream.write(b"changed")
    status, seen = _inspected(capsys, build.folder, "--slot-size", "boot=512KiB")
    assert status == 1
    assert [fault["code"] for fault in seen["faults"]] == ["verity-mismatch", "image-too-large"]


def test_inspect_takes_a_part_of_a_release(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, path in build.files.items():
        status, seen = _inspected(capsys, path)
        assert (status, list(seen["images"]), seen["not_inspected"]) == (0, [kind], [])


def test_inspect_takes_an_image_without_a_format_for_a_tree_without_a_superblock(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    root_hash = format_verity(build.files["root"], build.files["hash"], "--no-superblock", "--salt=-")
    build.boot(f"panic=5 roothash={root_hash}")
    assert _inspected(capsys, *build.files.values())[0] == 0
    build.boot(f"panic=5 roothash={'1a' * 32}")
    status, seen = _inspected(capsys, *build.files.values())
    assert (status, [fault["code"] for fault in seen["faults"]]) == (1, ["boot-mismatch"])


@pytest.mark.parametrize("wrong", ["junk", "twice", "absent", "nothing"])
def test_inspect_refuses_what_it_does_not_know(
    tmp_path: Path, build: Build, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    junk, empty = tmp_path / "junk", tmp_path / "empty"
    junk.write_bytes(JUNK)
    empty.mkdir()
    again = tmp_path / "again"
    shutil.copy(build.files["boot"], again)
    given: list[Path] = {
        "junk": [junk],
        "twice": [build.files["boot"], again],
        "absent": [tmp_path / "absent"],
        "nothing": [empty],
    }[wrong]
    assert run(cli, ["inspect", *map(str, given)]) == 2
    assert "next:" in capsys.readouterr().err


PE = b"MZ" + bytes(0x3A) + (0x80).to_bytes(4, "little") + bytes(0x40) + b"PE\0\0"


@pytest.mark.parametrize(
    ("head", "machine"),
    [
        (bz_image(), "x64"),
        (bz_image(is_64_bit=False), "ia32"),
        (arm64_image(), "aa64"),
        (PE + b"\x64\x86", "x64"),
        (PE + b"\x64\xaa", "aa64"),
        (PE + b"\x00\x00", ""),
        (bytes(0x38) + b"RSC\x05", "riscv64"),
        (b"\x7fELF" + bytes(14) + b"\xb7\0", "aa64"),
        (b"MZ", ""),
        (b"", ""),
        (b"\x1f\x8b" + bytes(4000), ""),
    ],
)
def test_a_kernel_says_for_which_machine_it_is(head: bytes, machine: str) -> None:
    assert machine_of(head) == machine
