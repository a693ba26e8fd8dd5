"""Play a roll-out of a bad release on paper, with somebody who holds it two hours after the first failure."""

from datetime import UTC, datetime, timedelta

from repo_tools.fleet.simulate import RolloutPlan, over_seeds, simulate
from updog.update_metadata.waves import WavePolicy

start = datetime(2026, 11, 2, 6, tzinfo=UTC)
plan = RolloutPlan(
    waves=WavePolicy.built_in("default").waves(start),
    start=start,
    nodes=5000,
    bad_rate=0.2,
    detection=timedelta(hours=2),
)
rollout = simulate(plan)
assert rollout.held is not None
print(rollout.held - start < timedelta(days=1), rollout.updated[-1] < 0.1)
# → True True

runs = over_seeds(plan, runs=20)
print(f"held in {runs.held} of 20 runs; the worst harmed less than 5 %: {runs.worst_harmed < 0.05}")
# → held in 20 of 20 runs; the worst harmed less than 5 %: True
