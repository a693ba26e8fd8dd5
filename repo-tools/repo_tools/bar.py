"""How progress looks: a bar with rate and ETA on a terminal, a line a file off it, NDJSON for programs."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from repo_tools.render.text import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.progress import Progress, Step


def event_line(step: Step) -> str:
    """Return a step as one line of JSON. PURE."""
    return json.dumps(step.to_json())


def plain_line(step: Step) -> str:
    """Return a finished step as one line for people. PURE."""
    return f"{step.action} {step.item}: {size_text(step.total)}"


@contextmanager
def reporting(out: IO[str], err: IO[str], *, as_json: bool) -> Iterator[Progress]:
    """Give a progress callback for the length of a ``with`` block.

    Args:
        out: gets one JSON object a line, if ``as_json``.
        err: else gets a bar if it is a terminal, or a line for every finished file.
        as_json: whether a program reads this.
    """
    if as_json:
        yield lambda step: print(event_line(step), file=out, flush=True)
    elif err.isatty():
        with _bar(err) as progress:
            yield progress
    else:
        yield lambda step: _finished(step, err)


def _finished(step: Step, err: IO[str]) -> None:
    if step.done >= step.total:
        print(plain_line(step), file=err, flush=True)


@contextmanager
def _bar(err: IO[str]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=err)) as bar:
        tasks: dict[str, int] = {}

        def show(step: Step) -> None:
            if step.item not in tasks:
                tasks[step.item] = bar.add_task(f"{step.action} {step.item}", total=step.total)
            bar.update(tasks[step.item], completed=step.done)  # type: ignore[arg-type]

        yield show
