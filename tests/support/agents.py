"""Agents that drive real nodes: children, disk, repository and machine are real; the clock is the test's.

    agent = AgentOnNode(node=make_node(tmp_path), policy=Policy(mode=Mode.RESTART))
    agent.log_in("anna", "pts/0"); agent.go_on(minutes=20)

The machine reads folders of the test instead of ``/run``; ``wall`` is a program that keeps what it was given.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from tests.support.nodes import now
from tests.support.patience import stretched
from updog.daemon import decision, view, wishes
from updog.daemon.children import Children
from updog.daemon.loop import Daemon, Edges
from updog.daemon.machine import Machine
from updog.daemon.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.nodes import Node
    from updog.auto.policy import Policy
    from updog.auto.table import Phase

NOON = now().replace(hour=12, minute=0, second=0, microsecond=0)
_SECONDS = 60


def replace_wall(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let agents on ``node`` find a ``wall`` that keeps each message, see :attr:`AgentOnNode.warnings`."""
    _write_script(node.folder / "bin/wall", f"(cat; printf '\\0') >> {node.folder}/wall")
    monkeypatch.setenv("PATH", f"{node.folder}/bin:{os.environ['PATH']}")


def _write_script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


@dataclass(kw_only=True)
class AgentOnNode:
    """A daemon on ``node``, started anew with :meth:`start`, and its clock.

    The policy's blockers are those of :meth:`block`.
    """

    node: Node
    policy: Policy
    moment: datetime = NOON
    daemon: Daemon = field(init=False)

    def __post_init__(self) -> None:
        for name in ("systemd/sessions", "updog/inhibit.d"):
            (self._run / name).mkdir(parents=True, exist_ok=True)
        (self._run / "utmp").touch()
        self._blockers.mkdir()
        self.start()

    @property
    def folder(self) -> Path:
        """The node's ``state_dir``."""
        return self.node.folder / "state"

    @property
    def _run(self) -> Path:
        return self.node.folder / "run"

    @property
    def _blockers(self) -> Path:
        return self.node.folder / "blockers.d"

    def start(self) -> None:
        """Start the daemon, as if the one before it was killed."""
        policy = replace(self.policy, blockers_dir=self._blockers)
        edges = Edges(
            store=MemoryStore(self.folder),
            children=Children.of(self.node.config, self._run / "updog"),
            surroundings=Machine(policy, self.folder, run=self._run),
            requests=lambda: wishes.read(self.folder),
            state_file=self.node.state_file,
            keep_check=partial(decision.keep, self.folder),
            clock=lambda: self.moment,
            jitter=lambda: 0.0,
        )
        self.daemon = Daemon(policy, 0, edges)

    def go_on(self, **later: float) -> datetime:
        """Let time pass, then look until nothing is under way; return when it wants to look again."""
        self.moment += timedelta(**later)
        end = time.monotonic() + stretched(_SECONDS)
        wake = self.daemon.look()
        while not self.daemon.is_idle:
            assert time.monotonic() < end, self.daemon.memory.state
            time.sleep(0.02)
            wake = self.daemon.look()
        return wake

    # -- what can be observed ------------------------------------------------------------------------

    def phase(self) -> Phase:
        """Where the table is."""
        return self.daemon.memory.state.phase

    @property
    def closed(self) -> list[str]:
        """The gates that are closed."""
        return [gate.name.value for gate in self.daemon.gates if not gate.is_open]

    @property
    def warnings(self) -> list[str]:
        """What those who are logged in were told, oldest first."""
        path = self.node.folder / "wall"
        return path.read_text(encoding="utf-8").split("\0")[:-1] if path.exists() else []

    @property
    def shown(self) -> str:
        """What ``updog agent status`` shows."""
        requests = wishes.read(self.folder)
        daemon = self.daemon
        document = view.document(self.policy, daemon.memory, daemon.gates, requests)
        return view.text(document)

    # -- what happens on the machine -----------------------------------------------------------------

    def log_in(self, user: str, terminal: str) -> None:
        """Log a user in, as logind says it."""
        (self._run / "systemd/sessions" / user).write_text(f"USER={user}\nTTY={terminal}\nCLASS=user\n")

    def inhibit(self, why: str) -> None:
        """Put an objection into ``inhibit.d``."""
        (self._run / "updog/inhibit.d/test").write_text(json.dumps({"why": why}))

    def stop_inhibiting(self) -> None:
        """Take it back."""
        (self._run / "updog/inhibit.d/test").unlink()

    def block(self, name: str, problem: str) -> None:
        """Add a blocker that objects."""
        _write_script(self._blockers / name, f"echo '{problem}'; exit 1")

    def stop_blocking(self, name: str) -> None:
        """Let it object no more."""
        _write_script(self._blockers / name, "exit 0")
