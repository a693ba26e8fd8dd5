"""Metrics: what node_exporter's collector reads, checked by the rules of the text format."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import Node, make_node, now
from updog import metrics
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
    lines = metrics.text(status).splitlines()
    heads = [line for line in lines if line.startswith("#")]
    names = [metric.name for metric in metrics.METRICS if list(metric.samples(status))]
    assert heads[::2] == [f"# HELP {m.name} {m.meaning}" for m in metrics.METRICS if m.name in names]
    assert heads[1::2] == [f"# TYPE {name} gauge" for name in names]
    assert metrics.text(status).endswith("\n")


def test_a_quiet_node_tells_what_runs_and_what_boots_next(status: Status) -> None:
    samples = _samples(metrics.text(status))
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
    samples = _samples(metrics.text(replace(status, state=status.state.with_left(event))))
    labels = '{code="boot-failed",cause="kernel-panic",version="1.1.0"}'
    assert samples[f"updog_last_rollback_seconds{labels}"] == moment.timestamp()
    assert samples[f"updog_last_event_seconds{labels}"] == moment.timestamp()
    assert samples["updog_denied_versions"] == 1


@pytest.mark.parametrize("cause", ['10-"web"', "back\\slash", "two\nlines", "ünï", "{}"])
def test_a_cause_that_is_a_file_s_name_cannot_break_the_format(status: Status, cause: str) -> None:
    event = Event(time=now(), code=Code.HEALTH_FAILED, version=None, sentence="Down.", cause=cause)
    text = metrics.text(replace(status, state=status.state.with_event(event)))
    (line,) = [line for line in _samples(text) if line.startswith("updog_last_event")]
    escaped = re.search(r'cause="((?:[^"\\]|\\.)*)"', line)
    assert escaped
    assert escaped[1].replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\") == cause.replace(
        "\n", " "
    )


def test_only_the_labels_of_the_table_are_used(status: Status) -> None:
    event = Event(time=now(), code=Code.BOOT_FAILED, version=None, sentence="Down.")
    for metric in metrics.METRICS:
        for sample in metric.samples(replace(status, state=status.state.with_left(event))):
            assert tuple(sample.labels) == metric.labels
