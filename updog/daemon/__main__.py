"""``python -m updog.daemon --config PATH``: what ``updog agent`` becomes. It imports as little as it can."""

from __future__ import annotations

import sys
from pathlib import Path

from signpost import streams
from signpost.errors import ToolError
from signpost.journal import Severity, marked, start_logging
from updog.daemon.service import serve


def main(words: list[str]) -> int:
    """Run the daemon with the configuration file ``words[1]``; return the exit status."""
    streams.protect()
    start_logging("info")
    try:
        return serve(Path(words[1]))
    except ToolError as error:
        print(marked(f"updog: {error.message}\nnext: {error.next_step}", Severity.ERROR), file=sys.stderr)  # noqa: T201
        return int(error.status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
