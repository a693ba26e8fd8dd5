"""What is wrong with a request: the error of the command line, with a status of HTTP (RFC 9110). PURE."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from signpost.errors import ExitStatus, ToolError
from signpost.text import line

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSY_SECONDS = 5
"""After which a client that was told to wait asks again."""

STATUSES: Mapping[ExitStatus, HTTPStatus] = {
    ExitStatus.USAGE: HTTPStatus.BAD_REQUEST,
    ExitStatus.NOTHING_TO_DO: HTTPStatus.CONFLICT,
    ExitStatus.REFUSED: HTTPStatus.CONFLICT,
    ExitStatus.UNREACHABLE: HTTPStatus.BAD_GATEWAY,
    ExitStatus.BUSY: HTTPStatus.LOCKED,
}
"""By the exit status of the command; any other is an internal error."""


class OwnCode(NamedTuple):
    """An error that no command has: its status, and what it means."""

    http: HTTPStatus
    meaning: str


OWN_CODES: Mapping[str, OwnCode] = {
    "not-http": OwnCode(HTTPStatus.BAD_REQUEST, "the request does not follow HTTP/1.1"),
    "not-allowed": OwnCode(HTTPStatus.FORBIDDEN, "the user has not the right that the path needs"),
    "no-such-path": OwnCode(HTTPStatus.NOT_FOUND, "there is no such path"),
    "no-such-job": OwnCode(HTTPStatus.NOT_FOUND, "no job with this id is kept"),
    "not-checked": OwnCode(HTTPStatus.NOT_FOUND, "the repository was not asked yet"),
    "method-not-allowed": OwnCode(HTTPStatus.METHOD_NOT_ALLOWED, "the path takes other methods: `Allow`"),
    "too-slow": OwnCode(HTTPStatus.REQUEST_TIMEOUT, "the request was not there in time"),
    "body-too-large": OwnCode(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large"),
    "not-json": OwnCode(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body is not `application/json`"),
    "head-too-large": OwnCode(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large"),
    "too-many-clients": OwnCode(HTTPStatus.SERVICE_UNAVAILABLE, "ask again: `Retry-After`"),
}


@dataclass(kw_only=True, eq=False)
class ApiError(Exception):
    """A request that is not carried out.

    Attributes:
        http: status of the answer. code: stable name. message, next_step: for an operator.
        status: exit status of the command that means the same.
        headers: of the answer.
    """

    http: HTTPStatus
    code: str
    message: str
    next_step: str = "See the cause above."
    status: ExitStatus = ExitStatus.USAGE
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the message."""
        return self.message


def own(
    code: str,
    message: str,
    next_step: str = "GET /v1/openapi.json describes every request.",
    *,
    headers: Mapping[str, str] | None = None,
    http: HTTPStatus | None = None,
) -> ApiError:
    """Return one of :data:`OWN_CODES` as an answer; ``http`` where its status says more."""
    status = http or OWN_CODES[code].http
    return ApiError(http=status, code=code, message=message, next_step=next_step, headers=headers or {})


def of_tool_error(error: ToolError) -> ApiError:
    """Return an error of this program as an answer."""
    return _of(error.status, error.code, error.message, error.next_step)


def of_document(document: Mapping[str, Any], otherwise: str) -> ApiError:
    """Return the error that a command printed with ``--json``; ``otherwise`` where it printed none."""
    error = document.get("error")
    if not isinstance(error, dict):
        return _of(ExitStatus.FAILED, "failed", otherwise, "Look at the journal: journalctl -u updog-agent")
    try:
        status = ExitStatus(error.get("status", ExitStatus.FAILED))
    except ValueError:
        status = ExitStatus.FAILED
    told = {name: line(str(error.get(name, ""))) for name in ("code", "message", "next_step")}
    return _of(status, **told)


def of_own_question(document: Mapping[str, Any], otherwise: str) -> ApiError:
    """Return the error of a command that the agent asked by itself: no request can be blamed for it."""
    return replace(of_document(document, otherwise), http=HTTPStatus.INTERNAL_SERVER_ERROR, headers={})


def _of(status: ExitStatus, code: str, message: str, next_step: str) -> ApiError:
    http = STATUSES.get(status, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {"Retry-After": str(BUSY_SECONDS)} if http is HTTPStatus.LOCKED else {}
    return ApiError(
        http=http, code=code, message=message, next_step=next_step, status=status, headers=headers
    )


def busy(message: str, next_step: str) -> ApiError:
    """Return the answer to a request that has to wait for other work."""
    return _of(ExitStatus.BUSY, "busy", message, next_step)


def refused(code: str, message: str, next_step: str) -> ApiError:
    """Return the answer to a request that the node's standing does not allow."""
    return _of(ExitStatus.REFUSED, code, message, next_step)


def usage(message: str, next_step: str = "GET /v1/openapi.json describes every request.") -> ApiError:
    """Return the answer to a request that makes no sense."""
    return _of(ExitStatus.USAGE, "usage", message, next_step)
