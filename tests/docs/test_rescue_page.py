"""The page for the worst night does what it says, with a signpost that needs nothing but Python."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from signpost import gpt
from signpost.gptprio import Flags
from tests.support.disks import TWO_SLOTS, boot_flags, make_disk, trusted
from tests.support.pages import run_page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/rescue.md"
ESP = gpt.guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")  # UEFI 2.10, 5.3.3


@pytest.fixture
def pyz(tmp_path: Path) -> Path:
    """Return signpost as one file."""
    file = tmp_path / "signpost.pyz"
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools/make_pyz.py"), str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == f"wrote {file}: {file.stat().st_size} bytes\n"
    return file


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk as nodes have it, whose slots lost their flags."""
    file = tmp_path / "disk.img"
    file.write_bytes(make_disk((Flags(), Flags()), types=(ESP, *TWO_SLOTS)))
    return file


def test_the_page_starts_a_slot_with_signpost_cgpt_and_sgdisk(tmp_path: Path, pyz: Path, disk: Path) -> None:
    assert pyz.parent == tmp_path
    before = disk.read_bytes()
    printed = run_page(PAGE, tmp_path, {"disk": str(disk)})
    assert printed[-1] == "A\n"
    data = slice(34 * 512, len(before) - 33 * 512)
    assert disk.read_bytes()[data] == before[data]  # only the table was written


def test_it_needs_nothing_but_pythons_own_library(pyz: Path, disk: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(pyz), "--disk", str(disk), "rescue", "B"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [flags.bootable for flags in boot_flags(trusted(disk.read_bytes()))] == [False, True]


def test_it_says_its_version(pyz: Path) -> None:
    words = [sys.executable, "-I", "-S", str(pyz), "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"signpost, version {importlib.metadata.version('updog-ab')}\n"


def test_the_same_sources_give_the_same_file(pyz: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, str(ROOT / "tools/make_pyz.py"), str(again)], check=True)
    assert again.read_bytes() == pyz.read_bytes()
