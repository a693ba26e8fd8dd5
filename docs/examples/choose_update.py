"""Ask which update a node takes now, and why it does not take the others."""

from datetime import UTC, datetime

from updog.select import Node, decide
from updog.update_metadata.manifest import Images, Manifest, Update
from updog.update_metadata.version import Version
from updog.update_metadata.waves import WavePolicy, Waves

start = datetime(2026, 11, 2, 6, tzinfo=UTC)


def release(text: str, waves: Waves) -> Update:
    """Return a release of the variant vm."""
    return Update(
        variant="vm",
        arch="x86_64",
        version=Version.parse(text),
        max_version=Version.parse("1.2.0"),
        waves=waves,
        images=Images(boot="os-boot.zst", root="os-root.zst", hash="os-hash.zst"),
    )


manifest = Manifest(
    updates=(release("1.2.0", WavePolicy.built_in("default").waves(start)), release("1.1.0", Waves()))
)
node = Node(variant="vm", arch="x86_64", running=Version.parse("1.0.0"), seed=1500)
decision = decide(manifest, node, now=start)
assert decision.update is not None
print(decision.update.version)
# → 1.1.0
for verdict in decision.verdicts:
    print(verdict.update.version, verdict.code, verdict.ready_at)  # and verdict.sentence, for people
# → 1.2.0 waiting 2026-11-07 16:36:52.682926+00:00
# → 1.1.0 chosen None
