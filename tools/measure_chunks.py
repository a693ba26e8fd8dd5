"""Measure how to cut images, with the real pair 1.0.0 → 1.1.0: the tables in docs/adr/0009-chunks.md.

usage: measure_chunks.py [--level N]… [--delta] [--images FOLDER]

``--images FOLDER`` uses another pair: ``FOLDER/old/NAME`` and ``FOLDER/new/NAME``. ``--delta`` also compares
the delta with ``zstd --patch-from`` and ``xdelta3``, which takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "repo-tools")]

import zstandard

from fixtures.os.build import build_releases
from repo_tools.images.delta import make_delta
from repo_tools.images.frames import Known, Packed, known_blocks, pack
from updog.image.delta import rebuilt
from updog.image.index import BLOCK_BYTES, FINGERPRINT_BYTES, fingerprint
from updog.image.plan import SlotScan, plan_chunks, recipes_by_fingerprint

RECORD_BYTES = 41  # of one chunk in the index
GAPS = (0, 4096, 16384, 65536)
FIXED = (4, 8, 16, 32, 64, 128)
CONTENT_DEFINED = (16, 64)
_ZEROS = bytes(BLOCK_BYTES)
_DELTA_HEAD = """
| image | delta MB | made s | applied s | patch-from MB | s | xdelta3 MB | s | to the smaller |
|---|---|---|---|---|---|---|---|---|"""

Lengths = Iterator[int]
"""The length of each chunk of an image, in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An image and its previous version."""

    name: str
    old: bytes
    new: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The costs of one way to cut an image, in bytes."""

    name: str
    index: int
    packed: int
    wire: int
    seconds: float | None = None

    def line(self, pair: Pair, *, bar: int) -> str:
        """Return the row as Markdown."""
        seconds = f"{self.seconds:.1f}" if self.seconds is not None else ""
        return (
            f"| {self.name} | {self.index / len(pair.new):.2%} | {_mb(self.packed)} | "
            f"{_mb(self.wire)} | {self.wire / bar:.2f} | {seconds} |"
        )


def pairs(folder: Path | None) -> Iterator[Pair]:
    """Yield the images to measure."""
    if folder is not None:
        old, new, names = (
            folder / "old",
            folder / "new",
            sorted(path.name for path in (folder / "new").iterdir()),
        )
    else:
        releases = build_releases(ROOT / ".cache/os", print)
        old, new = releases["1.0.0"].folder, releases["1.1.0"].folder
        names = ["root.erofs", "boot.ext4", "root.verity"]
    for name in names:
        yield Pair(name=name, old=(old / name).read_bytes(), new=(new / name).read_bytes())


def fixed(data: bytes, size: int) -> Lengths:
    """Yield the lengths of chunks of one size."""
    return (min(size, len(data) - start) for start in range(0, len(data), size))


