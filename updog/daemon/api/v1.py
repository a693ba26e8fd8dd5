"""Our own paths, below ``/v1``: each function answers one request."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from signpost.errors import ToolError
from updog import config as configuration
from updog import metrics as prometheus
from updog.daemon import asked, wishes
from updog.daemon.api import problems
from updog.daemon.api.allowed import refusal
from updog.daemon.api.documents import (
    Asked,
    By,
    EventName,
    History,
    Hold,
    Index,
    JobRequest,
    Jobs,
    JobState,
    Permit,
    Postpone,
    Setting,
    Settings,
    StreamEvent,
)
from updog.daemon.api.exchange import Request, Response, body_of, json_response
from updog.daemon.api.jobs import words_of
from updog.daemon.asked import Wish
from updog.daemon.caller import described, process_name
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from updog.daemon.api.documents import Job
    from updog.daemon.api.events import Events, Happened
    from updog.daemon.api.jobs import JobRunner
    from updog.daemon.api.node import NodeReader
    from updog.daemon.wishes import Requests

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""Silence after which a stream says that it lives."""

LOOK_SECONDS = 1.0
"""Silence after which it is looked whether the client of a stream is still there: its place may be wanted."""

MAX_EVENTS = 1000  # of one page of the history
METRICS = "text/plain; version=0.0.4; charset=utf-8"
_NDJSON = "application/x-ndjson"
_SSE = "text/event-stream"
_WHOLE = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(kw_only=True)
class Node:
    """What the paths are about.

    Attributes:
        config_path: the configuration file. state_dir: folder of the state.
        os_release: that of the running system. arch: of the node, as manifests have it.
        reader: the node. jobs: what clients started. events: what happened.
        auto: the last document of the agent (docs/reference/agent.md).
    """

    config_path: Path
    state_dir: Path
    os_release: Path
    arch: str
    reader: NodeReader
    jobs: JobRunner
    events: Events
    auto: Mapping[str, Any] | None = None
    _told: tuple[bytes, str] = field(default=(b"", ""), init=False)

    def status(self) -> dict[str, Any]:
        """Return the document of ``GET /v1/status``. Raises ApiError."""
        document = {**self.reader.status(), "auto": self.auto, "job": self.jobs.running}
        content = msgspec.json.encode(document)
        told, revision = self._told
        if content != told:
            revision = secrets.token_hex(8)
            self._told = (content, revision)
        return {**document, "api_revision": revision}


Params = dict[str, str]


def index(node: Node, request: Request, params: Params) -> Response:
    """Tell what the API is."""
    del node, request, params
    import importlib.metadata  # late: it takes memory

    links = {
        name: f"/v1/{name}"
        for name in ("status", "decision", "history", "config", "jobs", "events", "metrics", "openapi.json")
    }
    return json_response(Index(api=1, updog=importlib.metadata.version("updog-ab"), links=links))


