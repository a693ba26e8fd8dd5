"""The command line of the node: parses options, makes one call to the agent, prints its result.

Of updog, only this module, ``drill/cli`` and ``daemon/lock_cli`` print, and only this one exits.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial, wraps
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from signpost import console, streams
from signpost.console import (
    Parsed,
    emit,
    emit_last,
    example,
    json_option,
    log_level_option,
    note,
    quiet_option,
)
from signpost.errors import ExitStatus
from signpost.journal import Severity, start_logging, takes_fields
from signpost.sets import Slot
from updog import config as configuration
from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.errors import HealthError, HostError, NothingToDoError, NoWayBackError
from updog.update_metadata.errors import TimeError, VersionError
from updog.update_metadata.sizes import parse_rate, parse_size
from updog.update_metadata.times import parse_moment
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from updog.agent import Agent
    from updog.config import Config
    from updog.host import Host
    from updog.views import UpdateRequest


@dataclass(kw_only=True)
class _Context:
    """The options before the command, and what they select."""

    path: Path
    disk: str | None
    active: Slot | None
    accept_expired_until: datetime | None = None
    limit_rate: int | None = None
    quiet: bool = False

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
        """The machine that this process runs on, or that the options name."""
        from updog.host import Host

        return Host(self.config, disk=self.disk, active=self.active)


def clock() -> datetime:
    """Return the current time, UTC. The agent gets it from here and never reads the system clock itself."""
    return datetime.now(UTC)


_TIME = Parsed("time", lambda text: parse_moment(text, clock()), usage=(TimeError,))
_VERSION = Parsed("version", Version.parse_friendly, usage=(VersionError,))
_RATE = Parsed("rate", parse_rate)
_SIZE = Parsed("size", parse_size)


def _agent(context: click.Context, *, as_json: bool = False) -> Agent:
    """Return an agent for the configuration file and the options."""
    from updog.agent import Agent
    from updog.daemon import running
    from updog.progress import reporter_to

    options: _Context = context.obj
    reporter = reporter_to(sys.stdout, sys.stderr, as_json=as_json, quiet=options.quiet)
    by = os.environ.get("UPDOG_BY")
    return Agent(options.config, options.host, clock=clock, reporter=reporter, by=by, daemon=running.document)


def _request(
    version: Version | None,
    *,
    ignore_waves: bool,
    max_bytes: int | None = None,
    accept_plan: str | None = None,
) -> UpdateRequest:
    from updog.views import UpdateRequest

    return UpdateRequest(
        version=version, ignore_waves=ignore_waves, max_bytes=max_bytes, accept_plan=accept_plan
    )


_image_option = click.option(
    "-i", "--image", "version", type=_VERSION, metavar="VERSION", help="Install exactly this version."
)
_waves_option = click.option(
    "-n", "--now", "--ignore-waves", "ignore_waves", is_flag=True, help="Do not wait for this node's wave."
)
_rate_option = click.option(
    "--limit-rate",
    type=_RATE,
    metavar="RATE",
    expose_value=False,
    callback=lambda context, _option, rate: setattr(context.obj, "limit_rate", rate),
    help="Download at most RATE bytes per second (500k, 2M; 0: no limit).",
)
_quiet_option = partial(
    quiet_option,
    expose_value=False,
    callback=lambda context, _option, quiet: setattr(context.obj, "quiet", quiet),
)
_max_bytes_option = click.option(
    "--max-bytes",
    "max_bytes",
    type=_SIZE,
    metavar="SIZE",
    help="Refuse an update that downloads more than this (500k, 50MB).",
)
_accept_option = click.option(
    "--accept-plan",
    metavar="ID",
    help="Refuse anything but the plan with this id, which `updog plan` shows.",
)


def _request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of what it installs, for :func:`_with_request`."""
    for option in (_accept_option, _max_bytes_option, _waves_option, _image_option):
        command = option(command)
    return command


