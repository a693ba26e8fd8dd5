"""The tree of ROOT: named, trusted, of no machine, with what lies below DATA and in BOOT taken care of."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from repo_tools.image_build.prepare import FACTORY, TMPFILES, prepared
from repo_tools.image_build.request import BuildRequest
from repo_tools.image_build.tree import FOLDER, Inode, Kind, file, link
from tests.support.trees import KERNEL, sound_tree
from updog.os_release import parse_os_release
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.image_build.tree import Tree


def text(tree: Tree, path: str) -> str:
    data = tree.read(path)
    assert data is not None, path
    return data.decode("utf-8", "surrogateescape")


def test_version_and_variant_replace_those_of_the_source_and_the_rest_stays() -> None:
    made = prepared(sound_tree(), BuildRequest(version=Version.parse("2.0.0-rc.1"), variant="edge"))
    fields = parse_os_release(text(made, "usr/lib/os-release"))
    assert fields == {"NAME": "Test OS", "VERSION_ID": "2.0.0-rc.1", "VARIANT_ID": "edge"}


def test_an_os_release_of_its_own_in_etc_becomes_a_link_and_loses_nothing() -> None:
    own = file(b"NAME=Own\nVERSION_ID=9.9.9\nVARIANT_ID=own")
    made = prepared(sound_tree({"etc/os-release": own}), BuildRequest(variant="edge"))
    assert parse_os_release(text(made, "usr/lib/os-release")) == {
        "NAME": "Own",
        "VERSION_ID": "9.9.9",
        "VARIANT_ID": "edge",
    }
    assert made.read("etc/os-release") == made.read("usr/lib/os-release")


def test_the_source_is_not_changed() -> None:
    tree = sound_tree({"var/lib/app/db": file(b"x")})
    before = dict(tree.items())
    prepared(tree, BuildRequest(version=Version.parse("2.0.0"), variant="edge", trusted_root=b"new"))
    assert dict(tree.items()) == before


def test_the_trusted_root_is_put_where_updog_looks_for_it() -> None:
    made = prepared(sound_tree(), BuildRequest(trusted_root=b"new"))
    assert made.read("usr/share/updog/root.json") == b"new"
    settings = file(b"trusted_root = '/etc/trust/root.json'\n")
    elsewhere = prepared(sound_tree({"etc/updog.toml": settings}), BuildRequest(trusted_root=b"new"))
    assert elsewhere.read("etc/trust/root.json") == b"new"


def test_nothing_of_one_machine_is_left() -> None:
    tree = sound_tree(
        {
            "etc/machine-id": file(b"0123456789abcdef0123456789abcdef\n"),
            "etc/ssh/ssh_host_rsa_key": file(b"k"),
            "etc/ssh/ssh_host_rsa_key.pub": file(b"k"),
            "etc/ssh/sshd_config": file(b"c"),
            "var/lib/systemd/random-seed": file(b"r"),
            "var/lib/dbus/machine-id": file(b"0123456789abcdef0123456789abcdef\n"),
        }
    )
    made = prepared(tree, BuildRequest(reset_identity=True))
    assert made.read("etc/machine-id") == b""
    assert made.names("etc/ssh") == ["sshd_config"]
    left = [path for path, _ in made.items() if path.endswith(("random-seed", "dbus/machine-id"))]
    assert left == []


def test_kernels_and_initrds_leave_root_but_modules_stay() -> None:
    tree = sound_tree({f"usr/lib/modules/{KERNEL}/vmlinuz": file(b"k"), "vmlinuz": link("boot/vmlinuz")})
    made = prepared(tree, BuildRequest())
    assert made.names("boot") == []
    assert made.get("vmlinuz") is None
    assert made.names(f"usr/lib/modules/{KERNEL}") == ["kernel", "modules.builtin"]


def test_a_node_does_not_take_itself_for_a_container() -> None:
    assert prepared(sound_tree({".dockerenv": file(b"")}), BuildRequest()).get(".dockerenv") is None


def test_every_mount_point_of_a_read_only_root_is_there() -> None:
    made = prepared(sound_tree({"usr/lib/systemd/system/tmp.mount": file(b"")}), BuildRequest())
    for path in ("boot", "dev", "proc", "run", "sys", "tmp", "var"):
        inode = made.get(path)
        assert inode is not None, path
        assert inode.kind is Kind.FOLDER, path


def mounts(tree: Tree) -> dict[str, str]:
    lines = [line.split() for line in text(tree, "etc/fstab").splitlines() if not line.startswith("#")]
    return {words[1]: words[0] for words in lines}


def test_private_and_data_are_mounted_and_made_at_the_first_start() -> None:
    made = prepared(sound_tree({"etc/fstab": file(b"# UNCONFIGURED")}), BuildRequest())
    assert mounts(made) == {
        "/tmp": "tmpfs",  # noqa: S108 - the node's
        "/var": "PARTLABEL=BOTTLEROCKET-DATA",
        "/var/lib/updog": "PARTLABEL=BOTTLEROCKET-PRIVATE",
    }
    assert text(made, "etc/fstab").count("x-systemd.makefs") == 2


def test_what_fstab_mounts_already_stays_as_it_is() -> None:
    own = b"LABEL=mine /var xfs defaults 0 2\nLABEL=state /var/lib/updog ext4 defaults 0 2\n"
    changes: dict[str, Inode | None] = {
        "etc/fstab": file(own),
        "usr/lib/systemd/system/tmp.mount": file(b"[Mount]"),
    }
    assert prepared(sound_tree(changes), BuildRequest()).read("etc/fstab") == own


def test_what_lies_below_data_is_copied_at_the_start_and_the_package_database_linked() -> None:
    tree = sound_tree(
        {
            "var/lib/app/db": file(b"x", mode=0o600),
            "var/lib/dpkg/status": file(b"s"),
            "var/lib/updog/old": file(b"o"),
            "var/log/journal": FOLDER,
            "var/mail": Inode(kind=Kind.FOLDER, mode=0o2775, gid=8),
            "var/cache/app": Inode(kind=Kind.FOLDER, mode=0o750, uid=33, gid=33),
            "var/cache/app/big": file(b"b"),
            "var/tmp/x": file(b"t"),
            "var/run": link("/run"),
        }
    )
    made = prepared(tree, BuildRequest())
    assert text(made, TMPFILES).splitlines() == [
        "d /var/cache/app 0750 33 33 -",
        "C /var/lib/app",
        "L /var/lib/dpkg",
        "C /var/log/journal",
        "C /var/mail",
    ]
    assert made.get(f"{FACTORY}/lib/app/db") is tree.get("var/lib/app/db")
    assert made.names("var") == []
    assert [name for name in ("cache", "tmp", "run") if made.get(f"{FACTORY}/{name}")] == []


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
def test_systemd_tmpfiles_copies_names_with_blanks_quotes_and_other_bytes(tmp_path: Path) -> None:
    names = ["plain", "a b", "50%", "it's", 'a"q"', "back\\slash", "\udcff\udcfe", "\u00fc"]
    made = prepared(sound_tree({f"var/lib/{name}/file": file(b"x") for name in names}), BuildRequest())
    lines = [line for line in text(made, TMPFILES).splitlines() if " /var/lib/" in line or '"/var' in line]
    assert len(lines) == len(names)
    for name in names:
        folder = tmp_path / FACTORY / "lib" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
    (tmp_path / "rules.conf").write_bytes(made.read(TMPFILES) or b"")
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(tmp_path / "rules.conf")]
    subprocess.run(command, check=True)
    assert {path.name for path in (tmp_path / "var/lib").iterdir()} == set(names)
    assert {path.name for path in (tmp_path / "var/lib").glob("*/file")} == {"file"}
