"""The reference of the agent's API: from its table of routes, its documents, its jobs and its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from updog.daemon.api import problems
from updog.daemon.api.allowed import REFUSALS
from updog.daemon.api.documents import Body, Do, Document, EventName, JobRequest, StreamEvent
from updog.daemon.api.events import KEPT as EVENTS_KEPT
from updog.daemon.api.exchange import HEAD_SECONDS, IDLE_SECONDS, JSON, MAX_BODY, MAX_HEAD, SEND_SECONDS
from updog.daemon.api.jobs import KEPT as JOBS_KEPT
from updog.daemon.api.jobs import WORK
from updog.daemon.api.routes import BOTTLEROCKET, ROUTES, openapi_document
from updog.daemon.api.v1 import HEARTBEAT_SECONDS
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from updog.daemon.api.route import Route

_REF = "#/components/schemas/"
_NOT_SHOWN = frozenset({"ErrorDocument"})  # its one member is a Problem


def openapi() -> str:
    """Return the OpenAPI document."""
    return openapi_document().decode() + "\n"


def page() -> str:
    """Return the page, without the line that says that it is generated."""
    own = [route for route in ROUTES if route not in BOTTLEROCKET]
    return f"""# The agent's API

HTTP/1.1 and JSON on the Unix socket `api.socket`, by default `/run/updog/api.sock`. How to use it:
[the API](../how-to/api.md). The same as an OpenAPI 3.1 document: [openapi.json](openapi.json), which the
agent serves itself.

* Who asks is who connects, by the kernel's word. `read` and `control` are granted in
  [`[api]`](updog.toml.md).
* Times are RFC 3339, sizes bytes, rates bytes per second.
* Paths, members and codes keep their names and meanings. New ones may be added, so readers must ignore those
  that they do not know; a body with an unknown member is refused. What breaks that will be `/v2`.
* A head has at most {MAX_HEAD >> 10} KiB and a body {MAX_BODY >> 10} KiB, each within {HEAD_SECONDS:g} s.
  A client that does not read for {SEND_SECONDS:g} s, or asks nothing for {IDLE_SECONDS:g} s, is left. There
  are at most `api.max_clients` connections, of which the last is kept for root.

## Requests

HEAD is answered where GET is.

{_requests(own)}
Query and head:

{_parameters(own)}
## Bottlerocket's requests

On the same socket, and alone on `api.bottlerocket_socket`, where whoever can open it has all rights. Errors
are text, and mean what they mean there: 404 nothing is known or chosen, 409 not in this state, 423 wait.

{_requests(BOTTLEROCKET)}
## Jobs

One job runs at a time, beside no automatic work. The same request again returns the running job (200);
another one is refused as `busy`. The last {JOBS_KEPT} are kept until the machine restarts. What a job does is
what the command does; its exit status, error and result are the command's ([exit statuses](exit-status.md)).

| `do` | command | members besides `do` | refused at once |
|---|---|---|---|
{_jobs()}
The standing is the member `standing` of the status. Everything else is decided by the command.

## Events

`GET /v1/events` sends the status first, then each event as it comes: as server-sent events, or with
`Accept: application/x-ndjson` one object on each line. After {HEARTBEAT_SECONDS:g} s of silence comes a
comment, or an empty line. A client that comes back with `Last-Event-ID` gets what it missed of the last
{EVENTS_KEPT} events; if some of it is no longer kept, first a `gap`, then the status.

| event | data |
|---|---|
{_events()}
## Errors

