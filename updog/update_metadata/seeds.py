"""Seeds: a node's permanent place in the waves, which open seed by seed.

Rule: the seed of a node that has none configured is derived from its machine-id by SHA-256, so that it never
changes and a fleet is spread evenly.
"""

from __future__ import annotations

from updog.update_metadata.errors import SeedError

__all__ = ["MAX_SEED", "machine_seed"]

MAX_SEED = 2048
"""The number of seeds; the greatest is one less. One per cent of 2048 is about twenty seeds."""


def machine_seed(machine_id: str, *, version: str | None = None) -> int:
    """Return the seed, 0 … 2047, of a node that has none configured; it never changes.

    Args:
        machine_id: content of ``/etc/machine-id``; surrounding white space is ignored.
        version: hashed too if given, so that the same nodes are not first in every rollout.

    Raises:
        SeedError: the machine has no machine-id yet.
    """
    import hashlib  # 3.5 MiB; the agent that waits for months does not need it

    identity = machine_id.strip()
    if identity in {"", "uninitialized"}:
        raise SeedError("the machine has no machine-id yet to derive a seed from")
    parts = ["updog wave seed 1", identity] + ([] if version is None else [version])
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") % MAX_SEED
