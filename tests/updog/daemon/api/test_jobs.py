"""Jobs on a real node: one at a time, and told truly to the end, whoever ends first."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import click
import pytest

from signpost.sets import Slot
from tests.support.api_clients import agent_of, configure_api, run_folder
from tests.support.http_server import HttpServer, plain
from tests.support.nodes import NEWER, make_node
from tests.support.patience import eventually, stretched
from updog.byte_ranges import range_answer
from updog.cli import program
from updog.daemon.api.documents import Do, Job, JobRequest, JobState
from updog.daemon.api.jobs import WORK, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.api_clients import RunningAgent
    from tests.support.http_server import Exchange
    from tests.support.nodes import Node

KILL_SECONDS = "updog.daemon.api.jobs:KILL_SECONDS"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))  # for the commands that a test runs
    return make_node(tmp_path, health_checks=[], reboot_command=["touch", str(tmp_path / "rebooted")])


@pytest.fixture
def agent(node: Node) -> Iterator[RunningAgent]:
    configure_api(node)
    with agent_of(node) as running:
        yield running


class SlowRepository:
    """Serves a node's repository; half of some answers comes at once, the rest when the test says so.

    Attributes:
        server: what it is. go_on: set it to serve like any other.
    """

    def __init__(self, node: Node, is_slow: Callable[[str], bool]) -> None:
        folder = node.repository.folder
        places = [*(folder / "metadata").iterdir(), *(folder / "targets").iterdir()]
        self.server = HttpServer({str(path.relative_to(folder)): path.read_bytes() for path in places})
        self.go_on = threading.Event()
        self.has_begun = threading.Event()
        for path in filter(is_slow, self.server.files):
            self.server.behave(path, self._half)
        node.configure(
            metadata_base_url=self.server.url("metadata/"), targets_base_url=self.server.url("targets/")
        )

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.server.__exit__()

    def _half(self, exchange: Exchange) -> None:
        if not exchange.request.start and exchange.request.path.startswith("targets/"):
            plain()(exchange)  # what the plan needs
            return
        content = exchange.content or b""
        good = range_answer(exchange.request.chosen(len(content)), len(content))
        part = content[good.part.start : good.part.stop]
        with suppress(OSError):  # who asked may be killed
            exchange.head(good.status, good.headers)
            exchange.send(part[: len(part) // 2])
            self.has_begun.set()
            self.go_on.wait()
            exchange.send(part[len(part) // 2 :])


def is_metadata(path: str) -> bool:
    return path.endswith("timestamp.json")


def is_last_image(path: str) -> bool:
    return f"{NEWER}-boot" in path and not path.endswith((".index", ".fingerprints"))


def sent_of(server: HttpServer, image: str) -> int:
    """Return how many bytes of an image of the new version were sent."""
    return sum(request.sent for request in server.log if f"{NEWER}-{image}" in request.path)


def codes(agent: RunningAgent) -> list[str]:
    return [event["code"] for event in agent.get("/v1/history").document["events"]]


# -- one job


def test_an_install_is_told_from_the_request_to_what_it_did(agent: RunningAgent, node: Node) -> None:
    with agent.connect() as connection:
        body = json.dumps({"do": "install"}).encode()
        reply = connection.ask("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
        assert reply.status == 202
        started = reply.document
        assert reply.headers["location"] == f"/v1/jobs/{started['id']}"
        assert connection.ask("GET", reply.headers["location"]).document["id"] == started["id"]
        assert connection.ask("GET", "/v1/status").document["job"]["id"] == started["id"]
    assert (started["do"], started["state"], started["ended"]) == ("install", "running", None)
    assert started["by"] == {"uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(), "comm": comm()}
    job = agent.ended(started["id"])
    assert (job["state"], job["exit_status"], job["error"]) == ("succeeded", 0, None)
    assert (job["version"], job["result"]["version"], job["result"]["command"]) == (
        NEWER,
        NEWER,
        "update-image",
    )
    assert job["done"] == job["total"] > 0
    assert job["started"] <= job["ended"]
    assert node.holds(Slot.B, NEWER)
    status = agent.get("/v1/status").document
    assert (status["standing"], status["job"]) == ("staged", None)
    event = agent.get("/v1/history").document["events"][-1]
    assert event["code"] == "installed"
    assert event["by"].startswith(f"uid {os.getuid()} ")
    assert event["by"].endswith(f"pid {os.getpid()}, {comm()}")
    assert agent.says(f"job install, asked for by {event['by']}")


def has_ended(job: Any) -> bool:
    """Whether a job's process, of which this one is not the parent, has ended."""
    try:
        status = Path(f"/proc/{job['pid']}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def comm() -> str:
    return Path("/proc/self/comm").read_text(encoding="utf-8").strip()


def test_an_update_is_installed_applied_taken_back_and_restarted_into(
    agent: RunningAgent, node: Node
) -> None:
    def standing() -> str:
        return str(agent.get("/v1/status").document["standing"])

    for do, expected in [
        ("refresh", "none"),
        ("plan", "none"),
        ("prepare", "none"),
        ("install", "staged"),
        ("apply", "waiting for a restart"),
        ("revert", "staged"),
        ("update", "waiting for a restart"),
        ("reboot", "waiting for a restart"),
    ]:
        job = agent.done(do)
        assert (job["state"], job["error"]) == ("succeeded", None), job
        assert standing() == expected, do
    assert (node.folder.parent / "rebooted").exists()
    assert node.flags(Slot.B).priority > node.flags(Slot.A).priority
    node.boot()
    assert eventually(lambda: standing() == "on trial")
    assert agent.post("/v1/jobs", {"do": "install"}).code == "unconfirmed"
    assert agent.done("confirm")["state"] == "succeeded"
    assert standing() == node.updog("status", "--json").document["standing"] != "on trial"
    assert agent.done("verify")["state"] == "succeeded"


def test_what_the_standing_does_not_allow_is_answered_409(agent: RunningAgent) -> None:
    for do, code in [
        ("apply", "nothing-staged"),
        ("revert", "nothing-applied"),
        ("confirm", "already-confirmed"),
    ]:
        reply = agent.post("/v1/jobs", {"do": do})
        assert (reply.status, reply.code) == (409, code)
        assert reply.document["error"]["status"] == 4
    assert agent.get("/v1/jobs").document == {"jobs": []}


def test_nothing_to_do_is_a_success(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[])
    configure_api(node)
    with agent_of(node) as agent:
        job = agent.done("install")
        assert (job["state"], job["exit_status"], job["error"]["code"]) == ("succeeded", 3, "nothing-to-do")


def test_a_job_that_fails_has_the_error_of_the_command(agent: RunningAgent, node: Node) -> None:
    node.lose_repository()
    job = agent.done("install")
    assert (job["state"], job["exit_status"], job["result"]) == ("failed", 5, None)
    assert job["error"]["status"] == 5
    assert job["error"]["next_step"]
    assert agent.done("install", version="9.9.9")["state"] == "failed", "and another can be asked for"


def test_what_was_accepted_is_installed_or_nothing_is(agent: RunningAgent, node: Node) -> None:
    plan = agent.done("plan")["result"]
    other = "0" * 64
    job = agent.done("install", accept_plan=other)
    assert (job["state"], job["error"]["code"]) == ("failed", "plan-changed")
    assert not node.holds(Slot.B, NEWER)
    assert (
        agent.done("install", accept_plan=plan["id"], max_bytes=1 << 30, limit_rate=1 << 30)["exit_status"]
        == 0
    )
    assert node.holds(Slot.B, NEWER)


@pytest.mark.parametrize("do", Do, ids=str)
def test_the_command_takes_every_word_that_a_job_gives_it(do: Do) -> None:
    values: dict[str, Any] = {
        "version": "1.0.0",
        "ignore_waves": True,
        "max_bytes": 1 << 40,
        "limit_rate": 1,
        "accept_plan": "0" * 64,
    }
    taken = {name: value for name, value in values.items() if name in WORK[do].takes}
    *words, last = words_of(JobRequest(do=do, **taken))
    assert last == "--json"
    command: click.Command = program
    with program.make_context("updog", ["--config", "x", *words, last], obj=SimpleNamespace()) as context:
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None
            command = found
        with command.make_context(do, [*words, last], parent=context) as parsed:
            assert parsed.params["as_json"] is True


# -- another job


def test_the_same_request_is_the_same_job_and_another_has_to_wait(node: Node) -> None:
    with SlowRepository(node, is_metadata) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install", version=NEWER)
            same = agent.post("/v1/jobs", {"limit_rate": None, "version": NEWER, "do": "install"})
            assert (same.status, same.document["id"]) == (200, job["id"])
            assert same.headers["location"] == f"/v1/jobs/{job['id']}"
            for other in ({"do": "install"}, {"do": "refresh"}, {"do": "reboot"}, {"do": "apply"}):
                reply = agent.post("/v1/jobs", other)
                assert (reply.status, reply.code) == (423, "busy")
                assert int(reply.headers["retry-after"]) > 0
                assert job["id"] in reply.document["error"]["next_step"]
            for action in ("refresh-updates", "prepare-update", "activate-update", "reboot"):
                assert agent.post(f"/actions/{action}").body == b"Update lock held"
            assert agent.get("/updates/status").status == 423
            assert agent.get("/v1/status").document["job"]["id"] == job["id"]
            repository.go_on.set()
            assert agent.ended(job["id"])["state"] == "succeeded"
            again = agent.start_job("install", version=NEWER)
            assert again["id"] != job["id"], "it has ended: to ask again is to start again"
            agent.ended(again["id"])


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_clients_at_once_one_gets_the_job(node: Node, attempt: int) -> None:
    bodies: list[dict[str, object]] = [
        {"do": "install"},
        {"do": "refresh"},
        {"do": "update"},
        {"do": "install"},
    ]
    bodies = bodies[attempt:] + bodies[:attempt]
    with SlowRepository(node, is_metadata):
        configure_api(node)
        with agent_of(node) as agent, ThreadPoolExecutor(len(bodies)) as pool:
            agent.get("/v1/status")
            together = threading.Barrier(len(bodies))

            def ask(body: dict[str, object]) -> tuple[int, str]:
                together.wait()
                reply = agent.post("/v1/jobs", body)
                return reply.status, str(reply.document.get("id", ""))

            answers = list(pool.map(ask, bodies))
            (job,) = agent.get("/v1/jobs").document["jobs"]
            statuses = [status for status, _ in answers]
            assert statuses.count(202) == 1, answers
            assert statuses.count(200) == (1 if job["do"] == "install" else 0), answers
            assert {found for _, found in answers} == {job["id"], ""}


def test_while_the_agent_works_by_itself_a_job_has_to_wait(node: Node) -> None:
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node, mode="install")
        with agent_of(node) as agent:
            agent.get("/v1")
            node.updog("agent", "check")
            assert repository.has_begun.wait(stretched(60))
            reply = agent.post("/v1/jobs", {"do": "refresh"})
            assert (reply.status, reply.code) == (423, "busy")
            assert "by itself" in reply.document["error"]["message"]
            assert reply.headers["retry-after"]
            assert agent.post("/actions/refresh-updates").status == 423
            assert agent.get("/updates/status").status == 423
            assert agent.get("/v1/status").document["job"] is None
            repository.go_on.set()
            assert eventually(lambda: agent.get("/v1/status").document["standing"] == "staged")
            assert eventually(lambda: agent.post("/v1/jobs", {"do": "verify"}).status == 202)


