"""Properties of all versions and manifests: the order is total, and reading is the inverse of writing."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from updog.update_metadata.content import Content
from updog.update_metadata.errors import ManifestError, MigrationError, TimeError
from updog.update_metadata.fields import MAX_SENTENCE
from updog.update_metadata.manifest import Contents, Hold, Images, Manifest, Update
from updog.update_metadata.migrations import Migrations, find_migrations
from updog.update_metadata.times import format_time, parse_time
from updog.update_metadata.version import Version
from updog.update_metadata.waves import MAX_KEY, Waves

numbers = st.integers(0, 10**6)
build_identifiers = st.text("019aZ-", min_size=1, max_size=3)
prerelease_identifiers = st.integers(0, 20).map(str) | st.text("09aZ-", max_size=3).map("a{}".format)
versions = st.builds(
    Version,
    major=numbers,
    minor=numbers,
    patch=numbers,
    prerelease=st.lists(prerelease_identifiers, max_size=3).map(tuple),
    build=st.lists(build_identifiers, max_size=2).map(tuple),
)
times = st.datetimes(timezones=st.just(UTC))
names = st.text("aZ0._é-", min_size=1, max_size=4)
sentences = st.text('aZ ."\\é', min_size=1, max_size=MAX_SENTENCE).filter(lambda text: not text.isspace())
waves = st.dictionaries(st.integers(0, 2100) | st.integers(0, MAX_KEY), times, max_size=5).map(Waves.of)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "inf" not in str(value))
extras: st.SearchStrategy[dict[str, Any]] = st.dictionaries(names.map("x-{}".format), values, max_size=2)

images = st.builds(Images, boot=names, root=names, hash=names, extra=extras)
content = st.builds(
    Content,
    size=st.integers(1, 2**53 - 1),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    extra=extras,
)
contents = st.builds(Contents, boot=content, root=content, hash=content, extra=extras)
updates = st.builds(
    Update,
    variant=names,
    arch=names,
    version=versions,
    max_version=versions,
    waves=waves,
    images=images,
    contents=st.none() | contents,
    floor=st.none() | st.just(Version(major=0, minor=0, patch=0, prerelease=("0",))),
    hold=st.none() | st.builds(Hold, since=times, reason=st.just("") | names, extra=extras),
    urgent=st.just("") | sentences,
    published=st.none() | times,
    extra=extras,
).filter(lambda update: update.floor is None or update.floor < update.version)
hops: st.SearchStrategy[Migrations] = st.dictionaries(
    st.tuples(versions, versions), st.lists(names, max_size=3).map(tuple), max_size=4
)
manifests = st.builds(
    Manifest,
    updates=st.lists(updates, max_size=3, unique_by=lambda update: update.key).map(
        lambda some: tuple(sorted(some, key=lambda update: update.hold is not None))  # as they are written
    ),
    migrations=hops,
    extra=extras,
)


@given(versions)
def test_a_version_written_and_read_is_itself_build_included(version: Version) -> None:
    again = Version.parse(str(version))
    assert again == version
    assert again.build == version.build


@given(versions, versions)
def test_exactly_one_of_lower_equal_higher(one: Version, other: Version) -> None:
    assert [one < other, one == other, one > other].count(True) == 1
    assert (hash(one) == hash(other)) or one != other


@given(versions, versions, versions)
def test_order_is_transitive(one: Version, two: Version, three: Version) -> None:
    low, middle, high = sorted([one, two, three])
    assert low <= middle <= high
    assert low <= high


@given(times)
def test_a_time_written_and_read_is_itself(time: datetime) -> None:
    assert parse_time(format_time(time)) == time


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_one_error(text: str) -> None:
    with contextlib.suppress(TimeError):
        assert parse_time(text).tzinfo is UTC


@given(waves)
def test_waves_written_and_read_are_themselves(some: Waves) -> None:
    assert Waves.from_json(some.to_json()) == some


@given(manifests)
def test_a_manifest_written_and_read_is_itself(manifest: Manifest) -> None:
    data = manifest.to_json()
    again = Manifest.from_json(data)
    assert again == manifest
    assert again.to_json() == data


@given(st.binary(max_size=60))
def test_any_bytes_are_a_manifest_or_one_error(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        read = Manifest.from_json(data)
        assert Manifest.from_json(read.to_json()) == read


@given(manifests, versions, st.data())
def test_what_an_update_says_of_itself_survives_every_change_of_another_member(
    manifest: Manifest, version: Version, data: st.DataObject
) -> None:
    writable = [update for update in manifest.updates if not update.waves.order_faults()]
    if not writable:
        return
    one = data.draw(st.sampled_from(writable))
    changed = [
        manifest.with_max_version(one.variant, one.arch, version),
        manifest.with_waves(*one.key, Waves()),
        manifest.with_hold(*one.key, None),
        manifest.with_holds({one.key: Hold(since=datetime(2026, 1, 1, tzinfo=UTC))}),
    ]
    for other in changed:
        after = Manifest.from_json(other.to_json()).find(*one.key)
        assert after is not None
        assert (after.urgent, after.published, after.extra) == (one.urgent, one.published, one.extra)


@given(manifests, st.data())
def test_a_manifest_with_one_value_replaced_is_a_manifest_or_one_error(
    manifest: Manifest, data: st.DataObject
) -> None:
    document = json.loads(manifest.to_json())
    spot, junk = document, data.draw(values)
    while isinstance(spot, dict | list) and spot:
        key = data.draw(st.sampled_from(list(spot) if isinstance(spot, dict) else range(len(spot))))
        if not isinstance(spot[key], dict | list) or not spot[key] or data.draw(st.booleans()):
            spot[key] = junk
            break
        spot = spot[key]
    with contextlib.suppress(ManifestError):
        read = Manifest.from_json(json.dumps(document).encode())
        assert Manifest.from_json(read.to_json()) == read


@given(manifests, updates)
def test_adding_an_update_and_removing_it_again_changes_max_version_at_most(
    manifest: Manifest, update: Update
) -> None:
    if manifest.find(*update.key) or update.waves.order_faults():
        return
    more = manifest.with_update(update)
    others = [entry for entry in manifest.updates if (entry.variant, entry.arch) != update.key[:2]]
    assert {entry.max_version for entry in more.updates_of(update.variant, update.arch)} >= {
        max([update.version, *(e.max_version for e in manifest.updates_of(update.variant, update.arch))])
    }
    less = more.without_update(*update.key)
    assert [entry.key for entry in less.updates] == [entry.key for entry in manifest.updates]
    assert [entry for entry in less.updates if (entry.variant, entry.arch) != update.key[:2]] == others


@given(
    st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20),
    st.integers(0, 7),
    st.integers(0, 7),
)
def test_a_chain_of_migrations_is_found_exactly_if_one_exists_and_down_is_up_reversed(
    pairs: set[tuple[int, int]], start: int, end: int
) -> None:
    ladder = [Version(major=1, minor=minor, patch=0) for minor in range(8)]
    migrations = {(ladder[low], ladder[high]): (f"{low}-{high}",) for low, high in pairs if low < high}
    low, high = sorted((start, end))
    reached = {low}
    for step in range(low, high):
        if step in reached:
            reached |= {target for source, target in pairs if source == step and step < target <= high}
    try:
        up = find_migrations(migrations, ladder[low], ladder[high])
    except MigrationError:
        assert high not in reached
        return
    assert high in reached
    corners = [low, *(int(name.partition("-")[2]) for name in up)]
    assert list(up) == [f"{a}-{b}" for a, b in pairwise(corners)]
    assert corners[-1] == high
    assert find_migrations(migrations, ladder[high], ladder[low]) == up[::-1]
