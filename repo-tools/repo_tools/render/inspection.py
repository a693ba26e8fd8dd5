"""The images of a release, as text: `inspect`. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signpost.sets import ImageKind
from signpost.text import line, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo_tools.images.inspection import ReleaseReport


def inspected_text(report: ReleaseReport) -> str:
    """Return what is in the images, and what does not fit."""
    seen = report.inspection
    lines = []
    for kind, path in report.files.items():
        name = seen.formats[kind] or "unknown format"
        lines.append(f"{kind:<5} {path}: {name}, {size_text(seen.sizes[kind])}")
        lines += [f"      {line(fact)}" for fact in _FACTS[kind](report)]
    lines += seen.notes
    for fault in seen.faults:
        lines += [f"{fault.code}: {fault.kind}: {fault.message}", f"  next: {fault.next_step}"]
    return "\n".join([*lines, "they fit" if report.fits else "they do NOT fit"])


def _of_boot(report: ReleaseReport) -> Iterator[str]:
    boot = report.inspection.boot
    if boot is None or boot.entry is None:
        return
    entry = boot.entry
    yield f"entry    {entry.name}: {entry.title}" if entry.title else f"entry    {entry.name}"
    for key, path in (("linux", entry.linux), *(("initrd", path) for path in entry.initrd)):
        size = size_text(boot.sizes[path]) if path in boot.sizes else "MISSING"
        machine = f", for {boot.machine}" if key == "linux" and boot.machine else ""
        yield f"{key:<8} {path}, {size}{machine}"
    yield f"options  {entry.options}"


def _of_root(report: ReleaseReport) -> Iterator[str]:
    for variant, versions in sorted(report.versions.items()):
        yield f"system   {variant} {', '.join(sorted(versions))}"


def _of_hash(report: ReleaseReport) -> Iterator[str]:
    if report.root_hash:
        yield f"roothash {report.root_hash}"


_FACTS = {ImageKind.BOOT: _of_boot, ImageKind.ROOT: _of_root, ImageKind.HASH: _of_hash}