def test_work_of_an_earlier_agent_is_waited_for_too(node: Node) -> None:
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node, mode="install")
        with agent_of(node) as agent:
            agent.get("/v1")
            node.updog("agent", "check")
            assert repository.has_begun.wait(stretched(60))
            agent.kill()
        with agent_of(node) as agent:
            assert agent.post("/v1/jobs", {"do": "verify"}).status == 423
            repository.go_on.set()
            assert eventually(lambda: agent.post("/v1/jobs", {"do": "verify"}).status == 202)


# -- the end of a job by hand


def test_a_job_that_is_ended_goes_on_where_it_was_at_the_next(node: Node) -> None:
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            assert agent.ask("DELETE", f"/v1/jobs/{job['id']}").status == 202
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["result"]) == ("cancelled", None)
            assert ended["exit_status"] not in {0, 3}
            assert agent.says(f"job install: its end was asked for by uid {os.getuid()}")
            gone = agent.ask("DELETE", f"/v1/jobs/{job['id']}")
            assert (gone.status, gone.document) == (200, ended), "it stays as it is"
            assert agent.get("/v1/status").document["standing"] == "none"
            repository.go_on.set()
            at_first = sent_of(repository.server, "root")
            repository.server.log.clear()
            assert agent.done("install")["state"] == "succeeded"
            assert node.holds(Slot.B, NEWER)
            assert 2 * sent_of(repository.server, "root") < at_first, "most of that image was there already"
            assert sent_of(repository.server, "boot")


