"""``root rehearse``: runs the commands of a ceremony, in a folder and with keys that are thrown away."""

from __future__ import annotations

import io
import shlex
import tempfile
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.root import root
from repo_tools.cli.words import PATH
from signpost.console import emit, example, json_option, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.rehearsal import Shape, Step


@root.command("rehearse")
@click.option("--keep", type=PATH, metavar="DIR", help="Work in this new folder and leave it.")
@json_option
@click.pass_obj
@example("repo-tools --repo demo root rehearse")
def rehearse(repo: Path, /, *, keep: Path | None, as_json: bool) -> None:
    """Rehearse the whole ceremony: a new repository, a lost root key, leaked online keys.

    With throw-away keys in a temporary folder, by the very commands of the real day, for as many holders
    and with the threshold of the repository at --repo; two of three where there is none. Nothing of the
    repository is changed.

    Exit status: 0 every step ended as it must, 1 one did not, 2 wrong usage.
    """
    from repo_tools.rehearsal import script

    shape = _shape(repo)
    with _stage(keep) as folder, chdir(folder):
        played = []
        for step in script(shape):
            played.append(_play(step))
            if not as_json:
                click.echo(_told(played))
    document = {"holders": list(shape.names), "threshold": shape.threshold, "steps": played}
    emit(document, _verdict(shape), as_json=as_json)


def _shape(repo: Path) -> Shape:
    from repo_tools.chain import walk
    from repo_tools.config import FILE
    from repo_tools.rehearsal import Shape, shape_of
    from repo_tools.source import FolderSource

    newest = walk(FolderSource(repo)).root if (repo / FILE).is_file() else None
    return shape_of(newest) if newest else Shape()


@contextmanager
def _stage(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise click.UsageError(f"--keep {keep}: {error.strerror}") from error
    yield keep


def _play(step: Step) -> dict[str, Any]:
    """Run one command of the script in this process. Raises RehearsalError if it ends otherwise."""
    from repo_tools.cli import cli
    from repo_tools.errors import RehearsalError

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(cli, list(step.words))
    into = f" >> {step.into}" if step.into else ""
    command = f"repo-tools {shlex.join(step.words)}{into}"
    if status != step.status:
        raise RehearsalError(f"{command}: ended in status {status}, not {step.status}\n{err.getvalue()}")
    if step.into:
        with Path(step.into).open("a", encoding="utf-8") as file:
            file.write(out.getvalue())
    said = out.getvalue() or err.getvalue()
    return {"act": step.act, "command": command, "status": status, "said": said.rstrip()}


def _told(played: list[dict[str, Any]]) -> str:
    """Return the latest step in words, under a heading where an act begins."""
    step = played[-1]
    heading = [] if len(played) > 1 and played[-2]["act"] == step["act"] else ["", f"== {step['act']}"]
    said = [f"  {line}" for line in str(step["said"]).splitlines()]
    ending = [f"  (refused, as it must be: status {step['status']})"] if step["status"] else []
    return "\n".join([*heading, f"$ {step['command']}", *said, *ending])


def _verdict(shape: Shape) -> str:
    needed = f"{shape.threshold} of {len(shape.names)} root keys must sign"
    if not shape.spare:
        return f"\nrehearsed, but {needed}: lose one and no root can follow, ever. Have a key to spare."
    return f"\nrehearsed: {needed}, so {shape.spare} can be lost"
