"""The reader of tar archives: what GNU tar writes, and every kind of damage."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_tools.errors import ImageSourceError
from repo_tools.image_build.stored import whole_file
from repo_tools.image_build.tar_reader import BLOCK, MOST_HEADER, read_tar
from repo_tools.image_build.tree import Kind
from tests.support.root_trees import entry, hard_link, link, tar_of

if TYPE_CHECKING:
    from repo_tools.image_build.tar_reader import TarEntry

LONG = "long-" * 40


def entries(tmp_path: Path, data: bytes, *, needs_end: bool = True) -> list[TarEntry]:
    place = tmp_path / "archive.tar"
    place.write_bytes(data)
    return list(read_tar(whole_file(os.fsencode(place), len(data)), name="archive.tar", needs_end=needs_end))


def data_of(member: TarEntry) -> bytes:
    assert member.content is not None
    with member.content.open() as stream:
        return stream.read()


def gnu_tar(folder: Path, *options: str) -> bytes:
    return subprocess.run(["tar", "-c", "-C", folder, *options, "."], check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=ustar", "--exclude=long*"],
        ["--format=pax"],
        ["--format=v7", "--exclude=long*"],
        ["--format=gnu", "--sparse"],
        ["--format=pax", "--sparse", "--sparse-version=0.0"],
        ["--format=pax", "--sparse", "--sparse-version=0.1"],
        ["--format=pax", "--sparse", "--sparse-version=1.0"],
        ["--format=gnu", "--label=a label"],
        ["--format=gnu", "--incremental"],
    ],
    ids=" ".join,
)
def test_every_format_of_gnu_tar_is_read(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / LONG).write_bytes(b"long")
    with (folder / "sparse").open("wb") as file:
        for number in range(30):  # more runs than one header has
            file.seek(number << 17)
            file.write(b"run %d" % number)
        file.truncate(8 << 20)
    (folder / "empty").touch()
    with (folder / "hole").open("wb") as file:
        file.truncate(3 << 20)
    (folder / "link").symlink_to("sparse")

    found = {
        member.name.removeprefix("./"): member for member in entries(tmp_path, gnu_tar(folder, *options))
    }

    names = {"empty", "hole", "link", "sparse"} | (set() if "--exclude=long*" in options else {LONG})
    assert {name.rstrip("/") for name in found} in (names | {""}, names | {"."})
    for name in names - {"link"}:
        assert data_of(found[name]) == (folder / name).read_bytes(), name
    assert (found["link"].kind, found["link"].target) == (Kind.LINK, "sparse")
    if "--sparse" in options:
        content = found["sparse"].content
        assert content is not None
        assert sum(piece.length for piece in content.pieces) < 1 << 20


def test_a_sparse_file_can_be_read_from_any_place(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 5000)
        file.truncate(3 << 20)
    expected = (folder / "sparse").read_bytes()
    (content,) = [
        member.content
        for member in entries(tmp_path, gnu_tar(folder, "--sparse"))
        if member.kind is Kind.FILE
    ]
    assert content is not None

    with content.open() as stream:
        for place in (0, (1 << 20) - 1, (1 << 20) + 4999, 5000, (3 << 20) - 1, 3 << 20):
            stream.seek(place)
            assert stream.read(3) == expected[place : place + 3]


def test_an_archive_without_its_end_is_refused_unless_something_else_says_that_it_is_whole(
    tmp_path: Path,
) -> None:
    data = tar_of([entry("a", b"a" * 600), entry("b/")]).rstrip(b"\0")
    data += bytes(-len(data) % BLOCK)

    assert [member.name for member in entries(tmp_path, data, needs_end=False)] == ["a", "b/"]
    with pytest.raises(ImageSourceError, match=r"archive\.tar is damaged: it is cut after"):
        entries(tmp_path, data)


def test_an_archive_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = tar_of([entry("a", b"a" * 600), hard_link("h", "a"), entry(LONG, b"x"), link("l", LONG)])
    end = len(data.rstrip(b"\0"))
    end += -end % BLOCK

    for length in range(0, end + BLOCK, 97):
        with pytest.raises(ImageSourceError, match="is damaged: it is cut"):
            entries(tmp_path, data[:length])


def test_a_header_with_any_wrong_byte_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar_of([entry("first", b"1"), entry("second", b"2")]))
    after_checksum = 2 * BLOCK + 155  # means nothing
    for place in {*range(2 * BLOCK, 3 * BLOCK)} - {after_checksum}:  # tarfile takes this for the end
        data[place] ^= 0x55
        with pytest.raises(ImageSourceError, match="is damaged"):
            entries(tmp_path, bytes(data))
        data[place] ^= 0x55


def header(**fields: bytes) -> bytes:
    """Return a header with some fields as they should not be, and the right checksum."""
    places = {"size": 124, "type": 156, "uid": 108, "name": 0}
    block = bytearray(tarfile.TarInfo("name").tobuf(tarfile.USTAR_FORMAT))
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(type=kind, size=b"%011o\0" % len(records)) + records + bytes(-len(records) % BLOCK)


END = bytes(2 * BLOCK)

DAMAGED = {
    "a negative size": header(size=b"\xff" * 12),
    "a negative size of a pax header": header(type=b"x", size=b"\xff" * 12) + bytes(BLOCK),
    "a size beyond the archive": header(size=b"77777777777\0"),
    "a size of base 256 beyond the archive": header(size=b"\x80" + bytes(3) + b"\x40" + bytes(7)),
    "a size beyond any disk": header(size=b"\xbf" + b"\xff" * 11),
    "a number that is none": header(uid=b"12x45  \0"),
    "a type that nobody knows": header(type=b"~"),
    "a part of another volume": header(type=b"M"),
    "a pax header of 8 GiB": header(type=b"x", size=b"77777777777\0") + bytes(BLOCK),
    "a long name of 8 GiB": header(type=b"L", size=b"77777777777\0") + bytes(BLOCK),
    "headers without end": pax(b"11 a=bcdef\n") * (MOST_HEADER // 1024 + 2),
    "a pax header of no member": pax(b"8 path=\n"),
    "a record longer than its header": pax(b"99 path=x\n") + header(),
    "a record of length 0": pax(b"0 path=x\n") + header(),
    "a record without an end": pax(b"10 path=xy") + header(),
    "a record without a key": pax(b"6 =xy\n") + header(),
    "a record whose length has 5,000 digits": pax(b"1" * 5000 + b" path=x\n") + header(),
    "a path for all members": pax(b"10 path=x\n", b"g") + header(),
    "a size for all members": pax(b"10 size=1\n", b"g") + header(),
    "a sparse map that overlaps": pax(b"21 GNU.sparse.size=9\n24 GNU.sparse.map=0,2,1,2\n")
    + header(size=b"%011o\0" % 4)
    + bytes(BLOCK),
    "a sparse map that is longer than the file": pax(b"21 GNU.sparse.size=3\n20 GNU.sparse.map=0,4\n")
    + header(size=b"%011o\0" % 4)
    + bytes(BLOCK),
    "a sparse map of more than there is": pax(b"23 GNU.sparse.size=900\n22 GNU.sparse.map=0,900\n")
    + header(size=b"%011o\0" % 4)
    + bytes(BLOCK),
    "a sparse map of an odd number": pax(b"21 GNU.sparse.size=9\n22 GNU.sparse.map=0,2,4\n")
    + header(size=b"%011o\0" % 4)
    + bytes(BLOCK),
    "a sparse map in the data without an end": pax(
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=9\n"
    )
    + header(size=b"%011o\0" % (2 * BLOCK))
    + b"99999\n"
    + b"1\n" * (BLOCK - 3),
    "sparse headers without end": header(type=b"S")[:482] + b"\1" + header()[483:],
    "an attribute that is not base64": pax(b"32 LIBARCHIVE.xattr.user.x=a!aaa\n") + header(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_archive_is_refused_that_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageSourceError, match=r"archive\.tar is damaged: "):
        entries(tmp_path, DAMAGED[name] + END)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_an_archive_with_random_bytes_is_read_or_refused(changes: list[tuple[int, int]], fixed: bool) -> None:  # noqa: FBT001
    """With the checksums corrected in half of the cases, so that what is behind them is reached."""
    data = bytearray(
        tar_of([entry("a", b"a" * 9, pax_headers={"SCHILY.xattr.user.x": "1"}), entry(LONG), entry("z")])
    )
    for place, value in changes:
        data[place] = value
    for start in range(0, 4096, BLOCK) if fixed else ():
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(ImageSourceError):
        for member in entries(Path(name), bytes(data)):
            if member.content is not None:
                assert len(data_of(member)) == member.content.size


def test_attributes_as_libarchive_and_selinux_write_them_are_read(tmp_path: Path) -> None:
    records = {
        "LIBARCHIVE.xattr.user.a%20b": "AP8",
        "LIBARCHIVE.xattr.user.both": "AAAA",
        "SCHILY.xattr.user.both": "exact",
        "RHT.security.selinux": "system_u:object_r:bin_t:s0",
    }

    (member,) = entries(tmp_path, tar_of([entry("x", pax_headers=records)]))

    assert member.xattrs == {
        "user.a b": b"\x00\xff",
        "user.both": b"exact",
        "security.selinux": b"system_u:object_r:bin_t:s0\0",
    }


def test_owners_for_all_members_are_read_and_other_global_records_are_not(tmp_path: Path) -> None:
    data = pax(b"8 uid=7\n17 comment=hello\n"[:8], b"g") + tar_of(
        [entry("a"), entry("b", pax_headers={"uid": "8"})]
    )

    assert [(member.name, member.uid) for member in entries(tmp_path, data)] == [("a", 7), ("b", 8)]


def test_access_control_lists_as_text_are_reported(tmp_path: Path) -> None:
    data = tar_of(
        [entry("x", pax_headers={"SCHILY.acl.access": "user::rw-,group::r--,other::r--"}), entry("y")]
    )

    assert [member.has_lists for member in entries(tmp_path, data)] == [True, False]


def test_a_hard_link_has_no_content_whatever_its_size_is(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(entry("a", b"a")[0], io.BytesIO(b"a"))
        info, _ = hard_link("h", "a")
        info.size = 512
        archive.addfile(info)
        archive.addfile(entry("last")[0])

    assert [member.name for member in entries(tmp_path, file.getvalue())] == ["a", "h", "last"]
