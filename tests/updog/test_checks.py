"""How checks end is kept, and several that fail in a row are told once: status, login, history, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus
from tests.support.nodes import NEWER, RUNNING, Node, make_node
from updog.drill import Stage

if TYPE_CHECKING:
    from pathlib import Path

DONE, NOTHING, UNREACHABLE = ExitStatus.DONE, ExitStatus.NOTHING_TO_DO, ExitStatus.UNREACHABLE


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path, motd_file="motd", metrics_file="updog.prom", health_checks=[])


def lose(node: Node) -> None:
    """Let the repository be unreachable, until :func:`find`."""
    folder = node.repository.folder
    folder.rename(folder.with_name("elsewhere"))


def find(node: Node) -> None:
    folder = node.repository.folder
    folder.with_name("elsewhere").rename(folder)


def check(node: Node, times: int = 1) -> None:
    for _ in range(times):
        node.updog("check-update")


def motd(node: Node) -> str:
    return (node.folder / "motd").read_text(encoding="utf-8")


def metrics(node: Node) -> list[str]:
    return (node.folder / "updog.prom").read_text(encoding="utf-8").splitlines()


def test_three_failed_checks_in_a_row_are_told_once_and_so_is_their_end(node: Node) -> None:
    lose(node)
    check(node, 2)
    assert "checks-failed" not in node.codes()
    assert "checks" not in motd(node)
    check(node)
    sentence = "The last 3 checks of the repository failed, since "
    assert sentence in motd(node)
    assert sentence in node.updog("motd").out
    assert f"check     {sentence}" in node.updog("status").out
    check(node, 2)
    assert node.codes().count("checks-failed") == 1
    assert "The last 5 checks" in motd(node)
    find(node)
    check(node)
    assert node.codes()[-1] == "checks-recovered"
    assert "5 checks had failed since" in node.updog("history").out
    assert "checks" not in motd(node)
    assert "check     " not in node.updog("status").out
    check(node)
    assert node.codes().count("checks-recovered") == 1


def test_less_than_three_are_no_news(node: Node) -> None:
    for _ in range(3):
        lose(node)
        check(node, 2)
        find(node)
        check(node)
    assert not {"checks-failed", "checks-recovered"} & set(node.codes())


def test_the_last_check_is_in_the_status_and_in_the_metrics(node: Node) -> None:
    assert node.updog("status", "--json").document["check"] is None
    assert not any("updog_update_available" in line for line in _after_a_command(node))
    check(node)
    document = node.updog("status", "--json").document
    assert (document["check"]["result"], document["available"]) == ("update", NEWER)
    assert 'updog_last_check_result{result="update"} 1' in metrics(node)
    assert f'updog_update_available{{version="{NEWER}"}} 1' in metrics(node)
    lose(node)
    check(node)
    failed = node.updog("status", "--json").document
    assert failed["check"]["result"] == "unreachable"
    assert (failed["check"]["failed"], failed["check"]["failing_since"]) == (1, failed["check"]["time"])
    assert (failed["checked_at"], failed["available"]) == (document["checked_at"], NEWER)
    assert 'updog_last_check_result{result="unreachable"} 1' in metrics(node)
    assert "updog_failed_checks 1" in metrics(node)
    assert f'updog_update_available{{version="{NEWER}"}} 1' in metrics(node)


def _after_a_command(node: Node) -> list[str]:
    node.updog("boot-record")
    return metrics(node)


def test_what_is_not_to_be_trusted_is_a_failed_check_too(node: Node) -> None:
    (timestamp,) = node.repository.folder.glob("metadata/timestamp.json")
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version"', b'"versiom"'))
    assert node.updog("check-update").status == ExitStatus.REFUSED
    check(node, 2)
    assert node.codes()[-1] == "checks-failed"


def test_an_update_that_runs_or_fell_back_is_no_longer_available(node: Node) -> None:
    assert node.updog("update").status == DONE
    assert node.updog("status", "--json").document["available"] == NEWER
    node.start()
    assert node.updog("confirm").status == DONE
    assert node.updog("status", "--json").document["available"] is None
    assert 'updog_update_available{version=""} 0' in metrics(node)


def test_an_update_that_fell_back_is_not_available(node: Node) -> None:
    node.updog("update")
    node.start(Stage.INIT)
    assert str(node.start().version) == RUNNING
    assert node.updog("confirm").status == DONE
    assert node.updog("status", "--json").document["available"] is None


def test_a_version_that_is_asked_for_does_not_change_what_is_available(node: Node) -> None:
    check(node)
    assert node.updog("check-update", "--image", "9.9.9").status == NOTHING
    assert node.updog("status", "--json").document["available"] == NEWER


def test_an_update_counts_as_a_check(node: Node) -> None:
    lose(node)
    for _ in range(3):
        assert node.updog("update").status == UNREACHABLE
    assert node.codes()[-1] == "checks-failed"
