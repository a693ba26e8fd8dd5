"""The plan is what happens: bytes counted at the server, limits, resumption, all sources."""

from __future__ import annotations

import json
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from repo_tools.images.delta import PART_BYTES
from repo_tools.images.packing import Packing
from signpost.sets import Slot
from tests.support.http_server import HttpServer, plain
from tests.support.nodes import NEWER, NEWEST, make_large_node, make_node
from tests.support.sockets import bytes_in_sockets
from updog.image.pipeline import IN_FLIGHT_BYTES, JOB_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.nodes import Node

DONE, REFUSED = 0, 4
# Blocks in transit through updog and the server, heads of frames, gaps that were fetched too.
_SLACK_BYTES = 1 << 20


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path)


@pytest.fixture
def server(node: Node) -> Iterator[HttpServer]:
    with HttpServer(_files(node)) as server:
        _point(node, server)
        yield server


def _files(node: Node) -> dict[str, bytes]:
    folder = node.repository.folder
    places = [*(folder / "metadata").iterdir(), *(folder / "targets").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in places}


def _point(node: Node, server: HttpServer) -> None:
    node.configure(metadata_base_url=server.url("metadata/"), targets_base_url=server.url("targets/"))


def _sent(server: HttpServer) -> int:
    """Return the bytes of targets, without the manifest, that the server has sent."""
    return sum(
        request.sent
        for request in server.log
        if request.path.startswith("targets/") and not request.path.endswith("manifest.json")
    )


@pytest.mark.parametrize("spool", [True, False], ids=["kept first", "streamed"])
def test_what_crosses_the_wire_is_what_the_plan_said_to_the_byte(
    node: Node,
    server: HttpServer,
    spool: bool,  # noqa: FBT001 - parametrized
) -> None:
    node.configure(spool=spool)
    planned = node.updog("plan", "--json").document
    index = sum(image["wire"]["index"] for image in planned["images"])
    assert _sent(server) == index
    fetched = sum(image["wire"]["delta"] + image["wire"]["pack"] for image in planned["images"])
    assert planned["total"] == index + fetched
    assert node.updog("update").status == DONE
    assert _sent(server) == index + fetched
    assert node.holds(Slot.B, NEWER)


def test_an_update_from_nothing_known_fetches_what_its_own_plan_says(node: Node, server: HttpServer) -> None:
    said = node.updog("update", "--json")
    assert said.status == DONE
    (sentence,) = [event["sentence"] for event in said.events if "downloaded" in event.get("sentence", "")]
    assert "are on this node already" in sentence
    assert _sent(server) < sum(len(data) for path, data in server.files.items() if f"-{NEWER}-" in path)


def test_a_plan_says_sources_partitions_and_flags_and_writes_nothing(node: Node) -> None:
    before = node.disk_digest()
    said = node.updog("plan")
    assert said.status == DONE
    assert f"1.0.0 -> {NEWER} in slot B" in said.out
    assert "slot B: priority 0, tries 0, not successful -> priority 2, tries" in said.out
    document = node.updog("plan", "--json").document
    assert [image["image"] for image in document["images"]] == ["root", "hash", "boot"]
    for image in document["images"]:
        assert sum(image["raw"].values()) == image["size"] <= image["partition"]["size"]
    assert node.disk_digest() == before


def test_what_a_person_accepted_is_what_is_installed_or_nothing_is(node: Node) -> None:
    accepted = node.updog("plan", "--json").document["id"]
    assert f"id {accepted}" in node.updog("plan").out
    node.repository.publish(NEWEST)
    before = node.disk_digest()
    for command in ("update", "update-image", "prepare"):
        refused = node.updog(command, "--accept-plan", accepted, "--json")
        assert refused.status == REFUSED
        assert refused.document["error"]["code"] == "plan-changed"
    assert node.disk_digest() == before
    assert node.updog("update", "--image", NEWER, "--accept-plan", accepted).status == DONE


