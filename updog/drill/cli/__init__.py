"""`updog drill`: make a node in a folder, switch it on and off, and play drills."""

from __future__ import annotations

import click

from updog.drill.cli.node import boot, new
from updog.drill.cli.run import list_drills, run


@click.group("drill")
def drill() -> None:
    """A node in a folder, played by the real bootloader rule or by QEMU, for trying things out and for CI."""


for _command in (new, boot, list_drills, run):
    drill.add_command(_command)
