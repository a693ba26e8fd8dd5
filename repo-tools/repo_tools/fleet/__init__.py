"""The fleet as numbers: on paper before a release (simulate), from its logs after it (report, guard).

Some of it stands on the libraries of the extra ``[fleet]`` (NumPy, Matplotlib, DuckDB, Jinja), which no node
and no signing machine needs: the command line imports those modules inside
:func:`repo_tools.extras.extra`. The decisions (:mod:`~repo_tools.fleet.bounds`,
:mod:`~repo_tools.fleet.verdict`) do with the standard library.
"""
