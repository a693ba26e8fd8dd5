"""What the three command lines share: the error boundary, printing, and common options.

Rules it enforces:

* an expected failure is a :class:`~signpost.errors.ToolError`: what, why and the next step go to stderr, and
  the program ends with its exit status; with ``--json`` the same goes to stdout as one document;
* stdout carries results only, stderr everything else;
* what the machine can do to any step (no free space, memory or descriptor, a device that fails) is an
  expected failure too, wherever it was met;
* any other unexpected exception is a defect: one line reports it; ``--log-level debug`` adds the traceback.
"""

from __future__ import annotations

import gc
import inspect
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from signpost import journal
from signpost.errors import ExitStatus, MediumError, ToolError
from signpost.journal import Severity, marked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOG_LEVELS = ("debug", "info", "warning", "error")
_INTERRUPTED = 128 + 2  # the shell's convention for SIGINT
_OBJECTS_BEFORE_COLLECTION = 100_000
"""Python's default is 700. Imports make a hundred thousand objects and hardly any garbage; scanning them
again and again takes a considerable part of the time of a command that finds nothing to do."""

Command = TypeVar("Command", bound="Callable[..., Any]")


def json_option(command: Command) -> Command:
    """Add ``--json`` to a command, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def quiet_option(command: Command, **settings: Any) -> Command:
    """Add ``--quiet`` to a command with long work, passed on as ``quiet``; ``settings`` are click's."""
    summary = "Report no progress; print only the result, warnings and errors."
    return click.option("-q", "--quiet", is_flag=True, help=summary, **settings)(command)


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
    """Add an example to a command's help, printed line by line. Put it below ``@group.command``."""

    def add(command: Command) -> Command:
        text = "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n{text}"
        return command

    return add


