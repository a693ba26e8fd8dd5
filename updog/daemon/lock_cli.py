"""``updog fleet-lock``: one request to the FleetLock server, for the daemon and for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from signpost.console import Parsed, QuickGroup, emit, example, json_option, note
from signpost.errors import ExitStatus
from signpost.journal import Severity
from updog.daemon.fleet_lock import Answer, Request, ask
from updog.errors import ConfigError
from updog.standing import Standing
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.config import Config

_STATUSES = {
    Answer.YES: ExitStatus.DONE,
    Answer.NO: ExitStatus.NOTHING_TO_DO,
    Answer.FAILED: ExitStatus.UNREACHABLE,
}
_VERSION = Parsed("version", Version.parse_friendly, usage=(VersionError,))


def _about_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options for what the server may log: the two versions and how the update stands."""
    outcomes = click.Choice([standing.value for standing in Standing])
    for option in (
        click.option(
            "--outcome", type=outcomes, metavar="WORD", help="How the update stands, as in `updog status`."
        ),
        click.option("--to", "to", type=_VERSION, metavar="VERSION", help="The version that is installed."),
        click.option("--from", "from_", type=_VERSION, metavar="VERSION", help="The version that runs."),
    ):
        command = option(command)
    return command


@click.group("fleet-lock", cls=QuickGroup)
@example("updog fleet-lock lock && reboot")
def fleet_lock() -> None:
    """Ask the fleet lock server for the lock, or release it.

    Both may be repeated. Exit status: 0 yes, 2 no fleet lock is configured, 3 no or not yet, 5 no answer that
    counts: the lock may be held all the same. Give each node a machine-id of its own: the server takes two
    clones with one machine-id for one node.
    """


@fleet_lock.command("lock")
@_about_options
@json_option
@click.pass_context
@example("updog fleet-lock lock --to 1.2.0 --json")
def lock(
    context: click.Context, *, from_: Version | None, to: Version | None, outcome: str | None, as_json: bool
) -> int:
    """Ask for the lock, once (FleetLock's pre-reboot).

    It is held until it is released; there is no time limit on it.
    """
    return _ask(context, Request.LOCK, (from_, to, outcome), as_json=as_json)


@fleet_lock.command("unlock")
@_about_options
@json_option
@click.pass_context
@example("updog fleet-lock unlock")
def unlock(
    context: click.Context, *, from_: Version | None, to: Version | None, outcome: str | None, as_json: bool
) -> int:
    """Release the lock (FleetLock's steady-state).

    A lock that this node does not hold is released.
    """
    return _ask(context, Request.UNLOCK, (from_, to, outcome), as_json=as_json)


def _ask(
    context: click.Context,
    request: Request,
    about: tuple[Version | None, Version | None, str | None],
    *,
    as_json: bool,
) -> int:
    """Send one request, print its answer and return the exit status."""
    config: Config = context.obj.config
    settings = config.auto.fleet_lock
    if settings is None:
        message = "no fleet lock is configured"
        raise ConfigError(message, next_step="Set `base_url` in the table [auto.fleet_lock].")
    members = zip(("from", "to", "outcome"), about, strict=True)
    answer = ask(
        settings, config, request, {name: str(value) for name, value in members if value is not None}
    )
    emit(answer.to_document(), answer.sentence if answer.answer is Answer.YES else "", as_json=as_json)
    if answer.answer is not Answer.YES:
        severity = Severity.WARNING if answer.answer is Answer.FAILED else Severity.INFO
        next_step = f"\n  next: {answer.next_step}" if answer.next_step else ""
        note(f"updog: {answer.sentence}{next_step}", severity)
    return int(_STATUSES[answer.answer])