An answer that is not a success is `{{"error": {{"code", "message", "next_step", "status"}}}}`, as the
commands print it. Errors of commands have [their codes](exit-status.md#errors); by their exit status the
answer has

{_statuses()}
The API's own:

| code | status | meaning |
|---|---|---|
{_own_codes()}
A job that the node's standing does not allow is refused with 409 and one of

| code | meaning | next step |
|---|---|---|
{_refusals()}
## Documents

| document | member | type | meaning |
|---|---|---|---|
{_documents()}"""


def _requests(routes: Iterable[Route]) -> str:
    rows = "".join(
        f"| `{route.method} {route.path}` | {route.right} | {_name(route.sends)} | {_answers(route)} | "
        f"{_sentence(route)} |\n"
        for route in routes
    )
    return f"| request | right | body | answers | meaning |\n|---|---|---|---|---|\n{rows}"


def _sentence(route: Route) -> str:
    return (route.handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _answers(route: Route) -> str:
    shown = []
    for http, kind in route.answers.items():
        media = [each.partition(";")[0] for each in route.media if each != JSON]
        name = _name(kind) if kind in _SHOWN or not kind else ", ".join(f"`{each}`" for each in media)
        shown.append(f"{int(http)} {name}".strip())
    return "; ".join(shown)


def _name(kind: type[Any] | None) -> str:
    return f"`{kind.__name__}`" if kind else ""


def _parameters(routes: Iterable[Route]) -> str:
    rows = "".join(
        f"| `{route.method} {route.path}` | `{each.name}` | {each.place} | {each.meaning} |\n"
        for route in routes
        for each in route.parameters
    )
    return f"| request | parameter | in | meaning |\n|---|---|---|---|\n{rows}"


def _jobs() -> str:
    order = JobRequest.__struct_fields__
    return "".join(
        f"| `{do}` | `updog {' '.join(work.words)}` | "
        f"{', '.join(f'`{name}`' for name in order if name in work.takes)} | {_refused(do)} |\n"
        for do, work in WORK.items()
    )


def _refused(do: Do) -> str:
    refused = REFUSALS.get(do, {})
    allowed = [standing.value for standing in Standing if standing not in refused]
    if not refused:
        return ""
    if len(allowed) < len(refused):
        return f"unless {', '.join(allowed)}"
    return ", ".join(standing.value for standing in Standing if standing in refused)


def _events() -> str:
    meanings: Mapping[EventName, str] = {
        EventName.STATE: "the whole status, when it has changed: `Status`",
        EventName.JOB: "a job, when it begins and ends: `Job`",
        EventName.STEP: "what work does now ([events](events.md)), with the id of its `job`; null: automatic",
        EventName.PROGRESS: "how far work is, at most four times a second; the same members",
        EventName.HISTORY: "an event of `updog history --json`, with its `id`",
        EventName.AUTO: "the agent, when it has changed ([agent](agent.md)), without its `events`",
        EventName.GAP: "events are missing: `after` is the id that was asked for",
    }
    return "".join(f"| `{name}` | {meanings[name]} |\n" for name in EventName)


def _statuses() -> str:
    rows = "".join(
        f"| {int(status)} | {http.value} {http.phrase} |\n" for status, http in problems.STATUSES.items()
    )
    return f"| exit status | answer |\n|---|---|\n{rows}| any other | 500 Internal Server Error |\n"


def _own_codes() -> str:
    return "".join(
        f"| `{name}` | {code.http.value} | {code.meaning} |\n"
        for name, code in sorted(problems.OWN_CODES.items(), key=lambda item: (item[1].http, item[0]))
    )


def _refusals() -> str:
    found = {refusal for by_standing in REFUSALS.values() for refusal in by_standing.values()}
    return "".join(f"| `{each.code}` | {each.message} | {each.next_step} |\n" for each in sorted(found))


def _kinds(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


_SHOWN = {kind for base in (Body, Document) for kind in _kinds(base) if kind.__name__ not in _NOT_SHOWN}


def _documents() -> str:
    kinds = sorted(_SHOWN, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF + "{name}")
    return "".join(_members(kind, components) for kind in kinds)


def _members(kind: type[msgspec.Struct], components: Mapping[str, Any]) -> str:
    schema = components[kind.__name__]
    needed = schema.get("required", []) if issubclass(kind, Body) else schema["properties"]
    rows = [f"| **`{kind.__name__}`** | | | {_first_line(kind)} |\n"]
    for name, member in schema["properties"].items():
        meaning = member.get("description", "") if "$ref" not in member else ""
        optional = "" if name in needed else "; optional"
        if kind is StreamEvent and name == "data":
            meaning = "what the event tells"
        rows.append(f"| | `{name}` | {_type(member, components)}{optional} | {meaning} |\n")
    return "".join(rows)


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _type(schema: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """Return a schema as a word or two."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return _type(components[name], components) if "enum" in components[name] else f"`{name}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    if "anyOf" in schema:
        return " or ".join(_type(each, components) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], components)}".replace("list of object", "list of objects")
    if schema.get("format") == "date-time":
        return "time"
    return str(schema.get("type", "any value"))
