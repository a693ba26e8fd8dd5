"""The command line of the node. Thin: words to values, one call into the agent, values to text.

The only module of updog (with ``drill/cli.py``) that prints; the only one that exits.
"""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from signpost import console
from signpost.console import Parsed, emit, example, json_option, log_level_option, note
from signpost.errors import ExitStatus
from signpost.sets import Slot
from updog import config as configuration
from updog.errors import HealthError, HostError, NoWayBackError
from updog.update_metadata.errors import TimeError, VersionError
from updog.update_metadata.sizes import parse_size
from updog.update_metadata.times import parse_moment
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from updog.agent import Agent, Wishes
    from updog.config import Config
    from updog.host import Host
    from updog.progress import Teller


@dataclass(kw_only=True)
class _Context:
    """What the options before the command said, and the machine they mean."""

    path: Path
    disk: str | None
    active: Slot | None
    accept_expired_until: datetime | None = None
    limit_rate: int | None = None

    @cached_property
    def config(self) -> Config:
        """The configuration, read once. Raises ConfigError."""
        config = configuration.load(self.path)
        if self.accept_expired_until:
            config = replace(config, accept_expired_until=self.accept_expired_until)
        if self.limit_rate is not None:
            config = replace(config, limit_rate=self.limit_rate)
        return config

    @cached_property
    def host(self) -> Host:
        """The machine."""
        from updog.host import Host

        return Host(self.config, disk=self.disk, active=self.active)


def clock() -> datetime:
    """Return this moment, UTC. The one place that reads the clock."""
    return datetime.now(UTC)


def _rate(text: str) -> int:
    """Return bytes per second; k, M and G stand for powers of 1024, as curl has them. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is no rate; say 500k or 2M (bytes per second)")
    return int(match[1]) * _RATE_UNITS[match[2]]


_RATE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIME = Parsed("time", lambda text: parse_moment(text, clock()), usage=(TimeError,))
_VERSION = Parsed("version", Version.parse_friendly, usage=(VersionError,))
_RATE = Parsed("rate", _rate, usage=(ValueError,))
_SIZE = Parsed("size", parse_size)


def teller(*, as_json: bool) -> Teller:
    """Return who is told about long work: events on stdout, a bar on a terminal, else lines on stderr."""
    from updog.progress import BarTeller, LineTeller

    if as_json:
        return LineTeller(click.echo, as_json=True)
    if sys.stderr.isatty():
        from rich.console import Console

        return BarTeller(Console(stderr=True))
    return LineTeller(note, as_json=False)


def _agent(context: click.Context, *, as_json: bool = False) -> Agent:
    """Build the agent from the configuration file and the options."""
    from updog.agent import Agent

    said: _Context = context.obj
    return Agent(said.config, said.host, clock=clock, teller=teller(as_json=as_json))


def _wishes(version: Version | None, *, ignore_waves: bool, most: int | None = None) -> Wishes:
    from updog.agent import Wishes

    return Wishes(version=version, ignore_waves=ignore_waves, most=most)


_image_option = click.option(
    "-i", "--image", "version", type=_VERSION, metavar="VERSION", help="Take exactly this version."
)
_waves_option = click.option(
    "-n", "--now", "--ignore-waves", "ignore_waves", is_flag=True, help="Do not wait for the wave."
)
_rate_option = click.option(
    "--limit-rate",
    type=_RATE,
    metavar="RATE",
    expose_value=False,
    callback=lambda context, _option, rate: setattr(context.obj, "limit_rate", rate),
    help="Take no more than RATE bytes per second over the network (500k, 2M; 0: no limit).",
)
_most_option = click.option(
    "--max-bytes",
    "most",
    type=_SIZE,
    metavar="SIZE",
    help="Refuse an update that fetches more than this.",
)
_reboot_option = click.option("-r", "--reboot", is_flag=True, help="Reboot when done.")


class _Program(console.QuickGroup):
    """Imports the subordinate command lines when they are asked for: a node starts without them."""

    _LATER: ClassVar[Mapping[str, str]] = {"drill": "updog.drill.cli", "tuf": "updog.conformance"}
    """Name of a group → the module that has it under this name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._LATER:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(self._LATER[cmd_name]), cmd_name)
        return found


