"""Properties of every selection: it is applicable, and no higher version was available."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from updog.select import Node, VerdictCode, decide
from updog.update_metadata.manifest import Hold, Images, Manifest, Update
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

NOW = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
IMAGES = Images(boot="boot", root="root", hash="hash")

versions = st.builds(
    Version,
    major=st.just(1),
    minor=st.integers(0, 4),
    patch=st.just(0),
    prerelease=st.sampled_from([(), ("rc",)]),
)
starts = st.timedeltas(min_value=timedelta(days=-3), max_value=timedelta(days=3)).map(lambda gap: NOW + gap)
updates = st.builds(
    Update,
    variant=st.sampled_from(["metal", "cloud"]),
    arch=st.just("x86_64"),
    version=versions,
    max_version=versions,
    waves=st.dictionaries(st.integers(0, MAX_SEED), starts, max_size=3).map(Waves.of),
    images=st.just(IMAGES),
    floor=st.none() | versions,
    hold=st.none() | st.just(Hold(since=NOW)),
)
manifests = st.lists(updates, max_size=8, unique_by=lambda update: update.key).map(
    lambda some: Manifest(updates=tuple(some))
)
nodes = st.builds(
    Node,
    variant=st.just("metal"),
    arch=st.just("x86_64"),
    running=versions,
    seed=st.integers(0, MAX_SEED - 1),
    version_lock=st.none() | versions,
    ignore_waves=st.booleans(),
    forced=st.none() | versions,
    denied=st.dictionaries(versions, st.just("it panicked."), max_size=2),
)


def applicable(update: Update, node: Node) -> bool:
    """Return whether an update is applicable, by the rules, without any code of the product."""
    ready_at = update.waves.ready_at(node.seed)
    return (
        (update.variant, update.arch) == (node.variant, node.arch)
        and update.version <= update.max_version
        and update.version not in node.denied
        and update.hold is None
        and (update.floor is None or not node.running < update.floor)
        and (
            node.ignore_waves
            or ready_at is None
            or ready_at <= NOW
            or update.max_version < node.running  # what runs is withdrawn: an emergency does not wait
        )
    )


def wanted(update: Update, node: Node) -> bool:
    if node.forced is not None:
        return update.version == node.forced
    if node.version_lock is not None:
        return update.version == node.version_lock != node.running
    return update.version > node.running or update.max_version < node.running


@given(manifests, nodes)
def test_the_choice_is_the_highest_applicable_version_that_is_wanted(manifest: Manifest, node: Node) -> None:
    candidates = [entry for entry in manifest.updates if applicable(entry, node) and wanted(entry, node)]
    best = max(candidates, key=lambda entry: entry.version, default=None)
    assert decide(manifest, node, NOW).update == best


@given(manifests, nodes)
def test_every_update_of_the_node_is_judged_and_every_judgement_is_a_sentence(
    manifest: Manifest, node: Node
) -> None:
    decision = decide(manifest, node, NOW)
    judged = [verdict.update.version for verdict in decision.verdicts]
    assert judged == sorted(judged, reverse=True)
    assert len(judged) == sum(entry.variant == node.variant for entry in manifest.updates)
    assert decision.summary.endswith(".")
    for verdict in decision.verdicts:
        assert verdict.sentence.endswith(".")
        assert verdict.ready_at == verdict.update.waves.ready_at(node.seed)
        waits = verdict.code is VerdictCode.WAITING
        assert not waits or (verdict.ready_at is not None and verdict.ready_at > NOW)


@given(manifests, nodes)
def test_updates_of_other_variants_change_nothing(manifest: Manifest, node: Node) -> None:
    own = Manifest(updates=manifest.updates_of(node.variant, node.arch))
    assert decide(own, node, NOW).update == decide(manifest, node, NOW).update