def test_a_job_that_does_not_end_when_it_is_told_is_killed(node: Node) -> None:
    with SlowRepository(node, is_metadata) as repository:
        configure_api(node)
        with agent_of(node, limits={KILL_SECONDS: 0.2}) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            os.kill(job["pid"], signal.SIGSTOP)  # it does not get to see SIGTERM
            assert agent.ask("DELETE", f"/v1/jobs/{job['id']}").status == 202
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["exit_status"]) == ("cancelled", -signal.SIGKILL)
            repository.go_on.set()
            assert agent.done("install")["state"] == "succeeded"


def test_a_job_that_something_else_kills_has_failed(node: Node) -> None:
    """As the kernel does where memory ends."""
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            os.kill(job["pid"], signal.SIGKILL)
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["exit_status"]) == ("failed", -signal.SIGKILL)
            assert ended["result"] is None, "how far it came is no result"
            assert ended["error"] is None


# -- the end of the agent


@pytest.mark.parametrize("moment", ["metadata", "images", "at once"])
def test_a_job_outlives_the_agent_and_the_next_one_tells_how_it_ended(node: Node, moment: str) -> None:
    is_slow = {"metadata": is_metadata, "images": is_last_image, "at once": lambda _: False}[moment]
    with SlowRepository(node, is_slow) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert moment == "at once" or repository.has_begun.wait(stretched(60))
            agent.kill()
        with agent_of(node) as agent:
            if moment != "at once":
                shown = agent.job(job["id"])
                assert (shown["state"], shown["started"], shown["pid"]) == (
                    "running",
                    job["started"],
                    job["pid"],
                )
                assert agent.get("/v1/status").document["job"]["id"] == job["id"]
                assert agent.post("/v1/jobs", {"do": "refresh"}).status == 423
            repository.go_on.set()
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["result"]["command"]) == ("succeeded", "update-image")
            assert ended["by"] == job["by"]
            assert agent.get("/v1/status").document["standing"] == "staged"
            assert node.holds(Slot.B, NEWER)
            assert agent.done("apply")["state"] == "succeeded"


