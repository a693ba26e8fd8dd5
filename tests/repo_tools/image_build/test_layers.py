"""Members of archives and layers in a tree: whiteouts, links, names that climb, limits."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from repo_tools.errors import ImageSourceError
from repo_tools.image_build import layers
from repo_tools.image_build.sources import SourceKind, read
from tests.support.root_trees import Layout, entry, hard_link, link, seen, tar_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from repo_tools.image_build.tree import Tree

Member = tuple[tarfile.TarInfo, bytes]


def image(tmp_path: Path, *parts: Sequence[Member]) -> Tree:
    """Return the tree of a container image with these layers."""
    layout = Layout(tmp_path / "layout")
    layout.add([tar_of(part) for part in parts])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return read(layout.folder, scratch).tree


def plain(tmp_path: Path, members: Sequence[Member]) -> Tree:
    """Return the tree of a tar archive."""
    (tmp_path / "root.tar").write_bytes(tar_of(members))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = read(tmp_path / "root.tar", scratch)
    assert found.kind is SourceKind.TAR
    return found.tree


LOWER = [entry("d/"), entry("d/old", b"old"), entry("d/e/"), entry("d/e/deep", b"deep"), entry("f", b"f")]

WHITEOUTS: dict[str, tuple[list[Member], set[str]]] = {
    "a file": ([entry("d/.wh.old")], {"d", "d/e", "d/e/deep", "f"}),
    "a folder": ([entry(".wh.d")], {"f"}),
    "nothing that is there": (
        [entry("d/.wh.other"), entry("x/.wh.y")],
        {"d", "d/old", "d/e", "d/e/deep", "f"},
    ),
    "all that a folder has": ([entry("d/.wh..wh..opq")], {"d", "f"}),
    "all that the root has": ([entry(".wh..wh..opq"), entry("new")], {"new"}),
    "but not what comes after it": (
        [entry("d/.wh..wh..opq"), entry("d/new"), entry("d/e/"), entry("d/e/n")],
        {"d", "d/new", "d/e", "d/e/n", "f"},
    ),
    "nor what came before it": (
        [entry("d/new"), entry("d/e/n"), entry("d/.wh..wh..opq")],
        {"d", "d/new", "d/e", "d/e/n", "f"},
    ),
    "a folder that is made again": ([entry("d/"), entry("d/new"), entry(".wh.d")], {"d", "d/new", "f"}),
    "a file that is made again": (
        [entry("f", b"new"), entry(".wh.f")],
        {"d", "d/old", "d/e", "d/e/deep", "f"},
    ),
    "book-keeping of aufs": ([entry(".wh..wh.plnk/")], {"d", "d/old", "d/e", "d/e/deep", "f"}),
}


@pytest.mark.parametrize("name", WHITEOUTS)
def test_a_whiteout_hides(tmp_path: Path, name: str) -> None:
    upper, expected = WHITEOUTS[name]

    tree = image(tmp_path, LOWER, upper)

    assert {path for path, _ in tree.items()} == {"", *expected}


def test_a_whiteout_in_the_same_layer_leaves_the_new_content(tmp_path: Path) -> None:
    assert image(tmp_path, LOWER, [entry("f", b"new"), entry(".wh.f")]).read("f") == b"new"


def test_a_whiteout_of_the_second_layer_does_not_hide_what_the_third_brings(tmp_path: Path) -> None:
    tree = image(tmp_path, LOWER, [entry(".wh.d")], [entry("d/third", b"3")])

    assert tree.children("d") == ["third"]


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh...", "../.wh.d"])
def test_a_whiteout_of_what_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageSourceError, match=r"layer 2 of layout .*hides nothing|climbs out"):
        image(tmp_path, LOWER, [entry(name)])


def test_a_plain_archive_has_no_whiteouts(tmp_path: Path) -> None:
    assert plain(tmp_path, [*LOWER, entry("d/.wh.old")]).children("d") == [".wh.old", "e", "old"]


def test_a_hard_link_across_layers_shares_the_file_of_the_layer_below(tmp_path: Path) -> None:
    tree = image(tmp_path, LOWER, [hard_link("g", "d/old"), entry("d/old", b"new")], [hard_link("h", "./g")])

    assert tree.get("g") is tree.get("h")
    assert (tree.read("g"), tree.read("d/old")) == (b"old", b"new")


@pytest.mark.parametrize(
    ("target", "why"),
    [("none", "which is not there"), ("d", "which is a folder"), ("../../../etc/passwd", "climbs out")],
)
def test_a_hard_link_to_what_is_no_file_of_the_tree_is_refused(tmp_path: Path, target: str, why: str) -> None:
    with pytest.raises(ImageSourceError, match=why):
        image(tmp_path, LOWER, [hard_link("g", target)])


@pytest.mark.parametrize("name", ["../out", "d/../../out", "/../out", "d/..", ".."])
def test_a_name_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageSourceError, match=r"the name .* climbs out of its folder"):
        plain(tmp_path, [*LOWER, entry(name, b"x")])


@pytest.mark.parametrize("target", ["../../../../../../../..", "/../..", "/"])
def test_a_link_that_climbs_out_leads_to_the_root_of_the_tree(tmp_path: Path, target: str) -> None:
    outside = tmp_path.joinpath("out.txt")

    tree = plain(
        tmp_path, [entry("usr/"), link("usr/up", f"{target}{tmp_path}"), entry("usr/up/out.txt", b"x")]
    )

    assert not outside.exists()
    assert tree.read(f"{tmp_path}/out.txt".lstrip("/")) == b"x"


def test_an_absolute_name_is_one_of_the_tree(tmp_path: Path) -> None:
    assert plain(tmp_path, [entry("/usr/"), entry("/usr/x", b"x")]).read("usr/x") == b"x"


def test_a_file_behind_a_link_to_a_folder_is_where_the_node_would_have_it(tmp_path: Path) -> None:
    tree = image(tmp_path, [entry("usr/lib/"), link("lib", "/usr/lib")], [entry("lib/new", b"new")])

    assert tree.children("usr/lib") == ["new"]
    assert tree.get("lib") is not None
    assert tree.read("lib/new") == b"new"


def test_a_folder_over_a_link_replaces_it(tmp_path: Path) -> None:
    tree = image(tmp_path, [entry("usr/lib/"), link("lib", "usr/lib")], [entry("lib/"), entry("lib/new")])

    assert (tree.children("lib"), tree.children("usr/lib")) == (["new"], [])


def test_a_file_over_a_folder_and_a_folder_over_a_file_replace_it(tmp_path: Path) -> None:
    tree = image(tmp_path, LOWER, [entry("d", b"file"), entry("f/"), entry("f/new")])

    assert {path for path, _ in tree.items()} == {"", "d", "f", "f/new"}


def test_a_folder_over_a_folder_keeps_what_is_in_it_and_gets_the_new_rights(tmp_path: Path) -> None:
    tree = image(tmp_path, LOWER, [entry("d/", mode=0o1777)])

    assert tree.children("d") == ["e", "old"]
    folder = tree.get("d")
    assert folder is not None
    assert folder.mode == 0o1777


def test_links_in_a_circle_on_the_way_to_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageSourceError, match="are a circle"):
        plain(tmp_path, [link("a", "b"), link("b", "a"), entry("a/x")])


def test_devices_rights_owners_and_attributes_are_kept(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    pax = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.binary": b"\xff\x00\n\xfe".decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.a%3Db%25": "x",
    }
    tree = image(
        tmp_path,
        [
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660, gid=6),
            entry("run/pipe", type=tarfile.FIFOTYPE, mode=0o600),
            entry("usr/bin/sudo", b"s", mode=0o4755),
            entry("usr/bin/ping", b"p", mode=0o2755, uid=4_000_000_000, gid=65534, pax_headers=pax),
        ],
    )

    found = seen(tree)
    assert found["dev/null"][1:7] == ("0o666", 0, 0, {}, "", (1, 3))
    assert found["dev/sda"][1:7] == ("0o660", 0, 6, {}, "", (8, 0))
    assert found["usr/bin/sudo"][1] == "0o4755"
    assert found["usr/bin/ping"][1:5] == (
        "0o2755",
        4_000_000_000,
        65534,
        {"security.capability": capability, "user.binary": b"\xff\x00\n\xfe", "user.a=b%": b"x"},
    )


def test_names_that_are_not_utf_8_are_kept_byte_for_byte(tmp_path: Path) -> None:
    name = b"etc/\xff\xfe caf\xe9\n".decode("utf-8", "surrogateescape")

    tree = image(tmp_path, [entry(name, b"x"), link("l", name)], [hard_link("h", name)])

    assert tree.get(name) is tree.get("h")
    assert tree.read("l") == b"x"


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (entry("a" * 256), "is too long"),
        (entry("/".join(["a" * 200] * 21)), "is too long"),
        (entry("a/" * 257), "is too deep"),
        (link("l", "x" * 5000), "is a link to a path that is too long"),
        (link("l", ""), "is a link to nothing"),
        (entry("x", pax_headers={"path": "a\0b"}), "has a NUL"),
        (
            entry("x", pax_headers={"SCHILY.xattr.user.x": "v" * 70_000}),
            "has an attribute that is not possible",
        ),
        (entry("x", pax_headers={"SCHILY.xattr." + "n" * 300: "v"}), "has an attribute that is not possible"),
        (entry("x", pax_headers={"uid": "4294967295"}), "has an owner that is not possible"),
        (entry("x", type=tarfile.CHRTYPE, devmajor=5000), "is a device that is not possible"),
        (entry("./", type=tarfile.SYMTYPE, linkname="/etc"), "its root is not a folder"),
    ],
)
def test_what_no_file_system_can_have_is_refused(tmp_path: Path, member: Member, why: str) -> None:
    with pytest.raises(ImageSourceError, match=rf"root\.tar: .*{why}"):
        plain(tmp_path, [member])


def test_a_link_that_leads_deeper_than_any_path_is_refused(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 250)
    with pytest.raises(ImageSourceError, match="is too deep"):
        plain(tmp_path, [entry(deep + "/"), link("l", deep), entry("l/1/2/3/4/5/6/7")])


def test_more_names_than_any_root_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [entry(f"a{number}/b/c") for number in range(10)]  # folders that are not named count too
    monkeypatch.setattr(layers, "MOST_ENTRIES", 30)
    assert len(list(plain(tmp_path, members).items())) == 31  # with the root

    (tmp_path / "scratch").rmdir()
    monkeypatch.setattr(layers, "MOST_ENTRIES", 29)
    with pytest.raises(ImageSourceError, match="it has more than 29 files"):
        plain(tmp_path, members)


def test_more_attributes_than_fit_in_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MOST_DETAILS", 50_000)
    pax = {"SCHILY.xattr.user.x": "v" * 20_000}

    with pytest.raises(ImageSourceError, match="names and attributes of its files are too large"):
        plain(tmp_path, [entry(f"f{number}", pax_headers=pax) for number in range(3)])
