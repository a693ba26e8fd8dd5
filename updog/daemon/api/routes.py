"""All paths: who may ask, what is sent, what is answered. The OpenAPI document is made of this table."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from signpost.text import line
from updog.daemon.api import bottlerocket, documents, openapi, problems, v1
from updog.daemon.api.access import is_granted
from updog.daemon.api.exchange import Response, error_response
from updog.daemon.api.problems import ApiError
from updog.daemon.api.route import Parameter, Right, Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from updog.api_keys import Grantee
    from updog.daemon.api.exchange import Request
    from updog.daemon.api.route import Handler
    from updog.daemon.api.v1 import Node, Params

log = logging.getLogger(__name__)

_PARAMETER = re.compile(r"\\\{(\w+)\\\}")  # in an escaped path


def _get(path: str, handler: Handler, document: type[Any], **more: Any) -> Route:
    answers = {HTTPStatus.OK: document, **more.pop("answers", {})}
    right = more.pop("right", Right.READ)
    return Route(method="GET", path=path, right=right, handler=handler, answers=answers, **more)


def _ask(method: str, wish: str, handler: Handler, sends: type[Any] | None = None) -> Route:
    return Route(
        method=method,
        path=f"/v1/auto/{wish}",
        right=Right.CONTROL,
        handler=handler,
        sends=sends,
        answers={HTTPStatus.OK: documents.Asked},
        wish=wish,
    )


def _act(path: str, handler: Handler) -> Route:
    return Route(
        method="POST",
        path=path,
        right=Right.CONTROL,
        handler=handler,
        answers={HTTPStatus.NO_CONTENT: None},
        is_text=True,
    )


BOTTLEROCKET: tuple[Route, ...] = (
    _act("/actions/refresh-updates", bottlerocket.refresh),
    _act("/actions/prepare-update", bottlerocket.prepare),
    _act("/actions/activate-update", bottlerocket.activate),
    _act("/actions/deactivate-update", bottlerocket.deactivate),
    _act("/actions/reboot", bottlerocket.reboot),
    _get("/updates/status", bottlerocket.update_status, documents.UpdateStatus, is_text=True),
    _get("/os", bottlerocket.os_fields, documents.Os, is_text=True),
)


@cache
def openapi_document() -> bytes:
    """Return the OpenAPI document of all routes, as JSON."""
    return openapi.document(ROUTES)


def _describe(node: Node, request: Request, params: Params) -> Response:
    """Describe all requests: OpenAPI 3.1."""
    del node, request, params
    return Response(body=openapi_document())


ROUTES: tuple[Route, ...] = (
    _get("/v1", v1.index, documents.Index),
    _get(
        "/v1/status",
        v1.status,
        documents.Status,
        answers={HTTPStatus.NOT_MODIFIED: None},
        parameters=(Parameter("If-None-Match", "header", "an ETag that the client has"),),
    ),
    _get("/v1/decision", v1.decision, documents.Decision),
    _get(
        "/v1/history",
        v1.history,
        documents.History,
        parameters=(
            Parameter("after", "query", "`id` of the last event that the client has"),
            Parameter(
                "limit",
                "query",
                "the most events",
                {"type": "integer", "minimum": 1, "maximum": v1.MAX_EVENTS},
            ),
        ),
    ),
    _get("/v1/config", v1.config, documents.Settings, right=Right.CONTROL),
    _get("/v1/jobs", v1.jobs, documents.Jobs),
    Route(
        method="POST",
        path="/v1/jobs",
        right=Right.CONTROL,
        handler=v1.start_job,
        sends=documents.JobRequest,
        answers={HTTPStatus.ACCEPTED: documents.Job, HTTPStatus.OK: documents.Job},
    ),
    _get("/v1/jobs/{id}", v1.job, documents.Job),
    Route(
        method="DELETE",
        path="/v1/jobs/{id}",
        right=Right.CONTROL,
        handler=v1.cancel_job,
        answers={HTTPStatus.ACCEPTED: documents.Job, HTTPStatus.OK: documents.Job},
    ),
    _get(
        "/v1/events",
        v1.events,
        documents.StreamEvent,
        media=("text/event-stream", "application/x-ndjson"),
        parameters=(Parameter("Last-Event-ID", "header", "`id` of the last event that the client has"),),
    ),
    _get("/v1/metrics", v1.metrics, str, media=(v1.METRICS,)),
    _ask("POST", "permit", v1.permit, documents.Permit),
    _ask("DELETE", "permit", v1.resume),
    _ask("POST", "postpone", v1.postpone, documents.Postpone),
    _ask("DELETE", "postpone", v1.resume),
    _ask("POST", "hold", v1.hold, documents.Hold),
    _ask("DELETE", "hold", v1.resume),
    _get("/v1/openapi.json", _describe, dict),
    *BOTTLEROCKET,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grants:
    """Who has which right on a socket."""

    by_right: Mapping[Right, Iterable[Grantee]]

    def refuse(self, request: Request, right: Right) -> None:
        """Refuse a client that has not the right. Raises ApiError."""
        if not is_granted(request.peer, self.by_right[right]):
            raise problems.own(
                "not-allowed",
                f"user {request.peer.uid} has not the right `{right}`",
                f"Add the user or one of its groups to api.{right} in updog.toml.",
            )


class Router:
    """Answers requests for some routes.

    Args:
        routes: those that there are. node: what they are about. grants: who may.
    """

    def __init__(self, routes: Iterable[Route], node: Node, grants: Grants) -> None:
        self._node = node
        self._grants = grants
        self._by_pattern: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in routes:
            pattern = re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(route.path)))
            self._by_pattern.setdefault(pattern, {})[route.method] = route

    def answer(self, request: Request) -> Response:
        """Return the answer to a request, an error too; whatever fails here is an answer with status 500."""
        route: Route | None = None
        try:
            route, params = self._find(request)
            self._grants.refuse(request, route.right)
            return route.handler(self._node, request, params)
        except ApiError as error:
            problem = error
        except Exception:  # a client that gets no answer cannot tell it from an agent that has ended
            log.exception("%s %s failed", request.method, line(request.path))
            problem = problems.of_document({}, "the agent could not answer")
        return error_response(problem, as_text=route is not None and route.is_text)

    def _find(self, request: Request) -> tuple[Route, Params]:
        for pattern, routes in self._by_pattern.items():
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            route = routes.get(request.method)
            if route is None:
                methods = sorted({*routes, *({"HEAD"} if "GET" in routes else set())})
                allow = ", ".join(methods)
                raise problems.own("method-not-allowed", f"this path takes {allow}", headers={"Allow": allow})
            params = match.groupdict()
            return route, {**params, "wish": route.wish} if route.wish else params
        raise problems.own("no-such-path", "there is nothing at this path", "GET /v1 says what there is.")