def status(node: Node, request: Request, params: Params) -> Response:
    """Tell how the node stands; always at once, also during work."""
    del params
    document = node.status()
    tag = f'"{document["api_revision"]}"'
    known = [word.strip().removeprefix("W/") for word in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(http=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
    return json_response(document, headers={"ETag": tag})


def decision(node: Node, request: Request, params: Params) -> Response:
    """Tell what the last check found."""
    del request, params
    found = node.reader.decision()
    if found is None:
        raise problems.own("not-checked", "the repository was not asked yet", "Start a job `refresh`.")
    return json_response(found)


def history(node: Node, request: Request, params: Params) -> Response:
    """Tell what happened on the node, after an event or from the beginning."""
    del params
    after, limit = request.query.get("after"), request.query.get("limit", "100")
    if not _WHOLE.fullmatch(limit) or int(limit) > MAX_EVENTS:
        raise problems.usage(f"limit must be a whole number from 1 to {MAX_EVENTS}")
    events = node.reader.history()
    ids = [event["id"] for event in events]
    is_known = after is None or after in ids
    begin = len(ids) - ids[::-1].index(after) if after is not None and is_known else 0
    page = events[begin : begin + int(limit)]
    last = page[-1]["id"] if page else after if is_known else None
    return json_response(History(events=page, last=last, gap=not is_known))


def config(node: Node, request: Request, params: Params) -> Response:
    """Tell the effective configuration, without secrets."""
    del request, params
    try:
        settings = configuration.load_effective(node.config_path)
    except ToolError as error:
        raise problems.of_tool_error(error) from error
    found = [Setting(name=each.name, value=each.value, is_from_file=each.is_from_file) for each in settings]
    return json_response(Settings(path=str(node.config_path), settings=found))


def metrics(node: Node, request: Request, params: Params) -> Response:
    """Tell all metrics, as Prometheus reads them."""
    del request, params
    found = prometheus.text(node.reader.status(), node.auto, datetime.now(UTC))
    return Response(content_type=METRICS, body=found.encode())


# -- jobs


def start_job(node: Node, request: Request, params: Params) -> Response:
    """Start a job, or return the running one if it was asked for the same."""
    del params
    job, is_new = start(node, request, body_of(request, JobRequest))
    http = HTTPStatus.ACCEPTED if is_new else HTTPStatus.OK
    return json_response(job, http=http, headers={"Location": f"/v1/jobs/{job.id}"})


def start(node: Node, request: Request, wanted: JobRequest) -> tuple[Job, bool]:
    """Start a job that the node's standing allows. Raises ApiError."""
    words_of(wanted)  # what makes no sense is refused as that, however the node stands
    if node.jobs.running is None:
        document = node.reader.status()
        refused = refusal(
            wanted.do, Standing(document["standing"]), is_confirmed=document["running"]["confirmed"]
        )
        if refused is not None:
            raise problems.refused(*refused)
    peer = request.peer
    return node.jobs.start(wanted, By(uid=peer.uid, gid=peer.gid, pid=peer.pid, comm=process_name(peer.pid)))


def jobs(node: Node, request: Request, params: Params) -> Response:
    """Tell of the jobs that are kept."""
    del request, params
    return json_response(Jobs(jobs=node.jobs.all()))


def job(node: Node, request: Request, params: Params) -> Response:
    """Tell of one job."""
    del request
    return json_response(_known(node.jobs.get(params["id"])))


def cancel_job(node: Node, request: Request, params: Params) -> Response:
    """End a job: an install goes on where it was when it is started again."""
    by = described(request.peer.uid, request.peer.pid)
    ended = _known(node.jobs.cancel(params["id"]))
    log.info("job %s: its end was asked for by %s", ended.do.value, by)
    http = HTTPStatus.ACCEPTED if ended.state is JobState.RUNNING else HTTPStatus.OK
    return json_response(ended, http=http)


def _known(found: Job | None) -> Job:
    if found is None:
        raise problems.own("no-such-job", "no job with this id is kept", "GET /v1/jobs lists them.")
    return found


# -- events


def events(node: Node, request: Request, params: Params) -> Response:
    """Tell what happens: the status first, then each event as it comes.

    With Last-Event-ID only what happened since then, or an event `gap` if some of that is no longer kept.
    """
    del params
    write = _as_ndjson if _NDJSON in request.headers.get("accept", "") else _as_sse
    last_id = request.headers.get("last-event-id")
    number = node.events.number_of(last_id) if last_id else None
    first: list[StreamEvent] = []
    if number is None:
        number = node.events.last
        here = node.events.id_of(number)
        if last_id:
            first.append(StreamEvent(id=here, event=EventName.GAP, data={"after": last_id}))
        first.append(StreamEvent(id=here, event=EventName.STATE, data=node.status()))
    return Response(
        content_type=_NDJSON if write is _as_ndjson else f"{_SSE}; charset=utf-8",
        body=_stream(node.events, number, first, write),
        headers={"Cache-Control": "no-store"},
    )


def _stream(
    events: Events, number: int, first: list[StreamEvent], write: Callable[[str, EventName, bytes], bytes]
) -> Iterator[bytes]:
    for each in first:
        yield write(each.id, each.event, msgspec.json.encode(each.data))
    sign = b":\n\n" if write is _as_sse else b"\n"
    due = time.monotonic() + HEARTBEAT_SECONDS
    while (found := events.after(number, min(LOOK_SECONDS, due - time.monotonic()))) is not None:
        happened, has_gap = found
        if has_gap:
            yield write(events.id_of(happened[0].number - 1), EventName.GAP, _after(events, number))
        if happened:
            yield b"".join(_written(events, each, write) for each in happened)
            number = happened[-1].number
        elif time.monotonic() < due:
            yield b""
            continue
        else:
            yield sign
        due = time.monotonic() + HEARTBEAT_SECONDS


def _after(events: Events, number: int) -> bytes:
    return msgspec.json.encode({"after": events.id_of(number)})


def _written(events: Events, each: Happened, write: Callable[[str, EventName, bytes], bytes]) -> bytes:
    return write(events.id_of(each.number), each.name, each.data)


def _as_sse(event_id: str, name: EventName, data: bytes) -> bytes:
    """Return a server-sent event (WHATWG HTML 9.2); JSON has no line breaks."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name.encode(), data)


def _as_ndjson(event_id: str, name: EventName, data: bytes) -> bytes:
    return msgspec.json.encode(StreamEvent(id=event_id, event=name, data=msgspec.Raw(data))) + b"\n"


# -- automatic updates


def permit(node: Node, request: Request, params: Params) -> Response:
    """Let updates install and restart until a time."""
    del params
    body = body_of(request, Permit)
    until = _utc(body.until)
    return _ask(
        node,
        request,
        lambda requests, now, by: asked.permit(
            requests,
            until,
            even_frozen=body.even_frozen,
            without_lock=body.without_lock,
            now=now,
            by=by,
        ),
    )


def postpone(node: Node, request: Request, params: Params) -> Response:
    """Let nothing restart before a time."""
    del params
    until = _utc(body_of(request, Postpone).until)
    return _ask(node, request, lambda requests, now, by: asked.postpone(requests, until, now=now, by=by))


def hold(node: Node, request: Request, params: Params) -> Response:
    """Let nothing install or restart until the hold is deleted."""
    del params
    body = body_of(request, Hold)
    return _ask(node, request, lambda requests, now, by: asked.hold(requests, body.reason, now=now, by=by))


def resume(node: Node, request: Request, params: Params) -> Response:
    """Take back a permit, a postponement or a hold."""
    wish = Wish(params["wish"])
    return _ask(
        node, request, lambda requests, now, by: asked.resume(requests, wishes=[wish], now=now, by=by)
    )


def _ask(node: Node, request: Request, change: Callable[[Requests, datetime, str], Requests]) -> Response:
    """Change what operators want, and let the agent look at it."""
    by = described(request.peer.uid, request.peer.pid)
    log.info("%s %s, asked for by %s", request.method, request.path, by)
    sentence = "Nothing was asked for."

    def changed(before: Requests) -> Requests:
        nonlocal sentence
        after = change(before, datetime.now(UTC), by)
        if after != before:
            sentence = after.events[-1].sentence
        return after

    try:
        wishes.change(node.state_dir, changed)
    except ToolError as error:
        raise problems.of_tool_error(error) from error
    os.kill(os.getpid(), signal.SIGUSR1)
    return json_response(Asked(sentence=sentence))


def _utc(moment: datetime) -> datetime:
    """Return a time in UTC. Raises ApiError: the calendar has no such time there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise problems.usage("there is no such time in UTC") from error
