"""``python -m repo_tools.cli``: the same as ``repo-tools``."""

from repo_tools.cli import main

main()