@click.group("updog", cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=configuration.DEFAULT_PATH,
    show_default=True,
    help="Configuration file.",
)
@click.option("--disk", metavar="PATH", help="Block device or image file with the two slots.")
@click.option(
    "--active",
    type=click.Choice([slot.value for slot in Slot]),
    help="Which slot runs, where nobody can be asked.",
)
@click.option(
    "--accept-expired-until",
    type=_TIME,
    help="Believe expired metadata until then (an air gap); recorded in the history.",
)
@log_level_option
@click.version_option(package_name="updog")
@click.pass_context
def program(
    context: click.Context,
    config: Path,
    disk: str | None,
    active: str | None,
    accept_expired_until: datetime | None,
    log_level: str,
) -> None:
    """Check, download, verify, apply and confirm updates of this node, or fall back and say why.

    Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing to do, 4 refused to protect the
    node, 5 repository unreachable, 75 busy.
    """
    console.start_logging(log_level)
    context.obj = _Context(
        path=config,
        disk=disk,
        active=Slot(active) if active else None,
        accept_expired_until=accept_expired_until,
    )


@program.command("check-update")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Every release for this node, with its verdict."
)
@_image_option
@_waves_option
@json_option
@click.pass_context
@example("updog check-update --all")
def check_update(
    context: click.Context, everything: bool, version: Version | None, ignore_waves: bool, as_json: bool
) -> int:
    """Is there an update for this node? Exit 0: yes, printed as VARIANT VERSION; 3: no."""
    from updog import render

    agent = _agent(context)
    decision = agent.check(_wishes(version, ignore_waves=ignore_waves))
    agent.report()
    emit(
        render.decision_document(decision, everything=everything),
        render.decision_text(decision, everything=everything),
        as_json=as_json,
    )
    if decision.update is None:
        note(decision.summary)
    return int(ExitStatus.DONE if decision.update else ExitStatus.NOTHING_TO_DO)


# Upstream's other name for the same command.
program.add_command(
    click.Command(
        "whats",
        callback=check_update.callback,
        params=check_update.params,
        help=check_update.help,
        hidden=True,
    )
)


@program.command("why")
@_image_option
@_waves_option
@json_option
@click.pass_context
@example("updog why --image 1.26.1")
def why(context: click.Context, version: Version | None, ignore_waves: bool, as_json: bool) -> int:
    """Why this version, or why none: wave and date, lock, hold, deny-list, floor, release by release."""
    from updog import render

    decision = _agent(context).check(_wishes(version, ignore_waves=ignore_waves))
    releases = [render.verdict_document(verdict) for verdict in decision.verdicts]
    chosen = str(decision.update.version) if decision.update else None
    document = {"summary": decision.summary, "chosen": chosen, "releases": releases}
    emit(document, render.why_text(decision), as_json=as_json)
    return int(ExitStatus.DONE if decision.update else ExitStatus.NOTHING_TO_DO)


def _told(what: str, version: object, *, as_json: bool, said: str) -> None:
    """Print the result of a command that changed something: one line, or the last NDJSON event."""
    if as_json:
        import json

        click.echo(
            json.dumps({"event": "result", "command": what, "version": str(version), "sentence": said})
        )
    else:
        click.echo(said)


@program.command("plan")
@_image_option
@_waves_option
@_most_option
@json_option
@click.pass_context
@example("updog plan --max-bytes 64MiB")
def plan_command(
    context: click.Context, version: Version | None, ignore_waves: bool, most: int | None, as_json: bool
) -> None:
    """What the update would take, to the byte, and change: sources, partitions, flags before and after.

    It is made by what makes the update itself: the update then fetches these bytes, besides the two small
    files of metadata that every check asks for. Small indexes are fetched to know; no slot is written.
    """
    from updog import render

    found = _agent(context).plan(_wishes(version, ignore_waves=ignore_waves, most=most))
    emit(render.plan_document(found), render.plan_text(found), as_json=as_json)


