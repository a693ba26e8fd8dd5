"""Drills: a node in a folder, for trying things out and for CI."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where a start can be made to end, in the order a machine goes through them."""

    KERNEL = "kernel"
    VERITY = "verity"
    INIT = "init"
    HEALTH = "health"
