"""The socket units and a real systemd: it opens the sockets, passes them to the one agent, and starts it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import updog
from tests.support.api_clients import Connection
from tests.support.nodes import make_node
from tests.support.patience import eventually
from tests.support.service_managers import can_manage_services, service_manager

if TYPE_CHECKING:
    from tests.support.api_clients import Reply
    from tests.support.nodes import Node

UNITS = Path(updog.__file__).parent / "systemd"
AGENT, API, BOTTLEROCKET = "updog-agent.service", "updog-agent.socket", "updog-bottlerocket.socket"

pytestmark = pytest.mark.skipif(not can_manage_services(), reason="needs systemd, and root")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path)


@pytest.fixture
def units(tmp_path: Path, node: Node) -> Path:
    """The units as they ship, with other paths, and without what only a manager of the system can do."""
    folder = tmp_path / "units"
    folder.mkdir()
    for name in (AGENT, API, BOTTLEROCKET):
        shutil.copyfile(UNITS / name, folder / name)
    program = f"{sys.executable} -m updog --config {node.config} agent"
    runtime = "RuntimeDirectory=updog\nRuntimeDirectoryPreserve=yes"
    _drop_in(folder, AGENT, f"[Service]\nExecStart=\nExecStart={program}\n{runtime}\n")
    _drop_in(folder, API, f"[Socket]\nListenStream=\nListenStream={tmp_path}/api.sock\n")
    _drop_in(folder, BOTTLEROCKET, f"[Socket]\nListenStream=\nListenStream={tmp_path}/b.sock\nSocketGroup=\n")
    return folder


def _drop_in(folder: Path, unit: str, text: str) -> None:
    path = folder / f"{unit}.d/test.conf"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")


def get(socket: Path, path: str) -> Reply:
    with Connection(socket) as connection:
        return connection.ask("GET", path)


def test_a_client_at_either_socket_starts_the_agent_also_where_automatic_updates_are_off(
    tmp_path: Path, units: Path
) -> None:
    own, bottlerocket = tmp_path / "api.sock", tmp_path / "b.sock"
    with service_manager(units) as systemctl:
        systemctl("start", API, BOTTLEROCKET)
        assert systemctl("is-active", AGENT, check=False) == "inactive"
        assert (own.stat().st_mode & 0o777, bottlerocket.stat().st_mode & 0o777) == (0o666, 0o660)
        assert get(bottlerocket, "/os").status == 200
        assert systemctl("is-active", AGENT) == "active"
        assert get(own, "/v1").status == 200
        assert get(bottlerocket, "/v1").status == 404
        before = own.stat().st_ino, bottlerocket.stat().st_ino
        systemctl("stop", AGENT)
        assert get(own, "/os").status == 200
        assert (own.stat().st_ino, bottlerocket.stat().st_ino) == before


def test_a_new_configuration_keeps_the_sockets(tmp_path: Path, units: Path, node: Node) -> None:
    with service_manager(units) as systemctl:
        systemctl("start", API)
        assert get(tmp_path / "api.sock", "/v1/config").document["path"] == str(node.config)
        process = systemctl("show", "--property=MainPID", "--value", AGENT)
        with node.config.open("a", encoding="utf-8") as file:
            file.write("\n[auto]\nmin_age = '3d'\n")
        systemctl("reload", AGENT)

        def has_changed() -> bool:
            settings = get(tmp_path / "api.sock", "/v1/config").document["settings"]
            return any(each["name"] == "auto.min_age" and each["is_from_file"] for each in settings)

        assert eventually(has_changed)
        assert systemctl("show", "--property=MainPID", "--value", AGENT) == process


def test_who_enables_the_service_enables_its_socket_and_not_bottlerockets(units: Path) -> None:
    with service_manager(units) as systemctl:
        systemctl("enable", AGENT)
        assert systemctl("is-enabled", API) == "enabled"
        assert systemctl("is-enabled", BOTTLEROCKET, check=False) == "disabled"