def test_a_plan_keeps_its_id_whatever_is_on_the_node_already(node: Node) -> None:
    first = node.updog("plan", "--json").document
    assert node.updog("prepare").status == DONE
    second = node.updog("plan", "--json").document
    assert second["total"] < first["total"]
    assert second["id"] == first["id"]


def test_a_limit_refuses_before_the_first_write(node: Node, server: HttpServer) -> None:
    total = node.updog("plan", "--json").document["total"]
    node.repository.publish(NEWEST)
    server.files.update(_files(node))
    before = node.disk_digest()
    refused = node.updog("update", "--max-bytes", "1K")
    assert refused.status == REFUSED
    assert "--max-bytes" in refused.err
    assert node.disk_digest() == before
    assert node.updog("update", "--image", NEWER, "--max-bytes", str(total)).status == DONE


def test_a_running_slot_that_was_changed_costs_bytes_that_are_told_and_no_update(
    node: Node, server: HttpServer
) -> None:
    for at in range(0, 200_000, 4096):
        node.damage(Slot.A, "root", at)
    said = node.updog("update")
    assert said.status == DONE
    assert "The running slot does not have" in said.err
    assert node.holds(Slot.B, NEWER)
    assert _sent(server)


def test_a_running_slot_that_was_changed_does_not_lift_the_limit(node: Node, server: HttpServer) -> None:
    total = node.updog("plan", "--json").document["total"]
    for at in range(0, 200_000, 4096):
        node.damage(Slot.A, "root", at)
    assert node.updog("update", "--max-bytes", str(total)).status == REFUSED
    assert not node.flags(Slot.B).tries
    assert _sent(server)


def test_the_limit_counts_what_was_fetched_before_the_running_slot_turned_out_to_be_changed(
    node: Node, server: HttpServer, tmp_path: Path
) -> None:
    for at in range(0, 200_000, 4096):
        node.damage(Slot.A, "root", at)
    twin = node.copy(tmp_path / "twin")
    assert node.updog("update").status == DONE
    needed = _sent(server)
    server.log.clear()
    refused = twin.copy(tmp_path / "refused")
    assert refused.updog("update", "--max-bytes", str(needed - 1)).status == REFUSED
    assert _sent(server) < needed
    assert not refused.flags(Slot.B).tries
    assert twin.updog("update", "--max-bytes", str(needed)).status == DONE
    assert twin.holds(Slot.B, NEWER)


def test_a_stream_that_an_earlier_run_left_in_the_spool_is_planned_as_it_is_fetched(tmp_path: Path) -> None:
    """Half of it is only useful where the rest may be kept as well."""
    node = make_node(tmp_path, published=[])
    node.publish(NEWER, packing=Packing(compression="lz4", level=1))
    with HttpServer(_files(node)) as server:
        _point(node, server)
        assert node.updog("prepare").status == DONE
        for path in (node.folder / "state" / "spool").iterdir():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        server.log.clear()
        assert (half := node.updog("plan", "--json").document["total"])
        before = node.disk_digest()
        node.configure(spool=False)
        assert node.updog("update", "--max-bytes", str(half)).status == REFUSED
        assert (node.disk_digest(), _sent(server)) == (before, 0)
        node.configure(spool=True)
        assert node.updog("update", "--max-bytes", str(half)).status == DONE
        assert _sent(server) == half
    assert node.holds(Slot.B, NEWER)


def test_where_nothing_may_be_stored_first_nothing_is_prepared(node: Node, server: HttpServer) -> None:
    node.configure(spool=False)
    before = node.disk_digest()
    refused = node.updog("prepare")
    assert refused.status == REFUSED
    assert "`spool = false`" in refused.err
    assert "streams into the slot" in refused.err
    assert (node.disk_digest(), _sent(server)) == (before, 0)


