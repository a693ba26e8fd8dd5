"""The choice of an update: one row for each behaviour, and the sentences that an operator reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from updog.select import Decision, Node, VerdictCode, decide
from updog.update_metadata.errors import SeedError
from updog.update_metadata.manifest import Hold, Images, Manifest, Update
from updog.update_metadata.seeds import machine_seed
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version
from updog.update_metadata.waves import WavePolicy, Waves

FIXTURES = Path(__file__).parents[2] / "fixtures" / "manifest"
NOW = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
SOON = Waves.of({0: NOW + DAY})
IMAGES = Images(boot="boot", root="root", hash="hash")


def version(text: str) -> Version:
    return Version.parse(text)


def update(
    text: str, *, top: str = "1.3.0", waves: Waves | None = None, floor: str = "", held: bool = False
) -> Update:
    return Update(
        variant="metal",
        arch="x86_64",
        version=version(text),
        max_version=version(top),
        waves=waves or Waves(),
        images=IMAGES,
        floor=version(floor) if floor else None,
        hold=Hold(since=NOW - DAY, reason="it burns") if held else None,
    )


def node(running: str = "1.1.0", *, lock: str = "", forced: str = "", seed: int = 1203) -> Node:
    return Node(
        variant="metal",
        arch="x86_64",
        running=version(running),
        seed=seed,
        version_lock=version(lock) if lock else None,
        forced=version(forced) if forced else None,
    )


def denying(who: Node, *texts: str) -> Node:
    return replace(who, denied=dict.fromkeys(map(version, texts), "it panicked."))


def codes(decision: Decision) -> dict[str, str]:
    return {str(verdict.update.version): verdict.code for verdict in decision.verdicts}


ALL = (update("1.0.0"), update("1.1.0"), update("1.2.0"), update("1.3.0"))
PULLED = tuple(replace(entry, max_version=version("1.1.0")) for entry in ALL)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One situation, what is selected, and the result for each update."""

    updates: tuple[Update, ...]
    node: Node
    taken: str | None
    verdicts: dict[str, str] = field(default_factory=dict)


