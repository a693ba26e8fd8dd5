"""Drills: a node in a folder or in QEMU, for trials and for CI.

Read in this order: :mod:`updog.drill.drill_file` (what a drill is), :mod:`updog.drill.machine` (what it runs
on), :mod:`updog.drill.runner` (how it is run and judged), then the two machines,
:mod:`updog.drill.simulated` and :mod:`updog.drill.emulated`.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where a start can be made to fail, in the order in which a machine goes through them."""

    KERNEL = "kernel"
    PANIC = "panic"
    VERITY = "verity"
    INIT = "init"
    HEALTH = "health"
    HANG = "hang"


UNHEALTHY = frozenset({Stage.HEALTH, Stage.HANG})
"""Stages at which the machine is up: the node's own health checks find the fault."""