@program.command("prepare")
@_image_option
@_waves_option
@_most_option
@_rate_option
@json_option
@click.pass_context
@example("updog prepare")
def prepare(
    context: click.Context, version: Version | None, ignore_waves: bool, most: int | None, as_json: bool
) -> None:
    """Fetch and verify everything that can be had, without touching the inactive slot."""
    update = _agent(context, as_json=as_json).prepare(_wishes(version, ignore_waves=ignore_waves, most=most))
    said = f"{update.variant} {update.version} is here and verified; the inactive slot is untouched."
    _told("prepare", update.version, as_json=as_json, said=said)


@program.command("update")
@_image_option
@_waves_option
@_most_option
@_reboot_option
@_rate_option
@json_option
@click.pass_context
@example("updog update --reboot")
def update_command(
    context: click.Context,
    version: Version | None,
    ignore_waves: bool,
    most: int | None,
    reboot: bool,
    as_json: bool,
) -> None:
    """Install the update in the inactive slot, prove it, and make it boot next."""
    agent = _agent(context, as_json=as_json)
    update = agent.update(_wishes(version, ignore_waves=ignore_waves, most=most))
    agent.report()
    said = f"Update applied: {update.variant} {update.version}; it runs after a restart."
    _told("update", update.version, as_json=as_json, said=said)
    _reboot(context, wanted=reboot)


@program.command("update-image")
@_image_option
@_waves_option
@_most_option
@_rate_option
@json_option
@click.pass_context
@example("updog update-image && updog update-apply --reboot")
def update_image(
    context: click.Context, version: Version | None, ignore_waves: bool, most: int | None, as_json: bool
) -> None:
    """Install the update in the inactive slot and prove it; what boots next does not change."""
    agent = _agent(context, as_json=as_json)
    update = agent.update_image(_wishes(version, ignore_waves=ignore_waves, most=most))
    agent.report()
    said = f"{update.variant} {update.version} is installed; `updog update-apply` makes it boot next."
    _told("update-image", update.version, as_json=as_json, said=said)


@program.command("update-apply")
@_reboot_option
@json_option
@click.pass_context
@example("updog update-apply --reboot")
def update_apply(context: click.Context, reboot: bool, as_json: bool) -> None:
    """Make the installed update boot next. Needs no network."""
    version = _agent(context).apply()
    _told("update-apply", version, as_json=as_json, said=f"{version} boots next; it runs after a restart.")
    _reboot(context, wanted=reboot)


@program.command("update-revert")
@json_option
@click.pass_context
@example("updog update-revert")
def update_revert(context: click.Context, as_json: bool) -> None:
    """Take update-apply back before the restart; the update stays installed. Needs no network."""
    version = _agent(context).revert()
    _told(
        "update-revert", version, as_json=as_json, said=f"{version} no longer boots next; it stays installed."
    )


@program.command("confirm")
@json_option
@click.pass_context
@example("updog confirm          # what updog-confirm.service runs after every start")
def confirm(context: click.Context, as_json: bool) -> None:
    """Run the health checks, then mark this boot successful; or fall back, with the cause recorded."""
    agent = _agent(context)
    try:
        findings = agent.confirm()
    except NoWayBackError:  # the node is up; after a restart it might not be
        agent.report()
        raise
    except HealthError:
        agent.report()
        _reboot_unhealthy(context)
        raise
    agent.report()
    warnings = [f"{finding.check} {finding.problem}" for finding in findings if finding.problem]
    for warning in warnings:
        note(f"warning: {warning}")
    emit({"confirmed": True, "warnings": warnings}, "This boot is confirmed.", as_json=as_json)


@program.command("boot-record")
@json_option
@click.pass_context
@example("updog boot-record      # what updog-boot-record.service runs")
def boot_record(context: click.Context, as_json: bool) -> None:
    """Work out how the last restart ended and record it; run once after every start."""
    outcome = _agent(context).settle()
    emit({"standing": outcome.value}, f"update: {outcome.value}", as_json=as_json)


