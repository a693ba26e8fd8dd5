"""The root of trust, as text: `root show`. PURE."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.keys.holders import holder_names, short_keyid
from signpost.text import table
from updog.update_metadata.times import format_time, readable_time_left

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuf.api.metadata import Root


def root_document(root: Root, uris: Mapping[str, str]) -> dict[str, Any]:
    """Return the roles of a root as ``--json`` prints them; ``uris`` says which keys are available."""
    names = holder_names(root)
    return {
        "version": root.version,
        "expires": format_time(root.expires),
        "roles": {
            name: {
                "threshold": role.threshold,
                "keys": [
                    {
                        "keyid": keyid,
                        "holder": names.get(keyid),
                        "scheme": root.keys[keyid].scheme,
                        "uri": uris.get(keyid),
                    }
                    for keyid in role.keyids
                ],
            }
            for name, role in root.roles.items()
        },
    }


def root_text(document: Mapping[str, Any], left: timedelta) -> str:
    """Return the roles of a root; ``left`` is the time until it expires."""
    when = f"expires in {readable_time_left(left)}" if left > timedelta() else "has EXPIRED"
    cells = [
        (
            name,
            f"{role['threshold']} of {len(role['keys'])}",
            key["holder"] or "",
            short_keyid(key["keyid"]),
            key["scheme"],
            key["uri"] or "not available",
        )
        for name, role in document["roles"].items()
        for key in role["keys"]
    ]
    rows = table([("role", "threshold", "holder", "key", "scheme", "private key"), *cells])
    return f"root version {document['version']}, {when} ({document['expires']})\n{rows}"