ROWS = {
    "highest-above-running": Row(
        updates=ALL,
        node=node(),
        taken="1.3.0",
        verdicts={"1.3.0": "chosen", "1.2.0": "superseded", "1.1.0": "running", "1.0.0": "older"},
    ),
    "order-in-the-file-does-not-count": Row(updates=ALL[::-1], node=node(), taken="1.3.0"),
    "nothing-newer": Row(updates=ALL, node=node("1.3.0"), taken=None),
    "only-older-versions": Row(
        updates=(update("0.1.1", top="0.1.3"), update("0.1.2", top="0.1.3")),
        node=node("0.1.3"),
        taken=None,
        verdicts={"0.1.2": "older", "0.1.1": "older"},
    ),
    "running-is-not-in-the-manifest": Row(updates=ALL[2:], node=node("1.1.5"), taken="1.3.0"),
    "pre-release-running-takes-the-release": Row(updates=ALL, node=node("1.3.0-rc.1"), taken="1.3.0"),
    "other-build-of-running-is-no-update": Row(
        updates=(update("1.3.0+b"),), node=node("1.3.0+a"), taken=None, verdicts={"1.3.0+b": "running"}
    ),
    "lock-is-another-build-of-running": Row(
        updates=(update("1.3.0+a"),), node=node("1.3.0+a", lock="1.3.0+b"), taken=None
    ),
    "lock-is-another-build": Row(
        updates=(update("1.3.0+a"),),
        node=node(lock="1.3.0+b"),
        taken=None,
        verdicts={"1.3.0+a": "not-locked"},
    ),
    "lock-without-build": Row(updates=(update("1.3.0+a"),), node=node(lock="1.3.0"), taken="1.3.0+a"),
    "lock-with-build": Row(updates=(update("1.3.0+a"),), node=node(lock="1.3.0+a"), taken="1.3.0+a"),
    "forced-is-another-build": Row(
        updates=(update("1.3.0+a"),),
        node=node(forced="1.3.0+b"),
        taken=None,
        verdicts={"1.3.0+a": "not-forced"},
    ),
    "forced-without-build": Row(updates=(update("1.3.0+a"),), node=node(forced="1.3.0"), taken="1.3.0+a"),
    "above-max-version-is-withdrawn": Row(
        updates=tuple(replace(entry, max_version=version("1.2.0")) for entry in ALL),
        node=node(),
        taken="1.2.0",
        verdicts={"1.3.0": "withdrawn", "1.2.0": "chosen", "1.1.0": "running", "1.0.0": "older"},
    ),
    "running-was-pulled-goes-back-down": Row(
        updates=PULLED,
        node=node("1.2.0"),
        taken="1.1.0",
        verdicts={"1.3.0": "withdrawn", "1.2.0": "running", "1.1.0": "chosen", "1.0.0": "superseded"},
    ),
    "running-was-pulled-and-removed": Row(updates=PULLED[:2], node=node("1.2.0"), taken="1.1.0"),
    "running-was-pulled-and-the-next-failed-here": Row(
        updates=PULLED, node=denying(node("1.2.0"), "1.1.0"), taken="1.0.0"
    ),
    "running-was-pulled-and-nothing-is-left": Row(updates=PULLED[2:], node=node("1.2.0"), taken=None),
    "wave-not-open-takes-the-next-lower": Row(
        updates=(*ALL[:3], update("1.3.0", waves=SOON)),
        node=node(),
        taken="1.2.0",
        verdicts={"1.3.0": "waiting", "1.2.0": "chosen", "1.1.0": "running", "1.0.0": "older"},
    ),
    "waves-ignored": Row(
        updates=(update("1.3.0", waves=SOON),), node=replace(node(), ignore_waves=True), taken="1.3.0"
    ),
    "lock-up": Row(
        updates=ALL,
        node=node(lock="1.2.0"),
        taken="1.2.0",
        verdicts={"1.3.0": "not-locked", "1.2.0": "chosen", "1.1.0": "not-locked", "1.0.0": "not-locked"},
    ),
    "lock-down": Row(updates=ALL, node=node(lock="1.0.0"), taken="1.0.0"),
    "lock-is-running": Row(updates=ALL, node=node(lock="1.1.0"), taken=None),
    "lock-is-running-and-was-pulled": Row(updates=PULLED, node=node("1.2.0", lock="1.2.0"), taken=None),
    "lock-is-not-published": Row(updates=ALL, node=node(lock="1.2.5"), taken=None),
    "lock-is-withdrawn": Row(
        updates=PULLED,
        node=node("1.0.0", lock="1.3.0"),
        taken=None,
        verdicts={"1.3.0": "withdrawn", "1.2.0": "not-locked", "1.1.0": "not-locked", "1.0.0": "not-locked"},
    ),
    "lock-waits-for-its-wave": Row(
        updates=(update("1.3.0", waves=SOON),), node=node(lock="1.3.0"), taken=None
    ),
    "lock-failed-here": Row(updates=ALL, node=denying(node(lock="1.2.0"), "1.2.0"), taken=None),
    "forced-up": Row(
        updates=ALL,
        node=node(forced="1.2.0"),
        taken="1.2.0",
        verdicts={"1.3.0": "not-forced", "1.2.0": "chosen", "1.1.0": "not-forced", "1.0.0": "not-forced"},
    ),
    "forced-down": Row(updates=ALL, node=node(forced="1.0.0"), taken="1.0.0"),
    "forced-again": Row(updates=ALL, node=node(forced="1.1.0"), taken="1.1.0"),
    "forced-before-the-lock": Row(updates=ALL, node=node(lock="1.0.0", forced="1.3.0"), taken="1.3.0"),
    "forced-is-not-published": Row(updates=ALL, node=node(forced="9.9.9"), taken=None),
    "forced-is-withdrawn": Row(updates=PULLED, node=node(forced="1.3.0"), taken=None),
    "forced-waits-for-its-wave": Row(
        updates=(update("1.3.0", waves=SOON),),
        node=node(forced="1.3.0"),
        taken=None,
        verdicts={"1.3.0": "waiting"},
    ),
    "forced-with-waves-ignored": Row(
        updates=(update("1.3.0", waves=SOON),),
        node=replace(node(forced="1.3.0"), ignore_waves=True),
        taken="1.3.0",
    ),
    "forced-failed-here": Row(
        updates=ALL,
        node=denying(node(forced="1.3.0"), "1.3.0"),
        taken=None,
        verdicts={"1.3.0": "denied", "1.2.0": "not-forced", "1.1.0": "not-forced", "1.0.0": "not-forced"},
    ),
    "denied-is-passed-over": Row(
        updates=ALL,
        node=denying(node(), "1.3.0"),
        taken="1.2.0",
        verdicts={"1.3.0": "denied", "1.2.0": "chosen", "1.1.0": "running", "1.0.0": "older"},
    ),
    "denied-and-waves-ignored-is-still-denied": Row(
        updates=ALL[3:], node=replace(denying(node(), "1.3.0"), ignore_waves=True), taken=None
    ),
    "held-is-passed-over": Row(
        updates=(*ALL[:3], update("1.3.0", held=True)),
        node=node(),
        taken="1.2.0",
        verdicts={"1.3.0": "held", "1.2.0": "chosen", "1.1.0": "running", "1.0.0": "older"},
    ),
    "held-and-waves-ignored-is-still-held": Row(
        updates=(update("1.3.0", held=True),), node=replace(node(), ignore_waves=True), taken=None
    ),
    "held-forced-is-refused": Row(
        updates=(update("1.3.0", held=True),), node=node(forced="1.3.0"), taken=None
    ),
    "held-is-running-stays": Row(
        updates=(*ALL[:3], update("1.3.0", held=True)),
        node=node("1.3.0"),
        taken=None,
        verdicts={"1.3.0": "running", "1.2.0": "older", "1.1.0": "older", "1.0.0": "older"},
    ),
    "floor-takes-the-floor-first": Row(
        updates=(*ALL[:3], update("1.3.0", floor="1.2.0")),
        node=node(),
        taken="1.2.0",
        verdicts={"1.3.0": "floor", "1.2.0": "chosen", "1.1.0": "running", "1.0.0": "older"},
    ),
    "floor-takes-a-version-above-the-floor": Row(
        updates=(*ALL, update("1.2.5"), update("2.0.0", top="2.0.0", floor="1.2.0")),
        node=node(),
        taken="1.3.0",
    ),
    "floor-after-floor-takes-the-lowest-step": Row(
        updates=(update("1.2.0"), update("1.2.5", floor="1.2.0"), update("1.3.0", floor="1.2.5")),
        node=node(),
        taken="1.2.0",
    ),
    "floor-reached": Row(updates=(update("1.3.0", floor="1.1.0"),), node=node(), taken="1.3.0"),
    "floor-not-published": Row(updates=(update("1.3.0", floor="1.2.0"),), node=node(), taken=None),
    "floor-holds-for-forced": Row(
        updates=(*ALL[:3], update("1.3.0", floor="1.2.0")), node=node(forced="1.3.0"), taken=None
    ),
    "floor-holds-for-the-lock": Row(
        updates=(*ALL[:3], update("1.3.0", floor="1.2.0")), node=node(lock="1.3.0"), taken=None
    ),
    "other-arch": Row(
        updates=tuple(replace(entry, arch="aarch64") for entry in ALL), node=node(), taken=None, verdicts={}
    ),
    "other-variant": Row(
        updates=tuple(replace(entry, variant="cloud") for entry in ALL), node=node(), taken=None
    ),
    "empty-manifest": Row(updates=(), node=node(), taken=None),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_expected_version_is_chosen_in_every_row(row: Row) -> None:
    decision = decide(Manifest(updates=row.updates), row.node, NOW)
    assert (str(decision.update.version) if decision.update else None) == row.taken
    if row.verdicts:
        assert codes(decision) == row.verdicts


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_update_of_the_node_gets_a_verdict_newest_first(row: Row) -> None:
    manifest = Manifest(updates=row.updates)
    decision = decide(manifest, row.node, NOW)
    judged = tuple(verdict.update for verdict in decision.verdicts)
    assert judged == manifest.updates_of(row.node.variant, row.node.arch)
    chosen = [verdict.update for verdict in decision.verdicts if verdict.code is VerdictCode.CHOSEN]
    assert chosen == ([decision.update] if decision.update else [])


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_answer_is_a_whole_sentence(row: Row) -> None:
    decision = decide(Manifest(updates=row.updates), row.node, NOW)
    for sentence in (decision.summary, *(verdict.sentence for verdict in decision.verdicts)):
        assert sentence.endswith(".")
        assert "None" not in sentence


SUMMARIES = {
    "highest-above-running": (
        "1.3.0 is chosen: it is the highest version open to this node, which runs 1.1.0."
    ),
    "nothing-newer": "This node runs 1.3.0; nothing newer is published for metal on x86_64.",
    "running-was-pulled-goes-back-down": "1.1.0 is chosen: 1.2.0, which this node runs, has been withdrawn.",
    "running-was-pulled-and-nothing-is-left": "1.3.0 is withdrawn: the highest offered version is 1.1.0.",
    "lock-up": "1.2.0 is chosen: this node is locked to it and runs 1.1.0.",
    "lock-is-running": "This node is locked to 1.1.0 and runs it.",
    "lock-is-not-published": "1.2.5, to which this node is locked, is not published for metal on x86_64.",
    "lock-is-another-build-of-running": (
        "This node is locked to 1.3.0+b and runs 1.3.0+a, which is the same version: what follows a + is not "
        "compared."
    ),
    "lock-is-another-build": (
        "1.3.0+b, to which this node is locked, is not published for metal on x86_64, but 1.3.0+a is, "
        "another build of this version."
    ),
    "forced-is-another-build": (
        "The requested version 1.3.0+b is not published for metal on x86_64, but 1.3.0+a is, "
        "another build of this version."
    ),
    "forced-up": "1.2.0 is chosen: it is the requested version.",
    "forced-is-not-published": "The requested version 9.9.9 is not published for metal on x86_64.",
    "forced-failed-here": "1.3.0 failed on this node before and is on its deny-list: it panicked.",
    "held-forced-is-refused": "1.3.0 has been held by its publisher since 2026-11-21 20:30 UTC: it burns.",
    "floor-not-published": "1.3.0 requires 1.2.0 or later first; this node runs 1.1.0.",
    "other-arch": "Nothing is published for metal on x86_64; the nearest is metal on aarch64.",
    "empty-manifest": "Nothing is published for metal on x86_64.",
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_summary_says_why(name: str) -> None:
    row = ROWS[name]
    assert decide(Manifest(updates=row.updates), row.node, NOW).summary == SUMMARIES[name]


def test_a_waiting_node_is_shown_its_seed_its_wave_and_its_time() -> None:
    waves = Waves.of({0: NOW - DAY, 512: NOW, 1203: parse_time("2026-11-24T09:30:00Z")})
    decision = decide(Manifest(updates=(update("1.2.0", waves=waves),)), node(), NOW)
    assert decision.summary == (
        "1.2.0 opens for this node (seed 1203, wave 3 of 3) on 2026-11-24 09:30 UTC, in 1 day 13 h."
    )
    assert decision.verdicts[0].ready_at == parse_time("2026-11-24T09:30:00Z")


def test_the_summary_names_what_will_open_before_what_never_will() -> None:
    manifest = Manifest(updates=(update("1.2.0", waves=SOON), update("1.3.0", held=True)))
    assert decide(manifest, node(), NOW).summary.startswith("1.2.0 opens for this node")


def test_a_running_version_that_was_pulled_is_called_so() -> None:
    decision = decide(Manifest(updates=PULLED), node("1.2.0"), NOW)
    assert decision.verdicts[1].sentence == "1.2.0 is running on this node and has been withdrawn."


def test_an_update_without_waves_has_no_ready_time() -> None:
    decision = decide(Manifest(updates=ALL), node(), NOW)
    assert {verdict.ready_at for verdict in decision.verdicts} == {None}


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(SeedError):
        decide(Manifest(updates=ALL), node(seed=2048), NOW)


@pytest.mark.parametrize("seed", [0, 19, 20, 1203, 1842, 1843, 2047])
def test_a_wave_opens_on_its_second_and_not_before(seed: int) -> None:
    """D82: the boundary of a wave."""
    waves = WavePolicy.built_in("default").waves(NOW)
    manifest = Manifest(updates=(update("1.2.0", waves=waves),))
    opens = waves.ready_at(seed)
    assert opens is not None
    early = decide(manifest, node(seed=seed), opens - timedelta(microseconds=1))
    assert (early.update, early.verdicts[0].code) == (None, VerdictCode.WAITING)
    assert early.verdicts[0].sentence.endswith("in 1 s.")
    assert decide(manifest, node(seed=seed), opens).update is not None


def test_a_halted_wave_takes_nobody_further_and_those_on_it_stay() -> None:
    """D82: a hold in the middle of a roll-out."""
    waves = WavePolicy.built_in("default").waves(NOW)
    manifest = Manifest(updates=(update("1.1.0"), update("1.2.0", waves=waves)))
    held = manifest.with_hold("metal", "x86_64", version("1.2.0"), Hold(since=NOW + DAY))
    late = NOW + 30 * DAY
    assert decide(manifest, node(), late).update is not None
    assert decide(held, node(), late).update is None
    assert decide(held, node("1.2.0"), late).update is None


def test_a_wave_edited_while_running_counts_from_the_next_look() -> None:
    """D82: slower or faster waves, published again."""
    key = ("metal", "x86_64", version("1.2.0"))
    manifest = Manifest(updates=(update("1.2.0", waves=WavePolicy.built_in("slow-roll").waves(NOW)),))
    after = NOW + DAY
    faster = manifest.with_waves(*key, WavePolicy.built_in("accelerated").waves(NOW))
    assert decide(manifest, node(), after).update is None
    assert decide(faster, node(), after).update is not None


def test_the_bucket_of_a_host_is_stable_over_time_and_versions() -> None:
    """D81: the same machine has the same place in every roll-out."""
    seed = machine_seed("b08dfa6083e7567a1921a715000001fb")
    policy = WavePolicy.built_in("default")
    delays = {
        decide(Manifest(updates=(update(text, waves=policy.waves(start)),)), node(seed=seed), start)
        .verdicts[0]
        .sentence.partition("in ")[2]
        for text in ("1.2.0", "1.3.0")
        for start in (NOW, NOW + 400 * DAY)
    }
    assert len(delays) == 1


def test_a_version_ahead_of_all_others_is_taken_only_below_max_version() -> None:
    """D57: fast-forwarding the versions of a manifest gains nothing by itself."""
    forward = update("999.0.0", top="1.3.0")
    decision = decide(Manifest(updates=(*ALL, forward)), node(), NOW)
    assert decision.update == ALL[-1]
    assert decision.verdicts[0].code is VerdictCode.WITHDRAWN


def test_waves_moved_ahead_do_not_open_what_is_denied_or_floored() -> None:
    """D57: fast-forwarding the waves opens waves, and nothing else."""
    past = Waves.of({0: NOW - 900 * DAY})
    manifest = Manifest(updates=(update("1.2.0", waves=past), update("1.3.0", waves=past, floor="1.2.0")))
    assert decide(manifest, denying(node(), "1.2.0"), NOW).update is None


def test_a_floor_is_passed_through_step_by_step() -> None:
    """D87: no sequence of updates jumps over a floor."""
    manifest = Manifest(
        updates=(update("1.2.0"), update("1.2.5", floor="1.2.0"), update("1.3.0", floor="1.2.5"))
    )
    running, path = "1.0.0", []
    while (decision := decide(manifest, node(running), NOW)).update:
        running = str(decision.update.version)
        path.append(running)
    assert path == ["1.2.0", "1.2.5", "1.3.0"]


# Manifests as upstream writes them


def upstream_many(running: str, *, arch: str = "x86_64", variant: str = "bottlerocket-aws-eks") -> str | None:
    manifest = Manifest.from_json((FIXTURES / "upstream-many" / "manifest.json").read_bytes())
    who = Node(variant=variant, arch=arch, running=version(running), seed=1487)
    decision = decide(manifest, who, datetime(2020, 1, 1, tzinfo=UTC))
    return str(decision.update.version) if decision.update else None


@pytest.mark.parametrize(
    ("running", "taken"),
    [("0.1.3", "1.1.1"), ("1.0.0", "1.1.1"), ("1.1.1", None), ("1.2.0", "1.1.1"), ("1.1.1-rc.1", "1.1.1")],
)
def test_of_many_the_highest_of_this_variant_and_arch_up_to_max_version(
    running: str, taken: str | None
) -> None:
    assert upstream_many(running) == taken


def test_other_architectures_and_variants_have_their_own() -> None:
    assert upstream_many("1.0.0", arch="aarch64") == "1.1.2"
    assert upstream_many("1.0.0", variant="bottlerocket-dev") == "1.1.3"
    assert upstream_many("1.0.0", variant="bottlerocket-prod") is None


@pytest.mark.parametrize(
    ("now", "open_"),
    [("2024-10-30T16:04:27Z", False), ("2024-10-31T16:52:55Z", False), ("2024-10-31T17:00:00Z", True)],
)
def test_a_published_upstream_manifest_opens_its_last_wave_to_the_second(now: str, *, open_: bool) -> None:
    manifest = Manifest.from_json((FIXTURES / "upstream-published" / "manifest.json").read_bytes())
    who = Node(variant="aws-k8s-1.31", arch="x86_64", running=version("1.26.0"), seed=2047)
    assert bool(decide(manifest, who, parse_time(now)).update) is open_


def test_one_second_before_the_last_wave_nobody_in_it_is_served() -> None:
    manifest = Manifest.from_json((FIXTURES / "upstream-published" / "manifest.json").read_bytes())
    who = Node(variant="aws-k8s-1.31", arch="x86_64", running=version("1.26.0"), seed=1843)
    assert decide(manifest, who, parse_time("2024-10-31T17:00:00Z") - SECOND).update is None
