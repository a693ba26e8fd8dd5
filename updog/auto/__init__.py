"""Automatic updates, as far as they are decisions: what to do next, when, and why not yet. PURE.

====================  =================================================================================
:mod:`.policy`        what the operator configured (``[auto]`` in ``updog.toml``)
:mod:`.windows`       when restarts may start: windows, over changes of the clock, and freezes
:mod:`.gates`         why an install or a restart must wait: each gate is open, or closed with a reason
:mod:`.table`         the table: state and facts → next state and what to do
====================  =================================================================================

Nothing here reads a clock, a file or a network. The daemon (:mod:`updog.daemon`) gathers the facts, asks the
table, saves the new state, and carries out the actions.
"""
