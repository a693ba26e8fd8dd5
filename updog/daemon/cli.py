"""``updog agent``: the daemon, and what operators ask of it."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from signpost import console
from signpost.console import Parsed, emit, emit_last, example, json_option, note
from signpost.errors import ToolError
from signpost.journal import Severity
from signpost.medium import OsMedium
from updog.daemon import asked, running, view, wishes
from updog.daemon.caller import caller
from updog.errors import BusyError, NotRunningError
from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import parse_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from updog.config import Config
    from updog.daemon.restart import HookResult
    from updog.daemon.wishes import Requests

_RECORD_SECONDS = 10.0  # for another updog that is at work, such as the confirm before post-confirm.d


def _now() -> datetime:
    return datetime.now(UTC)


def _moment(text: str) -> datetime:
    """Return a time from ``2h``, ``30m``, ``1d``, ``in 2 hours`` or RFC 3339. Raises TimeError."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    words = f"in {text[:-1]} {units[text[-1]]}" if text[:-1].isdecimal() and text[-1:] in units else text
    try:
        return parse_moment(words, _now())
    except TimeError as error:
        raise TimeError(f"{text!r} is none of 30m, 2h, 1d and a time such as 2026-11-24T09:30:00Z") from error


_TIME = Parsed("time", _moment, usage=(TimeError,))


@click.group("agent", cls=console.QuickGroup, invoke_without_command=True)
@click.pass_context
@example("updog agent status", "updog agent permit 2h", 'updog agent hold "moving racks"')
def agent(context: click.Context) -> None:
    """Update this node by itself, as configured in `[auto]`.

    Without a command this is the daemon itself, which updog-agent.service runs. The commands tell it what an
    operator wants; what they ask for is kept also while it does not run.
    """
    if context.invoked_subcommand is None:
        program = [sys.executable, "-m", "updog.daemon", "--config", str(context.obj.path)]
        os.execv(sys.executable, program)  # noqa: S606 - the daemon does not carry the command line's imports


def _ask(
    context: click.Context, change: Callable[..., Requests], *, otherwise: str = "", as_json: bool
) -> None:
    """Make a change of :mod:`~updog.daemon.asked`, tell the daemon, and print what was recorded.

    Args:
        context: has the configuration.
        change: gets the requests, ``now`` and ``by``.
        otherwise: the answer if it changes nothing.
        as_json: print JSON.
    """
    sentence = otherwise

    def changed(before: Requests) -> Requests:
        nonlocal sentence
        after = change(before, now=_now(), by=caller())
        if after != before:
            sentence = after.events[-1].sentence
        return after

    wishes.change(context.obj.config.state_dir, changed)
    told = running.nudge()
    emit({"sentence": sentence, "agent_told": told}, sentence, as_json=as_json)
    if not told:
        note("The agent does not run; it will see this when it starts.")


@agent.command("status")
@json_option
@click.pass_context
@example("updog agent status --json | jq .gates")
def status(context: click.Context, as_json: bool) -> None:
    """Show what the agent does, what it waits for and until when.

    Exit status: 0 it runs, 1 it does not.
    """
    document = running.document()
    if document is None:
        mode = context.obj.config.auto.mode.value
        raise NotRunningError(f"the agent does not run; auto.mode in {context.obj.path} is {mode}")
    emit(document, view.text(document), as_json=as_json)


@agent.command("check")
@json_option
@click.pass_context
@example("updog agent check")
def check(context: click.Context, as_json: bool) -> None:
    """Ask the repository now, instead of at the next regular time."""
    _ask(context, asked.check, as_json=as_json)


@agent.command("permit")
@click.argument("until", type=_TIME, metavar="TIME")
@click.option("--even-frozen", is_flag=True, help="Also during a freeze.")
@click.option("--without-lock", is_flag=True, help="Restart without the fleet lock.")
@json_option
@click.pass_context
@example("updog agent permit 2h", "updog agent permit 2026-12-24T06:00:00Z --even-frozen")
def permit(
    context: click.Context, until: datetime, even_frozen: bool, without_lock: bool, as_json: bool
) -> None:
    """Let updates install and restart until TIME.

    Also outside windows and with users logged in; it ends a postponement, min_age and settle. It never opens
    the deny-list, a hold, an inhibitor or a blocker.
    """
    change = partial(asked.permit, until=until, even_frozen=even_frozen, without_lock=without_lock)
    _ask(context, change, as_json=as_json)


