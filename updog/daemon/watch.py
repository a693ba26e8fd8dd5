"""``updog watch``: what the agent and its clients do, as it happens."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from signpost import console
from signpost.console import example, json_option
from signpost.progress import Action, ProgressStep
from signpost.text import line
from updog.daemon import view
from updog.daemon.api import client
from updog.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from signpost.progress import ProgressReporter


@click.command("watch", cls=console.QuickCommand)
@json_option
@click.pass_context
@example("updog watch", "updog watch --json | jq -c .event")
def watch(context: click.Context, *, as_json: bool) -> None:
    """Show what happens on this node, until you press Ctrl-C.

    Shows the standing, what the agent waits for, and the progress of installs, also of those that another
    client or the agent itself started. With --json one event a line, as GET /v1/events has them.
    """
    path = context.obj.config.api.socket
    if path is None:
        raise ConfigError(
            f"api.socket in {context.obj.path} is empty: the agent has no API",
            next_step="Set api.socket and reload the agent: systemctl reload updog-agent",
        )
    if as_json:
        for event in client.events(path):
            print(json.dumps(event), flush=True)  # noqa: T201 - the result of this command
        return
    from updog.progress import reporter_to

    reporter = reporter_to(sys.stdout, sys.stderr, as_json=False)
    try:
        follow(path, reporter)
    finally:
        reporter.close()


def follow(path: Path, reporter: ProgressReporter) -> None:
    """Report all events to ``reporter``. Raises as :func:`updog.daemon.api.client.events`."""
    shown = Shown(reporter.say)
    for event in client.events(path):
        name, data = event["event"], event["data"]
        if name == "progress":
            try:
                step = ProgressStep(
                    action=Action(data["action"]),
                    item=line(data["item"]),
                    total=data["total"],
                    done=data["done"],
                )
            except (KeyError, ValueError):  # of a later version
                continue
            reporter.update(step)
        else:
            shown.tell(name, data)


class Shown:
    """Turns events into lines, each only when it says something new."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last: dict[str, str] = {}

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Say what an event tells."""
        text = _TEXTS[name](data) if name in _TEXTS else ""
        if text and self._last.get(name) != text:
            self._last[name] = text
            self._say(text)
        if name == "state" and data.get("auto"):
            self.tell("auto", data["auto"])


def _state(data: Mapping[str, Any]) -> str:
    running = data["running"]
    pending = data["pending"]
    update = f"; {pending['version']} is {data['standing']}" if pending else ""
    confirmed = "" if running["confirmed"] else ", not confirmed"
    return f"running   {running['variant']} {running['version']} in slot {running['slot']}{confirmed}{update}"


def _job(data: Mapping[str, Any]) -> str:
    error = f": {data['error']['message']}" if data["error"] else ""
    version = f" {data['version']}" if data["version"] else ""
    return f"job       {data['do']}{version} {data['state']}{error}"


def _history(data: Mapping[str, Any]) -> str:
    moment = datetime.fromisoformat(data["time"])
    by = f" ({data['by']})" if data.get("by") else ""
    return f"{moment:%H:%M:%S}Z {data['sentence']}{by}"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "state": _state,
    "auto": view.text,
    "job": _job,
    "step": lambda data: f"          {data['sentence']}",
    "history": _history,
    "gap": lambda _: "          some events were missed",
}
"""Event → what is shown of it."""
