"""The page on watching a roll-out, run as it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from repo_tools.fleet.simulate import RolloutPlan
from tests.support.access_logs import write_log
from tests.support.pages import run_page
from tests.support.repositories import make_repository
from updog.update_metadata.waves import WavePolicy

PAGE = Path(__file__).parents[2] / "docs/how-to/watch-a-rollout.md"
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "demo", versions=["1.0.0"])
    repository.publish("1.1.0", waves="accelerated", start_at=START)
    plan = RolloutPlan(
        waves=WavePolicy.built_in("accelerated").waves(START), start=START, nodes=400, bad_rate=0.06
    )
    write_log(tmp_path / "access.log", plan, until=timedelta(days=2))
    run_page(PAGE, tmp_path)
    assert (tmp_path / "rollout.svg").stat().st_size > 1000
    assert "1.1.0 for synthetic" in (tmp_path / "rollout.html").read_text()