def content_defined(data: bytes, mean: int) -> Lengths:
    """Yield the lengths of chunks whose ends are selected by content: ¼ to 4 times the mean."""
    length = 0
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        length += len(block)
        chosen = int.from_bytes(fingerprint(block), "little") % (mean // BLOCK_BYTES) == 0
        if (chosen and length >= mean // 4) or length >= 4 * mean:
            yield length
            length = 0
    if length:
        yield length


def by_chunks(pair: Pair, name: str, cut: Callable[[bytes], Lengths], level: int) -> Row:
    """Return the costs if whole chunks are found by their hash."""
    have = {hashlib.sha256(chunk).digest() for _, chunk in _cut(pair.old, cut)}
    return _row(
        pair, name, cut, level, marks=0, needed=lambda chunk: hashlib.sha256(chunk).digest() not in have
    )


def by_blocks(pair: Pair, name: str, cut: Callable[[bytes], Lengths], level: int) -> Row:
    """Return the costs if the blocks of chunks are found individually."""
    have = _marks(pair.old)
    return _row(
        pair, name, cut, level, marks=FINGERPRINT_BYTES, needed=lambda chunk: not _marks(chunk) <= have
    )


def _row(
    pair: Pair,
    name: str,
    cut: Callable[[bytes], Lengths],
    level: int,
    *,
    marks: int,
    needed: Callable[[bytes], bool],
) -> Row:
    context = zstandard.ZstdCompressor(level=level)
    index = packed = wire = 0
    for _, chunk in _cut(pair.new, cut):
        size = len(context.compress(chunk))
        index += RECORD_BYTES + marks * -(-len(chunk) // BLOCK_BYTES)
        packed += size
        wire += size if any(chunk) and needed(chunk) else 0
    return Row(name=name, index=index, packed=packed, wire=wire)


def as_built(pair: Pair, level: int) -> tuple[Row, list[str]]:
    """Return the costs with `repo_tools.images.frames`, and the costs of gaps."""
    before = _packed(pair.old, level=1)
    started = time.perf_counter()
    made = _packed(pair.new, level=level, known=(known_blocks(before.fingerprints),))
    seconds = time.perf_counter() - started
    active = ((mark, offset) for offset, mark in before.fingerprints.by_block(before.index))
    scan = SlotScan(active=recipes_by_fingerprint(made.index, made.fingerprints, active))
    plans = {gap: plan_chunks(made.index, scan, gap=gap) for gap in GAPS}
    gaps = [f"| {gap} | {len(made_.requests)} | {_mb(made_.wire)} |" for gap, made_ in plans.items()]
    index = len(made.index.to_bytes()) + len(made.fingerprints.to_bytes())
    row = Row(
        name="**as built: ≤ 128 KiB, cut along the release before, two levels**",
        index=index,
        packed=made.index.pack_size,
        wire=plans[0].wire,
        seconds=seconds,
    )
    return row, gaps


def alone(pair: Pair, level: int) -> int:
    """Return the size to beat: every block that the old image lacks, compressed by itself."""
    have = _marks(pair.old) | {fingerprint(_ZEROS)}
    context = zstandard.ZstdCompressor(level=level)
    blocks = (block for _, block in _cut(pair.new, lambda data: fixed(data, BLOCK_BYTES)))
    return sum(len(context.compress(block)) for block in blocks if fingerprint(block) not in have)


def cli_seconds(pair: Pair, level: int, *, threads: int = 0) -> float:
    """Return the wall time of `zstd` with the same level on all processors, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "image"
        source.write_bytes(pair.new)
        started = time.perf_counter()
        command = ["zstd", "-q", f"-{level}", f"-T{threads}", str(source), "-o", f"{name}/image.zst"]
        subprocess.run(command, check=True)
        return time.perf_counter() - started


def compare_deltas(pair: Pair) -> str:
    """Return one row: our delta and those of other tools."""
    made = _packed(pair.new, level=12, known=(known_blocks(_packed(pair.old, level=1).fingerprints),))
    file: dict[int, bytes] = {}
    started = time.perf_counter()
    delta = make_delta(made.index, pair.new, pair.old, lambda data, offset: file.update({offset: data}))
    making = time.perf_counter() - started
    started = time.perf_counter()
    for part in delta.parts:
        for _ in rebuilt(
            part, file[part.place.offset], made.index, lambda at, size: pair.old[at : at + size]
        ):
            pass
    applying = time.perf_counter() - started
    others = [_other_delta(pair, tool) for tool in (_patch_from, _xdelta)]
    smallest = min(size for size, _ in others)
    shown = " | ".join(f"{_mb(size)} | {seconds:.0f}" for size, seconds in others)
    return (
        f"| {pair.name} | {_mb(delta.size)} | {making:.0f} | {applying:.1f} | {shown} | "
        f"{delta.size / smallest:.2f} |"
    )


def _other_delta(pair: Pair, command: Callable[[str, str, str], list[str]]) -> tuple[int, float]:
    """Return size (bytes) and time (seconds) of another tool's delta."""
    with tempfile.TemporaryDirectory() as name:
        old, new, out = (Path(name) / part for part in ("old", "new", "out"))
        old.write_bytes(pair.old)
        new.write_bytes(pair.new)
        started = time.perf_counter()
        subprocess.run(command(str(old), str(new), str(out)), check=True, capture_output=True)
        return out.stat().st_size, time.perf_counter() - started


def _patch_from(old: str, new: str, out: str) -> list[str]:
    return ["zstd", "-q", "-19", "--long=31", f"--patch-from={old}", new, "-o", out]


def _xdelta(old: str, new: str, out: str) -> list[str]:
    return ["xdelta3", "-e", "-9", "-S", "lzma", "-s", old, new, out]


def _packed(image: bytes, *, level: int, known: tuple[Known, ...] = ()) -> Packed:
    cut = (image[start : start + (1 << 20)] for start in range(0, len(image), 1 << 20))
    return pack(cut, lambda _: None, level=level, known=known)


def _cut(data: bytes, cut: Callable[[bytes], Lengths]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of each chunk."""
    offset = 0
    for length in cut(data):
        yield offset, data[offset : offset + length]
        offset += length


def _marks(data: bytes) -> set[bytes]:
    return {fingerprint(data[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES)}


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"


def measure(pair: Pair, level: int) -> None:
    """Print the table of one image at one level."""
    bar = alone(pair, level)
    print(
        f"\n{pair.name}, {_mb(len(pair.new))} MB, level {level}; missing 4 KiB blocks alone: {_mb(bar)} MB\n"
    )
    print("| chunks | index | pack MB | update MB | to the bar | s |\n|---|---|---|---|---|---|")
    for size in FIXED:
        row = by_chunks(pair, f"fixed {size} KiB", lambda data: fixed(data, size << 10), level)  # noqa: B023
        print(row.line(pair, bar=bar), flush=True)
    for size in CONTENT_DEFINED:
        name = f"content-defined, {size} KiB on average"
        row = by_chunks(pair, name, lambda data: content_defined(data, size << 10), level)  # noqa: B023
        print(row.line(pair, bar=bar), flush=True)
    for size in FIXED[1:]:
        name = f"fixed {size} KiB, two levels"
        row = by_blocks(pair, name, lambda data: fixed(data, size << 10), level)  # noqa: B023
        print(row.line(pair, bar=bar), flush=True)
    row, gaps = as_built(pair, level)
    print(row.line(pair, bar=bar))
    print(f"\n`zstd -{level} -T0`: {cli_seconds(pair, level):.1f} s\n")
    print("| gap, bytes | requests | update MB |\n|---|---|---|", *gaps, sep="\n", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--level", type=int, action="append", help="zstd level; may be repeated (default: 12)"
    )
    parser.add_argument("--delta", action="store_true", help="also compare deltas")
    parser.add_argument("--images", type=Path, help="a folder with old/ and new/")
    options = parser.parse_args()
    for pair in pairs(options.images):
        for level in options.level or [12]:
            measure(pair, level)
        if options.delta:
            print(_DELTA_HEAD, compare_deltas(pair), sep="\n", flush=True)


if __name__ == "__main__":
    main()
