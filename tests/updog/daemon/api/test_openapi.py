"""The OpenAPI document: complete, true of every answer, and kept by whatever is generated from it."""

from __future__ import annotations

import json
import re
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tests.support.api_clients import agent_of, configure_api
from tests.support.nodes import make_node
from tests.support.patience import eventually
from updog.daemon.api import documents
from updog.daemon.api.documents import ErrorDocument, Status
from updog.daemon.api.exchange import JSON
from updog.daemon.api.routes import BOTTLEROCKET, ROUTES, openapi_document
from updog.drill import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemathesis import CheckFunction

    from tests.support.api_clients import RunningAgent

    Operation = schemathesis.APIOperation[Any, Any, Any, Any]
    Case = schemathesis.Case[Any]

DOCUMENT: Any = json.loads(openapi_document())
STREAM = "/v1/events"
ROUTE_OF = {f"{route.method} {route.path}": route for route in ROUTES}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    node = make_node(tmp_path_factory.mktemp("openapi"), health_checks=[], reboot_command=["true"])
    configure_api(node)
    with agent_of(node) as running:
        yield running
        assert not running.says("Traceback")


# -- what is generated from it


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(60)
        opened.connect(str(self._path))
        return opened


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", maxsize=1)
        self._path = path

    def _new_conn(self) -> _Connection:
        return _Connection(self._path)


class UnixAdapter(HTTPAdapter):
    """Sends what requests sends to the socket of an agent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _Pool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


@pytest.fixture(scope="module")
def session(agent: RunningAgent) -> Iterator[requests.Session]:
    with requests.Session() as found:
        found.mount("http://", UnixAdapter(agent.socket))
        yield found


FOUND: Any = schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
OPERATIONS = [
    operation
    for operation in (found.ok() for found in FOUND)
    if operation.path != STREAM  # its answer has no end
]


CAN_BE_WRONG = [operation for operation in OPERATIONS if operation.body or operation.path == "/v1/history"]
"""Whose requests have something that is not any text."""

CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def require(
    operation: Operation, mode: GenerationMode, session: requests.Session, checks: list[CheckFunction]
) -> None:
    """Generate requests, send them, and check every answer."""

    @settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_as_it_says(case: Case) -> None:
        case.call_and_validate(base_url="http://localhost", session=session, checks=checks)

    answers_as_it_says()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_requests_that_it_allows_are_answered_as_it_says(
    operation: Operation, session: requests.Session
) -> None:
    require(operation, GenerationMode.POSITIVE, session, CONFORMS)


@pytest.mark.parametrize("operation", CAN_BE_WRONG, ids=lambda operation: operation.label)
def test_requests_that_it_does_not_allow_are_refused_as_it_says(
    operation: Operation, session: requests.Session
) -> None:
    require(operation, GenerationMode.NEGATIVE, session, [*CONFORMS, negative_data_rejection])


# -- the document itself


def test_it_has_every_path_and_method_and_no_other() -> None:
    described = {
        f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert described == set(ROUTE_OF)
    assert len(ROUTE_OF) == len(ROUTES), "no route hides another"
    assert {route.path for route in BOTTLEROCKET} < set(DOCUMENT["paths"])


def test_the_agent_serves_it(agent: RunningAgent) -> None:
    assert agent.get("/v1/openapi.json").document == DOCUMENT


@pytest.mark.parametrize("name", ROUTE_OF)
def test_each_operation_is_named_and_says_who_may_and_what_is_answered(name: str) -> None:
    method, path = name.split()
    operation = DOCUMENT["paths"][path][method.lower()]
    assert operation["summary"].endswith((".", "work", "gone")) or operation["summary"][0].isupper()
    assert f"`{ROUTE_OF[name].right}`" in operation["description"]
    assert set(operation["responses"]) == {*(str(int(http)) for http in ROUTE_OF[name].answers), "default"}
    named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
    assert named == set(re.findall(r"\{(\w+)\}", path))
    assert ("requestBody" in operation) == (ROUTE_OF[name].sends is not None)


def test_names_of_operations_are_unique_and_references_lead_somewhere() -> None:
    operations = [each for methods in DOCUMENT["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert references == set(DOCUMENT["components"]["schemas"])


# -- what is really answered


def strictly(data: bytes, kind: type[Any]) -> None:
    """Decode a document as its type, which must name every member that there is."""
    assert set(msgspec.json.decode(data)) <= set(kind.__struct_fields__)
    msgspec.json.decode(data, type=kind, strict=True)


def test_the_status_of_a_real_node_is_one_in_every_standing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    node = make_node(tmp_path, health_checks=[], reboot_command=["true"])
    configure_api(node)
    with agent_of(node) as agent:

        def standing() -> str:
            reply = agent.get("/v1/status")
            strictly(reply.body, Status)
            assert set(Status.__struct_fields__) == set(reply.document), "none is promised that is not there"
            return str(reply.document["standing"])

        assert standing() == "none"
        agent.start_job("install")
        assert standing() == "none"
        assert eventually(lambda: standing() == "staged")
        node.updog("update-apply")
        assert eventually(lambda: standing() == "waiting for a restart")
        node.boot()
        assert eventually(lambda: standing() == "on trial")
        for stage in (Stage.INIT, None):
            node.boot(stage)
        assert eventually(lambda: standing() not in {"on trial", "waiting for a restart"})


@pytest.mark.parametrize("name", [name for name in ROUTE_OF if name.startswith("GET ")])
def test_what_is_read_has_the_members_that_it_says(agent: RunningAgent, name: str) -> None:
    path = name.split()[1]
    route = ROUTE_OF[name]
    kind = route.answers[HTTPStatus.OK]
    if path == STREAM or route.media != (JSON,) or kind is dict:
        pytest.skip("is not one JSON document of a type")
    assert kind is not None
    assert eventually(lambda: agent.get("/v1/status").document["job"] is None)
    if agent.get("/v1/decision").status == 404:  # tests come in any order
        agent.done("refresh")
    job = agent.get("/v1/jobs").document["jobs"][0]
    reply = agent.get(path.replace("{id}", job["id"]))
    assert reply.status == 200, reply
    strictly(reply.body, kind)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("PUT", "/v1"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/x")]
)
def test_an_error_is_what_errors_are_said_to_be(agent: RunningAgent, method: str, path: str) -> None:
    reply = agent.ask(method, path)
    assert reply.status >= 400
    strictly(reply.body, ErrorDocument)


def test_events_are_those_of_the_stream(agent: RunningAgent) -> None:
    with agent.stream() as events:
        agent.start_job("refresh")
        names = set()
        while "history" not in names and "job" not in names:
            line = events.response.readline().strip()
            if line:
                strictly(line, documents.StreamEvent)
                names.add(json.loads(line)["event"])