class Parsed(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.3
    """A click type that uses one of our parsers.

    Args:
        name: its name in help.
        parser: text to value. Values that are not text, such as defaults, are passed on as they are.
        usage: errors of the parser that become click's usage errors; others pass through.
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


class RenamedOption(click.Option):
    """An option that is still accepted by its former name, which neither help nor completion shows.

    Args:
        former: the former name, such as ``--policy``.
    """

    def __init__(self, *args: Any, former: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._former = former

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Make the parser take both names."""
        super().add_to_parser(parser, ctx)
        parser.add_option(self, [self._former], dest=self.name, action="store", nargs=self.nargs)


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
    """A command with a shared help option: click's own looks for translations on every start (1 ms).

    In its help, ``{program}`` is the program's name: some commands are the same in several programs.
    """

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, with the program's own name."""
        return super().get_help(ctx).replace("{program}", ctx.find_root().info_name or "")

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return the help option that all commands share."""
        del ctx
        return _HELP

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; a fault names the command, and the place of an option of the whole program."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            root = ctx.find_root()
            if ctx is root or not any(error.option_name in option.opts for option in root.command.params):
                raise
            option, (name, *command) = error.option_name, ctx.command_path.split()
            place = " ".join([name, option, "…", *command])
            raise click.UsageError(f"{option} goes before the command: `{place}`.", ctx=ctx) from error
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class QuickGroup(QuickCommand, click.Group):
    """A group of such commands."""

    command_class = QuickCommand

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant; the error for an unknown one names where there is one like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            found = _like(ctx, self, args[0])
            if not found:
                raise
            hint = " or ".join(f"`{path}`" for path in found)
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {hint}?", ctx=ctx) from error


def _like(context: click.Context, group: click.Group, word: str) -> list[str]:
    """Return the command lines of the program whose last word is ``word``, or like it in this group."""
    root = context.find_root()
    paths = list(_paths(root.command, [root.info_name or ""]))
    same = [path for path in paths if path[-1] == word]
    if not same:
        import difflib  # only needed after a typing error

        near = difflib.get_close_matches(word, group.list_commands(context), n=2)
        here = context.command_path.split()
        same = [[*here, name] for name in near]
    return [" ".join(path) for path in same[:3]]


def _paths(command: click.Command, words: list[str]) -> Iterator[list[str]]:
    """Yield the words of every command below a group, and of the groups themselves."""
    if isinstance(command, click.Group):
        for name, member in commands_of(command):
            yield [*words, name]
            yield from _paths(member, [*words, name])


class LazyGroup(QuickGroup):
    """A group whose commands are imported on first use, so that a program starts without them.

    Args:
        later: name of a command or group → its ``module:attribute``.
    """

    def __init__(self, *args: Any, later: Mapping[str, str], **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], **kwargs.pop("context_settings", {})}
        super().__init__(*args, context_settings=settings, **kwargs)
        self._later = dict(later)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted, without importing them."""
        return sorted({*super().list_commands(ctx), *self._later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or None."""
        if cmd_name not in self._later:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._later[cmd_name].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield the name and the command of each member of a group; imports those of a lazy group."""
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


def emit_last(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of long work: the ``result`` event, which is the last line, or the text."""
    if as_json:
        import json

        click.echo(json.dumps({"event": "result", **document}))
    else:
        emit(document, text, as_json=False)


def note(text: str, severity: Severity = Severity.INFO) -> None:
    """Print lines for people on stderr; the journal gets their severity."""
    click.echo(marked(text, severity), err=True)


def run(
    program: click.Group,
    arguments: Sequence[str] | None = None,
    *,
    unreachable: Severity = Severity.WARNING,
) -> int:
    """Run a command line and return its exit status. The only place where errors become text.

    Args:
        program: the click group of the program.
        arguments: those after the program's name; None takes them from ``sys.argv``.
        unreachable: how serious it is in the journal that a repository is not reached.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    try:
        return int(program.main(words, standalone_mode=False, prog_name=program.name) or 0)
    except ToolError as error:
        severity = unreachable if error.status is ExitStatus.UNREACHABLE else _SEVERITIES.get(error.status)
        return _report(program, error, severity or Severity.ERROR, as_json="--json" in words)
    except click.ClickException as error:
        if journal.is_connected():
            note(f"{program.name}: {error.format_message()}", Severity.ERROR)
        else:
            error.show()
        return int(ExitStatus.USAGE)
    except (click.Abort, KeyboardInterrupt):
        note(f"{program.name}: interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the boundary: a defect must still end in one clear line
        return _report_unexpected(program, error, as_json="--json" in words, trace="debug" in words)


def leave(status: int) -> NoReturn:
    """Exit without collecting the objects that are still in memory; the operating system frees them.

    Collecting them takes 30 ms, a tenth of a check for updates. A program that uses a library which counts
    its objects, and would report these as leaks, exits in the usual way instead.
    """
    gc.freeze()
    sys.exit(status)


def _report(program: click.Group, error: ToolError, severity: Severity, *, as_json: bool) -> int:
    """Print what failed, why and what to do next; return the exit status."""
    status = int(error.status)
    facts = {"code": error.code, "message": error.message, "next_step": error.next_step, "status": status}
    if as_json:
        import json

        click.echo(json.dumps({"error": facts}))  # one line: it may be the last one of a stream of events
    note(f"{program.name}: {error.message}\n  next: {error.next_step}", severity)
    return status


_SEVERITIES = {
    ExitStatus.NOTHING_TO_DO: Severity.INFO,
    ExitStatus.BUSY: Severity.NOTICE,
}
"""How serious an exit status is; an error, if it is not listed."""


def _report_unexpected(program: click.Group, error: Exception, *, as_json: bool, trace: bool) -> int:
    """Report a failure of the machine, or a defect of the program itself; return the exit status."""
    if trace:
        import traceback

        note("".join(traceback.format_exception(error)), Severity.ERROR)
    failure = MediumError.of_machine(error)
    if failure is not None:
        return _report(program, failure, Severity.ERROR, as_json=as_json)
    note(
        f"{program.name}: internal error: {type(error).__name__}: {error}\n"
        "  next: this is a defect; run again with --log-level debug and report the traceback.",
        Severity.ERROR,
    )
    return int(ExitStatus.FAILED)


@click.command("completion", cls=QuickCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@example("{program} completion bash > /etc/bash_completion.d/{program}")
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    root = context.find_root()
    name = root.info_name or ""
    maker = get_completion_class(shell)
    if maker is not None:
        click.echo(maker(root.command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source())
