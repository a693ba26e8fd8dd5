"""Boot entries: what is read, what is kept, what is refused, and which one is started."""

from __future__ import annotations

import pytest

from signpost.bls import BootEntry, choose, parse, version_key
from signpost.errors import BootEntryError

WHOLE = b"""# made by hand
title      Demo OS 1.0.0
version    1.0.0
sort-key   demo
machine-id 6a9857a393724b7a981ebb5b8495b9ea
architecture x64

linux\t/vmlinuz
initrd /microcode
initrd /initrd
options ro console=ttyS0
options   roothash=abc
grub_users $grub_users
devicetree
"""


def entry(name: str, **keys: str) -> BootEntry:
    return BootEntry(name=name, linux="/vmlinuz", **keys)  # type: ignore[arg-type]


def test_an_entry_is_read_whole_and_unknown_keys_are_kept() -> None:
    assert parse("demo-1.0.0.conf", WHOLE) == BootEntry(
        name="demo-1.0.0",
        title="Demo OS 1.0.0",
        version="1.0.0",
        sort_key="demo",
        machine_id="6a9857a393724b7a981ebb5b8495b9ea",
        architecture="x64",
        linux="/vmlinuz",
        initrd=("/microcode", "/initrd"),
        options="ro console=ttyS0 roothash=abc",
        others=(("grub_users", "$grub_users"), ("devicetree", "")),
    )


def test_linux_is_the_only_required_key() -> None:
    assert parse("x", b"linux /vmlinuz") == BootEntry(name="x", linux="/vmlinuz")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(b"", "x.conf: the key linux is missing", id="empty"),
        pytest.param(b"title T\nefi /loader.efi\n", "the key linux is missing", id="another loader"),
        pytest.param(b"linux\n", "line 1: linux has no value; the key linux is missing", id="no value"),
        pytest.param(b"linux /a\n\nlinux /b\n", "line 3: linux is given twice", id="twice"),
        pytest.param(b"linux /a\ninitrd\n", "line 2: initrd has no value", id="no initrd"),
        pytest.param(b"linux /a\ntitle \xff\n", "x.conf: byte 15 is not UTF-8", id="not text"),
    ],
)
def test_a_fault_is_named_by_file_and_line(data: bytes, fault: str) -> None:
    with pytest.raises(BootEntryError) as caught:
        parse("x.conf", data)
    assert fault in caught.value.message


def test_every_truncation_of_an_entry_is_read_or_refused_by_name() -> None:
    for length in range(len(WHOLE)):
        try:
            assert parse("x", WHOLE[:length]).linux.startswith("/")
        except BootEntryError as error:
            assert error.message.startswith("x: ")  # noqa: PT017 - both outcomes are right, nothing else is


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("122.1", "123~rc1-1"),
        ("123~rc1-1", "123"),
        ("123", "123-a"),
        ("123-a", "123-a.1"),
        ("123-a.1", "123-1"),
        ("123-1", "123-1.1"),
        ("123-1.1", "123^post1"),
        ("123^post1", "123.a-1"),
        ("123.a-1", "123.1-1"),
        ("123.1-1", "123a-1"),
        ("123a-1", "124-1"),
        ("9", "10"),
        ("", "1"),
        ("~", ""),
        ("A", "a"),
        ("1." + "9" * 5000, "2"),
    ],
)
def test_versions_sort_as_uapi_10_has_it(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def test_leading_zeros_and_foreign_characters_do_not_count() -> None:
    assert version_key("1.007") == version_key("1.7")
    assert version_key("1_.7") == version_key("1.7")


def test_the_newest_entry_of_a_system_is_chosen() -> None:
    entries = [entry(f"demo-{number}", sort_key="demo", version=f"1.{number}.0") for number in (9, 10, 2)]
    chosen = choose(entries, "x64")
    assert chosen is not None
    assert chosen.version == "1.10.0"


def test_of_entries_with_the_same_sort_key_the_version_decides_before_the_file_name() -> None:
    older = entry("z-99", sort_key="demo", version="1.9.0")
    newer = entry("a-1", sort_key="demo", version="1.10.0")
    assert choose([older, newer], "x64") == newer
    same = entry("b-2", sort_key="demo", version="1.10.0")
    assert choose([newer, same], "x64") == same


def test_without_sort_keys_the_file_name_decides() -> None:
    entries = [entry("demo-1.9.0", version="99"), entry("demo-1.10.0", version="1"), entry("demo-1.2.0")]
    assert choose(entries, "x64") == entries[1]


def test_an_entry_with_a_sort_key_comes_before_one_without() -> None:
    keyed = entry("a", sort_key="demo", version="1")
    assert choose([entry("z-99"), keyed], "x64") == keyed


def test_sort_keys_and_machine_ids_come_in_their_order() -> None:
    first, second = entry("x", sort_key="a", machine_id="2"), entry("y", sort_key="b", machine_id="1")
    assert choose([second, first], "x64") == first
    other = entry("z", sort_key="a", machine_id="1")
    assert choose([second, first, other], "x64") == other


def test_an_entry_of_another_architecture_does_not_count() -> None:
    ours = entry("a-1", architecture="X64")
    assert choose([entry("a-2", architecture="aa64"), ours], "x64") == ours
    assert choose([entry("a-2", architecture="aa64")], "x64") is None
    assert choose([], "x64") is None
