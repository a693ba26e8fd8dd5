"""Drills: a node in a folder, for trying things out and for CI.

Read in this order: :mod:`updog.drill.script` (what a drill is), :mod:`updog.drill.machine` (what it is played
on), :mod:`updog.drill.player` (how it is played and judged), then the two machines,
:mod:`updog.drill.played` and :mod:`updog.drill.emulated`.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where a start can be made to end, in the order a machine goes through them."""

    KERNEL = "kernel"
    PANIC = "panic"
    VERITY = "verity"
    INIT = "init"
    HEALTH = "health"
    HANG = "hang"


UNHEALTHY = frozenset({Stage.HEALTH, Stage.HANG})
"""Stages that a start reaches while the machine stays up: the node's own checks find them."""
