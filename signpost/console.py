"""What the three command lines share: one error boundary, one way to print, one set of options.

Rules it enforces:

* an expected failure is a :class:`~signpost.errors.ToolError`; it prints what, why and the next step
  on stderr and ends in its exit status; with ``--json`` the same goes to stdout as one document;
* stdout carries results only, stderr everything else;
* an unexpected exception is a defect: one line says so, the traceback comes with ``--log-level debug``.
"""

from __future__ import annotations

import gc
import inspect
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from signpost.errors import ExitStatus, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOG_LEVELS = ("debug", "info", "warning", "error")
_INTERRUPTED = 128 + 2  # the shell's convention for SIGINT
_OBJECTS_BEFORE_COLLECTION = 100_000
"""Python's own is 700. Importing makes a hundred thousand objects and next to no garbage, and looking through
them again and again takes a good part of a command that finds nothing to do."""

Command = TypeVar("Command", bound="Callable[..., Any]")


def json_option(command: Command) -> Command:
    """Add ``--json`` to a command, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def log_level_option(command: Command) -> Command:
    """Add ``--log-level`` to a group, passed on as ``log_level``."""
    return click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default="warning",
        show_default=True,
        help="How much to log on stderr.",
    )(command)


def example(*lines: str) -> Callable[[Command], Command]:
    """Add an example to a command's help, printed line by line; stands below ``@group.command``."""

    def add(command: Command) -> Command:
        text = "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n{text}"
        return command

    return add


class Parsed(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.3
    """A click type over one of our parsers.

    Args:
        name: what help calls it.
        parser: text to value. Values that are no text, such as defaults, pass.
        usage: errors that become click's own usage errors; others end the command as they are.
    """

    def __init__(
        self, name: str, parser: Callable[[str], Any], *, usage: tuple[type[Exception], ...] = ()
    ) -> None:
        self.name = name
        self._parser = parser
        self._usage = usage

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value."""
        if not isinstance(value, str):
            return value
        try:
            return self._parser(value)
        except self._usage as error:
            self.fail(str(error), param, ctx)


def _show_help(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's
    """Print the command's help and end."""
    if value and not context.resilient_parsing:
        click.echo(context.get_help())
        context.exit()


_HELP = click.Option(
    ["-h", "--help"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_help,
    help="Show this message and exit.",
)


class QuickCommand(click.Command):
    """A command with one ready-made help option: click's own looks for translations on every start (1 ms)."""

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return the option that every command shares."""
        del ctx
        return _HELP


class QuickGroup(QuickCommand, click.Group):
    """A group of such commands."""

    command_class = QuickCommand


def start_logging(level: str) -> None:
    """Send log records of ``level`` and above to stderr; ``logging`` is only imported when asked for."""
    if level == "warning" and "logging" not in sys.modules:
        return
    import logging

    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="%(levelname)s %(name)s: %(message)s")


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield the name and the command of each member of a group, those that are imported late as well."""
    context = click.Context(group)
    for name in group.list_commands(context):
        if command := group.get_command(context, name):
            yield name, command


def emit(document: Mapping[str, Any] | Sequence[Any], text: str, *, as_json: bool) -> None:
    """Print a result on stdout: the document when ``as_json``, else the text (nothing if empty)."""
    if as_json:
        import json

        click.echo(json.dumps(document, indent=2, default=str))
    elif text:
        click.echo(text)


def note(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(text, err=True)


def run(program: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. The only place where errors become text.

    Args:
        program: the click group of the program.
        arguments: the words after the program's name; None takes them from ``sys.argv``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    try:
        return int(program.main(words, standalone_mode=False, prog_name=program.name) or 0)
    except ToolError as error:
        return _report(program, error, as_json="--json" in words)
    except click.ClickException as error:
        error.show()
        return int(ExitStatus.USAGE)
    except (click.Abort, KeyboardInterrupt):
        note(f"{program.name}: interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the boundary: a defect must still end in one clear line
        return _report_defect(program, error, trace="debug" in words)


def leave(status: int) -> NoReturn:
    """Exit; what the program still holds is left to the operating system, which asks no object for leave.

    Collecting it first takes 30 ms, a tenth of a look for updates. Libraries that count what they gave out
    then report leaks, so that a program with such a one simply exits.
    """
    gc.freeze()
    sys.exit(status)


def _report(program: click.Group, error: ToolError, *, as_json: bool) -> int:
    """Say what failed, why and what to do next; return the exit status."""
    status = int(error.status)
    facts = {"code": error.code, "message": error.message, "next_step": error.next_step, "status": status}
    if as_json:
        import json

        click.echo(json.dumps({"error": facts}))  # one line: it may end a stream of events
    note(f"{program.name}: {error.message}\n  next: {error.next_step}")
    return status


def _report_defect(program: click.Group, error: Exception, *, trace: bool) -> int:
    """Say that the program itself is at fault; return the exit status."""
    if trace:
        import traceback

        note("".join(traceback.format_exception(error)))
    note(
        f"{program.name}: internal error: {type(error).__name__}: {error}\n"
        "  next: this is a defect; run again with --log-level debug and report the traceback."
    )
    return int(ExitStatus.FAILED)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@example("updog completion bash > /etc/bash_completion.d/updog")
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    root = context.find_root()
    name = root.info_name or ""
    maker = get_completion_class(shell)
    if maker is not None:
        click.echo(maker(root.command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source())