def test_a_job_that_fails_without_an_agent_has_failed(node: Node) -> None:
    with SlowRepository(node, is_metadata) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install", max_bytes=1)
            assert repository.has_begun.wait(stretched(60))
            agent.kill()
            repository.go_on.set()
            assert eventually(lambda: has_ended(job))
        with agent_of(node) as agent:
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["exit_status"]) == ("failed", None)
            assert ended["error"]["status"] == 4


@pytest.mark.parametrize("is_slow", [is_metadata, is_last_image], ids=["before", "during progress"])
def test_a_job_that_ended_with_the_agent_is_lost(node: Node, is_slow: Callable[[str], bool]) -> None:
    """Nobody knows how it ended; how the node stands is known."""
    with SlowRepository(node, is_slow) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            agent.kill()
            os.kill(job["pid"], signal.SIGKILL)
            assert eventually(lambda: has_ended(job))
        repository.go_on.set()
        with agent_of(node) as agent:
            ended = agent.ended(job["id"])
            assert (ended["state"], ended["exit_status"], ended["result"]) == ("lost", None, None)
            assert ended["ended"] >= ended["started"]
            assert agent.get("/v1/status").document["standing"] == "none"
            assert agent.done("install")["state"] == "succeeded"


def test_a_job_of_an_earlier_agent_can_be_ended_too(node: Node) -> None:
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            agent.kill()
        with agent_of(node) as agent:
            assert agent.ask("DELETE", f"/v1/jobs/{job['id']}").status == 202
            assert agent.ended(job["id"])["state"] == "cancelled"


