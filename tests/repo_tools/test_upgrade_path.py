"""The path of a node through releases: floors, holds, withdrawals; and what it needs on the way."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from repo_tools.releases.upgrade_path import needed, upgrade_path
from updog.update_metadata.errors import MigrationError
from updog.update_metadata.manifest import Hold, Images, Manifest, Update
from updog.update_metadata.packs import DeltaFile, Pack, Packs
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves


def _version(text: str) -> Version:
    return Version.parse(text)


def _pack(version: str, role: str, bases: tuple[str, ...]) -> Pack:
    deltas = {
        _version(base): DeltaFile(target=f"{version}-{role}-from-{base}", head_size=1, head_sha256="0" * 64)
        for base in bases
    }
    return Pack(index=f"{version}-{role}.index", fingerprints=f"{version}-{role}.prints", deltas=deltas)


def _release(version: str, *, limit: str = "9.0.0", bases: tuple[str, ...] = (), **facts: Any) -> Update:
    names = {role: f"{version}-{role}" for role in ("boot", "root", "hash")}
    boot, root, verity = (_pack(version, role, bases) for role in names)
    packs = Packs(boot=boot, root=root, hash=verity) if bases else None
    return Update(
        variant="vm",
        arch="x86_64",
        version=_version(version),
        max_version=_version(limit),
        waves=Waves(),
        images=Images(boot=names["boot"], root=names["root"], hash=names["hash"]),
        packs=packs,
        **facts,
    )


_HELD = Hold(since=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("releases", "start", "through", "arrives"),
    [
        pytest.param([_release("1.0.0"), _release("1.1.0")], "1.0.0", ["1.1.0"], True, id="plain"),
        pytest.param([_release("1.0.0"), _release("1.1.0")], "0.1.0", ["1.1.0"], True, id="older-than-all"),
        pytest.param([_release("1.0.0"), _release("1.1.0")], "1.1.0", [], True, id="there"),
        pytest.param(
            [_release("1.1.0"), _release("1.2.0"), _release("2.0.0", floor=_version("1.1.5"))],
            "1.0.0",
            ["1.2.0", "2.0.0"],
            True,
            id="floor",
        ),
        pytest.param(
            [_release("1.1.0"), _release("2.0.0", floor=_version("1.5.0"))],
            "1.0.0",
            ["1.1.0"],
            False,
            id="floor-out-of-reach",
        ),
        pytest.param([_release("1.1.0"), _release("1.2.0", hold=_HELD)], "1.0.0", ["1.1.0"], True, id="held"),
        pytest.param(
            [_release("1.1.0"), _release("1.2.0", hold=_HELD)], "1.2.0", [], True, id="runs-the-held-one"
        ),
        pytest.param(
            [_release("1.0.0", limit="1.0.0"), _release("1.1.0", limit="1.0.0")],
            "1.1.0",
            ["1.0.0"],
            True,
            id="withdrawn-goes-down",
        ),
        pytest.param([_release("1.0.0", limit="0.0.0-0")], "1.0.0", [], True, id="nothing-on-offer"),
        pytest.param([], "1.0.0", [], True, id="nothing-published"),
    ],
)
def test_the_upgrade_path_of_a_node_goes_through_the_needed_releases(
    releases: list[Update], start: str, through: list[str], *, arrives: bool
) -> None:
    way = upgrade_path(releases, _version(start))
    assert [str(step.version) for step in way.steps] == through
    assert way.arrives is arrives


def test_of_deltas_only_those_from_where_the_node_is_are_needed() -> None:
    releases = (_release("1.1.0", bases=("0.9.0", "1.0.0")), _release("1.2.0", bases=("1.0.0", "1.1.0")))
    way = upgrade_path(releases, _version("1.0.0"))
    assert needed(Manifest(updates=releases), way) == {
        f"1.2.0-{role}{ending}"
        for role in ("boot", "root", "hash")
        for ending in ("", ".index", ".prints", "-from-1.0.0")
    }


def test_migrations_of_every_hop_are_needed() -> None:
    releases = (_release("1.1.0"), _release("2.0.0", floor=_version("1.1.0")))
    hops = {
        (_version("1.0.0"), _version("1.1.0")): ("first",),
        (_version("1.1.0"), _version("2.0.0")): ("second",),
    }
    way = upgrade_path(releases, _version("1.0.0"))
    assert {"first", "second"} <= needed(Manifest(updates=releases, migrations=hops), way)
    del hops[_version("1.1.0"), _version("2.0.0")]
    with pytest.raises(MigrationError):
        needed(Manifest(updates=releases, migrations=hops), way)
