"""Write signpost as one file that any Python 3.11 runs, for rescue systems where nothing can be installed.

usage: make_pyz.py FILE

It holds the package, click (pure Python, too) and the version. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click

import signpost
from signpost.medium import OsMedium
from updog.durable import write_bytes

_PACKAGES = (signpost, click)
_START = """import sys

if sys.version_info < (3, 11):
    sys.exit("error: signpost needs Python 3.11 or later\\nnext: Use the Python of another rescue system.")
from signpost.cli import main

sys.argv[0] = "signpost"
main()
"""
_MOMENT = (2025, 1, 1, 0, 0, 0)  # of every file: nothing reads it
_SHEBANG = b"#!/usr/bin/env python3\n"


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE")
    target: Path = parser.parse_args().file
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(OsMedium(), target, _SHEBANG + archive(), mode=0o755)
    print(f"wrote {target}: {target.stat().st_size} bytes")


def archive() -> bytes:
    """Return the zip archive; Python runs its ``__main__``."""
    name, version = "updog-ab", importlib.metadata.version("updog-ab")
    files = {
        "__main__.py": _START.encode(),
        f"updog_ab-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n".encode(),
    }
    for package in _PACKAGES:
        folder = Path(package.__path__[0])
        files |= {
            path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*.py")
        }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, _MOMENT)
            info.external_attr = 0o644 << 16
            packed.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
