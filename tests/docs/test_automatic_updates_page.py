"""docs/how-to/automatic-updates.md: its settings are accepted, its commands exist, its window opens."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import command_line
from updog import config as configuration
from updog.auto.gates import Purpose, Readings, first_closed, judge
from updog.standing import Standing

if TYPE_CHECKING:
    from updog.config import Config

PAGE = (Path(__file__).parents[2] / "docs/how-to/automatic-updates.md").read_text(encoding="utf-8")
SETTINGS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TYPED = re.findall(r"^# (updog [^#\n]*)", PAGE, re.MULTILINE) + re.findall(r"`(updog agent [^`]*)`", PAGE)
NODE = """
metadata_base_url = "https://updates.example.com/metadata/"
targets_base_url = "https://updates.example.com/targets/"
"""


def loaded(settings: str, folder: Path) -> Config:
    (folder / "updog.toml").write_text(NODE + settings, encoding="utf-8")
    return configuration.load(folder / "updog.toml")


@pytest.mark.parametrize("settings", SETTINGS)
def test_its_settings_are_accepted_at_the_end_of_a_file(settings: str, tmp_path: Path) -> None:
    if "mode" not in settings:
        settings = re.sub(r"\A(\[auto\]\n)?", '[auto]\nmode = "restart"\n', settings)
    assert loaded(settings, tmp_path).auto.mode.value == "restart"


def test_the_window_opens_as_the_page_shows(tmp_path: Path) -> None:
    policy = loaded(SETTINGS[0], tmp_path).auto
    friday = datetime(2026, 11, 27, 12, tzinfo=UTC)
    gate = first_closed(
        judge(Purpose.RESTART, Readings(standing=Standing.STAGED, offer=None, seed=0), policy, friday)
    )
    assert gate is not None
    assert f"waits for {gate.sentence}\n" in PAGE


@pytest.mark.parametrize("typed", sorted({" ".join(words.split()[:3]) for words in TYPED}))
def test_every_command_exists(typed: str) -> None:
    words = [word for word in typed.split()[1:] if re.fullmatch(r"[a-z-]+", word)]
    assert command_line([*words, "--help"]).status == 0