@agent.command("postpone")
@click.argument("until", type=_TIME, metavar="TIME")
@json_option
@click.pass_context
@example("updog agent postpone 2h")
def postpone(context: click.Context, until: datetime, as_json: bool) -> None:
    """Do not restart before TIME.

    It is at most 7 days from now. A restart that was announced is taken back.
    """
    _ask(context, partial(asked.postpone, until=until), as_json=as_json)


@agent.command("hold")
@click.argument("reason")
@json_option
@click.pass_context
@example('updog agent hold "moving racks"')
def hold(context: click.Context, reason: str, as_json: bool) -> None:
    """Install and restart nothing until `updog agent resume`."""
    _ask(context, partial(asked.hold, reason=reason), as_json=as_json)


@agent.command("resume")
@json_option
@click.pass_context
@example("updog agent resume")
def resume(context: click.Context, as_json: bool) -> None:
    """Take back a hold, a postponement and a permit."""
    _ask(context, asked.resume, otherwise="Nothing was to be taken back.", as_json=as_json)


@agent.command("release-lock")
@json_option
@click.pass_context
@example("updog agent release-lock")
def release_lock(context: click.Context, as_json: bool) -> None:
    """Release the fleet lock that is kept after a fallback."""
    _ask(context, asked.release_lock, as_json=as_json)


@agent.command("restart")
@click.option("--ignore-inhibitors", is_flag=True, help="Restart although other programs object.")
@json_option
@click.pass_context
@example("updog agent restart")
def restart(context: click.Context, ignore_inhibitors: bool, as_json: bool) -> None:
    """Run the hooks in pre-restart.d, then reboot.

    The agent does this; an operator may. How each hook ended is in the history.
    """
    from updog.daemon.restart import PRE_RESTART, require_passed, run_pre_restart
    from updog.daemon.restart import restart as restart_machine

    config = context.obj.config
    hooks_dir = config.auto.hooks_dir
    hooks = run_pre_restart(hooks_dir, config.auto.hook_timeout.total_seconds())
    _record(config, PRE_RESTART, hooks)
    require_passed(hooks_dir, hooks)
    restart_machine(config.reboot_command, check_inhibitors=not ignore_inhibitors)
    emit_last({"sentence": "Restarting.", "hooks": _hooks(hooks)}, "Restarting.", as_json=as_json)


@agent.command("post-confirm")
@json_option
@click.pass_context
@example("updog agent post-confirm")
def post_confirm(context: click.Context, as_json: bool) -> None:
    """Run the hooks in post-confirm.d.

    The agent does this after a confirm; an operator may. How each hook ended is in the history.
    """
    from updog.daemon.restart import POST_CONFIRM, run_post_confirm

    config = context.obj.config
    hooks = run_post_confirm(config.auto.hooks_dir, config.auto.hook_timeout.total_seconds())
    _record(config, POST_CONFIRM, hooks)
    failed = [f"{hook.name} {hook.problem}" for hook in hooks if hook.problem]
    sentence = f"Failed: {'; '.join(failed)}." if failed else "All hooks passed."
    emit_last({"sentence": sentence, "hooks": _hooks(hooks)}, sentence, as_json=as_json)


def _record(config: Config, folder: str, results: Sequence[HookResult]) -> None:
    """Add the results of hooks to the history; one that cannot be written is a warning and stops nothing."""
    from updog.state_store import StateStore

    by = os.environ.get("UPDOG_BY")
    events = [result.event(folder, _now(), by) for result in results]
    store = StateStore(config.state_dir, medium=OsMedium(), clock=_now)
    end = time.monotonic() + _RECORD_SECONDS
    while events:
        try:
            store.record(events)
        except BusyError as error:
            if time.monotonic() < end:
                time.sleep(_RECORD_SECONDS / 50)
                continue
            note(f"not recorded: {error.message}", Severity.WARNING)
        except ToolError as error:
            note(f"not recorded: {error.message}", Severity.WARNING)
        break


def _hooks(results: Sequence[HookResult]) -> list[dict[str, str]]:
    return [
        {"name": result.name, "problem": result.problem, "last_line": result.last_line} for result in results
    ]
