"""Printing cannot fail, whatever happens to the standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PRINTS = """
import os, sys
from signpost import streams
streams.protect()
for _ in range(200):
    print("text " * 100)
    print("more " * 100, file=sys.stderr)
sys.stdout.flush()
with open(sys.argv[1], "w") as witness:
    witness.write(f"{witness.fileno()} done")
sys.exit(7)
"""

SAYS = """
import sys
from signpost import streams
streams.protect()
print(sys.argv[1])
print(sys.argv[1], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "redirections",
    [
        ">/dev/full 2>/dev/full",
        ">/dev/full",
        "2>/dev/full",
        ">&- 2>&- <&-",
        ">&-",
        "2>&-",
        "<&-",
        "2>&1 | true",
        "2>&1 | head -c 1 >/dev/null",
    ],
)
def test_the_work_is_done_and_the_status_kept_wherever_output_goes(redirections: str, tmp_path: Path) -> None:
    witness, status = tmp_path / "witness", tmp_path / "status"
    command = f'"$0" -c "$1" "$2" {redirections}'
    if "|" in redirections:
        first, rest = redirections.split(" | ", 1)
        command = f'{{ "$0" -c "$1" "$2" {first}; echo $? >"$3"; }} | {rest}'
    else:
        command += '; echo $? >"$3"'
    subprocess.run(
        ["sh", "-c", command, sys.executable, PRINTS, str(witness), str(status)],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert status.read_text().strip() == "7"
    number, word = witness.read_text().split()
    assert word == "done"
    assert int(number) > 2, "a file is never taken for a standard stream"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("text", ["回収 ☎", "m\udce4trum", "äöü"])
def test_a_character_that_the_encoding_lacks_is_escaped(encoding: str, text: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SAYS, os.fsencode(text)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=True,
        capture_output=True,
        timeout=60,
    )
    wanted = text.encode(encoding, errors="backslashreplace") + b"\n"
    assert (ran.stdout, ran.stderr) == (wanted, wanted)


def test_what_can_be_written_arrives_whole() -> None:
    text = "x" * 100_000
    ran = subprocess.run([sys.executable, "-c", SAYS, text], check=True, capture_output=True, timeout=60)
    assert ran.stdout.decode() == text + "\n"
