"""Metrics: what node_exporter's collector reads, checked by the rules of the text format."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.nodes import Node, make_node, now
from updog import metrics
from updog.auto.gates import Gate, Wishes
from updog.auto.policy import GateName, Mode, Policy
from updog.auto.table import AutoState, Lock, Phase
from updog.daemon import view
from updog.daemon.memory import Counts, Memory
from updog.daemon.wishes import Requests
from updog.render import status_document
from updog.state import Code, Event
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from updog.views import Status

_LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (-?[0-9][0-9.e+]*)')


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return make_node(tmp_path_factory.mktemp("node"))


@pytest.fixture
def status(node: Node) -> Status:
    return node.agent().status()


def _samples(text: str) -> dict[str, float]:
    """Return the samples by name and labels; anything that is not in the format fails here."""
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _LINE.fullmatch(line)
            assert match, line
            samples[line.rpartition(" ")[0]] = float(match[3])
    return samples


def test_every_metric_has_its_meaning_and_type_once_and_before_its_samples(status: Status) -> None:
    document, agent = status_document(status), agent_document()
    lines = metrics.text(document, agent, NOON).splitlines()
    heads = [line for line in lines if line.startswith("#")]
    found = [metric for metric in metrics.NODE_METRICS if metric.samples(document)]
    found += [metric for metric in metrics.AGENT_METRICS if metric.samples(agent | AT_NOON)]
    assert heads[::2] == [f"# HELP {metric.name} {metric.meaning}" for metric in found]
    assert heads[1::2] == [f"# TYPE {metric.name} {metric.kind}" for metric in found]
    assert metrics.text(document, agent, NOON).endswith("\n")


def test_the_two_files_have_no_metric_in_common_and_are_the_whole(status: Status) -> None:
    """node_exporter refuses a metric that two files have."""
    document, agent = status_document(status), agent_document()
    assert not {m.name for m in metrics.NODE_METRICS} & {m.name for m in metrics.AGENT_METRICS}
    assert metrics.text(document, agent, NOON) == metrics.node_text(document) + metrics.agent_text(
        agent, NOON
    )
    assert metrics.text(document, None, NOON) == metrics.node_text(document)


def test_only_what_grows_is_a_counter_and_called_so() -> None:
    for metric in (*metrics.NODE_METRICS, *metrics.AGENT_METRICS):
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name


def test_a_quiet_node_tells_what_runs_and_what_boots_next(status: Status) -> None:
    samples = _samples(metrics.node_text(status_document(status)))
    assert samples['updog_info{variant="synthetic",version="1.0.0",slot="A"}'] == 1
    assert samples["updog_confirmed"] == 1
    assert samples['updog_standing{standing="none"}'] == 1
    assert samples['updog_slot_priority{slot="A"}'] == 2
    assert samples['updog_slot_successful{slot="B"}'] == 0
    assert (samples['updog_slot_boots_next{slot="A"}'], samples['updog_slot_boots_next{slot="B"}']) == (1, 0)
    assert (samples["updog_table_faults"], samples["updog_denied_versions"]) == (0, 0)
    assert not any(name.startswith("updog_last_rollback") for name in samples)


def test_a_rollback_is_reported_with_its_code_its_cause_and_its_time(status: Status) -> None:
    moment = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    version = Version.parse("1.1.0")
    event = Event(time=moment, code=Code.BOOT_FAILED, version=version, sentence="Down.", cause="kernel-panic")
    samples = _samples(
        metrics.node_text(status_document(replace(status, state=status.state.with_left(event))))
    )
    labels = '{code="boot-failed",cause="kernel-panic",version="1.1.0"}'
    assert samples[f"updog_last_rollback_seconds{labels}"] == moment.timestamp()
    assert samples[f"updog_last_event_seconds{labels}"] == moment.timestamp()
    assert samples["updog_denied_versions"] == 1


@pytest.mark.parametrize("cause", ['10-"web"', "back\\slash", "two\nlines", "ünï", "{}"])
def test_a_cause_that_is_a_file_s_name_cannot_break_the_format(status: Status, cause: str) -> None:
    event = Event(time=now(), code=Code.HEALTH_FAILED, version=None, sentence="Down.", cause=cause)
    text = metrics.node_text(status_document(replace(status, state=status.state.with_event(event))))
    (line,) = [line for line in _samples(text) if line.startswith("updog_last_event")]
    escaped = re.search(r'cause="((?:[^"\\]|\\.)*)"', line)
    assert escaped
    assert escaped[1].replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\") == cause.replace(
        "\n", " "
    )


def test_only_the_labels_of_the_table_are_used(status: Status) -> None:
    event = Event(time=now(), code=Code.BOOT_FAILED, version=None, sentence="Down.")
    document = status_document(replace(status, state=status.state.with_left(event)))
    tables = ((metrics.NODE_METRICS, document), (metrics.AGENT_METRICS, agent_document() | AT_NOON))
    for metric, sample in [(m, s) for table, facts in tables for m in table for s in m.samples(facts)]:
        assert tuple(sample.labels) == metric.labels


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
AT_NOON = {"now": "2026-11-28T12:00:00Z"}


def agent_document(**changes: Any) -> dict[str, Any]:
    """Return the document of an agent for which 1.1.0 is staged since a day and waits for its window."""
    state = AutoState(
        phase=Phase.STAGED,
        since=NOON - timedelta(hours=20),
        version=Version.parse("1.1.0"),
        first_ready=NOON - timedelta(days=1),
        lock=Lock.NO,
    )
    gates = [
        Gate(name=GateName.HOLD),
        Gate(name=GateName.WINDOW, code="outside-window", until=NOON + timedelta(hours=11)),
    ]
    counts = Counts(checks={"update": 3, "expired": 2}, restarts=4, postponed=5)
    memory = Memory(state=replace(state, **changes), counts=counts)
    requests = Requests(wishes=Wishes())
    return view.document(Policy(mode=Mode.RESTART), memory, gates, requests)


def test_an_agent_that_waits_tells_for_what_since_when_and_until_when() -> None:
    samples = _samples(metrics.agent_text(agent_document(), NOON))
    assert samples['updog_auto_mode{mode="restart"}'] == 1
    assert samples['updog_auto_state{state="staged"}'] == 1
    assert samples['updog_auto_gate_closed{gate="hold"}'] == 0
    assert samples['updog_auto_gate_closed{gate="window"}'] == 1
    assert samples["updog_auto_waiting_seconds"] == 24 * 3600
    assert samples['updog_auto_next_action_seconds{action="restart"}'] == NOON.timestamp() + 11 * 3600
    assert samples['updog_auto_attempts{version="1.1.0"}'] == 0
    assert samples['updog_auto_lock{state="no"}'] == 1


def test_counters_begin_at_0_where_nothing_was_counted() -> None:
    samples = _samples(metrics.agent_text(agent_document(), NOON))
    results = {name: value for name, value in samples.items() if name.startswith("updog_auto_checks_total")}
    assert results == {
        'updog_auto_checks_total{result="update"}': 3,
        'updog_auto_checks_total{result="no-update"}': 0,
        'updog_auto_checks_total{result="unreachable"}': 0,
        'updog_auto_checks_total{result="expired"}': 2,
    }
    assert samples["updog_auto_restarts_total"] == 4
    assert samples["updog_auto_postponed_total"] == 5


@pytest.mark.parametrize(
    ("phase", "back", "seconds"),
    [
        (Phase.READY, Phase.IDLE, 86_400),
        (Phase.CHECKING, Phase.STAGED, 86_400),
        (Phase.LEAVING, Phase.IDLE, 86_400),
        (Phase.CHECKING, Phase.IDLE, 0),
        (Phase.IDLE, Phase.IDLE, 0),
        (Phase.TRIAL, Phase.IDLE, 0),
    ],
)
def test_a_release_waits_from_when_it_is_ready_until_it_runs(phase: Phase, back: Phase, seconds: int) -> None:
    samples = _samples(metrics.agent_text(agent_document(phase=phase, back=back), NOON))
    assert samples["updog_auto_waiting_seconds"] == seconds


def test_an_agent_that_has_just_started_has_its_metrics() -> None:
    requests = Requests(wishes=Wishes())
    document = view.document(Policy(), Memory.new(NOON), [], requests)
    samples = _samples(metrics.agent_text(document, NOON))
    assert samples['updog_auto_state{state="start"}'] == 1
    assert samples["updog_auto_waiting_seconds"] == 0
    assert not any("next_action" in name for name in samples)