@program.command("status")
@json_option
@click.pass_context
@example("updog status --json | jq .last_rollback")
def status(context: click.Context, as_json: bool) -> None:
    """Slots, versions, what boots next, what is pending, the last rollback and its cause; offline too."""
    from updog import render

    found = _agent(context).status()
    emit(render.status_document(found), render.status_text(found), as_json=as_json)


@program.command("motd")
@json_option
@click.pass_context
@example("updog motd > /run/motd.d/updog      # or set motd_file, which keeps it fresh")
def motd(context: click.Context, as_json: bool) -> None:
    """Say in a line or three what runs, what waits, and why a version was left: for the login message."""
    from updog import render

    said = render.login_text(_agent(context).status())
    emit({"lines": said.splitlines()}, said, as_json=as_json)


@program.command("history")
@json_option
@click.pass_context
@example("updog history")
def history(context: click.Context, as_json: bool) -> None:
    """What happened on this node, oldest first, kept across both slots."""
    from updog import render

    events = _agent(context).history()
    emit([event.to_json() for event in events], render.history_text(events), as_json=as_json)


@program.command("verify")
@click.option(
    "--slot", type=click.Choice([slot.value for slot in Slot]), help="Which slot; by default the running one."
)
@json_option
@click.pass_context
@example("updog verify --slot B")
def verify(context: click.Context, slot: str | None, as_json: bool) -> None:
    """Read a slot back against its signed hashes."""
    from updog import render

    agent = _agent(context)
    which = Slot(slot) if slot else agent.status().running.slot
    checks = agent.verify(which)
    emit(render.verify_document(which, checks), f"Slot {which} is what was signed.", as_json=as_json)


@program.command("deny-list")
@click.option("--clear", "version", type=_VERSION, metavar="VERSION", help="Let this version be taken again.")
@json_option
@click.pass_context
@example("updog deny-list --clear 1.26.1")
def deny_list(context: click.Context, version: Version | None, as_json: bool) -> None:
    """Versions that fell back on this node and are not taken again, and why."""
    agent = _agent(context)
    if version is not None:
        agent.clear_denial(version)
    denied = agent.status().state.denied
    document = [event.to_json() for event in denied.values()]
    emit(document, "\n".join(f"{v}  {event.sentence}" for v, event in denied.items()), as_json=as_json)


@program.command("accept-disk")
@json_option
@click.pass_context
@example("updog accept-disk      # after the disk was replaced, or the node restored onto another")
def accept_disk(context: click.Context, as_json: bool) -> None:
    """Take the disk that is there for this node's own after it was replaced; history and deny-list stay."""
    guid = _agent(context).accept_disk()
    emit({"disk_guid": guid}, f"Disk {guid} is this node's own now.", as_json=as_json)


@program.command("accept-clock")
@json_option
@click.pass_context
@example("date && updog accept-clock      # after a clock that was ahead was set right")
def accept_clock(context: click.Context, as_json: bool) -> None:
    """Believe a clock that is behind the latest moment this node has known; recorded in the history."""
    moment = _agent(context).accept_clock()
    emit(
        {"latest_time": moment.isoformat(timespec="seconds")},
        f"{moment:%Y-%m-%d %H:%M} UTC is the latest moment known now.",
        as_json=as_json,
    )


def _reboot_unhealthy(context: click.Context) -> None:
    """Reboot if that can be done; why the node is unhealthy matters more than why it does not restart."""
    try:
        _reboot(context, wanted=True)
    except HostError as error:
        note(f"updog: {error.message}\n  next: {error.next_step}")


def _reboot(context: click.Context, *, wanted: bool) -> None:
    """Reboot by the configured command, or say that a person has to."""
    if not wanted:
        return
    if not context.obj.host.reboot():
        note("No reboot_command is configured: restart the node yourself.")


program.add_command(console.completion)


class _Terminated(BaseException):
    """The service manager asked this process to end."""


def _terminate(_number: int, _frame: object) -> None:
    """Unwind, so that what was started is ended too: a health check must not outlive its confirm (D74)."""
    raise _Terminated


def main() -> None:
    """Run updog and exit with its status, or by the signal that ended it."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        console.leave(console.run(program))
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # as it would have ended; a service manager takes that for clean
