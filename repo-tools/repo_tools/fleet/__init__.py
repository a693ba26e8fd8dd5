"""Statistics of a fleet: simulated before a release (simulate), measured from logs after it (report, guard).

Some modules need the libraries of the extra ``[fleet]`` (NumPy, Matplotlib, DuckDB, Jinja), which no node
and no signing machine needs: the command line imports those modules inside
:func:`repo_tools.extras.extra`. The decisions (:mod:`~repo_tools.fleet.bounds`,
:mod:`~repo_tools.fleet.verdict`) need only the standard library.
"""
