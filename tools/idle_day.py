"""What an agent with `mode = "check"` costs a day: requests, bytes, processor time, memory.

    .venv/bin/python tools/idle_day.py [--checks 20] [--looks 100]

A real agent checks a small real repository over HTTP. The first check, which fetches everything, does not
count; the others are asked for (`updog agent check`) and are the same as those that it makes every
`check_every`. Between them it looks at the clock and at what operators asked; a signal makes it look. A day
has 24 checks (`check_every = "1h"`) and a look every five minutes. It is measured for a node for which there
is nothing new, and for one that knows of an update.

Processor time is that of the agent and of all its children, as the kernel counts it. Bytes are those of the
connections, headers included, as a relay in front of the server counts them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from signpost.text import size_text, traffic_text
from tests.support.http_server import HttpServer
from tests.support.nodes import NEWER, Node, make_node
from updog.daemon.loop import LONGEST_WAIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DAY, CHECK_EVERY = timedelta(days=1), timedelta(hours=1)
CHECKS_A_DAY = DAY // CHECK_EVERY
LOOKS_A_DAY = DAY // LONGEST_WAIT
PATIENCE = 120.0
_PIECE = 1 << 16
_AGENT = """
[auto]
mode = "check"
check_every = "1h"
[api]
socket = ""
"""


class Relay:
    """Passes connections on to a server, and counts their bytes in both directions."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self._port, self._lock = port, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            back.start()
            self._pass_on(client, server)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                with self._lock:
                    self.bytes += len(piece)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a number of checks or looks took: seconds of the agent and of its children; bytes, requests."""

    own: float
    children: float
    bytes: int
    requests: int

    def minus(self, other: Cost) -> Cost:
        """Return what was added since ``other``."""
        return Cost(
            own=self.own - other.own,
            children=self.children - other.children,
            bytes=self.bytes - other.bytes,
            requests=self.requests - other.requests,
        )


class Agent:
    """The agent of one node, as a process of its own."""

    def __init__(self, node: Node, run: Path, server: HttpServer, relay: Relay) -> None:
        self._node, self._run, self._server, self._relay = node, run, server, relay
        words = [sys.executable, "-m", "updog", "--config", str(node.config), "agent"]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def cost(self) -> Cost:
        """Return what it has taken since it started."""
        fields = (
            Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        user, system, of_children, system_of_children = map(int, fields[11:15])  # proc_pid_stat(5)
        tick = os.sysconf("SC_CLK_TCK")
        return Cost(
            own=(user + system) / tick,
            children=(of_children + system_of_children) / tick,
            bytes=self._relay.bytes,
            requests=len(self._server.log),
        )

    def resident(self) -> int:
        """Return the bytes of memory that it has now."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))

    def check(self) -> None:
        """Make it check, and wait until it rests again."""
        before = self._said("checked_at")
        self._node.updog("agent", "check")
        self._wait(lambda: self._said("checked_at") != before and self._said("state") in {"idle", "ready"})

    def look(self) -> None:
        """Make it look once."""
        before = self._stamp()
        os.kill(self._process.pid, signal.SIGUSR1)
        self._wait(lambda: self._stamp() != before)

    def wait_until_it_runs(self) -> None:
        """Wait until it has said something."""
        self._wait(lambda: self._said("state") == "idle")

    def _said(self, member: str) -> object:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self._run / "agent.json").read_bytes())[member]
        return None

    def _stamp(self) -> tuple[int, int]:
        status = (self._run / "agent.json").stat()
        return status.st_ino, status.st_mtime_ns

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"the agent ended, or does nothing: {self._process.poll()}")
            time.sleep(0.01)


@contextlib.contextmanager
def agent_of(folder: Path, published: Sequence[str]) -> Iterator[Agent]:
    """Run the agent of a node whose repository offers ``published`` besides the version that runs."""
    run = folder / "run"
    os.environ["RUNTIME_DIRECTORY"] = str(run)
    node = make_node(folder, published=published, health_checks=[])
    content = {
        str(path.relative_to(node.repository.folder)): path.read_bytes()
        for path in node.repository.folder.rglob("*")
        if path.is_file()
    }
    with (
        HttpServer(content) as server,
        contextlib.closing(Relay(int(server.url("").rstrip("/").rpartition(":")[2]))) as relay,
    ):
        node.configure(metadata_base_url=f"{relay.url}/metadata/", targets_base_url=f"{relay.url}/targets/")
        node.config.write_text(node.config.read_text(encoding="utf-8") + _AGENT, encoding="utf-8")
        agent = Agent(node, run, server, relay)
        try:
            agent.wait_until_it_runs()
            yield agent
        finally:
            agent.close()


def measured(agent: Agent, times: int, do: Callable[[], None]) -> Cost:
    """Return what ``times`` of something take."""
    before = agent.cost()
    for _ in range(times):
        do()
    return agent.cost().minus(before)


def row(name: str, agent: Agent, checks: int, looks: int) -> str:
    """Return the row of one kind of node, for a day."""
    agent.check()  # the first one fetches everything
    check = measured(agent, checks, agent.check)
    look = measured(agent, looks, agent.look)
    of_checks, of_looks = CHECKS_A_DAY / checks, LOOKS_A_DAY / looks
    own, children = (
        getattr(check, part) * of_checks + getattr(look, part) * of_looks for part in ("own", "children")
    )
    if look.bytes or look.requests:
        raise RuntimeError("a look used the network")
    cells = (
        name,
        f"{(check.own + check.children) / checks:.2f} s",
        f"{(look.own + look.children) / looks * 1000:.1f} ms",
        f"{check.requests * of_checks:.0f}",
        traffic_text(check.bytes * of_checks),
        f"{own:.1f} s",
        f"{children:.1f} s",
        size_text(agent.resident()),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="What an agent that only checks costs a day.")
    parser.add_argument("--checks", type=int, default=20, help="checks that are measured")
    parser.add_argument("--looks", type=int, default=100, help="looks that are measured")
    arguments = parser.parse_args()
    print(
        "| node | a check | a look | requests a day | bytes a day | agent a day | children a day | memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, published in (("nothing new", ()), ("knows of an update", (NEWER,))):
        with tempfile.TemporaryDirectory() as folder, agent_of(Path(folder), published) as agent:
            print(row(name, agent, arguments.checks, arguments.looks), flush=True)


if __name__ == "__main__":
    main()
