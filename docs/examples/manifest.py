"""Read a manifest, withdraw a version, and see how faults are reported."""

import json

from updog.update_metadata.errors import ManifestError
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.version import Version

update = {
    "variant": "vm",
    "arch": "x86_64",
    "version": "1.2.0",
    "max_version": "1.2.0",
    "waves": {},
    "images": {"boot": "os-boot.zst", "root": "os-root.zst", "hash": "os-hash.zst"},
}
manifest = Manifest.from_json(json.dumps({"updates": [update], "migrations": {}}).encode())
(release,) = manifest.updates_of("vm", "x86_64")
print(release, "|", release.images.root)
# → 1.2.0 for vm on x86_64 | os-root.zst

withdrawn = manifest.with_max_version("vm", "x86_64", Version.parse("1.1.0"))
print(withdrawn.updates[0].max_version, manifest.updates[0].max_version)  # values do not change
# → 1.1.0 1.2.0

try:
    Manifest.from_json(json.dumps({"updates": [update | {"version": "1.2", "arch": ""}]}).encode())
except ManifestError as error:
    for fault in error.faults:
        print(fault.path)
# → updates[0].arch
# → updates[0].version
# → migrations
