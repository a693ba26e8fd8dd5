"""A whole node in QEMU that updates itself by its agent: a window, a user, a lock server, a bad release."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests

from fixtures.node.build import DEFAULT_CACHE, build_node
from fixtures.node.drill_inputs import make_machine, new_release
from fixtures.os.command import missing_tools
from fixtures.os.errors import ArchiveError
from repo_tools.releases.publish import publish
from tests.drills.emulator import one_at_a_time
from tests.drills.guest import HOST, Guest
from tests.support.fleet_lock_servers import FleetLockServer
from updog.drill.console import NodeConsole, wait_until_judged
from updog.drill.proxy import Proxy
from updog.drill.qemu import Hardware, require
from updog.errors import DrillSkippedError
from updog.update_metadata.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.node.build import NodeBuild

pytestmark = pytest.mark.qemu

CONFIG = "/etc/updog.toml"
AGENT, BOTTLEROCKET = "updog-agent.service", "updog-bottlerocket.socket"
OPERATORS, API = 993, 992
"""The groups updog and api (GROUPS of fixtures/node/recipe.py)."""

FIRST, GOOD, UNHEALTHY, FIX = NAMES = ("agent-1", "agent-2", "agent-check-fails", "agent-3")
GROUP = "workers"
SETTINGS = """
metadata_base_url = "http://{host}:{repository}/metadata/"
targets_base_url = "http://{host}:{repository}/targets/"
ignore_waves = true
machine_id = "/var/lib/updog/machine-id"
cache_dir = "/var/cache/updog"
health_deadline = 10
stability_window = 1
seed = {opens.second}

[auto]
mode = "restart"
warn = "3s"

[auto.sessions]
grace = "5s"

[auto.fleet_lock]
base_url = "http://{host}:{lock}/"
group = "{group}"

[[auto.window]]
start_time = "{opens:%H:%M}"
length_minutes = 120

[auto.windows]
spread = "2048s"
"""
"""With this spread, a node of seed N starts N seconds later: it opens at a second, not at a minute."""


@pytest.fixture
def releases() -> NodeBuild:
    """Return releases of a node whose agent is enabled."""
    if lacking := missing_tools():
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    try:
        require(Hardware(stage=Path()))
        return build_node(DEFAULT_CACHE, logging.getLogger(__name__).info, names=NAMES)
    except (ArchiveError, DrillSkippedError) as error:
        pytest.skip(str(error))


def settings(repository: Proxy, server: FleetLockServer, *, opens: datetime) -> str:
    """Return the node's settings; its window opens every day at the second ``opens``, for an hour or two."""
    return SETTINGS.format(
        host=HOST,
        repository=repository.port,
        lock=urlsplit(server.base_url).port,
        group=GROUP,
        opens=opens,
    )


class Publisher:
    """Publishes releases in a copy of the repository that they trust."""

    def __init__(self, releases: NodeBuild, folder: Path) -> None:
        self._releases = releases
        self.repository = folder / "repo"
        shutil.copytree(releases.repository / "repo", self.repository)

    def publishes(self, name: str) -> str:
        """Publish a release; return its version."""
        release = self._releases.releases[name]
        publish(self.repository, new_release(release), now=datetime.now(UTC))
        return release.version


@contextmanager
def switched_on(folder: Path) -> Iterator[Guest]:
    """Start the machine in a folder, and wait until its first release is confirmed."""
    hardware = Hardware(stage=folder / "stage")
    console = NodeConsole(hardware, folder / "disk.img", folder / "console.log", stopped="")
    with one_at_a_time():
        try:
            console.switch_on()
            assert console.wait_until_up()
            assert wait_until_judged(console) is not None
            yield Guest(console)
        finally:
            console.close()


def asks_for_the_lock(server: FleetLockServer, node: str) -> bool:
    """Ask as another node of the group, and give a lock that was granted back."""
    status = _post(server, "pre-reboot", node)
    if status == 200:
        _post(server, "steady-state", node)
    return status == 200


def _post(server: FleetLockServer, path: str, node: str) -> int:
    answer = requests.post(
        f"{server.base_url}/v1/{path}",
        json={"client_params": {"id": node, "group": GROUP}},
        headers={"fleet-lock-protocol": "true"},
        timeout=60,
    )
    assert answer.status_code in {200, 423}, answer.text
    return answer.status_code


def waits_for(guest: Guest) -> list[str]:
    """Return the gates for which a staged release waits, after the last look; none while the agent works."""
    agent = guest.agent
    gates = agent["gates"] if agent.get("state") == "staged" else []
    return [gate["gate"] for gate in gates if not gate["open"]]


