"""report and guard read what a real node leaves in a web server's log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from repo_tools.fleet.bounds import FailureCount
from repo_tools.fleet.evidence import Evidence, EvidenceOptions, gather
from repo_tools.fleet.logs import Logs
from repo_tools.repository.published import manifest_of
from tests.support.access_logs import combined
from tests.support.http_server import HttpServer, answer
from tests.support.nodes import NEWER, RUNNING, Node, make_node
from tests.support.repositories import ARCH, VARIANT
from updog.drill import Stage
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.behave("outcome", answer(204))
        yield server


def served_node(tmp_path: Path, server: HttpServer) -> Node:
    node = make_node(
        tmp_path,
        metadata_base_url=server.url("metadata/"),
        targets_base_url=server.url("targets/"),
        report_url=server.url("outcome?fleet=7"),
        send_query=True,
        seed=1203,
    )
    for kind in ("metadata", "targets"):
        for path in (node.repository.folder / kind).iterdir():
            server.files[f"{kind}/{path.name}"] = path.read_bytes()
    return node


def read(server: HttpServer, node: Node, folder: Path) -> Evidence:
    """Return the evidence on the new version in a server's log, with its requests one minute apart."""
    path, start = folder / "access.log", datetime(2026, 11, 2, 6, tzinfo=UTC)
    path.write_text(
        "".join(
            combined(
                start + timedelta(minutes=number), "10.0.0.1", f"/{request.path}?{urlencode(request.query)}"
            )
            for number, request in enumerate(server.log)
        )
    )
    update = manifest_of(node.repository.folder).find(VARIANT, ARCH, Version.parse(NEWER))
    assert update
    with Logs([path]) as logs:
        return gather(logs, update, EvidenceOptions(patience=timedelta(0)))


def test_a_node_that_updates_is_seen_doing_so(tmp_path: Path, server: HttpServer) -> None:
    node = served_node(tmp_path, server)
    node.updog("check-update")
    before = read(server, node, tmp_path)
    assert (before.nodes, before.took, before.versions) == (1, 0, {RUNNING: 1})
    node.updog("update")
    taken = read(server, node, tmp_path)
    assert (taken.nodes, taken.took, taken.runs) == (1, 1, 0)
    node.boot()
    node.updog("confirm")
    node.updog("check-update")
    after = read(server, node, tmp_path)
    assert (after.nodes, after.runs, after.versions, after.stuck_count) == (1, 1, {NEWER: 1}, 0)
    assert after.tally.overall == FailureCount(failed=0, total=1)
    assert after.lines.not_understood == 0


def test_a_node_that_falls_back_is_seen_doing_so(tmp_path: Path, server: HttpServer) -> None:
    node = served_node(tmp_path, server)
    node.updog("update")
    node.boot(Stage.VERITY)
    node.boot()
    node.updog("confirm")
    evidence = read(server, node, tmp_path)
    assert evidence.tally.overall == FailureCount(failed=1, total=1)
    assert [(failure.code, failure.cause) for failure in evidence.failures] == [
        ("boot-failed", "verity-failed")
    ]
    assert [(stuck.runs, stuck.code) for stuck in evidence.stuck] == [(RUNNING, "boot-failed")]
