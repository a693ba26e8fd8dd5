"""Spread a release over time, and ask when it opens for one node."""

from datetime import UTC, datetime, timedelta

from updog.update_metadata.seeds import MAX_SEED, machine_seed
from updog.update_metadata.waves import WavePolicy

start = datetime(2026, 11, 2, 6, tzinfo=UTC)
waves = WavePolicy.built_in("default").waves(start)
for wave in waves.starts[:3]:
    print(wave.seed, wave.at)
# → 0 2026-11-02 07:00:00+00:00
# → 20 2026-11-02 10:00:00+00:00
# → 102 2026-11-03 06:00:00+00:00

seed = machine_seed("4e5c2a0f9c7b4d0e8f6a1b2c3d4e5f60")
print(seed, waves.ready_at(seed))
# → 1102 2026-11-06 22:36:22.885085+00:00
print(f"{float(waves.share_open(start + timedelta(days=2))):.1%} of {MAX_SEED} seeds")
# → 15.0% of 2048 seeds

policy = WavePolicy.from_toml("""
[[waves]]
start_after = "1 hour"
fleet_percentage = 10

[[waves]]
start_after = "1 day"
fleet_percentage = 100
""")
print(policy.waves(start).ready_at(MAX_SEED - 1))
# → 2026-11-03 06:00:00+00:00
