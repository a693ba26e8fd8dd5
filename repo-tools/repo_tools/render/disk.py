"""PURE: disk images and the boot stage, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.render.text import size_text, table_text

if TYPE_CHECKING:
    from repo_tools.bootstage.files import Built
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


def boot_stage_text(built: Built) -> str:
    """Return the files of a boot stage."""
    cells = [(str(made.path), size_text(made.size), made.sha256) for made in built.files]
    return f"boot stage of kernel {built.kernel}\n{table_text(('file', 'size', 'sha256'), cells)}"
