"""The OpenAPI 3.1 document of the API, made of its table of routes and its types. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from updog.daemon.api.documents import ErrorDocument
from updog.daemon.api.exchange import JSON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from updog.daemon.api.route import Route

_REFS = "#/components/schemas/{name}"
_TEXT = "text/plain"
_TO_NAME = str.maketrans("/", "-", "{}")


def document(routes: Sequence[Route]) -> bytes:
    """Return the document as JSON."""
    types = {kind for each in routes for kind in (each.sends, *each.answers.values(), ErrorDocument) if kind}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REFS)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in routes:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schema_of)
    head = {
        "openapi": "3.1.0",
        "info": {
            "title": "updog agent",
            "version": "1",
            "description": "Updates of one node, over a Unix socket. Who may ask is decided by who connects.",
        },
        "servers": [{"url": "http://localhost", "description": "curl --unix-socket /run/updog/api.sock"}],
    }
    return msgspec.json.format(
        msgspec.json.encode({**head, "paths": paths, "components": {"schemas": components}}), indent=2
    )


def _operation(each: Route, schema_of: Mapping[type[Any], Any]) -> dict[str, Any]:
    error_media = _TEXT if each.is_text else JSON
    error_schema: Any = {"type": "string"} if each.is_text else schema_of[ErrorDocument]
    responses: dict[str, Any] = {
        str(int(http)): _response(http.phrase, each.media, kind and schema_of[kind])
        for http, kind in each.answers.items()
    }
    responses["default"] = _response("An error", (error_media,), error_schema)
    found: dict[str, Any] = {
        "summary": each.summary,
        "description": f"Needs the right `{each.right}`.",
        "operationId": f"{each.method.lower()}{each.path.translate(_TO_NAME)}",
        "responses": responses,
    }
    in_path = [part[1:-1] for part in each.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path
    ] + [
        {"name": one.name, "in": one.place, "description": one.meaning, "schema": dict(one.schema)}
        for one in each.parameters
    ]
    if parameters:
        found["parameters"] = parameters
    if each.sends:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schema_of[each.sends]}}}
    return found


def _response(description: str, media: Sequence[str], schema: Any) -> dict[str, Any]:
    if schema is None:
        return {"description": description}
    return {"description": description, "content": {each: {"schema": schema} for each in media}}
