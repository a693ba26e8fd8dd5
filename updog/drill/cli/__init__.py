"""`updog drill`: create a node in a folder, switch it on and off, and run drills."""

from __future__ import annotations

import click

from signpost.console import QuickGroup, example
from updog.drill.cli.node import boot, new
from updog.drill.cli.run import list_drills, run


@click.group("drill", cls=QuickGroup)
@example("updog drill list", "updog drill boot node --fail init")
def drill() -> None:
    """Test releases on a simulated node, or in QEMU.

    `run` runs whole drills; `new` and `boot` are a simulated node for trials by hand.
    """


for _command in (new, boot, list_drills, run):
    drill.add_command(_command)
