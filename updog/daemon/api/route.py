"""One path and method of the API, as a value: the router and the OpenAPI document read it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from updog.daemon.api.exchange import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from http import HTTPStatus

    from updog.daemon.api.exchange import Request, Response
    from updog.daemon.api.v1 import Node, Params

    Handler = Callable[[Node, Request, Params], Response]


class Right(StrEnum):
    """What a client needs to be granted."""

    READ = "read"
    CONTROL = "control"


class Parameter(NamedTuple):
    """A parameter of query or head, and the schema of its value."""

    name: str
    place: str
    meaning: str
    schema: Mapping[str, Any] = {"type": "string"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One path and method.

    Attributes:
        method: of HTTP. path: with parameters in braces. right: what the client needs.
        handler: answers; its first line says what. sends: type of the body, if one is sent.
        answers: status → type of the document; None: no body.
        media: of an answer that is not JSON. parameters: of query and head.
        is_text: errors are text, as Bottlerocket has them.
        wish: what the path is about, for a handler that serves several; empty: nothing.
    """

    method: str
    path: str
    right: Right
    handler: Handler
    sends: type[Any] | None = None
    answers: Mapping[HTTPStatus, type[Any] | None]
    media: tuple[str, ...] = (JSON,)
    parameters: tuple[Parameter, ...] = ()
    is_text: bool = False
    wish: str = ""

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]