def test_an_agent_that_reads_its_configuration_anew_keeps_its_job_and_learns_its_exit_status(
    node: Node,
) -> None:
    with SlowRepository(node, is_last_image) as repository:
        configure_api(node)
        with agent_of(node) as agent:
            job = agent.start_job("install")
            assert repository.has_begun.wait(stretched(60))
            agent.process.send_signal(signal.SIGHUP)
            repository.go_on.set()

            def is_told() -> bool:
                with suppress(OSError, EOFError):  # for a moment nobody listens
                    return bool(agent.job(job["id"])["state"] != "running")
                return False

            assert eventually(is_told)
            ended = agent.job(job["id"])
            assert (ended["state"], ended["exit_status"]) == ("succeeded", 0)


# -- what is kept


def test_the_last_jobs_are_kept_the_newest_first_also_by_the_next_agent(node: Node) -> None:
    configure_api(node)
    limits = {"updog.daemon.api.jobs:KEPT": 3}
    with agent_of(node, limits=limits) as agent:
        ids = [agent.done("verify")["id"] for _ in range(4)]
        kept = agent.get("/v1/jobs").document["jobs"]
        assert [job["id"] for job in kept] == ids[:0:-1]
        assert agent.get(f"/v1/jobs/{ids[0]}").status == 404
        assert agent.stop() == 0
    assert (run_folder(node) / "jobs.json").stat().st_mode & 0o777 == 0o600
    with agent_of(node, limits=limits) as agent:
        assert agent.get("/v1/jobs").document["jobs"] == kept


JOB = {"id": "a", "do": "install", "state": "succeeded", "started": "2026-01-01T00:00:00Z", "pid": 1,
       "by": {"uid": 0, "gid": 0, "pid": 1, "comm": "x"}}  # fmt: skip
DAMAGED = {
    "empty": b"",
    "cut": json.dumps([JOB]).encode()[:-9],
    "zeros": bytes(512),
    "no list": b"{}",
    "no job": b'[{"id": "a"}]',
    "not UTF-8": b"\xff\xfe",
    "not UTF-8 in a text": json.dumps([JOB]).encode().replace(b'"a"', b'"\xff"'),
    "half a pair": json.dumps([JOB]).encode().replace(b'"a"', b'"\\ud800"'),
    "deep": b"[" * 100_000,
    "deep in a result": json.dumps([{**JOB, "result": 0}])
    .encode()
    .replace(b": 0}]", b': {"x": ' + b"[" * 99_999),
    "unknown work": json.dumps([{**JOB, "do": "dance"}]).encode(),
    "no time": json.dumps([{**JOB, "started": "now"}]).encode(),
}


def test_the_file_that_is_damaged_below_was_one() -> None:
    """Else each of them could be damaged in the same way."""
    import msgspec

    (job,) = msgspec.json.decode(json.dumps([JOB]), type=list[Job])
    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_of_jobs_that_is_damaged_costs_no_more_than_the_jobs(node: Node, content: bytes) -> None:
    configure_api(node)
    run_folder(node).mkdir()
    (run_folder(node) / "jobs.json").write_bytes(content)
    with agent_of(node) as agent:
        assert agent.get("/v1/jobs").document == {"jobs": []}
        assert agent.says("jobs.json")


def test_where_jobs_cannot_be_kept_they_are_done_all_the_same(node: Node) -> None:
    configure_api(node)
    (run_folder(node) / "jobs.json/x").mkdir(parents=True)
    with agent_of(node) as agent:
        assert agent.done("verify")["state"] == "succeeded"
        assert agent.says("cannot write")
        assert len(agent.get("/v1/jobs").document["jobs"]) == 1


# -- what a check finds


def test_the_last_check_is_the_decision_whoever_asked_for_it(node: Node) -> None:
    configure_api(node)
    with agent_of(node) as agent:
        assert agent.get("/v1/decision").code == "not-checked"
        assert agent.done("refresh")["result"]["chosen"] == NEWER
        assert agent.get("/v1/decision").document["update"] == NEWER
        node.publish("1.2.0")
        node.updog("agent", "check")
        assert eventually(lambda: agent.get("/v1/decision").document["update"] == "1.2.0")
        verdicts = agent.get("/v1/decision").document["verdicts"]
        assert {verdict["version"] for verdict in verdicts} >= {NEWER, "1.2.0"}
        kept = agent.get("/v1/decision").document
        agent.kill()
    with agent_of(node) as agent:
        assert agent.get("/v1/decision").document == kept
