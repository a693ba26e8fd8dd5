"""The command line of repo-tools: words in, calls of the other modules, text or JSON out.

The only package that reads the clock, prints, asks for a passphrase or decides an exit status.
One module a group of commands; this one gathers them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from repo_tools.cli import ceremony, rehearse  # noqa: F401 - they put their commands under `root`
from repo_tools.cli.airgap import bundle, mirror
from repo_tools.cli.bootstage import boot_stage
from repo_tools.cli.channel import channel, promote
from repo_tools.cli.disk import disk
from repo_tools.cli.guard import guard
from repo_tools.cli.log import log
from repo_tools.cli.new import new
from repo_tools.cli.prune import prune
from repo_tools.cli.publish import publish
from repo_tools.cli.push import push
from repo_tools.cli.report import report
from repo_tools.cli.root import root
from repo_tools.cli.serve import serve
from repo_tools.cli.simulate import simulate
from repo_tools.cli.upkeep import expirations, refresh, validate
from repo_tools.cli.waves import waves, withdraw
from repo_tools.cli.words import PATH
from signpost.console import completion, example, log_level_option, run, start_logging


@click.group("repo-tools", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--repo",
    type=PATH,
    default=Path(),
    show_default="here",
    help="The repository: the folder with repo.toml.",
)
@log_level_option
@click.version_option(package_name="updog")
@click.pass_context
@example(
    "repo-tools new demo",
    "repo-tools --repo demo publish --variant vm --arch x86_64 --version 1.0.0 \\",
    "  --boot boot.ext4 --root root.erofs --verity",
    "repo-tools --repo demo serve",
)
def cli(context: click.Context, repo: Path, log_level: str) -> None:
    """Publish signed A/B operating system updates as plain files.

    Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing to do, 5 repository
    unreachable, 75 another publisher is at work.
    """
    start_logging(log_level)
    context.obj = repo


for _command in (
    completion,
    new,
    publish,
    push,
    prune,
    mirror,
    bundle,
    waves,
    withdraw,
    channel,
    promote,
    log,
    refresh,
    expirations,
    validate,
    disk,
    boot_stage,
    root,
    serve,
    simulate,
    report,
    guard,
):
    cli.add_command(_command)


def main() -> None:
    """Run the program and exit with its status (the console script)."""
    sys.exit(run(cli))
