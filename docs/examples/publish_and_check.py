"""Make a repository with test keys, publish a release in it, and check the result."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from repo_tools.ceremony.new_repository import create
from repo_tools.releases.publish import publish
from repo_tools.releases.release import NewRelease
from repo_tools.trust.source import source_of
from repo_tools.upkeep.check import check
from updog.update_metadata.errors import DuplicateUpdateError
from updog.update_metadata.version import Version

folder = Path("repo")
now = datetime(2026, 11, 2, 6, tzinfo=UTC)
print(create(folder, now=now).root_json)  # what nodes are shipped with
# → repo/metadata/1.root.json

for name in ("boot", "root", "hash"):
    Path(f"{name}.img").write_bytes(random.Random(name).randbytes(1 << 20))
release = NewRelease(
    variant="vm",
    arch="x86_64",
    version=Version.parse("1.0.0"),
    boot=Path("boot.img"),
    root=Path("root.img"),
    hash=Path("hash.img"),
    waves="default",
)
change = publish(folder, release, now=now)
print(change.update, len(change.update.waves.starts))
# → 1.0.0 for vm on x86_64 7

try:
    publish(folder, release, now=now)
except DuplicateUpdateError as error:
    print(error.code, int(error.status))
# → update-exists 2

for later in (timedelta(days=1), timedelta(days=8)):
    report = check(source_of(folder), now=now + later)
    print(report.clean, report.updates, [finding.code for finding in report.findings])
# → True 1 []
# → False 1 ['metadata-expired']
