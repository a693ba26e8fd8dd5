"""What is wrong with a request: the error of the command line, with a status of HTTP (RFC 9110). PURE."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from signpost.errors import ExitStatus, ToolError
from signpost.text import line

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSY_SECONDS = 5
"""After which a client that was told to wait asks again."""

_STATUS = {
    ExitStatus.USAGE: HTTPStatus.BAD_REQUEST,
    ExitStatus.NOTHING_TO_DO: HTTPStatus.CONFLICT,
    ExitStatus.REFUSED: HTTPStatus.CONFLICT,
    ExitStatus.UNREACHABLE: HTTPStatus.BAD_GATEWAY,
    ExitStatus.BUSY: HTTPStatus.LOCKED,
}
"""By the exit status of the command; any other is an internal error."""


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


def _of(status: ExitStatus, code: str, message: str, next_step: str) -> ApiError:
    http = _STATUS.get(status, HTTPStatus.INTERNAL_SERVER_ERROR)
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
