"""What a program names is read as the loader reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_tools.image_build.elf import read_elf
from tests.support.trees import elf

_PROGRAM = Path(shutil.which("tar") or sys.executable).resolve()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
def test_loader_and_libraries_are_those_that_readelf_shows() -> None:
    command = ["readelf", "--dynamic", "--program-headers", "--wide", str(_PROGRAM)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = read_elf(_PROGRAM.read_bytes())
    assert found is not None
    assert [line.split("[")[1].split("]")[0] for line in shown.splitlines() if "(NEEDED)" in line] == list(
        found.needed
    )
    assert f"Requesting program interpreter: {found.loader}]" in shown
    assert "libc.so.6" in found.needed


def test_a_static_program_names_its_machine_alone() -> None:
    found = read_elf(elf(machine=183))
    assert found is not None
    assert (found.machine, found.loader, found.needed) == ("aarch64", "", ())


def test_a_machine_on_which_updog_does_not_run_has_no_name() -> None:
    found = read_elf(elf(machine=40))
    assert found is not None
    assert found.machine == ""


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_not_such_a_file_is_none(data: bytes) -> None:
    assert read_elf(data) is None


@given(data=st.data())
def test_a_damaged_program_is_read_or_is_none_but_never_an_error(data: st.DataObject) -> None:
    whole = bytearray(_PROGRAM.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(6, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_elf(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
