"""``serve``: a web server for experiments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import require_readable
from signpost.console import QuickCommand, emit_last, example, json_option, note

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=QuickCommand)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 selects a free one.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@json_option
@click.pass_obj
@example("repo-tools --repo demo serve --port 8080")
def serve(repo: Path, /, *, port: int, bind: str, as_json: bool) -> None:
    """Serve the repository on this machine, for experiments.

    For a fleet, put metadata/ and targets/ on a web server, bucket or CDN. Press Ctrl-C to end it.

    Exit status: 0 ended by Ctrl-C, 1 cannot listen, 2 not a repository.
    """
    from repo_tools.copies.serve import listen

    with listen(require_readable(repo), bind=bind, port=port) as server:
        document = {
            "url": server.url,
            "metadata": f"{server.url}/metadata/",
            "targets": f"{server.url}/targets/",
        }
        emit_last(document, f"serving {repo} at {server.url} (Ctrl-C ends)", as_json=as_json)
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("ended")