def moments(guest: Guest) -> dict[str, datetime]:
    """Return when things happened on the node, by their codes; of several the last."""
    events = json.loads(guest.types("updog history --json"))
    return {event["code"]: parse_time(event["time"]) for event in events}


def asks_in_containers(guest: Guest, version: str) -> None:
    """Let clients come through systemd's sockets while no agent runs; each has the rights of its groups."""
    guest.types(f"systemctl stop {AGENT}; systemctl enable --quiet --runtime --now {BOTTLEROCKET}")
    assert guest.types(f"systemctl is-active {AGENT} || true").strip() == "inactive"
    http, status = guest.asks("GET /v1/status")
    assert (http, status["running"]["version"], status["auto"]["mode"]) == (200, version, "off")
    assert guest.types(f"systemctl is-active {AGENT}").strip() == "active"
    http, refused = guest.asks("DELETE /v1/auto/hold")
    assert (http, refused["error"]["code"]) == (403, "not-allowed")
    assert guest.asks("DELETE /v1/auto/hold", groups=[OPERATORS])[0] == 200
    modes = guest.types("stat -c '%a %G' /run/updog/api.sock /run/api.sock")
    assert modes.splitlines() == ["666 root", "660 api"]
    http, system = guest.asks("GET /os", socket="/run/api.sock", groups=[API])
    assert (http, system["version_id"]) == (200, version)


def test_a_node_updates_itself_in_its_window_and_keeps_the_lock_until_what_it_fell_back_from_is_fixed(
    releases: NodeBuild, tmp_path: Path
) -> None:
    publisher = Publisher(releases, tmp_path)
    first = publisher.publishes(FIRST)
    make_machine(tmp_path, releases, first=first)
    uri = publisher.repository.as_uri()
    with (
        Proxy(f"{uri}/metadata/", f"{uri}/targets/") as repository,
        FleetLockServer(slots=1) as server,
        switched_on(tmp_path) as guest,
    ):
        holders = server.holders.setdefault(GROUP, set())

        # Automatic updates are off: a client starts the agent.
        asks_in_containers(guest, first)

        # It installs at once, and then waits: for its window, and for somebody who works at the console.
        guest.writes(CONFIG, settings(repository, server, opens=guest.clock + timedelta(hours=12)))
        good = publisher.publishes(GOOD)
        guest.logs_in("admin")
        guest.types(f"systemctl restart {AGENT}")
        guest.types("updog agent check")
        guest.eventually(lambda: waits_for(guest) == ["window", "sessions"], f"{good} is staged and waits")
        shown = guest.types("updog agent status")
        assert f"{good} is staged" in shown
        assert "waits for The window opens" in shown
        assert "then      1 user is logged in: admin (ttyS0)" in shown
        status = json.loads(guest.types("updog status --json"))
        assert (status["running"]["version"], status["next"]) == (first, "A"), "any restart starts the same"
        assert not server.log

        # The window opens by itself. The user is warned, and the lock is held until the release is confirmed.
        opens = guest.clock.replace(microsecond=0) + timedelta(seconds=10)
        guest.writes(CONFIG, settings(repository, server, opens=opens))
        guest.types(f"systemctl reload {AGENT}")
        status = guest.restarts()
        assert (status["running"]["version"], status["running"]["slot"]) == (good, "B")
        assert f"This machine must restart for the update to {good}." in guest.shown
        guest.eventually(lambda: not holders, "the lock is released after the confirm")
        when = moments(guest)
        assert opens <= when["lock-taken"] < opens + timedelta(hours=2)
        assert when["lock-taken"] <= when["applied"] < when["confirmed"] <= when["lock-released"]
        assert [asked.path for asked in server.log] == ["/v1/pre-reboot", "/v1/steady-state"]

        # A release that is not healthy here is left, and no other node of the group gets to try it.
        unhealthy = publisher.publishes(UNHEALTHY)
        guest.types("updog agent check")
        status = guest.restarts()
        assert (status["running"]["version"], status["last_rollback"]["version"]) == (good, unhealthy)
        guest.eventually(lambda: guest.agent["lock"]["state"] == "kept", "the lock is kept")
        assert guest.boots == 4, "first, good, unhealthy, good"
        assert len(holders) == 1
        assert not asks_for_the_lock(server, "another node")
        assert f"lock      kept in group {GROUP} because of {unhealthy}" in guest.types("updog agent status")

        # The fix ends that.
        fix = publisher.publishes(FIX)
        guest.types("updog agent check")
        guest.eventually(lambda: not holders, "the lock is released")
        assert asks_for_the_lock(server, "another node")
        guest.eventually(lambda: guest.agent["version"] == fix, "the fix is what comes next")
