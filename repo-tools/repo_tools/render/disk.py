"""PURE: disk images, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.render.text import size_text, table_text

if TYPE_CHECKING:
    from repo_tools.disk import CreatedDisk


def disk_text(made: CreatedDisk) -> str:
    """Return the partitions of a new disk."""
    cells = [
        (
            str(partition.number),
            partition.label,
            size_text(partition.extent.offset),
            size_text(partition.extent.size),
            str(partition.slot or ""),
        )
        for partition in made.partitions
    ]
    head = f"made {made.path}: {size_text(made.size)}, sectors of {made.sector_size}, {made.update} in slot A"
    return f"{head}\n{table_text(('number', 'label', 'at', 'size', 'slot'), cells)}"
