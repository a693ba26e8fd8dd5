"""`updog watch`: a real node, its agent, and somebody who looks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.nodes import NEWER, Node, make_node
from tests.support.patience import eventually, stretched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START = [sys.executable, "-m", "updog", "--config"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    node = make_node(tmp_path, health_checks=[])
    text = f'[auto]\nmode = "install"\n[api]\nsocket = "{tmp_path}/run/api.sock"\n'
    node.config.write_text(f"{node.config.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
    return node


@contextmanager
def agent_of(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    words = [*_START, str(node.config), "agent"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            assert eventually((node.folder.parent / "run/api.sock").exists)
            yield process
        finally:
            process.kill()


@contextmanager
def watching(node: Node, *options: str) -> Iterator[Path]:
    """Yield the file that gets what is shown; at the end the watcher is told to end, and does."""
    shown = node.folder.parent / "shown"
    with shown.open("wb") as file:
        words = [*_START, str(node.config), "watch", *options]
        with subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL) as process:
            try:
                assert eventually(lambda: shown.stat().st_size > 0 or process.poll() is not None)
                yield shown
                process.send_signal(signal.SIGINT)
                assert process.wait(stretched(20)) != 0
            finally:
                process.kill()


def events(shown: Path) -> list[dict[str, Any]]:
    whole = shown.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def test_an_automatic_install_is_shown_with_its_progress(node: Node) -> None:
    with agent_of(node), watching(node) as shown:
        assert "synthetic 1.0.0 in slot A" in shown.read_text(encoding="utf-8")
        node.updog("agent", "check")
        assert eventually(lambda: f"{NEWER} is staged" in shown.read_text(encoding="utf-8"))
        assert eventually(lambda: f"{NEWER} was installed in slot B" in shown.read_text(encoding="utf-8"))
    text = shown.read_text(encoding="utf-8")
    assert "write 3 items: 400.0 KiB" in text
    assert "Traceback" not in text


def test_a_terminal_shows_bars(node: Node) -> None:
    terminal = node.folder.parent / "terminal"
    with agent_of(node):
        watch = shlex.join([*_START, str(node.config), "watch"])
        words = ["script", "--quiet", "--flush", "--command", watch, str(terminal)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                assert eventually(lambda: terminal.exists() and b"slot A" in terminal.read_bytes())
                node.updog("agent", "check")
                assert eventually(lambda: "write root: 100 %" in terminal.read_text(encoding="utf-8"))
            finally:
                process.terminate()


def test_for_programs_each_line_is_an_event(node: Node) -> None:
    with agent_of(node), watching(node, "--json") as shown:
        node.updog("agent", "check")
        assert eventually(lambda: "installed" in {event["data"].get("code") for event in events(shown)})
        found = events(shown)
    assert found[0]["event"] == "state"
    assert {event["data"]["job"] for event in found if event["event"] == "progress"} == {None}


def test_it_goes_on_where_it_was_after_a_restart_of_the_agent(node: Node) -> None:
    with agent_of(node) as first, watching(node, "--json") as shown:
        assert eventually(lambda: len(events(shown)) > 0)
        first.kill()
        first.wait()
        with agent_of(node):
            assert eventually(lambda: [event["event"] for event in events(shown)].count("state") == 2)
            assert "gap" in {event["event"] for event in events(shown)}


def test_without_an_agent_it_says_so(node: Node) -> None:
    done = node.updog("watch")
    assert done.status == 1
    assert "nobody listens at" in done.err
    assert "systemctl start updog-agent" in done.err


def test_without_an_api_it_says_so(node: Node) -> None:
    text = node.config.read_text(encoding="utf-8")
    node.config.write_text(text.replace(f"{node.folder.parent}/run/api.sock", ""), encoding="utf-8")
    done = node.updog("watch")
    assert done.status == 2
    assert "api.socket in" in done.err
    assert not os.path.lexists(node.folder.parent / "run/api.sock")