def test_without_a_delta_blocks_of_the_running_slot_are_used(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[])
    node.repository.publish(NEWER, deltas=0)
    with HttpServer(_files(node)) as server:
        _point(node, server)
        planned = node.updog("plan", "--json").document
        assert sum(image["raw"]["active"] for image in planned["images"])
        assert node.updog("update").status == DONE
        assert _sent(server) == planned["total"]
    assert node.holds(Slot.B, NEWER)


def test_a_server_that_ignores_ranges_serves_an_update_all_the_same(node: Node, server: HttpServer) -> None:
    for path in server.files:
        if path.startswith("targets/"):
            server.behave(path, plain(ranges=False))
    node.configure(spool=False)
    assert node.updog("update").status == DONE
    assert node.holds(Slot.B, NEWER)


def test_a_second_run_of_plan_fetches_nothing(node: Node, server: HttpServer) -> None:
    first = node.updog("plan", "--json").document
    sent = _sent(server)
    second = node.updog("plan", "--json").document
    assert _sent(server) == sent
    assert second["total"] == first["total"] - sent


def test_what_the_slot_has_is_not_fetched_again_by_another_version(node: Node, server: HttpServer) -> None:
    """If a newer release appears meanwhile, what it shares with the started one is kept."""
    assert node.updog("update-image").status == DONE
    node.repository.publish(NEWEST)
    server.files.update(_files(node))
    planned = node.updog("plan", "--json").document
    assert planned["path"] == ["1.0.0", NEWEST]
    assert sum(image["raw"]["in-place"] for image in planned["images"])
    assert node.updog("update").status == DONE
    assert node.holds(Slot.B, NEWEST)


# What a run has in memory when it is killed: what its workers have, and one more job that is being fetched.
_HELD_OF_A_PACK = IN_FLIGHT_BYTES + JOB_BYTES
_HELD_OF_A_DELTA = 3 * PART_BYTES  # two parts in work, with their output, and one that waits for memory


@pytest.fixture(scope="module", params=[(0, _HELD_OF_A_PACK), (3, _HELD_OF_A_DELTA)], ids=["pack", "delta"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Node, int]:
    """Return a node with 40 MiB to fetch, and how much of them it may have in memory at once."""
    deltas, held = request.param
    folder = tmp_path_factory.mktemp("large")
    return make_large_node(folder, root_size=40 << 20, deltas=deltas), held


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_point_the_next_run_fetches_only_what_was_in_flight(
    large: tuple[Node, int], tmp_path: Path, seed: int
) -> None:
    node, held = large[0].copy(tmp_path / "node"), large[1]
    with HttpServer(_files(node)) as server:
        _point(node, server)
        node.configure(spool=False)
        planned = node.updog("plan", "--json").document["total"]
        process = node.updog_process("update", "--json")
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("phase") == "look at boot":
                break
        time.sleep(random.Random(seed).uniform(0, 0.3))
        process.send_signal(signal.SIGSTOP)
        unread = bytes_in_sockets(server.port)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert node.updog("update").status in {DONE, 3}
        refetched = _sent(server) - planned
        assert refetched <= held + unread + _SLACK_BYTES, f"{refetched} bytes of {planned}, {unread} unread"
    assert node.holds(Slot.B, NEWER)


@pytest.mark.parametrize("spool", [True, False], ids=["kept first", "streamed"])
def test_a_mirror_that_sends_wrong_bytes_is_left_for_the_next_within_one_run(
    node: Node,
    server: HttpServer,
    spool: bool,  # noqa: FBT001 - parametrized
) -> None:
    bad = {
        path: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        for path, data in server.files.items()
        if path.endswith(".zst") or ".delta-" in path
    }
    with HttpServer({**server.files, **bad}) as liar:
        node.configure(
            spool=spool, targets_base_url=liar.url("targets/"), targets_mirrors=[server.url("targets/")]
        )
        said = node.updog("update")
    assert said.status == DONE
    assert "Trying another mirror" in said.err
    assert node.holds(Slot.B, NEWER)
    assert not node.codes()[:-2], "what was made good is no failure"
