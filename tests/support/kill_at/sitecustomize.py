"""Ends the agent by SIGKILL at a moment of its own work or of its child's; Python imports this at its start.

Every Python process that has this folder in ``PYTHONPATH`` watches its own calls of the operating system
(audit events) for the moment that ``KILL_AT`` names, once:

====================  ================================================================
``agent saves X``     before the phase X is on the disk (``auto.json`` is renamed)
``agent saved X``     the phase X is on the disk, and nothing that follows was done
``agent starts X``    before the child ``updog X`` is started
``X renames FILE``    ``updog X``, the child, is about to replace a file
``X writes FILE``     ``updog X`` opens a file to write to it
``X runs PROGRAM``    ``updog X`` is about to run a program
====================  ================================================================
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR


def _who() -> str:
    """Return ``agent``, or the words of the command that this process is."""
    words = sys.orig_argv[1:]
    if words[:2] == ["-m", "updog.daemon"]:
        return "agent"
    is_child = words[:3] == ["-m", "updog", "--config"]
    return " ".join(word for word in words[4:] if word[:1] not in {"-", "1"}) if is_child else ""


class _Watch:
    """Looks at every audit event for one moment."""

    def __init__(self, moment: str, who: str) -> None:
        self._moment, self._who = moment, who
        self._is_next = self._is_over = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_over:
            return
        if self._is_next or self._name(event, arguments) == self._moment:
            self._is_over = True
            lock = Path(os.environ["RUNTIME_DIRECTORY"], "agent.lock")
            os.kill(int(lock.read_text(encoding="ascii")), signal.SIGKILL)

    def _name(self, event: str, arguments: tuple[Any, ...]) -> str:
        who = self._who
        if event == "os.rename":
            target = Path(arguments[1]).name
            if who != "agent" or target != "auto.json":
                return f"{who} renames {target}"
            phase = json.loads(Path(arguments[0]).read_bytes())["state"]["phase"]
            self._is_next = self._moment == f"agent saved {phase}"
            return f"agent saves {phase}"
        if event == "subprocess.Popen":
            words = [str(word) for word in arguments[1]]
            if who == "agent":
                return f"agent starts {' '.join(words[5:7]) if words[5] == 'agent' else words[5]}"
            return f"{who} runs {words[0]}"
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & _WRITES:
            return f"{who} writes {Path(arguments[0]).name}"
        return ""


if "KILL_AT" in os.environ:
    sys.addaudithook(_Watch(os.environ["KILL_AT"], _who()))
