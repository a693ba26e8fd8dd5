"""Clients of the agent's API, and agents that serve it: real sockets, real processes.

    with agent_of(node) as agent:
        agent.get("/v1/status").document
        with agent.stream() as events: next(events)

A :class:`Connection` also sends what no client would: any bytes.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.patience import eventually, stretched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.nodes import Node

REPLY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One response: its status, its headers (names in lower case), its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The name of the error."""
        code: str = self.document["error"]["code"]
        return code


class _Shared(io.BufferedReader):
    """What is read ahead of one response belongs to the next one: a response does not close it."""

    def close(self) -> None:
        """Stay open."""


class Connection:
    """A connection to a server: any bytes out, responses in.

    Args:
        path: of the server's socket.
    """

    def __init__(self, path: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(stretched(REPLY_SECONDS))
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._raw = self.socket.makefile("rb", buffering=0)
        self._read = _Shared(self._raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self.socket.close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what http.client reads from."""
        del mode
        return self._read

    def send(self, data: bytes) -> None:
        """Send bytes as they are; a server that has ended the connection is no fault of the test."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request and return the response."""
        length = {} if body is None else {"Content-Length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in {"Host": "x", **length, **(headers or {})}.items()]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        self.send(head.encode("latin-1") + (body or b""))
        return self.reply(method)

    def response(self, method: str = "GET") -> http.client.HTTPResponse:
        """Return the next response before its body is read; informational ones are passed over."""
        response = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        return response

    def reply(self, method: str = "GET") -> Reply:
        """Return the next response to a request of ``method``; EOFError if the connection has ended."""
        try:
            response = self.response(method)
            body = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError) as error:
            raise EOFError from error
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(status=response.status, headers=headers, body=body)

    def line(self) -> bytes:
        """Return the next line as it came."""
        return self._read.readline()

    def is_left(self) -> bool:
        """Whether the server has ended the connection, also if not all of its answer was read."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def is_ended(self) -> bool:
        """Wait for the end of the connection; False if the server sends something instead."""
        try:
            return not self._read.read(1)
        except ConnectionResetError:
            return True


@dataclass(frozen=True, kw_only=True)
class StreamedEvent:
    """One event of the stream."""

    id: str
    name: str
    data: Any


class EventStream:
    """The events of one connection, as they come: NDJSON, or server-sent events.

    Attributes:
        connection: that it comes from. response: its head.
        heartbeats: how many came so far.
    """

    def __init__(self, connection: Connection, *, as_sse: bool, last_id: str | None) -> None:
        accept = "text/event-stream" if as_sse else "application/x-ndjson"
        headers = f"Accept: {accept}\r\n" + (f"Last-Event-ID: {last_id}\r\n" if last_id else "")
        self.connection = connection
        connection.send(f"GET /v1/events HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        self.response = connection.response()
        assert self.response.status == http.client.OK, self.response.status
        self.heartbeats = 0
        self._as_sse = as_sse

    def __iter__(self) -> Iterator[StreamedEvent]:
        return self

    def __next__(self) -> StreamedEvent:
        """Return the next event; StopIteration after the orderly end of the stream."""
        while True:
            event = self._next_sse() if self._as_sse else self._next_line()
            if event is not None:
                return event
            self.heartbeats += 1

    def _line(self) -> bytes:
        line = self.response.readline()
        if not line:
            raise StopIteration
        return line.rstrip(b"\n")

    def _next_line(self) -> StreamedEvent | None:
        line = self._line()
        if not line:
            return None
        event = json.loads(line)
        return StreamedEvent(id=event["id"], name=event["event"], data=event["data"])

    def _next_sse(self) -> StreamedEvent | None:
        fields: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.decode().partition(":")
            fields[name] = value.removeprefix(" ")
        if set(fields) == {""}:
            return None
        return StreamedEvent(id=fields["id"], name=fields["event"], data=json.loads(fields["data"]))


@dataclass(kw_only=True)
class RunningAgent:
    """An agent that runs, and its sockets.

    Attributes:
        socket: of the API. bottlerocket: of Bottlerocket's paths.
        process: the agent's. log: what it says.
    """

    socket: Path
    bottlerocket: Path
    process: subprocess.Popen[bytes]
    log: Path

    def connect(self) -> Connection:
        """Return a new connection."""
        return Connection(self.socket)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """Return the response to a request on a connection of its own; ``body`` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        with self.connect() as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return connection.ask(method, path, data, {**kind, **named})

    def get(self, path: str, **headers: str) -> Reply:
        """Return the response to a GET."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object = None) -> Reply:
        """Return the response to a POST."""
        return self.ask("POST", path, body)

    def job(self, job_id: str) -> Any:
        """Return a job."""
        return self.get(f"/v1/jobs/{job_id}").document

    def start_job(self, do: str, **members: Any) -> Any:
        """Start a job that must be accepted; return it."""
        reply = self.post("/v1/jobs", {"do": do, **members})
        assert reply.status == http.client.ACCEPTED, reply
        return reply.document

    def ended(self, job_id: str) -> Any:
        """Return a job once it has ended."""
        assert eventually(lambda: self.job(job_id)["state"] != "running")
        return self.job(job_id)

    def done(self, do: str, **members: Any) -> Any:
        """Start a job and return it once it has ended."""
        return self.ended(self.start_job(do, **members)["id"])

    @contextmanager
    def stream(self, *, as_sse: bool = False, last_id: str | None = None) -> Iterator[EventStream]:
        """Listen to events."""
        with self.connect() as connection:
            yield EventStream(connection, as_sse=as_sse, last_id=last_id)

    def kill(self) -> None:
        """Kill it as nothing can be caught; what it started goes on."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Tell it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(stretched(30))

    def resident(self) -> int:
        """Return the bytes of memory that it has now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))

    def says(self, text: str) -> bool:
        """Whether its log has a text."""
        return text in self.log.read_text(encoding="utf-8", errors="replace")


def configure_api(node: Node, *, mode: str = "check", **api: object) -> None:
    """Give a node an API in the folder ``run`` beside it. It can be called once for each node.

    Args:
        node: must be one without ``[auto]`` and ``[api]``.
        mode: of automatic updates.
        **api: keys of ``[api]``, in place of the default ones.
    """
    run = run_folder(node)
    keys = {"socket": str(run / "api.sock"), "bottlerocket_socket": str(run / "bottlerocket.sock"), **api}
    auto = ["[auto]", f'mode = "{mode}"', 'hooks.dir = "hooks"', 'warn = "0m"']
    lines = [*auto, "[api]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
    with node.config.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines))


def program_of(node: Node, limits: Mapping[str, float] | None = None) -> list[str]:
    """Return the words that start a node's agent.

    Args:
        node: its API is configured.
        limits: ``module:NAME`` → value: shorter limits than the product's, so that a test need not wait.
    """
    if not limits:
        return [sys.executable, "-m", "updog.daemon", "--config", str(node.config)]
    code = ["import sys, importlib", "from updog.daemon.__main__ import main"]
    for name, value in limits.items():
        module, _, attribute = name.partition(":")
        code.append(f"module = importlib.import_module({module!r})")
        code.append(f"assert hasattr(module, {attribute!r}); module.{attribute} = {value!r}")
    code.append("sys.exit(main(sys.argv[1:]))")
    return [sys.executable, "-c", "\n".join(code), "--config", str(node.config)]


def run_folder(node: Node) -> Path:
    """Return the folder of what the agent of a node forgets at a restart of the machine."""
    return node.folder.parent / "run"


@contextmanager
def agent_of(
    node: Node,
    *,
    limits: Mapping[str, float] | None = None,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningAgent]:
    """Run the agent of a node; it accepts clients when the block begins, and is killed at its end.

    Args:
        node: its API is configured.
        limits: shorter limits than the product's, see :func:`program_of`.
        before: words that execute the program.
        pass_fds: descriptors that it inherits.
        environment: variables besides those of this process.
    """
    run, log = run_folder(node), node.folder.parent / "agent.log"
    words = [*before, *program_of(node, limits)]
    with ExitStack() as stack:
        ready = stack.enter_context(_NotifySocket(node.folder.parent / "notify"))
        more = {"RUNTIME_DIRECTORY": str(run), "NOTIFY_SOCKET": str(ready.path), **(environment or {})}
        with log.open("ab") as file:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stderr=file, pass_fds=pass_fds, env={**os.environ, **more}
            )
        try:
            assert eventually(lambda: ready.has_come() or process.poll() is not None)
            assert ready.has_come(), log.read_text(encoding="utf-8")
            stack.close()
            yield RunningAgent(
                socket=run / "api.sock", bottlerocket=run / "bottlerocket.sock", process=process, log=log
            )
        finally:
            process.kill()
            process.wait()


class _NotifySocket:
    """Hears that a daemon is ready (sd_notify(3)); afterwards nobody listens, which disturbs no daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._has_come = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def has_come(self) -> bool:
        """Whether it has said so."""
        with suppress(BlockingIOError):
            while not self._has_come:
                self._has_come = b"READY=1" in self._socket.recv(4096)
        return self._has_come
