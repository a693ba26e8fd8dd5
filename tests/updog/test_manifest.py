"""manifest.json: read as upstream writes it, written so that upstream reads it, every fault by its path."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from signpost.errors import ExitStatus
from updog.update_metadata.errors import (
    FAULTS_SHOWN,
    DuplicateUpdateError,
    Fault,
    ManifestError,
    UnknownUpdateError,
)
from updog.update_metadata.fields import MAX_DEPTH, MAX_EXCERPT, MAX_SENTENCE
from updog.update_metadata.manifest import (
    MAX_IMAGE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_UPDATES,
    Hold,
    Images,
    Manifest,
    Update,
)
from updog.update_metadata.version import Version
from updog.update_metadata.waves import WavePolicy, Waves

FIXTURES = Path(__file__).parents[2] / "fixtures" / "manifest"
START = datetime(2026, 10, 25, 18, tzinfo=UTC)
HOLD = Hold(since=START, reason="r")
V1, V2, V3 = (Version.parse(text) for text in ("1.0.0", "1.1.0", "1.2.0"))


def fixture(case: str) -> bytes:
    return (FIXTURES / case / "manifest.json").read_bytes()


def update(version: Version = V1, *, variant: str = "metal", arch: str = "x86_64") -> Update:
    images = Images(boot="b.ext4.zst", root="r.erofs.zst", hash="r.verity.zst")
    return Update(
        variant=variant, arch=arch, version=version, max_version=version, waves=Waves(), images=images
    )


def document(**changes: Any) -> dict[str, Any]:
    """Return a whole document with one update, whose members are changed."""
    entry = {
        "variant": "metal",
        "arch": "x86_64",
        "version": "1.0.0",
        "max_version": "1.0.0",
        "waves": {},
        "images": {"boot": "b", "root": "r", "hash": "h"},
    }
    return {"updates": [entry | changes], "migrations": {}}


def faults_of(data: bytes) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(data)
    return [str(fault) for fault in caught.value.faults]


# Reading what upstream writes


def test_a_published_upstream_manifest_is_read_to_the_letter() -> None:
    manifest = Manifest.from_json(fixture("upstream-published"))
    (published,) = manifest.updates
    assert (published.variant, published.arch) == ("aws-k8s-1.31", "x86_64")
    assert (str(published.version), str(published.max_version)) == ("1.26.1", "1.26.1")
    assert [start.seed for start in published.waves.starts] == [0, 20, 102, 307, 819, 1228, 1843]
    assert published.images.root.endswith("-root.ext4.lz4")
    assert (published.contents, published.floor, published.hold) == (None, None, None)
    assert (published.urgent, published.published) == ("", None)
    assert len(manifest.migrations) == 3


def test_a_published_upstream_manifest_is_written_back_byte_for_byte() -> None:
    data = fixture("upstream-published")
    assert Manifest.from_json(data).to_json() == data + b"\n"


def test_a_published_upstream_manifest_has_the_waves_of_its_default_policy() -> None:
    (published,) = Manifest.from_json(fixture("upstream-published")).updates
    start = datetime(2024, 10, 25, 17, tzinfo=UTC)
    assert WavePolicy.built_in("default").waves(start) == published.waves


def test_old_manifests_parse_with_all_their_oddities() -> None:
    manifest = Manifest.from_json(fixture("upstream-many"))
    waves = manifest.updates[1].waves.to_json()
    assert waves == {
        "0": "2019-08-06T15:00:00Z",  # the month was not padded
        "500": "2019-08-07T15:00:00Z",  # it had an offset
        "1024": "2019-08-31T15:00:00.123456Z",  # it had nanoseconds
        "858993459": "2019-09-07T15:00:00Z",
        "1717986918": "2019-09-14T15:00:00Z",
    }
    assert manifest.updates[1].extra == {"status": "Ready"}
    assert manifest.extra == {"datastore_versions": {"1.1.1": "1.0"}}
    assert (Version.parse("1.1.0"), Version.parse("1.1.1")) in manifest.migrations


@pytest.mark.parametrize("case", ["upstream-published", "upstream-many", "ours"])
def test_a_manifest_written_back_is_the_same_manifest(case: str) -> None:
    manifest = Manifest.from_json(fixture(case))
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_our_additions_are_read() -> None:
    (held,) = Manifest.from_json(fixture("ours")).updates
    assert str(held.version) == "2.0.0-rc.1+build.7"
    assert held.contents is not None
    assert held.contents.boot.size == 33554432
    assert held.contents.hash.sha256 == "0" * 64
    assert held.floor == Version.parse("1.9.0")
    assert held.hold == Hold(
        since=datetime(2026, 10, 25, 20, 30, tzinfo=UTC), reason="boots fail on wide NVMe"
    )
    assert held.urgent == "fixes a vulnerability that is exploited"
    assert held.published == datetime(2026, 10, 25, 17, 59, 30, tzinfo=UTC)


def test_unknown_members_are_kept_on_every_level() -> None:
    manifest = Manifest.from_json(fixture("ours"))
    (held,) = manifest.updates
    assert held.contents is not None
    assert manifest.extra == {"generated_by": "a later version"}
    assert held.extra == {"notes": {"ticket": [1, 2.5, True, None, "é"]}}
    assert held.images.extra == {"root_index": "metal-root.erofs.zst.index"}
    assert held.contents.extra == {"firmware": None}
    assert held.contents.root.extra == {"blake3": "not ours"}
    assert json.loads(manifest.to_json()) == json.loads(fixture("ours"))


def test_our_additions_may_be_absent_or_null() -> None:
    data = json.dumps(document(floor=None, hold=None, contents=None, urgent=None, published=None)).encode()
    assert Manifest.from_json(data) == Manifest.from_json(json.dumps(document()).encode())


def test_an_empty_manifest_is_one_upstream_can_read() -> None:
    assert json.loads(Manifest.empty().to_json()) == {"updates": [], "migrations": {}}
    assert Manifest.from_json(Manifest.empty().to_json()) == Manifest.empty()


# Refusing what is wrong


def test_every_fault_of_a_file_is_reported_at_once_by_its_path() -> None:
    expected = (FIXTURES / "faulty" / "faults.txt").read_text(encoding="utf-8").splitlines()
    assert faults_of(fixture("faulty")) == expected


def test_a_message_names_the_first_faults_and_counts_the_rest() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(fixture("faulty"))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"the manifest has {len(caught.value.faults)} faults:"
    assert lines[1] == "  " + str(caught.value.faults[0])
    assert lines[-1] == f"  … and {len(caught.value.faults) - FAULTS_SHOWN} more"
    assert caught.value.status is ExitStatus.FAILED
    assert caught.value.next_step


def test_a_message_of_one_fault_is_one_line() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(document(arch=3)).encode())
    assert str(caught.value) == "the manifest has a fault: updates[0].arch: expected printable text, found 3"


@pytest.mark.parametrize("key", ["variant", "arch", "version", "max_version", "waves", "images"])
def test_a_missing_member_of_an_update_is_named(key: str) -> None:
    whole = document()
    del whole["updates"][0][key]
    assert faults_of(json.dumps(whole).encode()) == [f"updates[0].{key}: missing"]


@pytest.mark.parametrize("key", ["updates", "migrations"])
def test_a_missing_member_of_the_document_is_named(key: str) -> None:
    whole = document()
    del whole[key]
    assert faults_of(json.dumps(whole).encode()) == [f"{key}: missing"]


def test_a_wave_key_twice_in_the_text_is_named() -> None:
    waves = b'"waves": {"20": "2026-10-25T18:00:00Z", "20": "2026-10-25T19:00:00Z"}'
    data = json.dumps(document()).encode().replace(b'"waves": {}', waves)
    assert faults_of(data) == ["updates[0].waves.20: duplicate key"]


def test_a_member_twice_in_the_text_is_named() -> None:
    data = json.dumps(document()).encode().replace(b'"arch"', b'"variant": "other", "arch"')
    assert faults_of(data) == ["updates[0].variant: duplicate key"]


def test_a_hop_twice_in_the_text_is_named() -> None:
    hops = b'"migrations": {"(1.0.0, 1.1.0)": [], "(1.0.0, 1.1.0)": []}'
    data = json.dumps(document()).encode().replace(b'"migrations": {}', hops)
    assert faults_of(data) == ["migrations.(1.0.0, 1.1.0): duplicate key"]


def test_a_hop_twice_in_other_words_is_named() -> None:
    whole = document() | {"migrations": {"(1.0.0, 1.1.0)": [], "(1.0.0,1.1.0+b)": []}}
    assert faults_of(json.dumps(whole).encode()) == [
        "migrations.(1.0.0,1.1.0+b): the same hop as (1.0.0, 1.1.0)"
    ]


def test_an_update_twice_is_named_with_both_places() -> None:
    whole = document()
    whole["updates"] += [whole["updates"][0] | {"version": "1.0.0+again"}]
    assert faults_of(json.dumps(whole).encode()) == [
        (
            "updates[1]: 1.0.0+again for metal on x86_64 is the same version as 1.0.0 "
            "(what follows a + is not compared), which already exists as updates[0]"
        )
    ]


def test_a_floor_no_node_can_pass_is_a_fault() -> None:
    (fault,) = faults_of(json.dumps(document(floor="1.0.0")).encode())
    assert fault.startswith("updates[0].floor: 1.0.0 is not below 1.0.0")


@pytest.mark.parametrize(
    ("urgent", "problem"),
    [
        ("", 'expected printable text, found ""'),
        ("  ", 'expected a sentence, found "  "'),
        ("two\nlines", 'expected printable text, found "two\\nlines"'),
        ("\x1b[2J", 'expected printable text, found "\\u001b[2J"'),
        ("\u202eesrever", 'expected printable text, found "\\u202eesrever"'),
        ("x" * (MAX_SENTENCE + 1), "201 characters; the limit is 200"),
        (["a", "b"], 'expected printable text, found ["a", "b"]'),
    ],
)
def test_what_is_not_a_sentence_is_no_reason_to_be_urgent(urgent: object, problem: str) -> None:
    assert faults_of(json.dumps(document(urgent=urgent)).encode()) == [f"updates[0].urgent: {problem}"]


def test_the_longest_sentence_is_read() -> None:
    (read,) = Manifest.from_json(json.dumps(document(urgent="é" * MAX_SENTENCE)).encode()).updates
    assert read.urgent == "é" * MAX_SENTENCE


@pytest.mark.parametrize("published", ["", "2026-13-01T00:00:00Z", 1761415170, "2026-10-25"])
def test_a_bad_time_of_publication_is_named(published: object) -> None:
    (fault,) = faults_of(json.dumps(document(published=published)).encode())
    assert fault.startswith("updates[0].published: ")
    assert str(published) in fault


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (-1, "-1 is outside 1…9007199254740991"),
        (MAX_IMAGE_BYTES + 1, "9007199254740992 is outside 1…9007199254740991"),
        (1.0, "expected a whole number, found 1.0"),
        ("1", 'expected a whole number, found "1"'),
    ],
)
def test_a_bad_size_is_named(size: object, problem: str) -> None:
    content = {"size": 1, "sha256": "a" * 64}
    contents = {"boot": content | {"size": size}, "root": content, "hash": content}
    data = json.dumps(document(contents=contents)).encode()
    assert faults_of(data) == [f"updates[0].contents.boot.size: {problem}"]


@pytest.mark.parametrize("sha256", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", ""])
def test_a_bad_hash_is_named(sha256: str) -> None:
    content = {"size": 1, "sha256": "a" * 64}
    contents = {"boot": content, "root": content, "hash": content | {"sha256": sha256}}
    (fault,) = faults_of(json.dumps(document(contents=contents)).encode())
    assert fault.startswith("updates[0].contents.hash.sha256: expected 64 lower-case hexadecimal digits")


NOT_JSON = {
    "empty": b"",
    "cut-short": fixture("upstream-published")[:-1],
    "not-utf-8": b'{"updates": "\xff"}',
    "nan": b'{"updates": [], "migrations": {}, "x": NaN}',
    "infinity": b'{"updates": [], "migrations": {}, "x": -Infinity}',
    "float-beyond-range": b'{"updates": [], "migrations": {}, "x": 1e999}',
    "integer-of-a-million-digits": b'{"updates": [], "migrations": {}, "x": ' + b"9" * 1_000_000 + b"}",
    "deep-beyond-the-stack": b"[" * 200_000,
    "two-documents": b"{} {}",
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.usefixtures("undisturbed")
def test_what_is_not_json_is_one_fault(data: bytes) -> None:
    (fault,) = faults_of(data)
    assert fault.startswith("not JSON: ")


def test_every_truncation_of_a_manifest_is_refused() -> None:
    data = fixture("ours")
    end = len(data.rstrip())
    for length in range(0, end, 7):
        assert faults_of(data[:length])


@pytest.mark.parametrize("data", [b"[]", b"null", b"7", b'"text"'])
def test_a_document_that_is_not_an_object_is_refused(data: bytes) -> None:
    assert faults_of(data) == [f"expected an object, found {data.decode()}"]


def test_nesting_beyond_the_limit_is_named() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    data = json.dumps(document(deep=0)).replace('"deep": 0', f'"deep": {deep}').encode()
    (fault,) = faults_of(data)
    assert fault.startswith("updates[0].deep[0]")
    assert fault.endswith("nested deeper than 32 levels")


def test_a_manifest_beyond_its_size_is_refused_unread() -> None:
    data = b" " * (MAX_MANIFEST_BYTES + 1)
    assert faults_of(data) == [f"{MAX_MANIFEST_BYTES + 1} bytes; the limit is {MAX_MANIFEST_BYTES}"]


def test_too_many_updates_are_refused() -> None:
    whole = {"updates": [0] * (MAX_UPDATES + 1), "migrations": {}}
    assert faults_of(json.dumps(whole).encode()) == [f"updates: {MAX_UPDATES + 1} items; the limit is 4096"]


def test_too_many_waves_are_refused() -> None:
    waves = dict.fromkeys(map(str, range(2050)), "2026-10-25T18:00:00Z")
    data = json.dumps(document(waves=waves)).encode()
    assert faults_of(data) == ["updates[0].waves: 2050 members; the limit is 2049"]


def test_a_long_bad_value_is_cut_in_the_message() -> None:
    (fault,) = faults_of(json.dumps(document(waves="x" * 1000)).encode())
    assert len(fault) < MAX_EXCERPT + 60


def test_a_fault_is_seen_from_one_level_up() -> None:
    assert Fault(path="", problem="bad").under("a") == Fault(path="a", problem="bad")
    assert Fault(path="b", problem="bad").under("a") == Fault(path="a.b", problem="bad")
    assert Fault(path="[0].b", problem="bad").under("a") == Fault(path="a[0].b", problem="bad")


# Changing it


def test_adding_sets_max_version_on_the_same_variant_and_arch_only() -> None:
    manifest = (
        Manifest.empty()
        .with_update(update(V2))
        .with_update(update(V1, variant="other"))
        .with_update(update(V1, arch="aarch64"))
        .with_update(update(V3))
    )
    assert [(str(entry), str(entry.max_version)) for entry in manifest.updates] == [
        ("1.1.0 for metal on x86_64", "1.2.0"),
        ("1.0.0 for other on x86_64", "1.0.0"),
        ("1.0.0 for metal on aarch64", "1.0.0"),
        ("1.2.0 for metal on x86_64", "1.2.0"),
    ]


def test_adding_an_older_version_does_not_lower_max_version() -> None:
    manifest = Manifest.empty().with_update(update(V3)).with_update(update(V1))
    assert {entry.max_version for entry in manifest.updates} == {V3}


def test_adding_with_a_lower_max_version_publishes_withdrawn() -> None:
    manifest = Manifest.empty().with_update(update(V1)).with_update(update(V3), max_version=V2)
    assert {entry.max_version for entry in manifest.updates} == {V2}


def test_adding_a_version_twice_is_refused() -> None:
    manifest = Manifest.empty().with_update(update(V1))
    with pytest.raises(DuplicateUpdateError, match=r"1\.0\.0 for metal on x86_64 already exists") as caught:
        manifest.with_update(update(V1))
    assert caught.value.status is ExitStatus.USAGE


def test_adding_another_build_of_a_version_is_refused_by_the_name_of_the_one_that_exists() -> None:
    manifest = Manifest.empty().with_update(update(Version.parse("1.0.0+build.5")))
    with pytest.raises(DuplicateUpdateError, match=r"1\.0\.0\+build\.6 for .* as 1\.0\.0\+build\.5 "):
        manifest.with_update(update(Version.parse("1.0.0+build.6")))


def test_waves_that_do_not_rise_are_not_written() -> None:
    entry = replace(update(V1), waves=Waves.of({0: START, 20: START}))
    with pytest.raises(ManifestError, match=r"waves\.20: starts 2026-10-25T18:00:00Z, not after wave 0"):
        Manifest.empty().with_update(entry)


def test_max_version_is_lowered_to_pull_a_release() -> None:
    manifest = Manifest.empty().with_update(update(V1)).with_update(update(V2))
    pulled = manifest.with_max_version("metal", "x86_64", V1)
    assert {entry.max_version for entry in pulled.updates} == {V1}
    assert {entry.max_version for entry in manifest.updates} == {V2}


def test_waves_of_one_update_are_changed() -> None:
    manifest = Manifest.empty().with_update(update(V1)).with_update(update(V2))
    waves = WavePolicy.built_in("ohno").waves(START)
    changed = manifest.with_waves("metal", "x86_64", V1, waves)
    assert [entry.waves for entry in changed.updates] == [waves, Waves()]


def test_an_update_is_held_and_released() -> None:
    manifest = Manifest.empty().with_update(update(V1))
    held = manifest.with_hold("metal", "x86_64", V1, HOLD)
    assert held.updates[0].hold == HOLD
    assert held.with_hold("metal", "x86_64", V1, None) == manifest


def test_a_held_update_is_not_there_for_a_reader_that_knows_nothing_of_holds() -> None:
    """Upstream reads ``updates`` and ignores every other member."""
    manifest = Manifest.empty().with_update(update(V1)).with_update(update(V2))
    held = json.loads(manifest.with_hold("metal", "x86_64", V1, HOLD).to_json())
    assert [entry["version"] for entry in held["updates"]] == ["1.1.0"]
    assert [entry["hold"] for entry in held["held"]] == [{"since": "2026-10-25T18:00:00Z", "reason": "r"}]
    assert "held" not in json.loads(manifest.to_json())


def test_what_is_published_during_a_hold_stands_before_it() -> None:
    manifest = Manifest.empty().with_update(update(V1)).with_hold("metal", "x86_64", V1, HOLD)
    more = manifest.with_update(update(V2))
    assert [entry.version for entry in more.updates] == [V2, V1]
    assert Manifest.from_json(more.to_json()) == more


@pytest.mark.parametrize(
    ("hold", "fault"),
    [
        (7, "held[0].hold: expected an object, found 7"),
        ({}, "held[0].hold.since: missing"),
        ({"since": "soon"}, "held[0].hold.since: "),
        ({"since": "2026-10-25T18:00:00Z", "reason": "\u001b[2J"}, "held[0].hold.reason: "),
        (None, "held[0].hold: missing"),
    ],
)
def test_a_faulty_hold_is_named(hold: object, fault: str) -> None:
    data = document(hold=hold)
    (found,) = faults_of(json.dumps({**data, "updates": [], "held": data["updates"]}).encode())
    assert found.startswith(fault)


def test_a_hold_may_be_its_time_alone() -> None:
    (held,) = Manifest.from_json(json.dumps(document(hold="2026-10-25T18:00:00Z")).encode()).updates
    assert held.hold == Hold(since=START)


def test_an_update_that_is_held_and_offered_at_once_is_refused() -> None:
    held = document(hold={"since": "2026-10-25T18:00:00Z"})["updates"]
    faults = faults_of(json.dumps(document() | {"held": held}).encode())
    assert faults == ["held[0]: 1.0.0 for metal on x86_64 already exists as updates[0]"]


def test_removing_an_update_leaves_max_version() -> None:
    manifest = Manifest.empty().with_update(update(V1)).with_update(update(V2))
    less = manifest.without_update("metal", "x86_64", V2)
    assert [(entry.version, entry.max_version) for entry in less.updates] == [(V1, V2)]


def test_updates_of_a_variant_come_newest_first() -> None:
    manifest = Manifest.empty()
    for version in (V2, V3, V1):
        manifest = manifest.with_update(update(version)).with_update(update(version, arch="aarch64"))
    assert [entry.version for entry in manifest.updates_of("metal", "x86_64")] == [V3, V2, V1]
    assert manifest.updates_of("metal", "riscv64") == ()


def test_an_update_is_found_by_its_key() -> None:
    manifest = Manifest.empty().with_update(update(V1))
    assert manifest.find("metal", "x86_64", V1) == manifest.updates[0]
    assert manifest.find("metal", "aarch64", V1) is None


def test_changing_what_is_not_there_is_refused() -> None:
    manifest = Manifest.empty().with_update(update(V1))
    absent = ("metal", "x86_64", V2)
    with pytest.raises(UnknownUpdateError, match=r"1\.1\.0 for metal on x86_64 does not exist"):
        manifest.with_waves(*absent, Waves())
    with pytest.raises(UnknownUpdateError):
        manifest.with_hold(*absent, HOLD)
    with pytest.raises(UnknownUpdateError):
        manifest.without_update(*absent)
    with pytest.raises(UnknownUpdateError, match="nothing is published for metal on aarch64") as caught:
        manifest.with_max_version("metal", "aarch64", V2)
    assert caught.value.status is ExitStatus.USAGE


def test_a_manifest_can_be_hashed() -> None:
    assert len({Manifest.from_json(fixture("ours")), Manifest.from_json(fixture("ours"))}) == 1
