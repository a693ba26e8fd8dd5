"""Seeds: where in the fleet a node stands, for as long as it lives. Waves open seed by seed.

Rule: a node without a configured seed gets one from its machine id, by SHA-256, so that it stays where it is
and a fleet is spread evenly.
"""

from __future__ import annotations

import hashlib

from updog.update_metadata.errors import SeedError

MAX_SEED = 2048
"""The number of seeds; the greatest is one less. 2048 makes one per cent some twenty seeds."""


def machine_seed(machine_id: str, *, version: str | None = None) -> int:
    """Return the seed, 0 … 2047, of a node that has none configured; the same for ever.

    Args:
        machine_id: content of ``/etc/machine-id``; white space around it does not count.
        version: mixed in where given, so that the same nodes are not first in every roll-out.

    Raises:
        SeedError: the machine has no id yet.
    """
    identity = machine_id.strip()
    if identity in {"", "uninitialized"}:
        raise SeedError("the machine has no id yet to take a seed from")
    parts = ["updog wave seed 1", identity] + ([] if version is None else [version])
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") % MAX_SEED
