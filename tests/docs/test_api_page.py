"""docs/how-to/api.md: its commands are typed on a node with an agent, its words are the product's."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import updog
from tests.support.api_clients import agent_of, configure_api
from tests.support.nodes import make_node
from tests.support.pages import run_page
from updog.api_keys import API_KEYS, ApiTable
from updog.daemon.api.documents import EventName
from updog.daemon.api.problems import OWN_CODES
from updog.daemon.api.v1 import HEARTBEAT_SECONDS

PAGE = Path(__file__).parents[2] / "docs/how-to/api.md"
TEXT = PAGE.read_text(encoding="utf-8")
UNITS = Path(updog.__file__).parent / "systemd"


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="Debian packages curl and jq")
def test_the_page_shows_what_happens(tmp_path: Path) -> None:
    """The commands are as typed; a `curl` that comes first on PATH knows where the test has the socket."""
    node = make_node(tmp_path, health_checks=[])
    configure_api(node)
    with agent_of(node) as agent:
        curl = tmp_path / "bin/curl"
        curl.parent.mkdir()
        curl.write_text(
            f'#!/bin/bash\nexec {shutil.which("curl")} "${{@/#\\/run\\/updog\\/api.sock/{agent.socket}}}"\n',
            encoding="utf-8",
        )
        curl.chmod(0o755)
        assert len(run_page(PAGE, tmp_path, {"PATH": f"{curl.parent}:{os.environ['PATH']}"})) > 10


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_configuration_is_one() -> None:
    for block in _blocks("toml"):
        table = ApiTable(tomllib.loads(block)["api"], PAGE.parent, {})
        assert table.faults == []
        assert len(table.given) == 2


def test_the_default_rights_are_those_of_the_configuration() -> None:
    defaults = {key.name: key.default for key in API_KEYS}
    assert (defaults["api.read"], defaults["api.control"]) == (["any"], ["root", "group:updog"])


def test_what_it_names_is_there() -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"`([^`\n]+)`", prose))
    units = set(re.findall(r"updog-[a-z-]+\.(?:service|socket)", TEXT))
    assert {"updog-agent.socket", "updog-bottlerocket.socket"} <= units
    assert [unit for unit in units if not (UNITS / unit).is_file()] == []
    assert {event.value for event in EventName} <= words
    assert {"not-allowed", "too-many-clients"} <= words & set(OWN_CODES)
    assert f"After {HEARTBEAT_SECONDS:g} s of silence" in TEXT


def test_what_brupop_needs_is_what_its_chart_mounts_and_selects() -> None:
    """deploy/charts/bottlerocket-update-operator/templates/agent-daemonset.yaml of version 1.4.0."""
    assert "ListenStream=/run/api.sock" in (UNITS / "updog-bottlerocket.socket").read_text(encoding="ascii")
    for needed in ("/run/api.sock", "/bin/apiclient", "bottlerocket.aws/updater-interface-version=2.0.0"):
        assert needed in TEXT