def _with_request(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand a command the values of :func:`_request_options` as ``request``."""

    @wraps(command)
    def with_request(
        context: click.Context,
        *,
        version: Version | None,
        ignore_waves: bool,
        max_bytes: int | None,
        accept_plan: str | None,
        **others: Any,
    ) -> Any:
        request = _request(version, ignore_waves=ignore_waves, max_bytes=max_bytes, accept_plan=accept_plan)
        return command(context, request=request, **others)

    return with_request


_reboot_option = click.option("-r", "--reboot", is_flag=True, help="Reboot afterwards.")


_LATER = {
    "agent": "updog.daemon.cli:agent",
    "completion": "signpost.console:completion",
    "drill": "updog.drill.cli:drill",
    "fleet-lock": "updog.daemon.lock_cli:fleet_lock",
    "tuf": "updog.conformance:tuf",
    "watch": "updog.daemon.watch:watch",
}
"""Commands whose modules are imported only when they are run."""


@click.group("updog", cls=console.LazyGroup, later=_LATER)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    default=configuration.DEFAULT_PATH,
    show_default=True,
    help="Configuration file.",
)
@click.option("--disk", metavar="PATH", help="Block device or image file with the two slots.")
@click.option(
    "--active",
    type=click.Choice([slot.value for slot in Slot]),
    help="The running slot, if it cannot be detected.",
)
@click.option(
    "--accept-expired-until",
    type=_TIME,
    help="Accept expired metadata until this time (air gap); recorded in the history.",
)
@log_level_option
@click.version_option(package_name="updog-ab")
@click.pass_context
@example("updog why", "updog update --reboot", "updog --config node/updog.toml status")
def program(
    context: click.Context,
    config: Path,
    disk: str | None,
    active: str | None,
    accept_expired_until: datetime | None,
    log_level: str,
) -> None:
    """Check for, install and confirm updates of this node, or fall back and report why.

    Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing to do, 4 refused to protect the
    node, 5 repository unreachable, 75 busy.
    """
    start_logging(log_level)
    context.obj = _Context(
        path=config,
        disk=disk,
        active=Slot(active) if active else None,
        accept_expired_until=accept_expired_until,
    )


@program.command("check-update")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Show every release for this node with its verdict."
)
@_image_option
@_waves_option
@json_option
@click.pass_context
@example("updog check-update --all")
def check_update(
    context: click.Context, everything: bool, version: Version | None, ignore_waves: bool, as_json: bool
) -> int:
    """Show whether there is an update for this node.

    It is printed as VARIANT VERSION. Exit status: 0 there is an update, 3 there is none.
    """
    from updog import render

    agent = _agent(context)
    decision = agent.check(_request(version, ignore_waves=ignore_waves))
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
    console.QuickCommand(
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
    """Explain for each release why it is installed or not.

    Reasons are its wave and date, a version lock, a hold, the deny-list, a floor. Where the agent runs, also
    what it waits for after that. Exit status: 0 there is an update, 3 there is none.
    """
    from updog import render

    decision = _agent(context).check(_request(version, ignore_waves=ignore_waves))
    releases = [render.verdict_document(verdict) for verdict in decision.verdicts]
    chosen = str(decision.update.version) if decision.update else None
    document = {"summary": decision.summary, "chosen": chosen, "releases": releases}
    _emit_with_agent(document, render.why_text(decision), as_json=as_json)
    return int(ExitStatus.DONE if decision.update else ExitStatus.NOTHING_TO_DO)


def _emit_with_agent(
    document: Mapping[str, Any], text: str, *, with_checks: bool = True, as_json: bool
) -> None:
    """Print a result, and below it what the running agent does, if one runs."""
    from updog.daemon import running, view

    auto = running.document()
    below = f"\n\n{view.text(auto, with_checks=with_checks)}" if auto is not None else ""
    emit({**document, "auto": auto}, f"{text}{below}", as_json=as_json)


def _emit_result(command: str, version: object, sentence: str, *, as_json: bool) -> None:
    """Print the result of a command that changed something."""
    document = {"command": command, "version": str(version), "sentence": sentence}
    emit_last(document, sentence, as_json=as_json)


@program.command("plan")
@_image_option
@_waves_option
@_max_bytes_option
@json_option
@click.pass_context
@example("updog plan --max-bytes 64MiB")
def plan_command(
    context: click.Context, version: Version | None, ignore_waves: bool, max_bytes: int | None, as_json: bool
) -> None:
    """Show what an update would download, write and change.

    Shows bytes by source, partitions, and the slots' flags before and after. The plan is made by the same
    code as the update, which then downloads exactly these bytes, besides the two small metadata files that
    every check fetches. Making the plan downloads small indexes and writes no slot.
    """
    from updog import render

    plan = _agent(context).plan(_request(version, ignore_waves=ignore_waves, max_bytes=max_bytes))
    emit(render.plan_document(plan), render.plan_text(plan), as_json=as_json)


@program.command("prepare")
@_request_options
@_rate_option
@_quiet_option
@json_option
@click.pass_context
@_with_request
@example("updog prepare")
def prepare(context: click.Context, *, request: UpdateRequest, as_json: bool) -> None:
    """Download and verify an update without writing a slot."""
    update = _agent(context, as_json=as_json).prepare(request)
    sentence = f"{update.variant} {update.version} is downloaded and verified; no slot was written."
    _emit_result("prepare", update.version, sentence, as_json=as_json)


@contextmanager
def _restart_if_waiting(
    command: str, agent: Agent, context: click.Context, *, reboot: bool, as_json: bool
) -> Iterator[None]:
    """Restart into an update that already waits for it, where there is nothing else to do.

    One reboot command that failed, or one manual update, must not stop an unattended node forever.
    """
    try:
        yield
    except NothingToDoError:
        version = agent.version_waiting_for_restart() if reboot else None
        if version is None:
            raise
        sentence = f"{version} already boots next; restarting."
        _emit_result(command, version, sentence, as_json=as_json)
        _reboot(context)


@program.command("update")
@_request_options
@_reboot_option
@_rate_option
@_quiet_option
@json_option
@click.pass_context
@_with_request
@example("updog update --reboot")
def update_command(context: click.Context, *, request: UpdateRequest, reboot: bool, as_json: bool) -> None:
    """Install an update, verify it and make it boot next.

    With --reboot, an update that already waits for a restart is restarted into as well.
    """
    agent = _agent(context, as_json=as_json)
    with _restart_if_waiting("update", agent, context, reboot=reboot, as_json=as_json):
        update = agent.update(request)
        agent.report()
        sentence = f"Update applied: {update.variant} {update.version}; it runs after a restart."
        _emit_result("update", update.version, sentence, as_json=as_json)
        if reboot:
            _reboot(context)


@program.command("update-image")
@_request_options
@_rate_option
@_quiet_option
@json_option
@click.pass_context
@_with_request
@example("updog update-image && updog update-apply --reboot")
def update_image(context: click.Context, *, request: UpdateRequest, as_json: bool) -> None:
    """Install and verify an update without making it boot next."""
    agent = _agent(context, as_json=as_json)
    update = agent.update_image(request)
    agent.report()
    sentence = f"{update.variant} {update.version} is installed; `updog update-apply` makes it boot next."
    _emit_result("update-image", update.version, sentence, as_json=as_json)


@program.command("update-apply")
@_reboot_option
@json_option
@click.pass_context
@example("updog update-apply --reboot")
def update_apply(context: click.Context, reboot: bool, as_json: bool) -> None:
    """Make the installed update boot next. Needs no network.

    With --reboot, an update that already boots next is restarted into as well.
    """
    agent = _agent(context)
    with _restart_if_waiting("update-apply", agent, context, reboot=reboot, as_json=as_json):
        version = agent.apply()
        sentence = f"{version} boots next; it runs after a restart."
        _emit_result("update-apply", version, sentence, as_json=as_json)
        if reboot:
            _reboot(context)


@program.command("update-revert")
@json_option
@click.pass_context
@example("updog update-revert")
def update_revert(context: click.Context, as_json: bool) -> None:
    """Undo update-apply before the restart.

    The update stays installed. Needs no network.
    """
    version = _agent(context).revert()
    sentence = f"{version} no longer boots next; it stays installed."
    _emit_result("update-revert", version, sentence, as_json=as_json)


@program.command("rollback")
@_reboot_option
@json_option
@click.pass_context
@example("updog rollback --reboot")
def rollback(context: click.Context, reboot: bool, as_json: bool) -> None:
    """Make the other slot boot next and deny the running version.

    The running version is not installed again until `updog deny-list --clear VERSION`, or until a newer
    version is confirmed. Needs no network.
    """
    slot = _agent(context).rollback()
    emit({"next": slot.value}, f"Slot {slot.value} boots next; it runs after a restart.", as_json=as_json)
    if reboot:
        _reboot(context)


@program.command("confirm")
@json_option
@click.pass_context
@example("updog confirm          # what updog-confirm.service runs after every start")
def confirm(context: click.Context, as_json: bool) -> None:
    """Run the health checks, then confirm this boot or fall back.

    To confirm is to mark the running slot as successful; a fallback is recorded with its cause. An agent
    that runs is told, so that it releases its fleet lock at once.
    """
    from updog.daemon import running

    agent = _agent(context)
    try:
        results = agent.confirm()
    except NoWayBackError:  # the node is running; after a restart it might not be
        agent.report()
        raise
    except HealthError:
        agent.report()
        try:
            _reboot(context)
        except HostError as error:  # what made the node unhealthy is the more important error
            note(f"updog: {error.message}\n  next: {error.next_step}", Severity.ERROR)
        raise
    running.nudge()
    agent.report()
    warnings = [f"{result.check}: {result.problem}" for result in results if result.problem]
    for warning in warnings:
        note(f"warning: {warning}", Severity.WARNING)
    emit({"confirmed": True, "warnings": warnings}, "This boot is confirmed.", as_json=as_json)


@program.command("boot-record")
@json_option
@click.pass_context
@example("updog boot-record      # what updog-boot-record.service runs")
def boot_record(context: click.Context, as_json: bool) -> None:
    """Find out how the last restart ended and record it.

    To be run once after every start. What it records is printed on stderr too; the journal gets a priority.
    """
    from updog.state import SEVERITIES

    outcome = _agent(context).record_boot()
    standing = outcome.standing.value
    events = [event.to_json() for event in outcome.events]
    emit({"standing": standing, "events": events}, f"standing: {standing}", as_json=as_json)
    if takes_fields():  # it has the events already
        return
    for event in outcome.events:
        note(f"{event.code.value}: {event.sentence}", SEVERITIES.get(event.code, Severity.INFO))


@program.command("status")
@json_option
@click.pass_context
@example("updog status --json | jq .last_rollback")
def status(context: click.Context, as_json: bool) -> None:
    """Show slots, what boots next, and the last rollback.

    Also shows the pending update and the cause of the rollback. Uses no network, takes no lock, writes
    nothing.
    """
    from updog import render

    current = _agent(context).status()
    document, text = render.status_document(current), render.status_text(current)
    _emit_with_agent(document, text, with_checks=False, as_json=as_json)  # status says it itself


@program.command("motd")
@json_option
@click.pass_context
@example("updog motd > /run/motd.d/updog      # or set motd_file, which keeps it fresh")
def motd(context: click.Context, as_json: bool) -> None:
    """Print the status as a login message of a few lines.

    It shows the running version, the pending update and what it waits for, why a version was left, and that
    checks fail.
    """
    from updog import render
    from updog.daemon import running

    text = render.login_text(_agent(context).status(), running.document(), clock())
    emit({"lines": text.splitlines()}, text, as_json=as_json)


@program.command("history")
@json_option
@click.pass_context
@example("updog history")
def history(context: click.Context, as_json: bool) -> None:
    """Show what happened on this node, oldest first.

    Shows what updog did, what `updog agent` did by itself, and what operators asked of it. The history is
    shared by both slots.
    """
    from updog import render
    from updog.daemon.history import whole

    events = whole(context.obj.config.state_dir, _agent(context).history())
    emit([event.to_json() for event in events], render.history_text(events), as_json=as_json)


@program.command("verify")
@click.option(
    "--slot", type=click.Choice([slot.value for slot in Slot]), help="The slot; default: the running one."
)
@_quiet_option
@json_option
@click.pass_context
@example("updog verify --slot B")
def verify(context: click.Context, slot: str | None, as_json: bool) -> None:
    """Read a slot and compare it with its signed hashes."""
    from updog import render

    agent = _agent(context)
    chosen = Slot(slot) if slot else agent.status().running.slot
    checks = agent.verify(chosen)
    emit(render.verify_document(chosen, checks), f"Slot {chosen} matches what was signed.", as_json=as_json)


@program.command("deny-list")
@click.option("--clear", "version", type=_VERSION, metavar="VERSION", help="Allow this version again.")
@json_option
@click.pass_context
@example("updog deny-list --clear 1.26.1")
def deny_list(context: click.Context, version: Version | None, as_json: bool) -> None:
    """Show versions that fell back on this node, and why.

    They are not installed again until a newer version is confirmed or --clear allows them.
    """
    agent = _agent(context)
    if version is not None:
        agent.clear_denial(version)
    denied = agent.status().state.denied
    document = [event.to_json() for event in denied.values()]
    lines = [f"{version}  {event.sentence}" for version, event in denied.items()]
    emit(document, "\n".join(lines) or "No version is on the deny-list.", as_json=as_json)


@program.command("config")
@click.option("--effective", is_flag=True, help="Also show the keys that the file does not have.")
@json_option
@click.pass_context
@example("updog config --effective | grep auto")
def config_(context: click.Context, effective: bool, as_json: bool) -> None:
    """Check the configuration file and show its keys.

    Each key is shown with its value and where it comes from: the file, or the default. Logins and queries of
    URLs are not shown. Exit status: 0 the file is valid, 2 it has faults, which are all listed.
    """
    from updog import render

    path = context.obj.path
    settings = [
        setting for setting in configuration.load_effective(path) if effective or setting.is_from_file
    ]
    emit(render.settings_document(path, settings), render.settings_text(settings), as_json=as_json)


@program.command("help")
@click.argument("topic", type=click.Choice(["configuration"]), required=False)
@json_option
@click.pass_context
@example("updog help configuration | grep -A4 metadata_base_url")
def help_(context: click.Context, topic: str | None, as_json: bool) -> None:
    """Explain a topic; without one, list the commands.

    configuration: every key of updog.toml, the values that it takes, and its default.
    """
    from updog import render

    if topic is None:
        emit({"topics": ["configuration"]}, context.find_root().get_help(), as_json=as_json)
    else:
        keys = (*configuration.KEYS, *AUTO_KEYS, *API_KEYS)
        emit(render.keys_document(keys), render.keys_text(keys), as_json=as_json)


@program.command("accept-disk")
@json_option
@click.pass_context
@example("updog accept-disk      # after the disk was replaced or restored")
def accept_disk(context: click.Context, as_json: bool) -> None:
    """Accept the present disk as this node's own.

    Needed after the disk was replaced, or the node restored onto another one. History and deny-list are kept.
    """
    guid = _agent(context).accept_disk()
    emit({"disk_guid": guid}, f"Disk {guid} is now this node's own.", as_json=as_json)


@program.command("accept-clock")
@json_option
@click.pass_context
@example("date && updog accept-clock      # the publisher's clock was ahead")
def accept_clock(context: click.Context, as_json: bool) -> None:
    """Accept a clock behind the repository's signed time.

    Needed if the publisher's clock was ahead, and the repository no longer says when it was signed. Recorded
    in the history.
    """
    now = _agent(context).accept_clock()
    emit(
        {"latest_time": now.isoformat(timespec="seconds")},
        f"The clock at {now:%Y-%m-%d %H:%M} UTC is accepted.",
        as_json=as_json,
    )


@program.group("units", cls=console.QuickGroup)
@example("updog units install --prefix /opt/updog")
def units_group() -> None:
    """Put the systemd units in place."""


@units_group.command("install")
@click.option(
    "--prefix",
    type=click.Path(path_type=PurePosixPath),
    default="/usr",
    show_default=True,
    help="Where the program is: bin/updog is below it.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    show_default=True,
    help="The system that gets them, such as the tree of an image.",
)
@json_option
@example("updog units install --prefix /opt/updog", "updog units install --root tree/")
def units_install(prefix: PurePosixPath, root: Path, as_json: bool) -> None:
    """Write the units, their preset, groups, folders and catalog.

    They start the program that is in --prefix. Nothing is enabled: the commands that do it are printed.
    """
    from updog import units

    paths = units.install(root, prefix)
    names = units.enabled_by_preset(units.files(prefix))
    below = "" if root == Path("/") else f" --root={root}"
    steps = [
        f"systemd-sysusers{below} updog.conf",
        f"journalctl --update-catalog{below}",
        f"systemctl{below} preset {' '.join(names)}",
    ]
    emit({"files": [str(path) for path in paths], "next": steps}, "\n".join(map(str, paths)), as_json=as_json)
    note("\n  ".join(["next:", *steps]))


def _reboot(context: click.Context) -> None:
    """Run the configured reboot command; without one, ask the operator to restart. Raises HostError."""
    if not context.obj.host.reboot():
        note("No reboot_command is configured: restart the node yourself.")


class _Terminated(BaseException):
    """The service manager asked this process to end."""


def _terminate(_number: int, _frame: object) -> None:
    """Unwind the stack, so that child processes end too: no health check may outlive its confirm (D74)."""
    raise _Terminated


def main() -> None:
    """Run updog and exit with its status, or by the signal that terminated it."""
    streams.protect()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # One failed check is nothing that an operator must see; updog itself tells of several in a row.
        console.leave(console.run(program, unreachable=Severity.NOTICE))
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # a service manager takes the end by this signal as a clean exit
