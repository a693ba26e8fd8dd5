"""How fast the agent's API answers, and how much memory it takes, while many clients listen.

    .venv/bin/python tools/bench_api.py [--requests 5000]

Real agents, one for each row, with the product's limits, are asked for the status (`GET /v1/status`) again
and again: on one connection, and on a new one for each. Beside that listens nobody; or there are 25 streams,
of which 15 are read, 5 slowly (an event a second) and 5 not at all; or also an operator who holds and resumes
four times a second, which is told in all streams, and half a head and a head of 1 MB every second. Times are
those of the client, from before its request, or its connection, to the last byte of the answer. The other
clients are a process of their own; on two processors they, and the commands that the agent asks what has
changed, take their part.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from signpost.text import size_text
from tests.support.api_clients import agent_of, configure_api
from tests.support.api_crowds import HALF_A_HEAD, LARGE_HEAD, MAX_CLIENTS, crowd_of
from tests.support.nodes import make_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from multiprocessing.synchronize import Event

    from tests.support.api_clients import Reply, RunningAgent

STATUS = "/v1/status"
READERS, SLOW, MUTE = 15, 5, 5
OPERATOR_SECONDS = 0.25
ODD_EVERY = 4  # requests of the operator
_PATIENCE = 120.0


def _be_a_crowd(agent: RunningAgent, is_there: Event, is_over: Event, *, with_operator: bool) -> None:
    """Be the other clients, until it is over."""
    with crowd_of(agent, readers=READERS, slow=SLOW, mute=MUTE):
        is_there.set()
        if with_operator:
            _operate(agent, is_over)
        is_over.wait()


def _operate(agent: RunningAgent, is_over: Event) -> None:
    """Hold and resume; now and then send what is not a request."""
    with contextlib.ExitStack() as odd:
        for number in itertools.count():
            if is_over.wait(OPERATOR_SECONDS):
                return
            if number % 2:
                agent.ask("DELETE", "/v1/auto/hold")
            else:
                agent.post("/v1/auto/hold", {"reason": f"rack {number}"})
            if number % ODD_EVERY == 0:
                odd.close()
                for sent in (HALF_A_HEAD, LARGE_HEAD):
                    odd.enter_context(agent.connect()).send(sent)


@contextlib.contextmanager
def crowd_beside(agent: RunningAgent, *, with_operator: bool) -> Iterator[None]:
    """Let the other clients be there: as threads of this process they would be part of what is measured."""
    context = multiprocessing.get_context("fork")
    is_there, is_over = context.Event(), context.Event()
    crowd = context.Process(
        target=_be_a_crowd, args=(agent, is_there, is_over), kwargs={"with_operator": with_operator}
    )
    crowd.start()
    try:
        if not is_there.wait(_PATIENCE):
            raise RuntimeError("the other clients did not come")
        yield
    finally:
        is_over.set()
        crowd.join()


CROWDS: Mapping[str, Callable[[RunningAgent], AbstractContextManager[None]]] = {
    "nobody": lambda _: contextlib.nullcontext(),
    "25 streams": partial(crowd_beside, with_operator=False),
    "25 streams, an operator, odd heads": partial(crowd_beside, with_operator=True),
}


def on_one_connection(agent: RunningAgent, requests: int) -> list[float]:
    """Return how long each of so many answers took, in seconds, on one connection."""
    with agent.connect() as connection:
        return [_timed(lambda: connection.ask("GET", STATUS)) for _ in range(requests)]


def on_new_connections(agent: RunningAgent, requests: int) -> list[float]:
    """Return the same with a new connection for each, which takes part of the time."""
    return [_timed(lambda: agent.get(STATUS)) for _ in range(requests)]


def _timed(ask: Callable[[], Reply]) -> float:
    began = time.perf_counter()
    reply = ask()
    took = time.perf_counter() - began
    if reply.status != HTTPStatus.OK:
        raise RuntimeError(f"the status was answered with {reply.status}")
    return took


def row(name: str, crowd: Callable[[RunningAgent], AbstractContextManager[None]], requests: int) -> str:
    """Measure an agent, beside a crowd, and return the row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        node = make_node(Path(folder), health_checks=[])
        configure_api(node, max_clients=MAX_CLIENTS)
        with agent_of(node) as agent:
            agent.get(STATUS)  # the first client waits until the API is loaded
            with crowd(agent):
                cells = [name]
                for ask in (on_one_connection, on_new_connections):
                    times = ask(agent, requests)
                    cuts = statistics.quantiles(times, n=100)
                    cells += [f"{seconds * 1000:.1f} ms" for seconds in (cuts[49], cuts[98], max(times))]
                return f"| {' | '.join([*cells, size_text(agent.resident())])} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description="What an answer of the agent's API costs among many clients."
    )
    parser.add_argument("--requests", type=int, default=5000, help="of each kind that are measured")
    arguments = parser.parse_args()
    print("| beside | p50 | p99 | longest | new connection: p50 | p99 | longest | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for name, crowd in CROWDS.items():
        print(row(name, crowd, arguments.requests), flush=True)


if __name__ == "__main__":
    main()
