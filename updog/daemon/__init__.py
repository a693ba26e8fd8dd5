"""The agent as a daemon: gathers facts, asks the table of :mod:`updog.auto`, saves, and carries out.

====================  =================================================================================
:mod:`.service`       the process: signals, the wait, what others can read of it
:mod:`.loop`          one look at everything: facts, steps of the table, actions
:mod:`.facts`         what the answers of the children mean for the table
:mod:`.children`      work is done by children: ``updog … --json``; the daemon itself stays small
:mod:`.memory`        what it remembers between starts (``auto.json``), as values and JSON
:mod:`.wishes`        what operators ask of it (``wishes.json``), written by the commands
:mod:`.asked`         what each of them does to that, for the commands and the API
:mod:`.caller`        who asks, as one line for the history
:mod:`.history`       what updog and the agent did, and what was asked, as one history
:mod:`.running`       the running daemon as the commands see it
:mod:`.view`          how things stand, for operators and programs
:mod:`.notify`        what systemd is told (sd_notify)
:mod:`.fleet_lock`    the client of a FleetLock server: one request, one answer
:mod:`.lock_cli`      ``updog fleet-lock``, which the daemon runs as a child; never imported by it
:mod:`.surroundings`  what the daemon needs of the machine around it
:mod:`.machine`       the real machine: sessions, inhibitors, blockers, and a warning to its users
:mod:`.restart`       the restart: its command, the hooks around it, and the sentinel of kured
:mod:`.small_files`   reading small files that other programs wrote, safely
:mod:`.cli`           ``updog agent …``
====================  =================================================================================

A child is a process of its own session and holds the node's lock while it changes anything. A daemon that is
killed leaves its child to end its work; the next one starts from what it finds. The daemon's process stays
small: but for :mod:`.cli`, no module here imports tuf, requests, cryptography, ssl, rich, click or
:mod:`updog.agent` when it is imported.
"""
