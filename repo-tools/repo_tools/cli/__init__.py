"""The command line of repo-tools: reads arguments, calls the other packages, prints text or JSON.

Only this package reads the clock, prints, asks for a passphrase or decides an exit status. Each group of
commands is a module; the table here names them, and imports a module only when its command is used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from repo_tools.cli.options import PATH
from repo_tools.extras import DISTRIBUTION
from signpost import streams
from signpost.console import LazyGroup, example, log_level_option, run
from signpost.journal import start_logging

_COMMANDS = {
    "boot-stage": "repo_tools.cli.bootstage:boot_stage",
    "brake": "repo_tools.cli.brake:brake",
    "bundle": "repo_tools.cli.airgap:bundle",
    "channel": "repo_tools.cli.channel:channel",
    "completion": "signpost.console:completion",
    "disk": "repo_tools.cli.disk:disk",
    "expirations": "repo_tools.cli.check:expirations",
    "guard": "repo_tools.cli.guard:guard",
    "images": "repo_tools.cli.images:images",
    "inspect": "repo_tools.cli.inspect:inspect",
    "log": "repo_tools.cli.log:log",
    "mirror": "repo_tools.cli.airgap:mirror",
    "new": "repo_tools.cli.new:new",
    "promote": "repo_tools.cli.channel:promote",
    "prune": "repo_tools.cli.prune:prune",
    "publish": "repo_tools.cli.publish:publish",
    "push": "repo_tools.cli.push:push",
    "refresh": "repo_tools.cli.check:refresh",
    "release": "repo_tools.cli.release:release",
    "report": "repo_tools.cli.report:report",
    "root": "repo_tools.cli.root:root",
    "serve": "repo_tools.cli.serve:serve",
    "simulate": "repo_tools.cli.simulate:simulate",
    "validate": "repo_tools.cli.check:validate",
    "waves": "repo_tools.cli.waves:waves",
    "withdraw": "repo_tools.cli.waves:withdraw",
}
"""Name of a command → module and object; imported when the command is used."""


@click.group("repo-tools", cls=LazyGroup, later=_COMMANDS)
@click.option(
    "--repo",
    type=PATH,
    default=Path(),
    show_default="here",
    help="Folder of the repository, with repo.toml.",
)
@log_level_option
@click.version_option(package_name=DISTRIBUTION)
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
    unreachable, 75 another publisher is writing.
    """
    start_logging(log_level)
    context.obj = repo


def main() -> None:
    """Run the program and exit with its status (the console script)."""
    streams.protect()
    sys.exit(run(cli))
