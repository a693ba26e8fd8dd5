"""Results as text for people and as documents for ``--json``. PURE: no colour, no clock, no terminal.

One module for each group of commands, as in `cli`. Units and tables are :mod:`signpost.text`'s.
"""
