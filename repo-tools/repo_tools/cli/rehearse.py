"""``root rehearse``: run the commands of a ceremony in a temporary folder with throw-away keys."""

from __future__ import annotations

import io
import shlex
import tempfile
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import PATH
from signpost.console import QuickCommand, emit, example, json_option, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.ceremony.rehearsal import RehearsalStep, RootKeys


@click.command("rehearse", cls=QuickCommand)
@click.option("--keep", type=PATH, metavar="DIR", help="Work in this new folder and keep it.")
@json_option
@click.pass_obj
@example("repo-tools --repo demo root rehearse")
def rehearse(repo: Path, /, *, keep: Path | None, as_json: bool) -> None:
    """Rehearse the whole ceremony, with throw-away keys.

    A new repository, a lost root key, leaked online keys: runs the commands of a real ceremony in a temporary
    folder, with the number of holders and the threshold of the repository at --repo; two of three if there is
    none. The repository is not changed.

    Exit status: 0 every step ended as required, 1 a step did not, 2 wrong usage.
    """
    from repo_tools.ceremony.rehearsal import RootKeys, root_keys_of, script
    from repo_tools.config import FILE
    from repo_tools.trust.chain import walk
    from repo_tools.trust.source import FolderSource

    newest = walk(FolderSource(repo)).root if (repo / FILE).is_file() else None
    root_keys = root_keys_of(newest) if newest else RootKeys()
    with _working_folder(keep) as folder, chdir(folder):
        results = []
        for step in script(root_keys):
            results.append(_run_step(step))
            if not as_json:
                click.echo(_step_text(results))
    document = {"holders": list(root_keys.names), "threshold": root_keys.threshold, "steps": results}
    emit(document, _conclusion(root_keys), as_json=as_json)


@contextmanager
def _working_folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise click.UsageError(f"--keep {keep}: {error.strerror}") from error
    yield keep


def _run_step(step: RehearsalStep) -> dict[str, Any]:
    """Run one command in this process. Raises RehearsalError if it ends in another status."""
    from repo_tools.cli import cli
    from repo_tools.errors import RehearsalError

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(cli, list(step.words))
    redirection = f" >> {step.append_to}" if step.append_to else ""
    command = f"repo-tools {shlex.join(step.words)}{redirection}"
    if status != step.status:
        raise RehearsalError(f"{command}: ended in status {status}, not {step.status}\n{err.getvalue()}")
    if step.append_to:
        with Path(step.append_to).open("a", encoding="utf-8") as file:
            file.write(out.getvalue())
    output = out.getvalue() or err.getvalue()
    return {"act": step.act, "command": command, "status": status, "said": output.rstrip()}


def _step_text(results: list[dict[str, Any]]) -> str:
    """Return the latest step as text, under a heading if a new part of the rehearsal begins."""
    step = results[-1]
    heading = [] if len(results) > 1 and results[-2]["act"] == step["act"] else ["", f"== {step['act']}"]
    output = [f"  {line}" for line in str(step["said"]).splitlines()]
    ending = [f"  (refused, as required: status {step['status']})"] if step["status"] else []
    return "\n".join([*heading, f"$ {step['command']}", *output, *ending])


def _conclusion(root_keys: RootKeys) -> str:
    needed = f"{root_keys.threshold} of {len(root_keys.names)} root keys must sign"
    if not root_keys.spare:
        return f"\nrehearsed, but {needed}: if one is lost, no new root can ever be signed. Add a spare key."
    return f"\nrehearsed: {needed}, so {root_keys.spare} can be lost"
