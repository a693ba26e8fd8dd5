"""os-release files: the fields by which an operating system names itself. PURE."""

from __future__ import annotations

import shlex


def parse_os_release(text: str) -> dict[str, str]:
    """Return the fields of an os-release file (os-release(5): shell-like assignments)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            fields[name] = "".join(shlex.split(value)) if value[:1] in {'"', "'"} else value
    return fields
